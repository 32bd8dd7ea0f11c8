"""The CUDA backend run on the CPU: the extension built anew, with the kernels on tests/helpers/cusim.

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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11
import torch

from fastgan import backends
from fastgan.backends import cpu, cuda, native, nodes
from tests.helpers import ROOT
from tests.helpers.once import once

KERNELS = ("loss", "penalty", "interpolate")
NAME = "_native_simulated"
LIBRARY = f"{NAME}{sysconfig.get_config_var('EXT_SUFFIX')}"
CXX = shlex.split(os.environ.get("CXX", "c++"))[:1]
FLAGS = [
    "-std=c++17", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-strict-aliasing", "-Wall", "-Wextra",
    "-Wno-unknown-pragmas", "-DFASTGAN_SIM",
]  # fmt: skip
ORDERS = {"forward": 0, "reverse": 1, "random": 2, "mixed": 3}


def compile_one(source: Path, out: Path, csrc: Path, *extra: str) -> Path:
    """An object of a kernel, or of what kernels run on."""
    fma = ["-march=x86-64-v3"] if "x86_64" in sysconfig.get_platform() else []
    includes = [f"-I{ROOT / 'tests' / 'helpers' / 'cusim'}", f"-I{csrc}"]
    command = [*CXX, *FLAGS, *fma, *includes, *extra, "-x", "c++", "-c", str(source), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
    return out


def in_parallel(function: Callable[..., Path], jobs: list[tuple]) -> list[Path]:
    """`function(*job)` of each, as many at a time as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda job: function(*job), jobs))


def build(out: Path) -> None:
    """The extension with simulated CUDA kernels; CPU kernels are there for the linker."""
    csrc, sim = ROOT / "csrc", ROOT / "tests" / "helpers" / "cusim"
    jobs = [(csrc / "cuda" / f"{k}.cu", out / f"cuda_{k}.o", csrc, "-O2") for k in KERNELS]
    jobs += [(sim / f"{part}.cpp", out / f"{part}.o", csrc, "-O2") for part in ("cusim", "runtime")]
    includes = [f"-I{p}" for p in (pybind11.get_include(), sysconfig.get_path("include"))]
    defines = ["-DFASTGAN_WITH_CUDA", f"-DFASTGAN_MODULE={NAME}"]
    jobs.append((csrc / "bindings.cpp", out / "bind.o", csrc, "-O1", *defines, *includes))
    for k in KERNELS:
        for isa in ("generic", "v3", "v4") if "x86_64" in sysconfig.get_platform() else ("generic",):
            jobs.append((csrc / "cpu" / f"{k}.cpp", out / f"{k}_{isa}.o", csrc, "-O0", f"-DFASTGAN_ISA={isa}"))
    objects = in_parallel(compile_one, jobs)
    subprocess.run([*CXX, "-shared", *map(str, objects), "-ldl", "-o", str(out / LIBRARY)], check=True)


def load(library: Path):
    """The module, told what fastgan.native tells its own."""
    spec = importlib.util.spec_from_file_location(NAME, library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    module.learn(torch.Tensor, torch.nn.Parameter, torch.strided, dtypes)
    return module


class Simulated(cuda.Cuda):
    """The CUDA kernels on CPU tensors. `stream` is a number; one below 0 is as if it were captured."""

    def __init__(self) -> None:
        library = once("simulated", build) / LIBRARY
        super().__init__(load(library), "cuda_")
        self.stream = 1
        self.specs = {}
        self.shared = ctypes.CDLL(str(library))
        self.set_order = self.shared._ZN5cusim9set_orderEim
        self.zeroed: list[torch.Tensor] = []
        self.launches = 0

    def place(self):
        """What the extension is told of where to run."""
        return (0, self.stream % 2**64, self._empty, self._zeros)

    def _launch(self, name, t, *arguments):
        self.launches += 1
        getattr(self.module, self.prefix + name)(*arguments, self.place())

    def _loss(self, spec):
        key = spec.encode()
        if key not in self.specs:
            self.specs[key] = native.native_spec(spec, self.module)
        return self.specs[key]

    def bytes_moved(self) -> tuple[int, int]:
        """How many bytes plain kernels have read and written since the last time."""
        both = (ctypes.c_int64 * 2)()
        self.shared.cusim_moved(both)
        return tuple(both)

    def gradients_in_double(self) -> int:
        """How many gradients of 16 bits were taken from doubles since the last time."""
        self.shared.cusim_in_double.restype = ctypes.c_int64
        return self.shared.cusim_in_double()

    def counters(self) -> list[torch.Tensor]:
        """All counters that were ever handed out."""
        return self.zeroed

    @staticmethod
    def _empty(size: int) -> torch.Tensor:
        room = torch.empty(size + 16, dtype=torch.uint8)
        start = -room.data_ptr() % 16
        return room[start : start + size]

    def _zeros(self, size: int) -> torch.Tensor:
        self.zeroed.append(self._empty(size).zero_())
        return self.zeroed[-1]


@functools.lru_cache
def kernels() -> Simulated:
    """The simulated kernels, built at the first call."""
    return Simulated()


@contextlib.contextmanager
def serving():
    """Calls inside go to the simulated kernels wherever the CPU kernels would serve."""
    simulated, get, scan = kernels(), backends.get, nodes.scan

    def chosen(tensors, scanned=-1):
        found = get(tensors, scanned)
        return simulated if found is cpu.BACKEND else found

    backends.get = chosen
    # As of CUDA tensors: what may have more dimensions than the kernels' tables is looked at more closely.
    try:
        with nodes.off():
            nodes.scan = lambda tensors: (
                -1 if any(isinstance(t, torch.Tensor) and t.dim() > 6 for t in tensors) else scan(tensors)
            )
            yield simulated
    finally:
        backends.get = get
