"""The simulator that runs CUDA kernels on the CPU (tests/helpers/cusim): what it computes, and what it finds.

Its self-test is built plain, with AddressSanitizer and with ThreadSanitizer. Each fault that can be planted
in a kernel has to be found by the one that is there for it, and without a fault nothing may be found.
"""

import functools
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.helpers.marks import slow_but, slow_if

FOLDER = ROOT / "tests" / "helpers" / "cusim"
CXX = shlex.split(os.environ.get("CXX", "c++"))[:1]
FLAGS = ["-std=c++17", "-O2", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra", "-Werror"]
BUILDS = {
    "plain": [],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}
ORDERS = ("fwd", "rev", "rand:1", "rand:2", "mix:1", "mix:2")
ENUM = re.search(r"enum class Fault \{(.*?)\}", (FOLDER / "selftest.h").read_text(), re.S).group(1)
FAULTS = ENUM.replace(",", " ").split()

RACE = "ThreadSanitizer: data race"
# fault: (build, orders, CUSIM_GRAIN, what is said). A barrier is missed only by a thread that runs ahead of those
# that it should wait for, and ThreadSanitizer sees it in any order; likewise for fences.
FOUND = [
    ("missing_barrier", "plain", ("fwd", "rand:1", "mix:1"), "thread", "wrong: sum"),
    ("missing_barrier", "thread", ORDERS, "warp", RACE),
    ("missing_fence", "thread", ORDERS, "block", RACE),
    ("early_fence", "thread", ORDERS, "block", RACE),
    ("missing_second_fence", "thread", ORDERS, "block", RACE),
    ("missing_fence", "thread", ("fwd", "mix:1"), "warp", RACE),
    ("missing_warp_barrier", "plain", ("fwd", "rev", "mix:1"), "thread", "wrong: collectives"),
    ("missing_warp_barrier", "thread", ("fwd", "rand:1"), "thread", RACE),
    ("global_overrun", "address", ORDERS, "thread", "AddressSanitizer: heap-buffer-overflow"),
    ("shared_overrun", "address", ORDERS, "thread", "AddressSanitizer: use-after-poison"),
    ("divergent_barrier", "plain", ORDERS, "thread", "divergent barrier: threads wait at different ones"),
    ("early_return", "plain", ORDERS, "thread", "divergent barrier: other threads have returned"),
    ("deadlock", "plain", ORDERS, "thread", "deadlock: a warp's collective waits for a lane that is elsewhere"),
    ("shuffle_outside", "plain", ORDERS, "thread", "a shuffle reads a lane outside of its mask"),
    ("unwritten_shared", "plain", ORDERS, "thread", "wrong: faulty"),
    # A run that fails leaves the fibers where they stand; the sanitizers have to bear it.
    ("deadlock", "address", ORDERS, "thread", "deadlock"),
    ("deadlock", "thread", ("fwd", "mix:1"), "warp", "deadlock"),
]


def compile_to(out: Path, *arguments: str) -> Path:
    done = subprocess.run([*CXX, *FLAGS, *arguments, "-o", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def has_runtime(sanitizer: str, folder: Path) -> bool:
    """Whether the compiler can link, and this machine start, a program with this sanitizer."""
    source, out = folder / "empty.cpp", folder / f"empty_{sanitizer}"
    source.write_text("int main() {}\n")
    command = [*CXX, *BUILDS[sanitizer], str(source), "-o", str(out)]
    return not subprocess.run(command, capture_output=True).returncode and not subprocess.run([out]).returncode


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Callable[[str], Path | None]:
    """The self-test for a build, None where the sanitizer's run-time library is missing."""
    folder = tmp_path_factory.mktemp("cusim")

    @functools.cache
    def compiled(name: str, *options: str) -> str:
        out = folder / f"{Path(name).stem}{len(list(folder.iterdir()))}.o"
        return str(compile_to(out, *options, "-c", str(FOLDER / name)))

    @functools.cache
    def program(build: str) -> Path | None:
        if build != "plain" and not has_runtime(build, folder):
            return None
        # The scheduler and the main program are the same in all of them.
        objects = [
            compiled("selftest.cu", *BUILDS[build], "-g", "-x", "c++"),
            compiled("cusim.cpp"),
            compiled("selftest.cpp"),
        ]
        return compile_to(folder / build, *BUILDS[build], *objects)

    return program


def run(programs: Callable, build: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    program = programs(build)
    if program is None:
        pytest.skip(f"{CXX[0]} has no run-time library for -fsanitize={build} that works here")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("CUSIM_", "ASAN_", "TSAN_", "UBSAN_"))}
    done = subprocess.run(
        [program, *arguments], env=inherited | environment, capture_output=True, text=True, timeout=120
    )
    done.both = done.stdout + done.stderr
    return done


@pytest.mark.parametrize("build", slow_but(["plain"], BUILDS))
@pytest.mark.parametrize("order", ORDERS)
def test_without_a_fault(programs, build, order):
    # ThreadSanitizer takes a millisecond or so to make a thread.
    grains = ("warp", "block", "thread")[: 3 if order in ("fwd", "mix:1") else 2]
    for grain in grains if build == "thread" else grains[:1]:
        done = run(programs, build, CUSIM_ORDER=order, CUSIM_GRAIN=grain)
        assert done.returncode == 0, done.both
        assert "Sanitizer" not in done.both
        assert "runtime error" not in done.both


@pytest.mark.parametrize(
    ("fault", "build", "orders", "grain", "said"),
    slow_if(lambda case: case[1] != "plain", FOUND),
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_faults_are_found(programs, fault, build, orders, grain, said):
    def planted(order: str) -> subprocess.CompletedProcess:
        return run(programs, build, str(FAULTS.index(fault)), CUSIM_ORDER=order, CUSIM_GRAIN=grain)

    programs(build)  # before they run at once
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = list(pool.map(planted, orders))
    for order, done in zip(orders, runs, strict=True):
        assert done.returncode, f"{order}: not found"
        assert said in done.both, f"{order}: {done.both}"


def test_each_fault_is_planted():
    assert {f for f, *_ in FOUND} == set(FAULTS) - {"none"}


def test_a_failure_names_its_place(programs):
    done = run(programs, "plain", str(FAULTS.index("early_return")), CUSIM_ORDER="fwd")
    line = r"cusim: faulty: .*; block \(0, 0, 0\), thread \(0, 0, 0\) at \S*selftest\.cu:(\d+), thread \(40, 0, 0\) has returned\n"
    found = re.fullmatch(line, done.stderr)
    assert found, done.stderr
    assert "__syncthreads()" in (FOLDER / "selftest.cu").read_text().splitlines()[int(found.group(1)) - 1]


def test_orders_are_repeatable_and_differ(programs):
    """The thread that fails first tells one order from another."""
    said = {}
    for order in ("fwd", "rev", "rand:3", "rand:4", "mix:5"):
        runs = {
            run(programs, "plain", str(FAULTS.index("shuffle_outside")), CUSIM_ORDER=order).stderr for _ in range(2)
        }
        assert len(runs) == 1
        said[order] = runs.pop()
    assert len(set(said.values())) >= 4


@pytest.mark.parametrize("name", ["CUSIM_ORDER", "CUSIM_GRAIN"])
@pytest.mark.parametrize("value", ["", "rand", "rand:", "rand:1x", "forward", "warps"])
def test_settings_that_make_no_sense(programs, name, value):
    done = run(programs, "plain", **{name: value})
    assert done.returncode == 2
    assert f"{name} is none of" in done.stderr
