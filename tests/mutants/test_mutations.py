"""The checks must be able to fail: kernels are broken on purpose, one at a time, and each must be seen.

A mutant is the package with one line of csrc/ changed and the extension built anew; the named tests then
have to fail on it. The unbroken copy, built the same way, has to pass them.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11
import pytest

from fastgan.backends import cpu
from fastgan.backends.native import build_facts
from tests.helpers import ROOT

KERNELS = ("loss", "penalty", "interpolate")
V3 = ["-march=x86-64-v3"]
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")

# name: (file, what stands there, what is put in its place, tests that must fail)
MUTANTS = {
    "nothing": (None, "", "", "kernels/cpu/test_math.py losses/test_losses.py::test_against_the_reference kernels/cpu/test_invariance.py penalties/test_norms.py::test_squares_are_summed_over_the_documented_tree penalties/test_norms.py::test_masks_as_image_restorers_have_them penalties/test_interpolation.py"),
    "exp: a coefficient": ("common/math.h", "0x1.5554e6p-5f", "0x1.5558e6p-5f", "kernels/cpu/test_math.py"),
    "log1p: a lost correction": ("common/math.h", "sum + (rest + error)", "sum + rest", "kernels/cpu/test_math.py"),
    "sigmoid: the far side": ("common/math.h", "F(1) - below : below", "below : below", "kernels/cpu/test_math.py"),
    "softplus'': no correction": ("common/math.h", "return h + (fma(r, q, -h)", "return h - (fma(r, q, -h)", "kernels/cpu/test_math.py"),
    "relu: the kink": ("common/phi.h", "return a > F(0) ? F(1) : (a <= F(0)", "return a >= F(0) ? F(1) : (a <= F(0)", "losses/test_losses.py::test_values_worked_out_by_hand kernels/cpu/test_math.py"),
    "rounding to bfloat16": ("common/dtype.h", "+ 0x7fffu +", "+ 0x8000u +", "kernels/cpu/test_math.py"),
    "rounding to float16": ("common/dtype.h", "0xfffu + ((magnitude", "0x1000u + ((magnitude", "kernels/cpu/test_math.py"),
    "tree: the order of lanes": ("cpu/tree.h", "lane[2 * j] + lane[2 * j + 1]", "lane[j] + lane[j + width]", "kernels/cpu/test_invariance.py::test_sums_follow_the_documented_tree"),
    "tail: the last element": ("cpu/tree.h", "(n - row < lanes ? n - row : lanes)", "(n - row < lanes ? n - row - 1 : lanes)", "losses/test_losses.py::test_against_the_reference"),
    "strides: a wrong start": ("cpu/memory.h", "p += index[d] * w.stride[d] * item;", "p += (d ? index[d] : 0) * w.stride[d] * item;", "losses/test_losses.py::test_layouts_give_the_same_bits"),
    "paired: the sign of y": ("cpu/loss.cpp", "minus[i] = -lines.gradient[i];", "minus[i] = lines.gradient[i];", "losses/test_losses.py::test_against_the_reference"),
    "centred: no constant": ("cpu/loss.cpp", "constants[terms[t].centre] -=", "constants[terms[t].centre] += 0 *", "losses/test_losses.py::test_against_the_reference"),
    "finish: the upstream": ("cpu/loss.cpp", "unit, F(1), F(scalar)", "unit, F(1), F(1)", "losses/test_autograd.py::test_backward_twice_with_different_upstreams"),
    "second order: the cotangent": ("cpu/loss.cpp", "curvature[i] = curvature[i] * w[i];", "curvature[i] = curvature[i];", "losses/test_autograd.py::test_second_order_against_float64"),
    "a shared accumulator": ("cpu/loss.cpp", "partials.at[value_sum][c] = chunk_sum", "partials.at[value_sum][0] = chunk_sum", "losses/test_losses.py::test_against_the_reference"),
    "statistics: the sign": ("cpu/loss.cpp", "int(v[i] > F(0)) - int(v[i] < F(0))", "int(v[i] > F(0)) + int(v[i] < F(0))", "losses/test_modes.py::test_statistics"),
    "norm: a lane too few": ("cpu/penalty.cpp", "while (used < n && used < lanes)", "while (used + 1 < n && used < lanes)", "penalties/test_norms.py::test_squares_are_summed_over_the_documented_tree"),
    "norm: the order across rows": ("cpu/rows.h", "for (int i = 0; i < n; ++i) sum[i] = level[k][i] + sum[i];", "if (k < 2) for (int i = 0; i < n; ++i) sum[i] = level[k][i] + sum[i];", "penalties/test_norms.py::test_squares_are_summed_over_the_documented_tree"),
    "norm: the next tensor": ("cpu/rows.h", "result[row] = k == 0 ? s : result[row] + s;", "result[row] = s;", "penalties/test_norms.py::test_several_tensors_have_one_norm"),
    "norm: no rescue": ("cpu/penalty.cpp", "square[i] < 0x1p-900", "square[i] < 0", "penalties/test_norms.py::test_float64_rows_whose_squares_overflow_or_underflow"),
    "norm: rounded twice": ("common/dtype.h", "bits<float>(double(f) == x ? u : u | 1u)", "bits<float>(bits<uint32_t>(f))", "penalties/test_norms.py::test_gradients_are_correctly_rounded"),
    "penalty: the zero row": ("common/psi.h", "if (n == 0) return {0, 0, 0};", "if (n < 0) return {0, 0, 0};", "penalties/test_norms.py::test_a_row_of_zeros"),
    "penalty: the flat side": ("common/psi.h", "bool flat = n <= target;", "bool flat = n > target;", "penalties/test_norms.py::test_against_the_reference"),
    "penalty: the bend": ("common/psi.h", "p * (p - 2) * below", "p * (p - 1) * below", "penalties/test_norms.py::test_against_the_reference"),
    "penalty: the scale": ("common/psi.h", "near_one = n * scale", "near_one = 1", "penalties/test_norms.py::test_against_the_reference"),
    "penalty: the mask once": ("cpu/penalty.cpp", "return Masked ? g * double(mask[i]) : g;", "return g;", "penalties/test_norms.py::test_masks_as_image_restorers_have_them"),
    "penalty: weights of rows": ("cpu/penalty.cpp", "call.weights[(row + i) / call.rows_per_weight] * value[i]", "call.weights[(row + i) % 2] * value[i]", "penalties/test_norms.py::test_weights_of_samples"),
    "penalty: the upstream's gradient": ("cpu/penalty.cpp", "factor * (r.slope * dot[i])", "factor * dot[i]", "penalties/test_norms.py::test_against_the_reference"),
    "penalty: the deviation": ("cpu/penalty.cpp", "double d = call.norms[i] - mean;", "double d = call.norms[i];", "penalties/test_norms.py::test_statistics"),
    "points: where both are equal": ("cpu/interpolate.cpp", "r[i] == f[i] ? r[i] : fma", "r[i] != r[i] ? r[i] : fma", "penalties/test_interpolation.py::test_values"),
    "points: the other end": ("cpu/interpolate.cpp", "multiply(part, part.fake_grad, line, u, F(1) - e);", "multiply(part, part.fake_grad, line, u, e);", "penalties/test_interpolation.py"),
}  # fmt: skip


def compile_object(source: Path, out: Path, *extra: str) -> None:
    flags = [f for f in build_facts()["flags"].split() if f not in ("-O3", "-Wall", "-Wextra")]
    subprocess.run(["c++", *flags, "-O1", "-w", *extra, "-c", str(source), "-o", str(out)], check=True)


def compile_objects(folder: Path) -> None:
    """What no mutant changes: the binding, and the kernels that are not under test."""
    includes = [f"-I{p}" for p in (pybind11.get_include(), sysconfig.get_path("include"))]
    jobs = [(ROOT / "csrc" / "bindings.cpp", folder / "bind.o", *includes)]
    for kernels in KERNELS:
        for isa, march in {"generic": [], "v3": V3, "v4": []}.items():
            source = ROOT / f"csrc/cpu/{kernels}.cpp"
            jobs.append((source, folder / f"{kernels}_{isa}.o", f"-DFASTGAN_ISA={isa}", *march))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda job: compile_object(*job), jobs))


@pytest.fixture(scope="module")
def results(request, tmp_path_factory):
    """The outcome of each mutant asked for, worked out as many at a time as there are processors."""
    objects = tmp_path_factory.mktemp("objects")
    compile_objects(objects)
    names = [i.callspec.params["name"] for i in request.session.items if i.path == Path(__file__)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {name: pool.submit(run_mutant, name, objects, tmp_path_factory.mktemp("mutant")) for name in names}


def changed_kernels(file, tests):
    """The kernels that a mutant is in: of a header those that the tests named are about."""
    if file and file.endswith(".cpp"):
        return [Path(file).stem]
    return ["interpolate"] if "interpol" in tests else ["penalty"] if "norms" in tests else ["loss"]


def run_mutant(name, objects, folder):
    """The named tests' run on the mutant."""
    file, old, new, tests = MUTANTS[name]
    shutil.copytree(ROOT / "csrc", folder / "csrc")
    for part in ("fastgan", "tests", "triton_kernels"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    if file:
        text = (folder / "csrc" / file).read_text()
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
        (folder / "csrc" / file).write_text(text.replace(old, new))
    parts = {o.name: o for o in objects.iterdir()}
    for kernels in changed_kernels(file, tests) if file else KERNELS:
        parts[f"{kernels}_v3.o"] = folder / f"{kernels}_v3.o"
        compile_object(folder / f"csrc/cpu/{kernels}.cpp", parts[f"{kernels}_v3.o"], "-DFASTGAN_ISA=v3", *V3)
    library = folder / "fastgan" / f"_native{SUFFIX}"
    subprocess.run(["c++", "-shared", *map(str, parts.values()), "-ldl", "-o", str(library)], check=True)
    # As on a machine whose best set is AVX2: the mutant's own kernels must be the ones that run.
    (folder / "conftest.py").write_text("from fastgan.backends import cpu\ncpu.native.set_isa('v3')\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "--rootdir", str(folder), *(f"tests/{t}" for t in tests.split())],
        cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(folder)}, check=False,
    )  # fmt: skip
    assert str(folder) in subprocess.run(
        [sys.executable, "-c", "import fastgan; print(fastgan._native.__file__)"],
        cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(folder)}, check=True,
    ).stdout  # fmt: skip
    return done


@pytest.mark.skipif("v3" not in cpu.native.isas(), reason="the mutants are of the AVX2 kernels")
@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_kernel_is_seen(name, results):
    done = results[name].result()
    assert done.returncode == (1 if MUTANTS[name][0] else 0), done.stdout[-3000:]
