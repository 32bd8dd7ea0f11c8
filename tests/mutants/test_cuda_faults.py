"""Faults planted in the CUDA kernels, and the tools that must find them.

tests/helpers/cusim/driver.cpp runs every kernel on the CPU and compares it with the CPU kernels: plain, with
AddressSanitizer and UBSan, and with ThreadSanitizer. The sound kernels pass all three; each fault is found.
"""

import os
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.helpers.simulated import CXX, KERNELS, compile_one, in_parallel

CSRC, SIM = ROOT / "csrc", ROOT / "tests" / "helpers" / "cusim"
BUILDS = {
    "plain": [],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "thread": ["-fsanitize=thread"],
}
ORDERS = ("fwd", "rev", "rand:1", "mix:2")
RACE, OVERRUN, WRONG = "ThreadSanitizer: data race", "AddressSanitizer", "differs"

# name: (file, what stands there, what is put in its place, family, build, what must be said)
FAULTS = {
    "no barrier before the ticket": ("sums.h", "  FASTGAN_SHARED(bool, last, );\n  __syncthreads();", "  FASTGAN_SHARED(bool, last, );", "interpolate", "thread", RACE),
    "no barrier before a row's sum": ("rows.h", "  if (threadIdx.x == 0) result = total;\n  __syncthreads();", "  if (threadIdx.x == 0) result = total;", "interpolate", "thread", RACE),
    "no fence before the ticket": ("sums.h", "    __threadfence();\n    last = atomicAdd", "    last = atomicAdd", "interpolate", "thread", RACE),
    "no fence after the ticket": ("sums.h", "      atomicExch(ticket, 0u);\n      __threadfence();", "      atomicExch(ticket, 0u);", "interpolate", "thread", RACE),
    "a read past the end": ("memory.h", "at + count > n) return fetch_each", "at + count > n + 1) return fetch_each", "interpolate", "address", OVERRUN),
    "a write past the end": ("memory.h", "at + count > n) return put_each", "at + count > n + 1) return put_each", "interpolate", "address", OVERRUN),
    "too little shared memory": ("interpolate.cu", "FASTGAN_SHARED(double, shared, [shared_sums]);", "FASTGAN_SHARED(double, shared, [1]);", "interpolate", "address", OVERRUN),
    "a vector at an odd address": ("memory.h", "reinterpret_cast<uintptr_t>(data) % 16 == 0}", "true}", "interpolate", "address", "misaligned"),
    "a divergent barrier": ("sums.h", "  if (threadIdx.x == 0) {\n    __threadfence();", "  if (threadIdx.x < 5) __syncthreads();\n  if (threadIdx.x == 0) {\n    __threadfence();", "interpolate", "plain", "barrier"),
    "shared memory that nobody wrote": ("rows.h", "  if (threadIdx.x == 0) result = total;\n", "", "interpolate", "plain", WRONG),
    "a counter left behind": ("sums.h", "      atomicExch(ticket, 0u);\n", "", "interpolate", "plain", "not 0 again"),
    "lanes folded in another order": ("sums.h", "(lane[0] + lane[1]) + (lane[2] + lane[3])", "(lane[0] + lane[2]) + (lane[1] + lane[3])", "loss", "plain", WRONG),
    "a constant with the wrong sign": ("loss.cu", "table.constants[t.centre]) - gradient", "table.constants[t.centre]) + gradient", "loss", "plain", WRONG),
    "a mean without its lower part": ("loss.cu", "return (x - hi) - lo;", "return x - hi;", "loss", "plain", WRONG),
    "the sign of y": ("loss.cu", "p, at, unit, F(-1), up)", "p, at, unit, F(1), up)", "loss", "plain", WRONG),
    "an ignored cotangent": ("loss.cu", "e.curvature[i] = e.curvature[i] * v.w[i];", "", "loss", "plain", WRONG),
    "an ignored upstream": ("loss.cu", "return elementwise ? each[i] : scalar;", "return elementwise ? each[i] : F(1);", "loss", "plain", WRONG),
    "a chunk that two warps take": ("loss.cu", "u += gridDim.x * warps_here())", "u += 1)", "loss", "thread", RACE),
    "a norm without its scale": ("penalty.cu", "t.second ? sum : t.scale * sum", "sum", "penalty", "plain", WRONG),
    "eight lanes in another order": ("rows.h", "(lane[0] + lane[1]) + (lane[2] + lane[3])", "(lane[0] + lane[2]) + (lane[1] + lane[3])", "penalty", "plain", WRONG),
    "a bend that is not scaled": ("penalty.cu", "second = second * r.scale;", "", "penalty", "plain", WRONG),
    "a deviation from 0": ("penalty.cu", "d = x - mean;", "d = x;", "penalty", "plain", WRONG),
    "points rounded twice": ("interpolate.cu", "fma(e, real, rest * fake)", "e * real + rest * fake", "interpolate", "plain", WRONG),
}  # fmt: skip


