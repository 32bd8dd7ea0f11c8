"""Builds the native extension, without torch, and never fails an install for lack of a compiler.

The outcome goes into fastgan/_build.json, which `python -m fastgan info` shows: what was built, with which
compilers, and why anything was left out. Metadata is in pyproject.toml.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "csrc" / "tools"))
import metadata  # noqa: E402 (reached by the line above)
import toolkit  # noqa: E402


def _nodes_build() -> Any:
    """Return fastgan/nodes_build.py without its package, which imports torch."""
    found = importlib.util.spec_from_file_location("nodes_build", ROOT / "fastgan" / "nodes_build.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


nodes_build = _nodes_build()

FLAGS = [
    "-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror=switch",
    "-fno-math-errno", "-fno-trapping-math",
]  # fmt: skip
KERNELS = ("loss", "penalty", "interpolate")
Command = tuple[str, str, list[str]]  # output, source, command
# The kernels are compiled once for each of these; one is chosen at run time.
ISAS: dict[str, list[str]] = {"generic": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    ISAS |= {"v3": ["-march=x86-64-v3"], "v4": ["-march=x86-64-v4"]}


def run(command: list[str]) -> str:
    """Run a command and return its output; its error output goes into the exception."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def max_jobs() -> int:
    """Return MAX_JOBS: how many compilers may run at once; 0: as many as there are processors.

    Raises:
        ValueError: it is no number above 0.
    """
    value = os.environ.get("MAX_JOBS", "")
    if value and not (value.isdecimal() and int(value) > 0):
        raise ValueError(f"MAX_JOBS: expected a whole number above 0, got {value!r}")
    return int(value or 0)


def reason(error: Exception) -> str:
    """Return an error for the record: its first lines, without ninja's messages about objects that succeeded."""
    text = str(error)
    return "\n".join(text[max(0, text.find("FAILED: ")) :].splitlines()[:40])


def compile_all(commands: list[Command], work: Path) -> str:
    """Run each command: by ninja, all at once, if it is installed.

    Returns:
        How they were run.
    """
    work.mkdir(parents=True, exist_ok=True)
    try:
        import ninja

        program = str(Path(ninja.BIN_DIR, "ninja"))
    except ImportError:
        program = shutil.which("ninja") or ""
    if not program:
        for _, _, command in commands:
            run(command)
        return "one after another (no ninja)"
    lines = ["rule cc", "  command = $cmd", "  depfile = $out.d", "  deps = gcc", ""]
    for output, source, command in commands:
        # In a ninja file $, : and spaces are special.
        out, src = (p.replace("$", "$$").replace(":", "$:").replace(" ", "$ ") for p in (output, source))
        lines += [f"build {out}: cc {src}", f"  cmd = {shlex.join(command).replace('$', '$$')}"]
    (work / "build.ninja").write_text("\n".join(lines) + "\n")
    run([program, "-C", str(work), *([f"-j{max_jobs()}"] if max_jobs() else [])])
    return "ninja"


def announce(built: list[toolkit.Toolkit]) -> None:
    """Say what takes so long, and how it takes less; pip shows it with -v."""
    listed = "; ".join(f"{' '.join(cuda.architectures)} (from: {cuda.origin})" for cuda in built)
    minutes = max(1, round(4 / 7 * sum(len(cuda.architectures) for cuda in built)))
    shorter = "" if os.environ.get("TORCH_CUDA_ARCH_LIST") else "TORCH_CUDA_ARCH_LIST=9.0 takes one architecture; "
    print(
        f"fastgan: compiling CUDA kernels for {listed}, about {minutes} min on two cores. {shorter}"
        "FASTGAN_CUDA=0 leaves CUDA out.",
        file=sys.stderr,
        flush=True,
    )


def check_setuptools() -> None:
    """Refuse a setuptools that does not understand pyproject.toml; its own words are of a JSON schema."""
    wanted = re.search(r"setuptools>=(\d+)", (ROOT / "pyproject.toml").read_text())
    assert wanted is not None
    if int(setuptools.__version__.split(".")[0]) < int(wanted[1]):
        sys.exit(
            f"setup.py: expected setuptools {wanted[1]} or newer, got {setuptools.__version__}: "
            f"pip install 'setuptools>={wanted[1]}', or pip install ., which fetches what it needs"
        )


