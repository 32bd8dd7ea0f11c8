"""Finding CUDA's compiler, and the commands that call it; setup.py imports it."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

# What FASTGAN_CUDA=wheels builds with where no toolkit is installed.
PACKAGES = [
    f"{name}==13.0.*"
    for name in ("nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-cuda-crt", "nvidia-cuda-runtime", "nvidia-cuda-cccl")
]
ARCHITECTURES = ("7.0", "7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
OLDEST = (12, 1)  # before it, a kernel's parameters had to fit in 4 KB
# A multiply-add is contracted on neither side: CONTRIBUTING.md, "the same bits everywhere".
HOST_FLAGS = "-fPIC,-fvisibility=hidden,-ffp-contract=off,-Werror=switch"
FLAGS = ["-std=c++17", "-O3", "--fmad=false", "-Xcompiler", HOST_FLAGS]
# Options of nvcc, and of the C++ compiler behind it, that change what a kernel rounds to.
ARITHMETIC = re.compile(r"fast[-_]math|unsafe-math|-Ofast|fp-contract|\bfmad|\bftz|\bprec-")
Run = Callable[[list[str]], str]


class NoCudaError(RuntimeError):
    """CUDA is not wanted, or there is nothing to build or to build it with; nothing went wrong."""


def mode() -> str:
    """Return FASTGAN_CUDA: "0" never, "1", "wheels" or toolkits' folders must, "" if it can be.

    Raises:
        ValueError: anything else.
    """
    value = os.environ.get("FASTGAN_CUDA", "")
    if value not in ("", "0", "1", "wheels") and os.sep not in value:
        raise ValueError(f"FASTGAN_CUDA: expected 0, 1, wheels, toolkits' folders or nothing, got {value!r}")
    return value


def folders() -> list[str]:
    """Return the toolkits that FASTGAN_CUDA names."""
    return mode().split(os.pathsep) if os.sep in mode() else []


def required() -> bool:
    """Return whether a build without CUDA is a failure."""
    return mode() not in ("", "0")


class Nvcc(NamedTuple):
    """A compiler, and its toolkit's root where that is known: an nvcc on the PATH may be a script elsewhere."""

    path: str
    root: Path | None


def within(folder: str, variable: str) -> Nvcc:
    """Return the compiler of the toolkit that a variable names.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(folder, "bin", "nvcc")
    if not path.is_file():
        raise FileNotFoundError(f"{variable} is {folder}, where there is no bin/nvcc")
    return Nvcc(str(path), Path(folder))


def installed() -> Nvcc | None:
    """Return the compiler of CUDA_HOME or CUDA_PATH, or the nvcc on the PATH.

    Raises:
        FileNotFoundError: CUDA_HOME or CUDA_PATH names a folder without a compiler.
    """
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if named := os.environ.get(variable):
            return within(named, variable)
    on_path = shutil.which("nvcc")
    return Nvcc(on_path, None) if on_path else None


def packaged() -> Nvcc | None:
    """Return the compiler of PyPI's packages, the newest of those that this Python can import."""
    found = [path for folder in sys.path for path in Path(folder).glob("nvidia/cu[0-9]*/bin/nvcc")]
    if not found:
        return None
    newest = max(found, key=lambda path: int(re.sub(r"\D", "", path.parts[-3]) or 0))
    return Nvcc(str(newest), newest.parents[1])


def find() -> Nvcc:
    """Return the compiler to use.

    Raises:
        NoCudaError: there is none.
    """
    nvcc = installed() or packaged()
    if nvcc is None:
        raise NoCudaError(
            "no CUDA compiler was found: no nvcc on the PATH, CUDA_HOME is not set, and PyPI's "
            "nvidia-cuda-nvcc is not installed (FASTGAN_CUDA=wheels fetches it)"
        )
    return nvcc


def build_requirements() -> list[str]:
    """Return the packages that a build asks its front end for, beyond pyproject.toml."""
    return PACKAGES if mode() == "wheels" and installed() is None and packaged() is None else []


def of_this_machine(run: Run) -> list[str]:
    """Return the compute capabilities of this machine's GPUs; nothing where nvidia-smi tells of none."""
    program = shutil.which("nvidia-smi")
    try:
        said = run([program, "--query-gpu=compute_cap", "--format=csv,noheader"]) if program else ""
    except (OSError, RuntimeError):  # no driver, or one that has no such query
        return []
    return sorted(set(re.findall(r"^\s*(\d+\.\d)\s*$", said, re.MULTILINE)), key=float)