def flags(build):
    return ["-O1", "-g1", "-w", *BUILDS[build]]


def link(objects, build, program):
    """The driver; None where this compiler has no such sanitizer."""
    done = subprocess.run(
        [*CXX, *BUILDS[build], *map(str, objects), "-ldl", "-o", str(program)], capture_output=True, text=True, check=False
    )  # fmt: skip
    if done.returncode and build != "plain" and "cannot find" in done.stderr:
        return None
    assert done.returncode == 0, done.stderr
    return program


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Objects that no fault changes, a folder for each build."""
    out = tmp_path_factory.mktemp("driver")
    jobs = []
    for build in BUILDS:
        (out / build).mkdir()
        jobs += [(CSRC / "cuda" / f"{k}.cu", out / build / f"cuda_{k}.o", CSRC, *flags(build)) for k in KERNELS]
        jobs.append((SIM / "driver.cpp", out / build / "driver.o", CSRC, *flags(build)))
        # What simulates is itself not watched.
        jobs += [(SIM / f"{part}.cpp", out / build / f"{part}.o", CSRC, "-O2") for part in ("cusim", "runtime")]
        for k in KERNELS:
            jobs.append((CSRC / "cpu" / f"{k}.cpp", out / build / f"{k}.o", CSRC, "-O1", "-DFASTGAN_ISA=generic"))
    in_parallel(compile_one, jobs)
    return out


def run(program, family, order):
    environment = {
        **os.environ, "CUSIM_ORDER": order, "CUSIM_GRAIN": "warp", "TSAN_OPTIONS": "exitcode=66 halt_on_error=1",
        "ASAN_OPTIONS": "detect_leaks=0",
    }  # fmt: skip
    done = subprocess.run(
        [program, family], capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("build", BUILDS)
def test_sound_kernels_pass(build, parts, tmp_path):
    program = link((parts / build).glob("*.o"), build, tmp_path / "driver")
    if program is None:
        pytest.skip(f"the compiler has no runtime for {BUILDS[build][0]}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(run, program, family, order) for family in KERNELS for order in ORDERS]
    for job in jobs:
        assert job.result() == (0, "")


@pytest.fixture(scope="module")
def findings(request, parts, tmp_path_factory):
    """What is said of each fault asked for, worked out as many at a time as there are processors."""
    here = [i for i in request.session.items if i.path == Path(__file__) and hasattr(i, "callspec")]
    names = [i.callspec.params["name"] for i in here if "name" in i.callspec.params]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {name: pool.submit(find, name, parts, tmp_path_factory.mktemp("fault")) for name in names}


def find(name: str, parts: Path, folder: Path):
    file, old, new, family, build, _ = FAULTS[name]
    shutil.copytree(CSRC, folder / "csrc")
    path = folder / "csrc" / "cuda" / file
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
    path.write_text(text.replace(old, new))
    csrc = folder / "csrc"
    changed = compile_one(csrc / "cuda" / f"{family}.cu", folder / f"cuda_{family}.o", csrc, *flags(build))
    others = [o for o in (parts / build).glob("*.o") if o.name != changed.name]
    program = link([changed, *others], build, folder / "driver")
    return program and [run(program, family, order) for order in ORDERS]


@pytest.mark.skipif("x86_64" not in sysconfig.get_platform(), reason="rounding of the mutants was tried on x86-64")
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(name, findings):
    build, said = FAULTS[name][4:]
    results = findings[name].result()
    if results is None:
        pytest.skip(f"the compiler has no runtime for {BUILDS[build][0]}")
    assert any(code and said in text for code, text in results), results[0]
