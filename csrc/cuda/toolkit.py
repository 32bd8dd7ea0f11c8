"""Finds CUDA's compiler and says how to call it; setup.py imports it."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

# What FASTGAN_CUDA=wheels builds with where no toolkit is installed.
PACKAGES = [
    f"{name}==13.0.*"
    for name in ("nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-cuda-crt", "nvidia-cuda-runtime", "nvidia-cuda-cccl")
]
ARCHITECTURES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
# A multiply-add is contracted on neither side: CONTRIBUTING.md, "the same bits everywhere".
FLAGS = ["-std=c++17", "-O3", "--fmad=false", "-Xcompiler", "-fPIC,-fvisibility=hidden,-ffp-contract=off"]
Run = Callable[[list[str]], str]


class NoCudaError(RuntimeError):
    """CUDA is not wanted, or there is nothing to build or to build it with; nothing went wrong."""


def mode() -> str:
    """FASTGAN_CUDA: "0" never, "1" or "wheels" must, "" if it can be.

    Raises:
        ValueError: anything else.
    """
    value = os.environ.get("FASTGAN_CUDA", "")
    if value not in ("", "0", "1", "wheels"):
        raise ValueError(f"FASTGAN_CUDA: expected 0, 1, wheels or nothing, got {value!r}")
    return value


def required() -> bool:
    """Whether a build without CUDA is a failure."""
    return mode() in ("1", "wheels")


class Nvcc(NamedTuple):
    """A compiler, and its toolkit's root where that is known: an nvcc on the PATH may be a script elsewhere."""

    path: str
    root: Path | None


def installed() -> Nvcc | None:
    """The toolkit named by CUDA_HOME or CUDA_PATH, or the nvcc on the PATH.

    Raises:
        FileNotFoundError: CUDA_HOME or CUDA_PATH names a folder without a compiler.
    """
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if named := os.environ.get(variable):
            path = Path(named, "bin", "nvcc")
            if not path.is_file():
                raise FileNotFoundError(f"{variable} is {named}, where there is no bin/nvcc")
            return Nvcc(str(path), Path(named))
    on_path = shutil.which("nvcc")
    return Nvcc(on_path, None) if on_path else None


def packaged() -> Nvcc | None:
    """The compiler of PyPI's packages, the newest of those that this Python can import."""
    found = [path for folder in sys.path for path in Path(folder).glob("nvidia/cu[0-9]*/bin/nvcc")]
    if not found:
        return None
    newest = max(found, key=lambda path: int(re.sub(r"\D", "", path.parts[-3]) or 0))
    return Nvcc(str(newest), newest.parents[1])


def find() -> Nvcc:
    """The compiler to use.

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
    """What a build asks its front end for, beyond pyproject.toml."""
    return PACKAGES if mode() == "wheels" and installed() is None and packaged() is None else []


def architectures(asked: str, known: set[str]) -> list[str]:
    """Compute capabilities such as "9.0" or "12.0+PTX".

    Args:
        asked: TORCH_CUDA_ARCH_LIST; if empty the default is meant, as far as the compiler knows it.
        known: those which the compiler knows, such as "9.0".

    Raises:
        ValueError: one asked for is unknown, or not a number such as 9.0, 9.0a or 9.0+PTX.
    """
    chosen = re.split(r"[;,\s]+", asked.strip("; ,\t\n"))
    if chosen == [""]:
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
    """The same as the compiler's options: machine code for each, PTX where asked for.

    The first pass, most of the time, is taken once a major version: code for 8.6 is made of what 8.0's is made of.
    """
    numbers = [arch.removesuffix("+PTX").replace(".", "") for arch in archs]
    flags = []
    for arch, number in zip(archs, numbers, strict=True):
        alike = [n for n in numbers if n.isdigit() and n[:-1] == number[:-1]]
        flags.append(f"-gencode=arch=compute_{min(alike, default=number)},code=sm_{number}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


class Toolkit:
    """How to compile and link with one nvcc."""

    def __init__(self, run: Run) -> None:
        """Asks the compiler for what it is and knows.

        Args:
            run: gives a command's output and raises if it fails.
        """
        self.nvcc = find()
        lines = run([self.nvcc.path, "--version"]).splitlines()
        self.version = next((line for line in lines if "release" in line), "of an unknown version")
        listed = re.findall(r"compute_(\d+)(\d)\b", run([self.nvcc.path, "--list-gpu-arch"]))
        self.architectures = architectures(
            os.environ.get("TORCH_CUDA_ARCH_LIST", ""), {f"{major}.{minor}" for major, minor in listed}
        )
        self.base = [self.nvcc.path]
        if os.environ.get("CXX") and not os.environ.get("NVCC_CCBIN"):
            self.base += ["-ccbin", os.environ["CXX"].split()[0]]
        release = re.search(r"release (\d+)", self.version)
        # Smaller code needs a driver of 550 or newer, which CUDA 12 does not ask for and CUDA 13 does.
        small = ["--compress-mode=size"] if release and int(release[1]) >= 13 else []
        self.flags = [*FLAGS, *small, *gencode(self.architectures)]

    def compile(self, source: str, output: str, include: str, threads: int = 1) -> list[str]:
        """The command for one object, with the headers that it depends on; `threads` share the architectures."""
        options = ["-I", include, "--threads", str(threads), "-MD", "-MF", f"{output}.d"]
        return [*self.base, *self.flags, *options, "-c", source, "-o", output]

    def link(self, objects: list[str], output: str) -> list[str]:
        """The command for the extension, with the CUDA runtime in it."""
        folders = [f"-L{self.nvcc.root / name}" for name in ("lib64", "lib")] if self.nvcc.root else []
        return [*self.base, "-shared", "-cudart", "static", "-nodlink", *objects, *folders, "-ldl", "-o", output]