def architectures_for(gpus: list[str], known: set[str]) -> list[str]:
    """Return what serves these GPUs, as `architectures` does: each one's own, or the newest known before it.

    A GPU runs machine code of its own major version only, and the PTX of all that came before. One that is older
    than all that the compiler knows is left out beside others.

    Raises:
        ValueError: the compiler knows nothing that any of these GPUs runs.
    """
    able = [arch for arch in known if float(arch) >= float(ARCHITECTURES[0])]
    pairs = [(gpu, max(older, key=float)) for gpu in gpus if (older := [a for a in able if float(a) <= float(gpu)])]
    if not pairs:
        listed = " ".join(sorted(able, key=float))
        raise ValueError(
            f"this machine's GPUs are {' '.join(gpus)}, and this CUDA compiler knows {listed}; "
            "use another one, or TORCH_CUDA_ARCH_LIST=all for other machines"
        )
    newest = pairs[-1][1]
    ptx = {newest, *(arch for gpu, arch in pairs if int(float(gpu)) > int(float(arch)))}
    return [arch + "+PTX" * (arch in ptx) for arch in dict.fromkeys(arch for _, arch in pairs)]


def architectures(asked: str, known: set[str]) -> list[str]:
    """Return compute capabilities such as "9.0" or "12.0+PTX".

    Args:
        asked: TORCH_CUDA_ARCH_LIST; if "all" or empty, all of a release, as far as the compiler knows them.
        known: those that the compiler knows, such as "9.0".

    Raises:
        ValueError: one asked for is unknown, or not a number such as 9.0, 9.0a or 9.0+PTX.
    """
    chosen = re.split(r"[;,\s]+", asked.strip("; ,\t\n"))
    if chosen in ([""], ["all"]):
        chosen = [arch for arch in ARCHITECTURES if arch in known]
        if not chosen:
            raise ValueError(f"the CUDA compiler knows none of {' '.join(ARCHITECTURES)}")
        return [*chosen[:-1], f"{chosen[-1]}+PTX"]
    for arch in chosen:
        number = re.fullmatch(r"(\d+\.\d)[af]?(\+PTX)?", arch)
        if not number:
            raise ValueError(f"TORCH_CUDA_ARCH_LIST: expected numbers such as 9.0 or 9.0+PTX, got {arch!r}")
        if number[1] not in known:
            listed = " ".join(sorted(known, key=float))
            raise ValueError(f"TORCH_CUDA_ARCH_LIST: this CUDA compiler does not know {arch}, it knows {listed}")
    return list(dict.fromkeys(chosen))


