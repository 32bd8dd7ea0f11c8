"""The tests of the Triton kernels must be able to fail: kernels are broken, one line at a time, and each must be seen."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fastgan.backends import native
from tests.helpers import ROOT

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("starts processes of its own", allow_module_level=True)
if native.native is None:
    pytest.skip("compares with the compiled kernels, which are not there", allow_module_level=True)

LOSS = "test_losses and nonsaturating and average and dtype0"

# name: (file, what stands there, what is put in its place, tests of which one must fail)
FAULTS = {
    "nothing": (None, "", "", "test_every_phi and softplus and dtype0 or test_sums_in_float64 or test_gradients_are_rounded or test_signs_of_zeros and dtype0"),
    "exp: a coefficient": ("math.py", '"0x1.5554e6p-5"', '"0x1.5558e6p-5"', "test_every_phi and softplus and dtype0"),
    "rounding to bfloat16": ("math.py", "(u + 0x7FFF + ", "(u + 0x8000 + ", "test_gradients_are_rounded_once"),
    "rounded twice": ("math.py", "tl.where(back == x, u, u | 1)", "tl.where(back == x, u, u)", "test_gradients_are_rounded_once"),
    "a kink": ("phi.py", "return tl.where(a > zero, one, tl.where(a <= zero, zero, a))", "return tl.where(a >= zero, one, tl.where(a <= zero, zero, a))", "test_every_phi and relu and dtype0"),
    "the order of rows": ("tree.py", "+ r6) + r7", "+ r7) + r6", "test_sums_in_float64"),
    "the order of lanes": ("tree.py", "(T, L >> (k + 1), 2)), axis=2)", "(T, 2, L >> (k + 1))), axis=1)", "test_sums_in_float64"),
    "a single sum": ("tree.py", "return tl.where(count == 1, pick(v, 0), folded)", "return folded", "test_signs_of_zeros and dtype0"),
    "the levels of the tree": ("tree.py", "return tl.where(grown, first + n, first)", "return tl.where(grown, first, first)", "test_sums_of_more_than_a_million"),
    "the constant of a centre": ("loss.py", "k_of - pick(gradient, k)", "k_of + pick(gradient, k)", LOSS),
    "the sign of y": ("loss.py", "unit_gradient * -1.0", "unit_gradient * 1.0", "test_losses and nonsaturating and paired and dtype0"),
    "statistics": ("loss.py", "(x > 0).to(tl.float64) - (x < 0)", "(x > 0).to(tl.float64) + (x < 0)", "test_sizes and None-31"),
    "a cotangent": ("loss.py", "unit_gradient = curvature * w", "unit_gradient = curvature", LOSS),
    "another table's terms": ("loss.py", "total = tl.load(doubles(memory[CARRY]))", "total = total * 1.0", "test_lists_of_tensors and None"),
    "products": ("rows.py", "lane = _add_products(lane, v, x)", "lane = _add_products(lane, v, v)", "test_penalties and two_sided and sample and dtype0"),
    "zeros of rows": ("rows.py", "return tl.where(whole, s, s + 0.0)", "return s", "test_signs_of_zeros and dtype0"),
    "the next tensor": ("rows.py", "total = total + s", "total = s", "test_gradients_of_several_dtypes"),
    "no rescue": ("rows.py", "return (square < low) | (square > high)", "return (square < low) & (square > high)", "test_doubles_whose_squares"),
    "the bend": ("penalty.py", "second = upstream * (bend *", "second = upstream * (slope *", "test_penalties and two_sided and sample and dtype0"),
    "points that are equal": ("penalty.py", "tl.where(r == f, r, tl.fma", "tl.where(r != r, r, tl.fma", "test_points and dtype0"),
}  # fmt: skip


def run(name, folder):
    """The outcome of the tests on a copy with the fault."""
    file, old, new, tests = FAULTS[name]
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fastgan", folder / "fastgan", ignore=ignored)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=ignored)
    shutil.copytree(ROOT / "triton_kernels", folder / "fastgan" / "triton_kernels", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    if file:
        path = folder / "fastgan" / "triton_kernels" / file
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
        path.write_text(text.replace(old, new))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "--rootdir",
        str(folder),
        "tests/kernels/triton/test_triton.py",
        "-k",
        tests,
    ]
    environment = {**os.environ, "PYTHONPATH": str(folder), "TRITON_INTERPRET": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def results(request, tmp_path_factory):
    """Each fault's outcome, worked out as many at a time as there are processors."""
    names = [i.callspec.params["name"] for i in request.session.items if i.path == Path(__file__)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {name: pool.submit(run, name, tmp_path_factory.mktemp("fault")) for name in names}


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_kernel_is_seen(name, results):
    done = results[name].result()
    assert done.returncode == (1 if FAULTS[name][0] else 0), done.stdout[-3000:]
