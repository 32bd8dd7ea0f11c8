"""Building fastgan._nodes, the C++ nodes of autograd, for the torch that is here.

setup.py and `python -m fastgan build` do it, and `backends/nodes.py` looks for the result. Only the functions that
compile need torch, and nothing here needs the rest of fastgan: setup.py reads this file by its path.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PACKAGE = Path(__file__).resolve().parent
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
NAME, RECORD = f"_nodes{SUFFIX}", f"_nodes{SUFFIX}.json"

LAUNCHERS = ("ccache", "sccache", "distcc", "icecc")
# After the user's flags, whatever these say: the same bits everywhere. For gcc's linker -fno-fast-math alone leaves
# what -funsafe-math-optimizations asks for; -O3 undoes -Ofast.
EXACT = ["-O3", "-fno-fast-math", "-fno-unsafe-math-optimizations", "-ffp-contract=off"]


def sources() -> Path:
    """Return the folder of C++ sources: a checkout's, or what a wheel has of it.

    Raises:
        FileNotFoundError: they are nowhere.
    """
    for folder in (PACKAGE.parent / "csrc", PACKAGE / "csrc"):
        if (folder / "torch" / "module.cpp").exists():
            return folder
    raise FileNotFoundError(f"the C++ sources of the nodes are neither in {PACKAGE.parent} nor in {PACKAGE}")


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def headers() -> str:
    """Return a digest of what fastgan._native and fastgan._nodes must have been compiled from alike."""
    folder = sources()
    return _digest([*(folder / "common").glob("*.h"), folder / "cuda" / "place.h"])


def tag(version: Any) -> str:
    """Return what a build of torch is known by, given torch.version. C++ code serves no other one."""
    return f"{version.__version__} {str(version.git_version)[:10]}"


def record(version: Any) -> dict[str, str]:
    """Return what a build of the nodes depends on."""
    own = _digest((sources() / "torch").iterdir())
    return {"torch": tag(version), "headers": headers(), "sources": own, "python": platform.python_version()}


def recorded(folder: Path) -> dict[str, str]:
    """Return the record in a folder; nothing where there are no nodes, or none that were made here."""
    try:
        found = json.loads((folder / RECORD).read_text()) if (folder / NAME).exists() else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def installed_version() -> Any:
    """Return torch.version of the torch that is installed, which is not imported; None where there is none."""
    found = importlib.util.find_spec("torch")
    path = Path(found.origin).parent / "version.py" if found is not None and found.origin else None
    if path is None or not path.exists():
        return None
    return SimpleNamespace(**runpy.run_path(str(path)))


def cache(version: Any) -> Path:
    """Return the folder in which `python -m fastgan build` leaves the nodes for this torch and Python."""
    base = os.environ.get("FASTGAN_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "fastgan"
    )
    return Path(base) / f"{tag(version).replace(' ', '-')}-{SUFFIX.strip('.').partition('.')[0]}"


def command(cxx: list[str], torch: Any, output: Path) -> list[str]:
    """Return the command that compiles and links the nodes."""
    folder, root = sources(), Path(torch.__file__).parent
    system = [root / "include", root / "include" / "torch" / "csrc" / "api" / "include"]
    python = {sysconfig.get_path("include"), sysconfig.get_path("platinclude")}
    abi = int(torch._C._GLIBCXX_USE_CXX11_ABI)
    defines = [
        f"-D_GLIBCXX_USE_CXX11_ABI={abi}", f'-DFASTGAN_HEADERS="{headers()}"',
        f'-DFASTGAN_TORCH="{tag(torch.version)}"',
    ]  # fmt: skip
    shared = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
    return [
        *cxx, *compile_flags(), "-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", "-Werror=switch", *defines,
        *(word for path in system for word in ("-isystem", str(path))), *(f"-I{path}" for path in sorted(python)),
        str(folder / "torch" / "module.cpp"), *shared, *link_flags(), f"-L{root / 'lib'}",
        "-ltorch_python", "-ltorch", "-ltorch_cpu", "-lc10", "-o", str(output),
    ]  # fmt: skip


def build(torch: Any, cxx: list[str], folder: Path) -> Path:
    """Compile the nodes for this torch into a folder, with a record beside them.

    Raises:
        RuntimeError: the compiler's errors.
        OSError: no compiler, or a folder that cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        made = Path(work) / NAME
        words = command(cxx, torch, made)
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{shlex.join(words)} failed:\n{done.stdout}{done.stderr}")
        note = Path(work) / RECORD
        note.write_text(json.dumps(record(torch.version), indent=1) + "\n")
        made.replace(folder / NAME)  # whole, even where another process reads or writes it
        note.replace(folder / RECORD)
    return folder / NAME


def words_of(variable: str) -> list[str]:
    """Return the words of an environment variable, as a shell splits them.

    Raises:
        ValueError: a quotation has no end.
    """
    value = os.environ.get(variable, "")
    try:
        return shlex.split(value)
    except ValueError as error:
        raise ValueError(f"{variable}: expected words as a shell takes them, got {value!r} ({error})") from error


def find_compiler() -> list[str]:
    """Return the C++ compiler's command: $CXX with all its words, else Python's own or the first on the PATH.

    Raises:
        FileNotFoundError: there is none, or $CXX is not one.
    """
    if named := words_of("CXX"):
        for program in named[: 1 + named.index(behind_launcher(named)[0])]:
            if not shutil.which(program):
                raise FileNotFoundError(f"CXX: expected a C++ compiler that is on the PATH, got {program!r}")
        return named
    for words in map(shlex.split, filter(None, [sysconfig.get_config_var("CXX"), "c++", "g++", "clang++"])):
        if words and shutil.which(words[0]):
            return words
    raise FileNotFoundError("no C++ compiler was found (set CXX, or install g++ or clang++)")


def behind_launcher(words: list[str]) -> list[str]:
    """Return a compiler's command without the likes of ccache before it; the last word always stays."""
    first = next((k for k, word in enumerate(words[:-1]) if Path(word).name not in LAUNCHERS), len(words) - 1)
    return words[first:]


def compile_flags() -> list[str]:
    """Return the user's flags for compiling C++, and ours that undo what would change results."""
    return [*words_of("CPPFLAGS"), *words_of("CXXFLAGS"), *_arch_flags(), *EXACT]


def link_flags() -> list[str]:
    """Return the user's flags for linking; ours keep gcc from code that flushes a process's subnormals to 0."""
    return [*words_of("LDFLAGS"), *_arch_flags(), *EXACT]


def _arch_flags() -> list[str]:
    return words_of("ARCHFLAGS") if sys.platform == "darwin" else []  # other compilers have no -arch