def gencode(archs: list[str]) -> list[str]:
    """Return the compiler's options for these: machine code for each, PTX where asked for.

    The first pass takes most of the time. It runs once for all that are alike: code for 8.9 starts from the same
    virtual architecture as that for 8.6. Not as that for 8.0, which is fast with doubles (csrc/cuda/memory.h).
    """
    numbers = [arch.removesuffix("+PTX").replace(".", "") for arch in archs]
    flags = []
    for arch, number in zip(archs, numbers, strict=True):
        kind = number[:-1], number[-1] == "0"
        alike = [n for n in numbers if n.isdigit() and (n[:-1], n[-1] == "0") == kind]
        flags.append(f"-gencode=arch=compute_{min(alike, default=number)},code=sm_{number}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def forwarded(flags: Sequence[str]) -> list[str]:
    """Return the options that hand flags to the C++ compiler, but for the language's version, which is nvcc's."""
    kept = [flag for flag in flags if not flag.startswith("-std=")]
    return ["-Xcompiler=" + flag.replace(",", "\\,") for flag in kept]  # nvcc splits at commas


def check_flags() -> None:
    """Refuse options of nvcc's own variables that would change results; none of ours undoes all of them.

    Raises:
        ValueError: NVCC_PREPEND_FLAGS or NVCC_APPEND_FLAGS has one.
    """
    for variable in ("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"):
        if ARITHMETIC.search(os.environ.get(variable, "")):
            raise ValueError(f"{variable}: expected no options for arithmetic, got {os.environ[variable]!r}")


class Toolkit:
    """How to compile and link with one nvcc."""

    def __init__(self, run: Run, nvcc: Nvcc | None = None, host: Sequence[str] = ()) -> None:
        """Ask the compiler for its version and its architectures.

        Args:
            run: gives a command's output and raises if it fails.
            nvcc: the compiler; None: the one that is found.
            host: the C++ compiler's command for it, with flags and without a launcher; empty: as nvcc chooses.

        Raises:
            NoCudaError: it is too old.
            ValueError: nvcc's own variables would change results.
        """
        check_flags()
        self.nvcc = nvcc or find()
        lines = run([self.nvcc.path, "--version"]).splitlines()
        self.version = next((line for line in lines if "release" in line), "of an unknown version")
        number = re.search(r"release (\d+)\.(\d+)", self.version)
        # One that does not tell is taken for the oldest.
        self.release = (int(number[1]), int(number[2])) if number else OLDEST
        if self.release < OLDEST:
            raise NoCudaError(
                f"{self.nvcc.path} is of CUDA {'.'.join(map(str, self.release))}; the kernels have more than 4 KB "
                f"of parameters, which needs {OLDEST[0]}.{OLDEST[1]} or newer"
            )
        listed = re.findall(r"compute_(\d+)(\d)\b", run([self.nvcc.path, "--list-gpu-arch"]))
        self.architectures, self.origin = self._choose(run, {f"{major}.{minor}" for major, minor in listed})
        self.base = [self.nvcc.path, *(["-ccbin", host[0], *forwarded(host[1:])] if host else [])]
        # Smaller code needs a driver of 550 or newer, which CUDA 12 does not ask for and CUDA 13 does.
        small = ["--compress-mode=size"] if self.release[0] >= 13 else []
        self.flags = [*FLAGS, *small, *gencode(self.architectures)]

    @staticmethod
    def _choose(run: Run, known: set[str]) -> tuple[list[str], str]:
        """Return the architectures to compile for, and who chose them."""
        asked = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
        if asked.strip("; ,\t\n"):
            return architectures(asked, known), "TORCH_CUDA_ARCH_LIST"
        if gpus := of_this_machine(run):
            return architectures_for(gpus, known), f"this machine's GPUs ({' '.join(gpus)})"
        return architectures("", known), "all of a release, as nvidia-smi tells of no GPU"

    def compile(
        self, source: str, output: str, include: str, threads: int = 1, flags: Sequence[str] = ()
    ) -> list[str]:
        """Return the command for one object, which also lists its headers.

        Args:
            source: a file.
            output: another.
            include: the folder of headers.
            threads: how many share the architectures.
            flags: the C++ compiler's, before ours.
        """
        options = ["-I", include, "--threads", str(threads), "-MD", "-MF", f"{output}.d"]
        return [*self.base, *forwarded(flags), *self.flags, *options, "-c", source, "-o", output]

    def link(self, objects: list[str], output: str, flags: Sequence[str] = ()) -> list[str]:
        """Return the command for the extension, with the CUDA runtime in it; `flags` are the C++ compiler's."""
        folders = [f"-L{self.nvcc.root / name}" for name in ("lib64", "lib")] if self.nvcc.root else []
        how = ["-shared", "-cudart", "static", "-nodlink"]
        return [*self.base, *forwarded(flags), *how, *objects, *folders, "-ldl", "-o", output]


def toolkits(run: Run, host: Sequence[str] = ()) -> list[Toolkit]:
    """Return the toolkits to build with, the oldest first, since its code runs on the most drivers.

    Args:
        run: as `Toolkit` takes it.
        host: likewise.

    Raises:
        ValueError: FASTGAN_CUDA names two of one major version.
        NoCudaError: there is none, or one is too old.
    """
    named = [Toolkit(run, within(folder, "FASTGAN_CUDA"), host) for folder in folders()]
    found = sorted(named or [Toolkit(run, host=host)], key=lambda toolkit: toolkit.release)
    if len({toolkit.release[0] for toolkit in found}) < len(found):
        listed = ", ".join(f"{major}.{minor}" for major, minor in (toolkit.release for toolkit in found))
        raise ValueError(f"FASTGAN_CUDA: expected one toolkit of each major version, got {listed}")
    return found


def further(run: Run) -> list[str]:
    """Return the modules to build beside _native: one for each further toolkit, named by its major version."""
    return [f"_native_cuda{toolkit.release[0]}" for toolkit in toolkits(run)[1:]] if len(folders()) > 1 else []
