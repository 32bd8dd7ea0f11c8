"""Faults in the CUDA kernels, and the tools that must find them.

tests/helpers/cusim/driver.cpp runs every kernel on the CPU and compares it with the CPU kernels: plain, with
AddressSanitizer and UBSan, and with ThreadSanitizer. The sound kernels pass all three; each fault is found.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sysconfig
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
    "no fence before the ticket": ("csrc/cuda/sums.h", "  __threadfence();\n  unsigned before = ", "  unsigned before = ", "interpolate", "thread", RACE),
    "no fence after the ticket": ("csrc/cuda/sums.h", "  __threadfence();\n#else", "#else", "interpolate", "thread", RACE),
    "a read past the end": ("csrc/cuda/memory.h", "at + count <= n) return load_words", "at + count <= n + 1) return load_words", "interpolate", "address", OVERRUN),
    "a write past the end": ("csrc/cuda/memory.h", "at + count <= n) store_words", "at + count <= n + 1) store_words", "interpolate", "address", OVERRUN),
    "too little shared memory": ("csrc/cuda/interpolate.cu", "FASTGAN_SHARED(double, shared, [shared_sums]);", "FASTGAN_SHARED(double, shared, [1]);", "interpolate", "address", OVERRUN),
    "a vector at an odd address": ("csrc/cuda/memory.h", "reinterpret_cast<uintptr_t>(data) % 16 == 0}", "true}", "interpolate", "address", "misaligned"),
    "a divergent barrier": ("csrc/cuda/sums.h", "  if (threadIdx.x == 0) {\n    last = take_ticket", "  if (threadIdx.x < 5) __syncthreads();\n  if (threadIdx.x == 0) {\n    last = take_ticket", "interpolate", "plain", "barrier"),
    "shared memory that nobody wrote": ("csrc/cuda/groups.h", "  if (threadIdx.x == 0) result = total;\n", "", "interpolate", "plain", WRONG),
    "a counter left behind": ("csrc/cuda/sums.h", "    if (last) clear_tickets(ticket);\n", "", "interpolate", "plain", "not 0 again"),
    "lanes folded in another order": ("csrc/cuda/sums.h", "(lane[0] + lane[1]) + (lane[2] + lane[3])", "(lane[0] + lane[2]) + (lane[1] + lane[3])", "loss", "plain", WRONG),
    "a constant with the wrong sign": ("csrc/cuda/loss_sums.h", "table.constants[t.mean_operand]) - gradient", "table.constants[t.mean_operand]) + gradient", "loss", "plain", WRONG),
    "a mean without its lower part": ("csrc/cuda/loss_elements.h", "return (x - hi) - lo;", "return x - hi;", "loss", "plain", WRONG),
    "the sign of y": ("csrc/cuda/loss_gradients.h", "p, unit_gradient, T(-1), up)", "p, unit_gradient, T(1), up)", "loss", "plain", WRONG),
    "the sign of a plain y": ("csrc/cuda/loss_elements.h", "put_(gy_, negated<D>(g))", "put_(gy_, g)", "loss", "plain", WRONG),
    "an ignored cotangent": ("csrc/cuda/loss_backward.h", "  curvature[0] = curvature[0] * v;\n", "", "loss", "plain", WRONG),
    "an ignored upstream": ("csrc/cuda/loss_gradients.h", "scale = T(own[0]);", "scale = T(1);", "loss", "plain", WRONG),
    "a factor on the derivatives": ("csrc/cuda/loss_elements.h", "    own.multiply(g);\n  }\n  FASTGAN_DEVICE void curvatures", "  }\n  FASTGAN_DEVICE void curvatures", "loss", "plain", WRONG),
    "a label": ("csrc/cuda/loss_elements.h", "own.has_label ? k.template labelled<P>(T(own.label[i])) : k", "k", "loss", "plain", WRONG),
    "an element past the end": ("csrc/cuda/loss_elements.h", "table.find(strides), p.start + p.at)) : 0", "table.find(strides), p.start + p.at + 1)) : 0", "loss", "address", OVERRUN),
    "a chunk that two warps take": ("csrc/cuda/loss_sums.h", "u += gridDim.x * warps_here()) {\n    while", "u += 1) {\n    while", "loss", "thread", RACE),
    # A block's warps and its chunks.
    "no barrier before a lean chunk is added up": ("csrc/cuda/loss_forward.h", "    __syncthreads();\n    if (turn.take()) partials.keep(value_sum", "    if (turn.take()) partials.keep(value_sum", "loss", "thread", RACE),
    "two chunks, but not in turn": ("csrc/cuda/loss_sums.h", "    now_ = now_.other_of(both_);\n", "", "loss", "thread", RACE),
    "no barrier before a full chunk is added up": ("csrc/cuda/loss_forward.h", "    __syncthreads();\n    auto keep = ", "    auto keep = ", "loss", "thread", RACE),
    "no barrier between levels": ("csrc/cuda/loss_sums.h", "      before += count;\n    });\n    __syncthreads();\n", "      before += count;\n    });\n", "levels", "thread", RACE),
    "a row read past a chunk's end": ("csrc/cuda/sums.h", "if (k < left) lane[k]", "if (k <= left) lane[k]", "loss", "plain", WRONG),
    "levels of odd length": ("csrc/cuda/sums.h", "return n + n % 2;", "return n;", "levels", "address", "misaligned"),
    # A thread's way over a plain table.
    "four elements where three are left": ("csrc/cuda/loss_elements.h", ": left_ >= 4 ? end_", ": left_ >= 3 ? end_", "loss", "address", OVERRUN),
    "a misaligned tensor taken for an aligned one": ("csrc/cuda/loss_table.h", "return is(a.x) && is(a.g);", "return is(a.g);", "loss", "address", "misaligned"),
    "a thread's elements one by one, but three": ("csrc/cuda/loss_elements.h", "return u + 1 < end_ ? 4 : left_;", "return u + 1 < end_ ? 3 : left_;", "loss", "plain", WRONG),
    # What is rounded to 16 bits, and when.
    "a gradient as if the upstream were 1": ("csrc/cuda/loss_backward.h", "table) {\n  if (table.unless_one && (!table.scalar_upstream || *table.scalar_upstream == 1)) return;", "table) {\n  if (table.unless_one) return;", "loss", "plain", WRONG),
    "a gradient that a float is not sure of": ("csrc/cuda/loss_rounded.h", "(least.v[k] ^ g.v[k]) | all_;", "all_;", "loss", "plain", WRONG),
    "a tie that is rounded twice": ("csrc/cuda/penalty.cu", "    if (middle) {\n", "    if (false) {\n", "penalty", "plain", WRONG),
    "a norm without its scale": ("csrc/cuda/penalty.cu", "t.second ? sum : t.scale * sum", "sum", "penalty", "plain", WRONG),
    "eight lanes in another order": ("csrc/cuda/groups.h", "(lane[0] + lane[1]) + (lane[2] + lane[3])", "(lane[0] + lane[2]) + (lane[1] + lane[3])", "penalty", "plain", WRONG),
    "a bend that is not scaled": ("csrc/cuda/penalty.cu", "second = second * second_scale;", "", "penalty", "plain", WRONG),
    "a deviation from 0": ("csrc/cuda/penalty.cu", "d = x - mean;", "d = x;", "penalty", "plain", WRONG),
    "a double of another exponent": ("csrc/cuda/memory.h", "(magnitude >> 3) + 0x38000000u", "(magnitude >> 3) + 0x38100000u", "loss", "plain", WRONG),
    "points rounded twice": ("csrc/cuda/interpolate.cu", "fma(e, real, rest * fake)", "e * real + rest * fake", "interpolate", "plain", WRONG),
}  # fmt: skip


def missing() -> str:
    """Why none of it can be judged here."""
    x86 = "x86_64" in sysconfig.get_platform()
    return "" if x86 else "rounding of the mutants was tried on x86-64"


def flags(build: str) -> list[str]:
    return ["-O0", "-g1", "-w", *BUILDS[build]]


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
        kernels = "loss" if family == "levels" else family
        source, changed = folder / "csrc" / "cuda" / f"{kernels}.cu", folder / f"cuda_{kernels}.o"
        compile_one(source, changed, folder / "csrc", *flags(build))
        # Before the others: of functions that several have, a linker takes the first.
        objects = {changed.name: changed} | {name: o for name, o in objects.items() if name != changed.name}
    program = link(list(objects.values()), build, folder / "driver")
    families = [family] if family else [*KERNELS, *(["levels"] if build != "thread" else [])]
    results = []
    for name, order in itertools.product(families, ORDERS):
        results.append(run(program, name, order))
        if said is not None and results[-1][0] and said in results[-1][1]:
            return True, str(results[-1])
    return said is None and any(result != (0, "") for result in results), str(results)
