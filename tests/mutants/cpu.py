"""Faults in the CPU kernels: the copy's extension is built anew, and tests that are named must fail on it."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11

from fastgan.backends import cpu
from fastgan.backends.native import build_facts
from tests.helpers import ROOT
from tests.mutants.runner import failing

KERNELS = ("loss", "penalty", "interpolate")
CONFTEST = """from fastgan.backends import native
assert native.native.__file__ == {!r}, native.native.__file__
native.native.set_isa("v3")
"""
V3 = ["-march=x86-64-v3"]
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")

# name: (file, what stands there, what is put in its place, tests that must fail)
FAULTS = {
    "nothing": (None, "", "", "kernels/cpu/test_math.py losses/test_rounding.py penalties/test_norms.py::test_k11_float64_rows_of_huge_and_tiny_numbers losses/test_losses.py::test_against_the_reference kernels/cpu/test_invariance.py penalties/test_norms.py::test_squares_are_summed_over_the_documented_tree penalties/test_norms.py::test_masks_as_image_restorers_have_them penalties/test_interpolation.py"),
    "exp: a coefficient": ("csrc/common/math.h", "0x1.5554e6p-5f", "0x1.5558e6p-5f", "kernels/cpu/test_math.py"),
    "log1p: a lost correction": ("csrc/common/math.h", "return {sum, rest + error};", "return {sum, rest};", "kernels/cpu/test_math.py"),
    "sigmoid: the far side": ("csrc/common/math.h", "F(1) - below : below", "below : below", "kernels/cpu/test_math.py"),
    "softplus'': no correction": ("csrc/common/math.h", "return h.hi + h.lo;", "return h.hi - h.lo;", "kernels/cpu/test_math.py"),
    "a squared softplus: a rough exponential": ("csrc/common/math.h", "exp_nonpositive<F, true>(-absolute(z))", "exp_nonpositive<F>(-absolute(z))", "kernels/cpu/test_math.py"),
    "huber: no curvature": ("csrc/common/phi.h", "return absolute(a) < F(1) ? F(1) :", "return absolute(a) < F(1) ? F(0) :", "kernels/cpu/test_math.py"),
    "16 bits: the exponential's rounding errors": ("csrc/common/math.h", "+ fma(r_lo, hi, p_lo);", ";", "losses/test_rounding.py"),
    "16 bits: rounded twice": ("csrc/cpu/memory.h", "return narrow<T>(to_odd(x));", "return narrow<T>(float(x));", "losses/test_rounding.py"),
    "norm: a scale that underflows": ("csrc/common/psi.h", "absolute(factor) >= 1 && scale < 1", "absolute(factor) >= 1 && scale < 0", "penalties/test_norms.py::test_k11_float64_rows_of_huge_and_tiny_numbers"),
    "relu: the kink": ("csrc/common/phi.h", "return a > F(0) ? F(1) : (a <= F(0)", "return a >= F(0) ? F(1) : (a <= F(0)", "losses/test_losses.py::test_values_worked_out_by_hand kernels/cpu/test_math.py"),
    "rounding to bfloat16": ("csrc/common/dtype.h", "+ 0x7fffu +", "+ 0x8000u +", "kernels/cpu/test_math.py"),
    "rounding to float16": ("csrc/common/dtype.h", "0xfffu + ((magnitude", "0x1000u + ((magnitude", "kernels/cpu/test_math.py"),
    "tree: the order of lanes": ("csrc/cpu/tree.h", "lane[2 * j] + lane[2 * j + 1]", "lane[j] + lane[j + width]", "kernels/cpu/test_invariance.py::test_sums_follow_the_documented_tree"),
    "tail: the last element": ("csrc/cpu/tree.h", "(n - row < lanes ? n - row : lanes)", "(n - row < lanes ? n - row - 1 : lanes)", "losses/test_losses.py::test_against_the_reference"),
    "strides: a wrong start": ("csrc/cpu/memory.h", "p += index[d] * w.stride[d] * item;", "p += (d ? index[d] : 0) * w.stride[d] * item;", "losses/test_losses.py::test_layouts_give_the_same_bits"),
    "paired: the sign of y": ("csrc/cpu/loss.cpp", "out[i] = -v[i];", "out[i] = v[i];", "losses/test_losses.py::test_against_the_reference"),
    "mean operand: no constant": ("csrc/cpu/loss.cpp", "constants[terms[t].mean_operand] -=", "constants[terms[t].mean_operand] += 0 *", "losses/test_losses.py::test_against_the_reference"),
    "rescale: the upstream": ("csrc/cpu/loss.cpp", "F(scalar), nullptr,", "F(1), nullptr,", "losses/test_autograd.py::test_backward_twice_with_different_upstreams"),
    "second order: the cotangent": ("csrc/cpu/loss.cpp", "curvature[i] = curvature[i] * w[i];", "curvature[i] = curvature[i];", "losses/test_autograd.py::test_second_order_against_float64"),
    "masks: no factor on the second order": ("csrc/cpu/loss.cpp", "multiply(out.curvature, a.factor, n);", "{}", "faults/test_k9_not_expressible.py::test_second_derivatives"),
    "masks: no factor on the value": ("csrc/cpu/loss.cpp", "multiply(out.value, a.factor, n);", "{}", "faults/test_k9_not_expressible.py::test_masks"),
    "labels: not on the gradient": ("csrc/common/phi.h", "k.slope_linear = slope_linear * label;", "", "faults/test_k9_not_expressible.py::test_labels"),
    "labels: cancellation": ("csrc/common/phi.h", "k.sum < -k.linear) k.reflect();", "k.sum < 0) k.reflect();", "faults/test_k9_not_expressible.py::test_hard_labels_cancel_nothing"),
    "a shared accumulator": ("csrc/cpu/loss.cpp", "partials.at[value_sum][c] = chunk_sum", "partials.at[value_sum][0] = chunk_sum", "losses/test_losses.py::test_against_the_reference"),
    "statistics: the sign": ("csrc/cpu/loss.cpp", "int(v[i] > F(0)) - int(v[i] < F(0))", "int(v[i] > F(0)) + int(v[i] < F(0))", "losses/test_modes.py::test_statistics"),
    "norm: a lane too few": ("csrc/cpu/penalty.cpp", "while (used < n && used < lanes)", "while (used + 1 < n && used < lanes)", "penalties/test_norms.py::test_squares_are_summed_over_the_documented_tree"),
    "norm: the order across groups": ("csrc/cpu/groups.h", "for (int i = 0; i < n; ++i) sum[i] = level[k][i] + sum[i];", "if (k < 2) for (int i = 0; i < n; ++i) sum[i] = level[k][i] + sum[i];", "penalties/test_norms.py::test_squares_are_summed_over_the_documented_tree"),
    "norm: the next tensor": ("csrc/cpu/groups.h", "result[group] = k == 0 ? s : result[group] + s;", "result[group] = s;", "penalties/test_norms.py::test_several_tensors_have_one_norm"),
    "norm: no rescue": ("csrc/cpu/penalty.cpp", "square[i] < 0x1p-900", "square[i] < 0", "penalties/test_norms.py::test_float64_rows_whose_squares_overflow_or_underflow"),
    "norm: rounded twice": ("csrc/common/dtype.h", "bits<float>(double(f) == x ? u : u | 1u)", "bits<float>(bits<uint32_t>(f))", "penalties/test_norms.py::test_gradients_are_correctly_rounded"),
    "penalty: the zero group": ("csrc/common/psi.h", "if (n == 0) return {0, 0, 0};", "if (n < 0) return {0, 0, 0};", "penalties/test_norms.py::test_a_row_of_zeros"),
    "penalty: the flat side": ("csrc/common/psi.h", "bool flat = n <= target;", "bool flat = n > target;", "penalties/test_norms.py::test_against_the_reference"),
    "penalty: the bend": ("csrc/common/psi.h", "p * (p - 2) * below", "p * (p - 1) * below", "penalties/test_norms.py::test_against_the_reference"),
    "penalty: the scale": ("csrc/common/psi.h", "near_one = n * scale", "near_one = 1", "penalties/test_norms.py::test_against_the_reference"),
    "penalty: the mask once": ("csrc/cpu/penalty.cpp", "return Masked ? g * double(mask[i]) : g;", "return g;", "penalties/test_norms.py::test_masks_as_image_restorers_have_them"),
    "penalty: weights of groups": ("csrc/cpu/penalty.cpp", "call.weights[(group + i) / call.groups_per_weight] * value[i]", "call.weights[(group + i) % 2] * value[i]", "penalties/test_norms.py::test_weights_of_samples"),
    "penalty: the upstream's gradient": ("csrc/cpu/penalty.cpp", "factor * (r.slope * dot[i])", "factor * dot[i]", "penalties/test_norms.py::test_against_the_reference"),
    "penalty: the deviation": ("csrc/cpu/penalty.cpp", "double d = call.norms[i] - mean;", "double d = call.norms[i];", "penalties/test_norms.py::test_statistics"),
    "points: where both are equal": ("csrc/cpu/interpolate.cpp", "r[i] == f[i] ? r[i] : fma", "r[i] != r[i] ? r[i] : fma", "penalties/test_interpolation.py::test_values"),
    "points: the other end": ("csrc/cpu/interpolate.cpp", "multiply(pair, pair.fake_grad, line, u, F(1) - e);", "multiply(pair, pair.fake_grad, line, u, e);", "penalties/test_interpolation.py"),
}  # fmt: skip


def missing() -> str:
    """Why none of it can be judged here."""
    return "" if cpu.native and "v3" in cpu.native.isas() else "the mutants are of the AVX2 kernels"


def compile_object(source: Path, out: Path, *extra: str) -> None:
    flags = [f for f in build_facts()["flags"].split() if f not in ("-O3", "-Wall", "-Wextra")]
    subprocess.run(["c++", *flags, "-O1", "-w", *extra, "-c", str(source), "-o", str(out)], check=True)


def prepare(folder: Path) -> None:
    """What no mutant changes: the binding, and the kernels that are not under test."""
    includes = [f"-I{p}" for p in (pybind11.get_include(), sysconfig.get_path("include"))]
    jobs = [(ROOT / "csrc" / "bindings.cpp", folder / "bind.o", *includes)]
    for kernels in KERNELS:
        for isa, march in {"generic": [], "v3": V3, "v4": []}.items():
            source = ROOT / f"csrc/cpu/{kernels}.cpp"
            jobs.append((source, folder / f"{kernels}_{isa}.o", f"-DFASTGAN_ISA={isa}", *march))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda job: compile_object(*job), jobs))


def changed_kernels(file: str | None, tests: str) -> list[str]:
    """The kernels that a mutant is in: of a header those that the tests named are about."""
    if file is None:
        return list(KERNELS)
    if file.endswith(".cpp"):
        return [Path(file).stem]
    return ["interpolate"] if "interpol" in tests else ["penalty"] if "norms" in tests else ["loss"]


def judge(folder: Path, parts: Path, file: str | None, tests: str) -> tuple[bool, str]:
    """Whether the tests named fail on the mutant."""
    objects = {o.name: o for o in parts.iterdir()}
    for kernels in changed_kernels(file, tests):
        objects[f"{kernels}_v3.o"] = folder / f"{kernels}_v3.o"
        compile_object(folder / f"csrc/cpu/{kernels}.cpp", objects[f"{kernels}_v3.o"], "-DFASTGAN_ISA=v3", *V3)
    for built in (folder / "fastgan").glob("*.so"):
        built.unlink()
    library = folder / "fastgan" / f"_native{SUFFIX}"
    subprocess.run(["c++", "-shared", *map(str, objects.values()), "-ldl", "-o", str(library)], check=True)
    # The mutant's own kernels must be the ones that run, as on a machine whose best set is AVX2.
    (folder / "conftest.py").write_text(CONFTEST.format(str(library)))
    return failing(folder, *(f"tests/{t}" for t in tests.split()))
