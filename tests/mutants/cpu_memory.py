"""Faults in the CPU kernels' memory and threads, and the tools that must find them.

tests/helpers/cpudriver/driver.cpp calls the kernels with many layouts and numbers of threads, in memory that is as
large as they may touch: plain, with AddressSanitizer and UBSan, and with ThreadSanitizer. The sound kernels pass all
three; each fault is found. It is planted in the AVX2 kernels; the generic ones beside them stay sound.
"""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

from fastgan.backends import cpu
from tests.helpers import ROOT
from tests.helpers.simulated import CXX, KERNELS, in_parallel

CSRC, DRIVER = ROOT / "csrc", ROOT / "tests" / "helpers" / "cpudriver"
FLAGS = ["-std=c++17", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-strict-aliasing", "-g1", "-w"]
X86 = "x86_64" in sysconfig.get_platform()
ISAS = {"generic": [], **({"v3": ["-march=x86-64-v3"]} if X86 else {})}
BUILDS = {
    "plain": [],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "thread": ["-fsanitize=thread"],
}
WATCHED = {"plain": [], "address": ["-DWATCHED"], "thread": ["-DWATCHED", "-DONLY_THREADS"]}
RACE, OVERRUN, WRONG = "ThreadSanitizer: data race", "AddressSanitizer", "differs"
WRITTEN = "is written where it may not be"
COUNTER = """  std::atomic<int64_t> next{0};

  void run() {
    for (int64_t begin; (begin = next.fetch_add(step, std::memory_order_relaxed)) < count;)"""
PLAIN_COUNTER = """  int64_t next = 0;

  void run() {
    for (int64_t begin; (begin = next, next += step, begin) < count;)"""
RANGE = "body(begin, begin + step < count ? begin + step : count);"

# name: (file, what stands there, what is put in its place, family, build, what must be said)
FAULTS = {
    "nothing, plain": (None, "", "", None, "plain", None),
    "nothing, address": (None, "", "", None, "address", None),
    "nothing, thread": (None, "", "", None, "thread", None),
    # Reads and writes outside of tensors and of the kernels' own memory.
    "a read past the end": ("csrc/cpu/memory.h", "++i) buffer[i] = F(widen(p[i]));", "++i) buffer[i] = F(widen(p[i + 1]));", "interpolate", "address", OVERRUN),
    "a write past the end": ("csrc/cpu/memory.h", "for (int i = 0; i < n; ++i) p[i] = cast(v[i]);", "for (int i = 0; i <= n; ++i) p[i] = cast(v[i]);", "interpolate", "address", OVERRUN),
    "a run past a line": ("csrc/cpu/memory.h", "    if (run > n - k) run = n - k;\n", "", "penalty", "address", OVERRUN),
    "too few partial sums of groups": ("csrc/cpu/groups.h", "partial(lines);", "partial(lines - 1);", "penalty", "address", OVERRUN),
    "too few partial sums of terms": ("csrc/cpu/loss.cpp", "for (Sum s : wanted) at[s].resize(first.back());", "for (Sum s : wanted) at[s].resize(first.back() - 1);", "loss", "address", OVERRUN),
    "partial sums read past their end": ("csrc/cpu/tree.h", "int(n - c * chunk < chunk ? n - c * chunk : chunk)", "chunk", "loss", "address", OVERRUN),
    "buffers as if they were longer": ("csrc/common/loss.h", "return buffers + 2 * operands.size();", "return buffers + 2 * operands.size() + 1;", "loss", "address", OVERRUN),
    "a range past the last": ("csrc/cpu/parallel.h", RANGE, "body(begin, begin + step);", "interpolate", "address", OVERRUN),
    "a buffer shorter than a line": ("csrc/cpu/penalty.cpp", "F buffer[chunk], mask_buffer[chunk], v_buffer[chunk], out_buffer[chunk];", "F buffer[chunk], mask_buffer[lanes], v_buffer[chunk], out_buffer[chunk];", "penalty", "address", OVERRUN),
    # What is no valid operation.
    "a level too few": ("csrc/cpu/groups.h", "double level[8][tile];", "double level[7][tile];", "penalty", "address", "out of bounds"),
    "a shift by too much": ("csrc/cpu/groups.h", "taken |= 1u << k;", "taken |= 1u << (k + 32);", "penalty", "address", "shift exponent"),
    "a misaligned load": ("csrc/cpu/memory.h", "const T* p = reinterpret_cast<const T*>(data) + start;", "const T* p = reinterpret_cast<const T*>(data + 1) + start;", "loss", "address", "misaligned"),
    # What two threads touch.
    "a counter that is not atomic": ("csrc/cpu/parallel.h", COUNTER, PLAIN_COUNTER, "interpolate", "thread", RACE),
    "ranges that overlap": ("csrc/cpu/parallel.h", RANGE, "body(begin, begin + step + 1 < count ? begin + step + 1 : count);", "interpolate", "thread", RACE),
    "a partial sum of all threads": ("csrc/cpu/groups.h", "partial[number] = sum(", "partial[0] = sum(", "penalty", "thread", RACE),
    "a term's sum of all threads": ("csrc/cpu/loss.cpp", "partials.at[value_sum][c] = chunk_sum", "partials.at[value_sum][0] = chunk_sum", "loss", "thread", RACE),
    "buffers of all threads": ("csrc/cpu/interpolate.cpp", "    F real_buffer[chunk], fake_buffer[chunk], out_buffer[chunk];", "    static F real_buffer[chunk], fake_buffer[chunk], out_buffer[chunk];", "interpolate", "thread", RACE),
    "a tile's sums of all threads": ("csrc/cpu/penalty.cpp", "                 double sums[tile];", "                 static double sums[tile];", "penalty", "thread", RACE),
    # What nobody wrote, and what nobody may write.
    "lanes that nobody wrote": ("csrc/cpu/tree.h", "  for (int j = 0; j < lanes; ++j) lane[j] = 0;\n", "", "loss", "plain", WRONG),
    "an absent cotangent that nobody wrote": ("csrc/cpu/loss.cpp", "  for (int i = 0; i < n; ++i) w[i] = F(0);\n", "", "loss", "plain", WRONG),
    "the last result is left out": ("csrc/cpu/memory.h", "for (int i = 0; i < n; ++i) p[i] = cast(v[i]);", "for (int i = 0; i + 1 < n; ++i) p[i] = cast(v[i]);", "interpolate", "plain", WRONG),
    "an operand that is written": ("csrc/cpu/loss.cpp", "      subtract(x, y, n, z_buffer);\n      z = z_buffer;", "      subtract(x, y, n, const_cast<F*>(x));\n      z = x;", "loss", "plain", WRITTEN),
    "gaps that are taken for elements": ("csrc/common/view.h", "if (next < 0) return w;", "if (next < 0) break;", "loss", "plain", WRITTEN),
    "a gap that is written": ("csrc/cpu/memory.h", "      p += (w.stride[d - 1] - w.size[d] * w.stride[d]) * item;\n", "", "interpolate", "plain", WRITTEN),
}  # fmt: skip


def missing() -> str:
    """Why none of it can be judged here."""
    return "" if cpu.native and "v3" in cpu.native.isas() else "the mutants are of the AVX2 kernels"


def compile_one(source: Path, out: Path, csrc: Path, *extra: str) -> Path:
    command = [*CXX, *FLAGS, f"-I{csrc}", *extra, "-c", str(source), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def compile_kernels(kernels: str, isa: str, build: str, folder: Path, csrc: Path) -> Path:
    flags = ["-O1", *BUILDS[build], *ISAS[isa], f"-DFASTGAN_ISA={isa}"]
    return compile_one(csrc / "cpu" / f"{kernels}.cpp", folder / f"{kernels}_{isa}.o", csrc, *flags)


def prepare(folder: Path) -> None:
    """The sound kernels and the driver, a folder for each build."""
    sets = ["-DWITH_V3"] if X86 else []
    kernels = []
    for build in BUILDS:
        (folder / build).mkdir()
        kernels += [(k, isa, build, folder / build, CSRC) for k in KERNELS for isa in ISAS]
    in_parallel(compile_kernels, kernels)
    # What drives is itself not watched.
    drivers = [(DRIVER / "driver.cpp", folder / b / "driver.o", CSRC, "-O2", *sets, *WATCHED[b]) for b in BUILDS]
    in_parallel(compile_one, drivers)


def link(objects: list[Path], build: str, program: Path) -> Path:
    """The driver. Skips the test where this compiler has no such sanitizer."""
    # Kernels ask the dynamic linker for the driver's threads.
    command = [*CXX, *BUILDS[build], "-rdynamic", "-pthread", *map(str, objects), "-ldl", "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and build != "plain" and "cannot find" in done.stderr:
        pytest.skip(f"the compiler has no runtime for {BUILDS[build][0]}")
    assert done.returncode == 0, done.stderr
    return program


def run(program: Path, family: str) -> tuple[int, str]:
    environment = {
        **os.environ, "TSAN_OPTIONS": "exitcode=66 halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=0",
    }  # fmt: skip
    done = subprocess.run(
        [program, family], capture_output=True, text=True, env=environment, timeout=1200, check=False
    )
    return done.returncode, done.stdout + done.stderr


def calls(result: tuple[int, str]) -> int:
    """How many calls a run made that found nothing; 0 where it found something."""
    made = re.fullmatch(r"(\d+) calls of \w+\n", result[1])
    return int(made.group(1)) if made and result[0] == 0 else 0


def judge(
    folder: Path, parts: Path, file: str | None, family: str | None, build: str, said: str | None
) -> tuple[bool, str]:
    """Whether what must be said of a fault is said; of sound kernels whether anything is said."""
    objects = {o.name: o for o in sorted((parts / build).glob("*.o"), reverse=True)}
    if family:
        changed = compile_kernels(family, "v3", build, folder, folder / "csrc")
        # Before the others: of functions that several have, a linker takes the first.
        objects = {changed.name: changed} | {name: o for name, o in objects.items() if name != changed.name}
    program = link(list(objects.values()), build, folder / "driver")
    results = [run(program, name) for name in ([family] if family else KERNELS)]
    if said is None:
        return not all(map(calls, results)), str(results)
    return any(code and said in text for code, text in results), str(results)[:3000]
