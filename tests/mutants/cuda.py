"""Faults in the CUDA kernels, and the tools that must find them.

tests/helpers/cusim/driver.cpp runs every kernel on the CPU and compares it with the CPU kernels: plain, with
AddressSanitizer and UBSan, and with ThreadSanitizer. The sound kernels pass all three; each fault is found.
"""

from __future__ import annotations

import os
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
    "nothing, plain": (None, "", "", None, "plain", None),
    "nothing, address": (None, "", "", None, "address", None),
    "nothing, thread": (None, "", "", None, "thread", None),
    "no barrier before the ticket": ("csrc/cuda/sums.h", "  FASTGAN_SHARED(bool, last, );\n  __syncthreads();", "  FASTGAN_SHARED(bool, last, );", "interpolate", "thread", RACE),
    "no barrier before a group's sum": ("csrc/cuda/groups.h", "  if (threadIdx.x == 0) result = total;\n  __syncthreads();", "  if (threadIdx.x == 0) result = total;", "interpolate", "thread", RACE),
    "no fence before the ticket": ("csrc/cuda/sums.h", "    __threadfence();\n    last = atomicAdd", "    last = atomicAdd", "interpolate", "thread", RACE),
    "no fence after the ticket": ("csrc/cuda/sums.h", "      atomicExch(ticket, 0u);\n      __threadfence();", "      atomicExch(ticket, 0u);", "interpolate", "thread", RACE),
    "a read past the end": ("csrc/cuda/memory.h", "at + count > n) return fetch_each", "at + count > n + 1) return fetch_each", "interpolate", "address", OVERRUN),
    "a write past the end": ("csrc/cuda/memory.h", "at + count > n) return put_each", "at + count > n + 1) return put_each", "interpolate", "address", OVERRUN),
    "too little shared memory": ("csrc/cuda/interpolate.cu", "FASTGAN_SHARED(double, shared, [shared_sums]);", "FASTGAN_SHARED(double, shared, [1]);", "interpolate", "address", OVERRUN),
    "a vector at an odd address": ("csrc/cuda/memory.h", "reinterpret_cast<uintptr_t>(data) % 16 == 0}", "true}", "interpolate", "address", "misaligned"),
    "a divergent barrier": ("csrc/cuda/sums.h", "  if (threadIdx.x == 0) {\n    __threadfence();", "  if (threadIdx.x < 5) __syncthreads();\n  if (threadIdx.x == 0) {\n    __threadfence();", "interpolate", "plain", "barrier"),
    "shared memory that nobody wrote": ("csrc/cuda/groups.h", "  if (threadIdx.x == 0) result = total;\n", "", "interpolate", "plain", WRONG),
    "a counter left behind": ("csrc/cuda/sums.h", "      atomicExch(ticket, 0u);\n", "", "interpolate", "plain", "not 0 again"),
    "lanes folded in another order": ("csrc/cuda/sums.h", "(lane[0] + lane[1]) + (lane[2] + lane[3])", "(lane[0] + lane[2]) + (lane[1] + lane[3])", "loss", "plain", WRONG),
    "a constant with the wrong sign": ("csrc/cuda/loss.cu", "table.constants[t.mean_operand]) - gradient", "table.constants[t.mean_operand]) + gradient", "loss", "plain", WRONG),
    "a mean without its lower part": ("csrc/cuda/loss.cu", "return (x - hi) - lo;", "return x - hi;", "loss", "plain", WRONG),
    "the sign of y": ("csrc/cuda/loss.cu", "p, at, unit_gradient, T(-1), up)", "p, at, unit_gradient, T(1), up)", "loss", "plain", WRONG),
    "an ignored cotangent": ("csrc/cuda/loss.cu", "d.curvature[i] = d.curvature[i] * v.w[i];", "", "loss", "plain", WRONG),
    "an ignored upstream": ("csrc/cuda/loss.cu", "return elementwise ? each[i] : scalar;", "return elementwise ? each[i] : T(1);", "loss", "plain", WRONG),
    "a factor on the derivatives": ("csrc/cuda/loss.cu", "d.gradient[i] = T(factor[i]) * d.gradient[i];", "{}", "loss", "plain", WRONG),
    "a label": ("csrc/cuda/loss.cu", "const Labelled<T> labelled{k, own};", "const Coefficients<T>& labelled = k;", "loss", "plain", WRONG),
    "a factor of another chunk": ("csrc/cuda/loss.cu", "unpack(fetch<F, 4>(values_of(table, table.operand[operand], p), at, p.n), native<F>, to);", "unpack(fetch<F, 4>(values_of(table, table.operand[operand], p), at, p.n + 4), native<F>, to);", "loss", "address", OVERRUN),
    "a chunk that two warps take": ("csrc/cuda/loss.cu", "u += gridDim.x * warps_here())", "u += 1)", "loss", "thread", RACE),
    "a norm without its scale": ("csrc/cuda/penalty.cu", "t.second ? sum : t.scale * sum", "sum", "penalty", "plain", WRONG),
    "eight lanes in another order": ("csrc/cuda/groups.h", "(lane[0] + lane[1]) + (lane[2] + lane[3])", "(lane[0] + lane[2]) + (lane[1] + lane[3])", "penalty", "plain", WRONG),
    "a bend that is not scaled": ("csrc/cuda/penalty.cu", "second = second * second_scale;", "", "penalty", "plain", WRONG),
    "a deviation from 0": ("csrc/cuda/penalty.cu", "d = x - mean;", "d = x;", "penalty", "plain", WRONG),
    "points rounded twice": ("csrc/cuda/interpolate.cu", "fma(e, real, rest * fake)", "e * real + rest * fake", "interpolate", "plain", WRONG),
}  # fmt: skip


