"""Faults in the Triton kernels: tests that are named must fail on the copy, in Triton's interpreter."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path

from packaging.version import Version

from fastgan.backends import native
from tests.mutants.runner import failing

LOSS = "test_losses and nonsaturating and average and dtype0"

# name: (file, what stands there, what is put in its place, tests of which one must fail)
FAULTS = {
    "nothing": (None, "", "", "test_every_phi and softplus and dtype0 or test_sums_in_float64 or test_gradients_are_rounded or test_signs_of_zeros and dtype0"),
    "exp: a coefficient": ("triton_kernels/math.py", '"0x1.5554e6p-5"', '"0x1.5558e6p-5"', "test_every_phi and softplus and dtype0"),
    "rounding to bfloat16": ("triton_kernels/math.py", "(u + 0x7FFF + ", "(u + 0x8000 + ", "test_gradients_are_rounded_once"),
    "rounded twice": ("triton_kernels/math.py", "tl.where(back == x, u, u | 1)", "tl.where(back == x, u, u)", "test_gradients_are_rounded_once"),
    "a rounding error of the exponential": ("triton_kernels/math.py", "lo = (p - (hi - one)) + tl.fma(r_lo, hi, p_lo)", "lo = p - (hi - one)", "test_every_phi and softplus and dtype2"),
    "a kink": ("triton_kernels/phi.py", "return tl.where(a > zero, one, tl.where(a <= zero, zero, a))", "return tl.where(a >= zero, one, tl.where(a <= zero, zero, a))", "test_every_phi and relu and dtype0"),
    "the order of rows": ("triton_kernels/tree.py", "+ r6) + r7", "+ r7) + r6", "test_sums_in_float64"),
    "the order of lanes": ("triton_kernels/tree.py", "(T, L >> (k + 1), 2)), axis=2)", "(T, 2, L >> (k + 1))), axis=1)", "test_sums_in_float64"),
    "a single sum": ("triton_kernels/tree.py", "return tl.where(count == 1, pick(v, 0), folded)", "return folded", "test_signs_of_zeros and dtype0"),
    "the levels of the tree": ("triton_kernels/tree.py", "return tl.where(grown, first + n, first)", "return tl.where(grown, first, first)", "test_sums_of_more_than_a_million"),
    "the constant of a mean operand": ("triton_kernels/loss.py", "k_of - pick(gradient, k)", "k_of + pick(gradient, k)", LOSS),
    "the sign of y": ("triton_kernels/loss.py", "unit_gradient * -1.0", "unit_gradient * 1.0", "test_losses and nonsaturating and paired and dtype0"),
    "statistics": ("triton_kernels/loss.py", "(x > 0).to(tl.float64) - (x < 0)", "(x > 0).to(tl.float64) + (x < 0)", "test_sizes and None-31"),
    "a cotangent": ("triton_kernels/loss.py", "unit_gradient = curvature * w", "unit_gradient = curvature", LOSS),
    "a factor": ("triton_kernels/phi.py", "curvature = factor * curvature", "curvature = curvature", "test_masks_and_labels and None and dtype0"),
    "a label": ("triton_kernels/phi.py", "slope_linear = tl.where(has, slope_linear * label, slope_linear)", "slope_linear = slope_linear", "test_masks_and_labels and None and dtype0"),
    "another table's terms": ("triton_kernels/loss.py", "total = tl.load(doubles(memory[CARRY]))", "total = total * 1.0", "test_lists_of_tensors and None"),
    "products": ("triton_kernels/groups.py", "lane = _add_products(lane, v, x)", "lane = _add_products(lane, v, v)", "test_penalties and two_sided and sample and dtype0"),
    "zeros of groups": ("triton_kernels/groups.py", "return tl.where(whole, s, s + 0.0)", "return s", "test_signs_of_zeros and dtype0"),
    "the next tensor": ("triton_kernels/groups.py", "total = total + s", "total = s", "test_gradients_of_several_dtypes"),
    "no rescue": ("triton_kernels/groups.py", "return (square < low) | (square > high)", "return (square < low) & (square > high)", "test_doubles_whose_squares"),
    "the bend": ("triton_kernels/penalty.py", "bent = upstream * (bend *", "bent = upstream * (slope *", "test_penalties and two_sided and sample and dtype0"),
    "points that are equal": ("triton_kernels/penalty.py", "tl.where(r == f, r, tl.fma", "tl.where(r != r, r, tl.fma", "test_points and dtype0"),
}  # fmt: skip


def missing() -> str:
    """Why none of it can be judged here."""
    if importlib.util.find_spec("triton") is None:
        return "there is no Triton"
    if Version(metadata.version("triton")) < Version("3.9"):
        return "Triton's interpreter rounds fma twice before Triton 3.9"
    return "" if native.native else "compares with the compiled kernels, which are not there"


def prepare(folder: Path) -> None:
    """Nothing is built."""


def judge(folder: Path, parts: Path, file: str | None, tests: str) -> tuple[bool, str]:
    """Whether one of the tests named fails on the mutant."""
    return failing(folder, "tests/kernels/triton/test_triton.py", "-k", tests, TRITON_INTERPRET="1")
