"""The CUDA backend run on the CPU: the extension built anew, with the kernels on tests/cusim.

`kernels()` offers them as fastgan.cuda does; `serving()` puts them in the place of the CPU kernels, so that
everything that can be asked of these can be asked of those.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
import shlex
import subprocess
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11
import torch

from fastgan import backends, cpu, cuda, native

ROOT = Path(__file__).parents[1]
KERNELS = ("loss", "penalty", "interpolate")
CXX = shlex.split(os.environ.get("CXX", "c++"))[:1]
FLAGS = [
    "-std=c++17", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-strict-aliasing", "-Wall", "-Wextra",
    "-Wno-unknown-pragmas", "-DFASTGAN_SIM",
]  # fmt: skip
ORDERS = {"forward": 0, "reverse": 1, "random": 2, "mixed": 3}


def compile_kernels(csrc: Path, out: Path, *extra: str) -> list[Path]:
    """Objects of the CUDA kernels and of what they run on."""
    sim = ROOT / "tests" / "cusim"
    sources = [csrc / "cuda" / f"{k}.cu" for k in KERNELS] + [sim / "cusim.cpp", sim / "runtime.cpp"]
    fma = [] if "x86_64" not in sysconfig.get_platform() else ["-march=x86-64-v3"]
    jobs = []
    for source in sources:
        to = out / f"cuda_{source.stem}.o"
        flags = [*FLAGS, *fma, "-O2", f"-I{sim}", f"-I{csrc}", *extra]
        jobs.append((to, [*CXX, *flags, "-x", "c++", "-c", str(source), "-o", str(to)]))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda job: subprocess.run(job[1], check=True), jobs))
    return [to for to, _ in jobs]


@functools.lru_cache
def build() -> Path:
    """The extension with simulated CUDA kernels; CPU kernels are there for the linker."""
    out = Path(tempfile.mkdtemp(prefix="fastgan-simulated-"))
    csrc = ROOT / "csrc"
    objects = compile_kernels(csrc, out)
    includes = [f"-I{p}" for p in (pybind11.get_include(), sysconfig.get_path("include"))]
    jobs = [(out / "bind.o", [*FLAGS, "-O1", "-DFASTGAN_WITH_CUDA", *includes, str(csrc / "bind.cpp")])]
    for k in KERNELS:
        for isa in native.native.isas() if "x86_64" not in sysconfig.get_platform() else ("generic", "v3", "v4"):
            source = csrc / "cpu" / f"{k}.cpp"
            jobs.append((out / f"{k}_{isa}.o", [*FLAGS, "-O0", f"-DFASTGAN_ISA={isa}", str(source)]))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda j: subprocess.run([*CXX, "-w", *j[1], "-c", "-o", str(j[0])], check=True), jobs))
    library = out / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    parts = [*objects, *(to for to, _ in jobs)]
    subprocess.run([*CXX, "-shared", *map(str, parts), "-ldl", "-o", str(library)], check=True)
    return library


def load(library: Path):
    """The module, told what fastgan.native tells its own."""
    spec = importlib.util.spec_from_file_location("_native", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    module.learn(torch.Tensor, torch.nn.Parameter, torch.strided, dtypes)
    return module


class Simulated(cuda.Cuda):
    """The CUDA kernels on CPU tensors. `stream` is a number; one below 0 is as if it were captured."""

    def __init__(self) -> None:
        library = build()
        super().__init__(load(library), "cuda_")
        self.stream = 1
        self.specs = {}
        self.set_order = ctypes.CDLL(str(library))._ZN5cusim9set_orderEim
        self.allocated: list[torch.Tensor] = []

    def _memory(self, size: int, make) -> torch.Tensor:
        room = make(size + 16, dtype=torch.uint8)
        self.allocated.append(room)
        start = -room.data_ptr() % 16
        return room[start : start + size]

    def _where(self, t):
        return (0, self.stream % 2**64, self._empty, self._zeros)

    def _run(self, name, t, *arguments):
        getattr(self.module, self.prefix + name)(*arguments, self._where(t))

    def _spec(self, spec):
        key = spec.encode()
        if key not in self.specs:
            self.specs[key] = native.native_spec(spec, self.module)
        return self.specs[key]

    def _empty(self, size: int) -> torch.Tensor:
        return self._memory(size, torch.empty)

    def _zeros(self, size: int) -> torch.Tensor:
        return self._memory(size, torch.zeros)


@functools.lru_cache
def kernels() -> Simulated:
    """The simulated kernels, built at the first call."""
    return Simulated()


@contextlib.contextmanager
def serving():
    """Calls inside go to the simulated kernels wherever the CPU kernels would serve."""
    simulated, choose = kernels(), backends.choose
    backends.choose = lambda tensors, scanned=-1: simulated if choose(tensors, scanned) is cpu.KERNELS else None
    try:
        yield simulated
    finally:
        backends.choose = choose
