"""The checks must be able to fail: kernels are broken on purpose, one at a time, and each must be seen.

A mutant is the package with one line of csrc/ changed and the extension built anew; the named tests then
have to fail on it. The unbroken copy, built the same way, has to pass them.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pybind11
import pytest

from fastgan import cpu
from fastgan.info import build_facts

ROOT = Path(__file__).parents[1]
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")

# name: (file, what stands there, what is put in its place, tests that must fail)
MUTANTS = {
    "nothing": (None, "", "", "test_math.py test_losses.py::test_against_the_reference test_invariance.py"),
    "exp: a coefficient": ("math.h", "0x1.5554e6p-5f", "0x1.5558e6p-5f", "test_math.py"),
    "log1p: a lost correction": ("math.h", "sum + (rest + error)", "sum + rest", "test_math.py"),
    "sigmoid: the far side": ("math.h", "F(1) - below : below", "below : below", "test_math.py"),
    "softplus'': no correction": ("math.h", "return h + (fma(r, q, -h)", "return h - (fma(r, q, -h)", "test_math.py"),
    "relu: the kink": ("phi.h", "if constexpr (P == Phi::relu) return a > F(0) ? F(1)", "if constexpr (P == Phi::relu) return a >= F(0) ? F(1)", "test_losses.py::test_values_worked_out_by_hand test_math.py"),
    "rounding to bfloat16": ("scalar.h", "+ 0x7fffu +", "+ 0x8000u +", "test_math.py"),
    "rounding to float16": ("scalar.h", "0xfffu + ((magnitude", "0x1000u + ((magnitude", "test_math.py"),
    "tree: the order of lanes": ("cpu/tree.h", "lane[2 * j] + lane[2 * j + 1]", "lane[j] + lane[j + width]", "test_invariance.py::test_sums_follow_the_documented_tree"),
    "tail: the last element": ("cpu/tree.h", "(n - row < lanes ? n - row : lanes)", "(n - row < lanes ? n - row - 1 : lanes)", "test_losses.py::test_against_the_reference"),
    "strides: a wrong start": ("cpu/kernels.cpp", "p += index[d] * w.stride[d] * item;", "p += (d ? index[d] : 0) * w.stride[d] * item;", "test_losses.py::test_layouts_give_the_same_bits"),
    "paired: the sign of y": ("cpu/kernels.cpp", "minus[i] = -lines.gradient[i];", "minus[i] = lines.gradient[i];", "test_losses.py::test_against_the_reference"),
    "centred: no constant": ("cpu/kernels.cpp", "constants[terms[t].centre] -=", "constants[terms[t].centre] += 0 *", "test_losses.py::test_against_the_reference"),
    "finish: the upstream": ("cpu/kernels.cpp", "unit, F(1), F(scalar)", "unit, F(1), F(1)", "test_autograd.py::test_backward_twice_with_different_upstreams"),
    "second order: the cotangent": ("cpu/kernels.cpp", "curvature[i] = curvature[i] * w[i];", "curvature[i] = curvature[i];", "test_autograd.py::test_second_order_against_float64"),
    "a shared accumulator": ("cpu/kernels.cpp", "partials.at[value_sum][c] = chunk_sum", "partials.at[value_sum][0] = chunk_sum", "test_losses.py::test_against_the_reference"),
    "statistics: the sign": ("cpu/kernels.cpp", "int(v[i] > F(0)) - int(v[i] < F(0))", "int(v[i] > F(0)) + int(v[i] < F(0))", "test_modes.py::test_statistics"),
}  # fmt: skip


def compile_object(source: Path, out: Path, *extra: str) -> None:
    flags = [f for f in build_facts()["flags"].split() if f not in ("-O3", "-Wall", "-Wextra")]
    subprocess.run(["c++", *flags, "-O1", "-w", *extra, "-c", str(source), "-o", str(out)], check=True)


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """What no mutant changes: the binding, and the instruction sets that are not under test."""
    folder = tmp_path_factory.mktemp("objects")
    includes = [f"-I{p}" for p in (pybind11.get_include(), sysconfig.get_path("include"))]
    compile_object(ROOT / "csrc" / "bind.cpp", folder / "bind.o", *includes)
    compile_object(ROOT / "csrc/cpu/kernels.cpp", folder / "generic.o", "-DFASTGAN_ISA=generic")
    if "v3" in cpu._native.isas():
        compile_object(ROOT / "csrc/cpu/kernels.cpp", folder / "v4.o", "-DFASTGAN_ISA=v4")
    return folder


@pytest.mark.skipif("v3" not in cpu._native.isas(), reason="the mutants are of the AVX2 kernels")
@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_kernel_is_seen(name, objects, tmp_path):
    file, old, new, tests = MUTANTS[name]
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    for folder in ("fastgan", "tests", "triton_kernels"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    if file:
        text = (tmp_path / "csrc" / file).read_text()
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
        (tmp_path / "csrc" / file).write_text(text.replace(old, new))
    compile_object(tmp_path / "csrc/cpu/kernels.cpp", tmp_path / "v3.o", "-DFASTGAN_ISA=v3", "-march=x86-64-v3")
    parts = [objects / "bind.o", objects / "generic.o", objects / "v4.o", tmp_path / "v3.o"]
    library = tmp_path / "fastgan" / f"_native{SUFFIX}"
    subprocess.run(["c++", "-shared", *map(str, parts), "-ldl", "-o", str(library)], check=True)
    # As on a machine whose best set is AVX2: the mutant's own kernels must be the ones that run.
    (tmp_path / "conftest.py").write_text("from fastgan import cpu\ncpu._native.set_isa('v3')\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "--rootdir", str(tmp_path), *(f"tests/{t}" for t in tests.split())],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)}, check=False,
    )  # fmt: skip
    assert str(tmp_path) in subprocess.run(
        [sys.executable, "-c", "import fastgan; print(fastgan._native.__file__)"],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)}, check=True,
    ).stdout  # fmt: skip
    assert done.returncode == (1 if file else 0), done.stdout[-3000:]
