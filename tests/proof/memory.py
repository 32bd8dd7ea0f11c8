"""Memory and threads: kernels under sanitizers, and whether these find faults that are planted."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.helpers import ROOT
from tests.helpers.once import once
from tests.mutants import cpu_memory, cuda
from tests.proof import suite
from tests.proof.claims import Batch, Claim, Unavailable, trying

HOUR = 3600
SANITIZERS = {"address": "AddressSanitizer and UBSan", "thread": "ThreadSanitizer"}
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
ON_A_GPU = {"FASTGAN_TEST_REQUIRED": "1", "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
TOUR = ["tests/backends/test_gpu.py", "-k", "tour and cuda"]


def linked(link: Callable[..., Path], objects: list[Path], build: str, program: Path) -> Path:
    """Return a driver; raise Unavailable where the compiler has no such sanitizer."""
    try:
        return link(objects, build, program)
    except pytest.skip.Exception as why:
        raise Unavailable(str(why)) from None


def cpu_kernels(_seed: int, build: str) -> Batch:
    """Run every CPU kernel over all layouts and numbers of threads."""
    parts = once("mutants-cpu_memory", cpu_memory.prepare)
    cases = 0
    with tempfile.TemporaryDirectory() as folder:
        objects = sorted((parts / build).glob("*.o"), reverse=True)
        program = linked(cpu_memory.link, objects, build, Path(folder, "driver"))
        for family in cpu_memory.KERNELS:
            trying(f"{build} build of {cpu_memory.DRIVER.relative_to(ROOT)}, {family}")
            result = cpu_memory.run(program, family)
            assert cpu_memory.calls(result), f"{family}: {result}"
            cases += cpu_memory.calls(result)
    isas = " and ".join(cpu_memory.ISAS)
    return Batch(cases, text=f"calls in exact memory, {isas}, up to 8 threads, each with the same bits")


def harness_kernels(_seed: int, build: str) -> Batch:
    """Run every CUDA kernel on the host, in several orders of its threads."""
    parts = once("mutants-cuda", cuda.prepare)
    families = [*cuda.KERNELS, *(["levels"] if build != "thread" else [])]  # levels take long with threads
    runs = list(itertools.product(families, cuda.ORDERS))
    with tempfile.TemporaryDirectory() as folder:
        program = linked(cuda.link, list((parts / build).glob("*.o")), build, Path(folder, "driver"))
        for family, order in runs:
            trying(f"{build} build of {cuda.SIM.relative_to(ROOT)}/driver.cpp, {family}, order {order}")
            result = cuda.run(program, family, order)
            assert result == (0, ""), f"{family}, {order}: {result}"
    return Batch(len(runs), text=f"runs of the driver: {len(families)} families in {len(cuda.ORDERS)} orders")


def planted(_seed: int, name: str) -> Batch:
    """Plant each fault of a list of tests/mutants and see it caught."""
    faults = {"cpu_memory": cpu_memory, "cuda": cuda}[name]
    if why := faults.missing():
        raise Unavailable(why)
    passed, skipped = suite.counts(
        "tests/mutants/test_mutants.py", *suite.EVERY, "-k", f"[{name}-", "--timeout", str(HOUR)
    )
    if skipped:
        raise Unavailable(f"{skipped} of {len(faults.FAULTS)} faults could not be judged")
    assert passed == len(faults.FAULTS), f"{passed} of {len(faults.FAULTS)} were tried"
    sound = sum(file is None for file, *_ in faults.FAULTS.values())
    return Batch(passed - sound, text=f"faults, one at a time, beside {sound} builds in which nothing is planted")


def harness(_seed: int) -> Batch:
    """Run the self-test of the CUDA kernels' harness, with its own planted faults."""
    passed, skipped = suite.counts("tests/kernels/cuda/test_cusim.py", *suite.EVERY, "--timeout", str(HOUR))
    if skipped:
        raise Unavailable(f"{skipped} tests have no run-time library of a sanitizer")
    return Batch(passed, text="tests of the harness, with missing barriers and fences, overruns and deadlocks")


def on_a_gpu(_seed: int) -> Batch:
    """Run every CUDA kernel on a GPU under each tool of compute-sanitizer."""
    if not torch.cuda.is_available():
        raise Unavailable("no GPU here")
    if shutil.which("compute-sanitizer") is None:
        raise Unavailable("no compute-sanitizer here")
    for tool in TOOLS:
        # Drivers are asked for functions that they may not have: that is no error of a kernel.
        quiet = ("--report-api-errors", "no") if tool == "memcheck" else ()
        before = ("compute-sanitizer", "--tool", tool, *quiet, "--target-processes", "all", "--error-exitcode", "9")
        trying(f"{tool} over {TOUR[0]}")
        passed, skipped = suite.counts(*TOUR, *suite.EVERY, before=before, environment=ON_A_GPU)
        assert passed, f"{tool} watched nothing; {skipped} were skipped"
    return Batch(len(TOOLS), text=f"tools over all CUDA kernels: {', '.join(TOOLS)}")


SILENT, FOUND = "nothing is reported, and results are the same", "each is reported"
CLAIMS = [
    *(
        Claim(f"CPU kernels under {name}", partial(cpu_kernels, build=build), SILENT, timeout=HOUR)
        for build, name in SANITIZERS.items()
    ),
    *(
        Claim(f"CUDA kernels on the host harness under {name}", partial(harness_kernels, build=build), SILENT,
              timeout=HOUR)
        for build, name in SANITIZERS.items()
    ),
    Claim("planted faults are caught: CUDA", partial(planted, name="cuda"), FOUND, timeout=2 * HOUR),
    Claim("planted faults are caught: CPU", partial(planted, name="cpu_memory"), FOUND, timeout=2 * HOUR),
    Claim("the harness finds its own planted faults", harness, FOUND, timeout=HOUR),
    Claim("compute-sanitizer on a GPU", on_a_gpu, "nothing is reported", timeout=HOUR),
]  # fmt: skip