def missing() -> str:
    """Why none of it can be judged here."""
    x86 = "x86_64" in sysconfig.get_platform()
    return "" if x86 else "rounding of the mutants was tried on x86-64"


def flags(build: str) -> list[str]:
    return ["-O1", "-g1", "-w", *BUILDS[build]]


def link(objects: list[Path], build: str, program: Path) -> Path:
    """The driver. Skips the test where this compiler has no such sanitizer."""
    done = subprocess.run(
        [*CXX, *BUILDS[build], *map(str, objects), "-ldl", "-o", str(program)], capture_output=True, text=True, check=False
    )  # fmt: skip
    if done.returncode and build != "plain" and "cannot find" in done.stderr:
        pytest.skip(f"the compiler has no runtime for {BUILDS[build][0]}")
    assert done.returncode == 0, done.stderr
    return program


def prepare(folder: Path) -> None:
    """Objects that no fault changes, a folder for each build."""
    jobs = []
    for build in BUILDS:
        out = folder / build
        out.mkdir()
        jobs += [(CSRC / "cuda" / f"{k}.cu", out / f"cuda_{k}.o", CSRC, *flags(build)) for k in KERNELS]
        jobs.append((SIM / "driver.cpp", out / "driver.o", CSRC, *flags(build)))
        # What simulates is itself not watched.
        jobs += [(SIM / f"{part}.cpp", out / f"{part}.o", CSRC, "-O2") for part in ("cusim", "runtime")]
        for k in KERNELS:
            jobs.append((CSRC / "cpu" / f"{k}.cpp", out / f"{k}.o", CSRC, "-O1", "-DFASTGAN_ISA=generic"))
    in_parallel(compile_one, jobs)


def run(program: Path, family: str, order: str) -> tuple[int, str]:
    environment = {
        **os.environ, "CUSIM_ORDER": order, "CUSIM_GRAIN": "warp", "TSAN_OPTIONS": "exitcode=66 halt_on_error=1",
        "ASAN_OPTIONS": "detect_leaks=0",
    }  # fmt: skip
    done = subprocess.run(
        [program, family], capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    return done.returncode, done.stdout + done.stderr


def judge(
    folder: Path, parts: Path, file: str | None, family: str | None, build: str, said: str | None
) -> tuple[bool, str]:
    """Whether what must be said of a fault is said in some order; of sound kernels whether anything is said."""
    objects = {o.name: o for o in (parts / build).glob("*.o")}
    if family:
        source, changed = folder / "csrc" / "cuda" / f"{family}.cu", folder / f"cuda_{family}.o"
        objects[changed.name] = compile_one(source, changed, folder / "csrc", *flags(build))
    program = link(list(objects.values()), build, folder / "driver")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(run, program, f, order) for f in ([family] if family else KERNELS) for order in ORDERS]
    results = [job.result() for job in jobs]
    if said is None:
        return any(result != (0, "") for result in results), str(results)
    return any(code and said in text for code, text in results), str(results[0])
