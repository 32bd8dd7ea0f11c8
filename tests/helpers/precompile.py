"""Compiles Triton's kernels where there is no GPU, into a cache that a machine with one takes along.

    python -m tests.helpers.precompile FOLDER -k tour --target 90

The launches of the GPU tests that -k names, and of the benchmarks, are recorded instead of run. On the other machine
TRITON_CACHE_DIR=FOLDER; its Python packages triton and torch must be the same as here.
"""

import argparse
import contextlib
import multiprocessing
import os
import subprocess
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
import torch
import triton
from fastgan.triton_kernels import launch

import fastgan
from fastgan import _checks as checks
from fastgan import backends
from fastgan.backends import nodes
from fastgan.backends import triton as ft
from tests.helpers import ROOT


@contextlib.contextmanager
def recording(found):
    """Note in `found` what would be launched, no two the same: key -> (kernel, arguments, constants, warps).

    Whatever is called meanwhile computes nothing.
    """

    def load(fn, arguments, constants, warps):
        shape = tuple(0 if isinstance(a, int) else len(a) for a in arguments)
        found.setdefault((fn.__name__, shape, constants, warps), (fn, arguments, constants, warps))

    def launched(fn, programs, *kernel):
        assert programs > 0
        load(fn, *kernel)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nodes, "module", None)
        patch.setattr(launch, "launch", launched)
        patch.setattr(launch, "load", load)
        patch.setattr(checks, "is_readable", lambda t: False)
        yield patch


class OfTests:
    """A pytest plugin: tests of tests/backends/test_gpu.py record what they launch, and compare nothing."""

    def __init__(self, patch):
        self.patch = patch

    def pytest_collection_finish(self, session):
        module = next(item.module for item in session.items)
        get = backends.get

        def chosen(tensors, scanned=-1):
            return ft.BACKEND if backends.CHOSEN.get() == "triton" else get(tensors, scanned)

        self.patch.setattr(backends, "get", chosen)
        self.patch.setattr(type(ft.BACKEND), "missing", lambda self: None)
        self.patch.setattr(module, "same", lambda got, want: None)


def of_tests(expression):
    """What the GPU tests launch whose names match; some fail on results that nobody computed."""
    found = {}
    os.environ |= {"FASTGAN_TEST_DEVICE": "cpu", "FASTGAN_TEST_BACKEND": "triton"}
    with recording(found) as patch:
        tests = str(ROOT / "tests" / "backends" / "test_gpu.py")
        options = ["-q", "--tb=no", "--no-header", "-m", "gpu", "-k", expression]
        pytest.main([tests, *options], plugins=[OfTests(patch)])
    return found


def of_benchmarks():
    """What bench/gpu.py launches."""
    from bench import gpu_cases
    from bench.suites import penalties

    found, device = {}, torch.device("cpu")
    with recording(found) as patch:
        patch.setattr(backends, "get", lambda tensors, scanned=-1: ft.BACKEND)
        for cell in dict.fromkeys((*gpu_cases.FIRST, *gpu_cases.REST)):
            inputs = gpu_cases.logits(cell, device, 0)
            gpu_cases.training_arm("", gpu_cases.fused(cell.case), [inputs]).gradients(0)
        for rows, shape, dtype in (*gpu_cases.FIRST_PENALTIES, *gpu_cases.REST_PENALTIES[:3]):
            real, fake, eps, g = gpu_cases.samples(rows, shape, dtype, device, 0)
            fastgan.interpolate(real, fake, eps)
            penalties.fused_penalty(g).backward()
    return found


def of_the_trial():
    """What the first call on a device tries."""
    found, small_loss = {}, ft._small_loss
    with recording(found) as patch:
        patch.setattr(torch, "get_device_module", lambda device: None)
        patch.setattr(ft, "_small_loss", lambda logits, device: small_loss(logits, torch.device("cpu")))
        with contextlib.suppress(RuntimeError):  # nobody computed its results
            ft._trial(torch.device("cuda", 0))
    return found


def stub_of_the_driver(folder):
    """A library by the name of CUDA's driver, for what is linked with that."""
    command = [os.environ.get("CC", "cc"), "-shared", "-Wl,-soname,libcuda.so.1", "-x", "c", "/dev/null"]
    subprocess.run([*command, "-o", os.path.join(folder, "libcuda.so.1")], check=True)


def build_launcher(made):
    """Compile the C code by which Triton 3.6 starts a kernel, into the same cache.

    Triton does so at a kernel's first launch, with the C compiler and Python.h of the machine. Newer ones have less to
    compile, and ask for a driver first. Without a driver what was compiled cannot be loaded, and is not.
    """
    from triton.backends.nvidia import driver
    from triton.runtime import build

    with mock.patch.object(build, "_load_module_from_path", create=True), contextlib.suppress(RuntimeError):
        driver.CudaUtils()
        driver.CudaLauncher(made.src, made.metadata)


_jobs = []


def _compile(number):
    (fn, arguments, constants, warps), target = _jobs[number]
    build_launcher(launch.compiled(fn, arguments, constants, warps, target))


def compile_all(launches, target, jobs):
    """Compile kernels for a target into Triton's cache, as many at a time as `jobs` says."""
    _jobs[:] = [(one, target) for one in launches]
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as pool:
        for _ in pool.map(_compile, range(len(_jobs)), chunksize=4):
            pass


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-k", default="tour", help="which GPU tests, beside the benchmarks (default: tour)")
    parser.add_argument("--target", type=int, default=90, help="compute capability (default: 90)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only-trial", action="store_true", help="only what the first call on a device tries")
    parser.add_argument("--count", action="store_true", help="only count them")
    options = parser.parse_args()
    launches = of_the_trial()
    if not options.only_trial:
        launches |= of_tests(options.k) | of_benchmarks()
    print(f"{len(launches)} kernels for Triton {triton.__version__}, sm_{options.target}")
    if options.count:
        return
    os.environ["TRITON_CACHE_DIR"] = str(options.folder.resolve())
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as stub:
        stub_of_the_driver(stub)
        os.environ["TRITON_LIBCUDA_PATH"] = stub
        compile_all(launches.values(), triton.backends.compiler.GPUTarget("cuda", options.target, 32), options.jobs)
    print(f"compiled in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