class NativeBuild(build_ext):
    """Compiles csrc/ and records the outcome."""

    def run(self) -> None:
        """Build, or install the reference backend alone and say why."""
        facts = {"python": platform.python_version(), "platform": sysconfig.get_platform()}
        facts["cuda"] = "not built: the native extension was not"
        self.facts = facts
        must = os.environ.get("FASTGAN_NATIVE") == "1" or toolkit.required()
        if os.environ.get("FASTGAN_NATIVE") == "0":
            if must:
                raise ValueError("FASTGAN_NATIVE=0 leaves nothing for FASTGAN_CUDA to build")
            facts["native"] = "not built: FASTGAN_NATIVE=0"
        else:
            try:
                nodes_build.words_of("CXX")  # setuptools reads it too, and names no variable in its error
                super().run()
                facts["native"] = "built"
                facts["nodes"] = self.build_nodes()
            except Exception as error:
                if must:
                    raise
                facts["native"] = f"not built: {reason(error)}"
                print(f"warning: fastgan's native kernels were {facts['native']}", file=sys.stderr)
        folders = [Path(self.build_lib, "fastgan")] + ([ROOT / "fastgan"] if self.inplace else [])
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            self.remove_others(folder)
            if folder.resolve() != ROOT / "fastgan":  # there FASTGAN_NATIVE=0 leaves what `make` builds
                self.remove_unbuilt(folder)
            (folder / "_build.json").write_text(json.dumps(facts, indent=1) + "\n")

    def get_output_mapping(self) -> dict[str, str]:
        """Return what a strict editable install links: modules that were built, not all that might have been."""
        return {built: source for built, source in super().get_output_mapping().items() if Path(source).exists()}

    def build_nodes(self) -> str:
        """Build the C++ nodes of autograd where torch is there; return how it went."""
        asked = os.environ.get("FASTGAN_NODES", "")
        if asked == "0":
            return "not built: FASTGAN_NODES=0"
        try:
            version = nodes_build.installed_version()
            if version is None:
                raise FileNotFoundError("there was no torch; later: python -m fastgan build")
            folder = Path(self.get_ext_fullpath("fastgan._native")).parent
            if nodes_build.recorded(folder) != nodes_build.record(version):
                import torch

                nodes_build.build(torch, nodes_build.find_compiler(), folder)
        except Exception as error:
            if asked == "1":
                raise
            return f"not built: {reason(error)}"
        return f"built for torch {version.__version__}"

    def remove_others(self, folder: Path) -> None:
        """Remove an earlier build's modules, which would be loaded with this one's."""
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        for path in folder.glob(f"_native_cuda*{suffix}"):
            if f"fastgan.{path.name.removesuffix(suffix)}" not in [ext.name for ext in self.extensions]:
                path.unlink()

    def remove_unbuilt(self, folder: Path) -> None:
        """Remove an earlier build's modules that this one has not built, so that they are not packed with it."""
        for kind in ("native", "nodes"):
            if not self.facts.get(kind, "").startswith("built"):
                for path in folder.glob(f"_{kind}*"):
                    if path.suffix != ".pyi":
                        path.unlink()

    def build_extension(self, ext: Extension) -> None:
        """Build with CUDA if that is wanted and succeeds, else without."""
        if ext.name != "fastgan._native":  # made with _native, whose CPU kernels it has too
            return
        if os.name == "nt":
            raise RuntimeError("the native kernels build with gcc or clang only")
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        cxx = nodes_build.find_compiler()
        self.facts["compiler"] = run([*cxx, "--version"]).partition("\n")[0]
        flags = [*nodes_build.behind_launcher(cxx)[1:], *nodes_build.compile_flags(), *FLAGS]
        self.facts["flags"] = shlex.join(flags)
        self.facts["instruction sets"] = ", ".join(ISAS)
        try:
            self.build_with_cuda(cxx)
            return
        except Exception as error:
            if toolkit.required():
                raise
            self.facts["cuda"] = f"not built: {reason(error)}"
            if not isinstance(error, toolkit.NoCudaError):
                print(f"warning: fastgan's CUDA kernels were {self.facts['cuda']}", file=sys.stderr)
        commands = [self.binding(cxx, "_native"), *self.cpu_kernels(cxx)]
        self.facts["compiled by"] = compile_all(commands, self.work)
        shared = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared", "-ldl"]
        run([*cxx, *[c[0] for c in commands], *shared, *nodes_build.link_flags(), "-o", str(target)])

    @staticmethod
    def host(cxx: list[str]) -> list[str]:
        """Return the command that nvcc is to call for C++; nothing where its own choice stands."""
        chosen = os.environ.get("CXX") and not os.environ.get("NVCC_CCBIN")
        return nodes_build.behind_launcher(cxx) if chosen else []  # nvcc takes one program

    @property
    def work(self) -> Path:
        """Where objects lie."""
        return Path(self.build_temp).resolve()

    def object(self, cxx: list[str], name: str, source: str, extra: list[str]) -> Command:
        """Return the command that compiles a C++ source."""
        path, out = str(ROOT / "csrc" / source), str(self.work / f"{name}.o")
        flags = [*nodes_build.compile_flags(), *FLAGS, *extra]
        return out, path, [*cxx, *flags, "-MMD", "-MF", f"{out}.d", "-c", path, "-o", out]

    def binding(self, cxx: list[str], module: str, *defines: str) -> Command:
        """Return the command that compiles a module's binding."""
        import pybind11

        python = [sysconfig.get_path("include"), sysconfig.get_path("platinclude")]
        includes = [f"-I{p}" for p in dict.fromkeys([pybind11.get_include(), *python])]
        headers = f'-DFASTGAN_HEADERS="{nodes_build.headers()}"'
        extra = [*includes, f"-DFASTGAN_MODULE={module}", headers, *defines]
        return self.object(cxx, f"{module}_bindings", "bindings.cpp", extra)

    def cpu_kernels(self, cxx: list[str]) -> list[Command]:
        """Return the commands that compile each source for each instruction set."""
        return [
            self.object(cxx, f"{source}_{isa}", f"cpu/{source}.cpp", [f"-DFASTGAN_ISA={isa}", *march])
            for source in KERNELS
            for isa, march in ISAS.items()
        ]

    def build_with_cuda(self, cxx: list[str]) -> None:
        """Build a module for each toolkit; the CPU kernels are compiled once and linked into all of them."""
        if toolkit.mode() == "0":
            raise toolkit.NoCudaError("FASTGAN_CUDA=0")
        sources = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
        if not sources:
            raise toolkit.NoCudaError("no CUDA sources")
        built = list(zip([ext.name for ext in self.extensions], toolkit.toolkits(run, self.host(cxx)), strict=True))
        own = {name: self.cuda_kernels(cxx, name.rpartition(".")[2], cuda, sources) for name, cuda in built}
        shared = self.cpu_kernels(cxx)
        if not all(Path(output).exists() for output, _, _ in itertools.chain(*own.values())):
            announce([cuda for _, cuda in built])
        # All at once, the CUDA sources first since they take longest.
        self.facts["compiled by"] = compile_all([*itertools.chain(*own.values()), *shared], self.work)
        for name, cuda in built:
            objects = [c[0] for c in own[name] + shared]
            run(cuda.link(objects, self.get_ext_fullpath(name), nodes_build.link_flags()))
            label = "cuda" if cuda is built[0][1] else f"cuda {cuda.release[0]}"
            self.facts[f"{label} compiler"] = cuda.version
            self.facts[f"{label} architectures"] = " ".join(cuda.architectures)
            self.facts[f"{label} architectures from"] = cuda.origin
        self.facts["cuda"] = "built"

    def cuda_kernels(
        self, cxx: list[str], module: str, cuda: toolkit.Toolkit, sources: list[Path]
    ) -> list[Command]:
        """Return the commands that compile a module's CUDA sources and its binding."""
        threads = max_jobs() or os.cpu_count() or 1  # architectures at once, of the few large sources there are
        include, flags = str(ROOT / "csrc"), nodes_build.compile_flags()
        commands = []
        for path in sources:
            out = str(self.work / f"{module}_cuda_{path.stem}.o")
            commands.append((out, str(path), cuda.compile(str(path), out, include, threads, flags)))
        return [*commands, self.binding(cxx, module, "-DFASTGAN_WITH_CUDA")]


def described() -> dict[str, Any]:
    """Return the part of the metadata that depends on where this build comes from."""
    version = re.search(r'__version__ = "(.+)"', (ROOT / "fastgan" / "version.py").read_text())
    assert version is not None
    repository = metadata.repository(ROOT)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return {
        "project_urls": metadata.urls(repository),
        "long_description": metadata.description(readme, repository, version[1]),
        "long_description_content_type": "text/markdown",
    }


def places(folder: str) -> dict[str, dict[str, str]]:
    """Return options that put a build's own files into `folder` where the sources cannot be written."""
    if os.access(ROOT, os.W_OK):
        return {}
    return {
        "egg_info": {"egg_base": folder},
        "build": {"build_base": folder},
        "bdist": {"bdist_base": folder},
        "bdist_wheel": {"bdist_dir": os.path.join(folder, "wheel")},
    }


if __name__ == "__main__":
    check_setuptools()
    with tempfile.TemporaryDirectory() as folder:
        setup(
            ext_modules=[
                Extension(f"fastgan.{module}", sources=[], optional=True)
                for module in ["_native", *toolkit.further(run)]
            ],
            cmdclass={"build_ext": NativeBuild},
            # CUDA's compiler, for FASTGAN_CUDA=wheels alone.
            setup_requires=toolkit.build_requirements(),
            options=places(folder),
            **described(),
        )
