"""What docs/architecture.md says to edit is enough: each addition is made in a copy, with those files alone."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastgan.backends import native
from tests.mutants import runner

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()

LOSS = {
    "fastgan/ops/losses.py": [
        (
            '    "wasserstein": LossDefinition(',
            '    "squared_hinge": LossDefinition(\n'
            '        real=lambda o: Term("relu_square", scale=-1.0, shift=o.margin),\n'
            '        fake=lambda o: Term("relu_square", shift=o.margin),\n'
            '        generator=lambda o: Term("identity", scale=-1.0),\n'
            '        options=("margin",),\n'
            "    ),\n"
            '    "wasserstein": LossDefinition(',
        )
    ],
    "fastgan/ops/reference.py": [
        (
            '"hinge": lambda x: F.relu(o.margin - x),',
            '"hinge": lambda x: F.relu(o.margin - x), "squared_hinge": lambda x: F.relu(o.margin - x) ** 2,',
        ),
        (
            '"hinge": lambda x: F.relu(o.margin + x),',
            '"hinge": lambda x: F.relu(o.margin + x), "squared_hinge": lambda x: F.relu(o.margin + x) ** 2,',
        ),
        ('"hinge": lambda x: -x,', '"hinge": lambda x: -x, "squared_hinge": lambda x: -x,'),
    ],
}
PENALTY = {
    "fastgan/penalties.py": [
        ('    "r1-approx":', '    "r1-lp": PenaltyKind("real", "one_sided"),\n    "r1-approx":')
    ]
}
BACKEND = {
    "fastgan/backends/<name>.py": (
        '"""Plain PyTorch under another name."""\n\nfrom .reference import Reference\n\n\n'
        'class Plain(Reference):\n    """The reference."""\n\n    name = "plain"\n\n\nBACKEND = Plain()\n'
    ),
    "fastgan/backends/__init__.py": [('"triton", "reference")\n', '"triton", "reference", "plain")\n')],
}
PHI = {
    "csrc/common/phi.h": [
        ("  X(softplus_square)\n", "  X(softplus_square)    \\\n  X(leaky)\n"),
        (
            "// The term's value; u is",
            "template <>\nstruct Function<Phi::leaky> : WithoutDecay {\n"
            "  template <bool Linear, class F>\n"
            "  static FASTGAN_HD F value(F, F a, F rest, const Coefficients<F>&, Pair<F>) {\n"
            "    return (F(0) > a ? F(0.25) * a : a) + rest;\n  }\n"
            "  template <class F>\n  static FASTGAN_HD F slope(F a, Pair<F>) {\n"
            "    return a > F(0) ? F(1) : (a <= F(0) ? F(0.25) : a);\n  }\n"
            "  template <class F>\n  static FASTGAN_HD F curvature(F, Pair<F>) {\n    return F(0);\n  }\n};\n\n"
            "// The term's value; u is",
        ),
    ],
    "fastgan/backends/formulas.py": [
        (
            '    "softplus_square": lambda z: softplus(z).square(),\n',
            '    "softplus_square": lambda z: softplus(z).square(),\n'
            '    "leaky": lambda z: F.leaky_relu(z, 0.25),\n',
        )
    ],
    "triton_kernels/phi.py": [
        ('"huber", "softplus_square")', '"huber", "softplus_square", "leaky")'),
        ("HUBER, SOFTPLUS_SQUARE = (", "HUBER, SOFTPLUS_SQUARE, LEAKY = ("),
        (
            '    else:\n        tl.static_assert(False, "phi_slope',
            "    elif code // 2 == LEAKY:\n"
            "        return tl.where(a > zero, one, tl.where(a <= zero, const(0.25, a), a))\n"
            '    else:\n        tl.static_assert(False, "phi_slope',
        ),
        (
            '    else:\n        tl.static_assert(False, "phi_curvature',
            "    elif code // 2 == LEAKY:\n        return zero\n"
            '    else:\n        tl.static_assert(False, "phi_curvature',
        ),
        (
            '    else:\n        tl.static_assert(False, "phi_value',
            "    elif code // 2 == LEAKY:\n        return tl.where(zero > a, const(0.25, a) * a, a) + rest\n"
            '    else:\n        tl.static_assert(False, "phi_value',
        ),
    ],
}

# Both orders of a call on a backend, against plain PyTorch.
CHECK_PHI = """
import torch, fastgan
x = torch.tensor([-2.0, -0.5, 0.5, 3.0], requires_grad=True)
def call():
    loss = fastgan.reduce_terms([fastgan.term("leaky", scale=1.5, linear=0.5)], [x], reduction="sum")
    (g,) = torch.autograd.grad(loss, x, create_graph=True)
    return loss.detach(), g.detach(), *torch.autograd.grad(g.sum(), x)
with fastgan.backend("reference"):
    want = call()
with fastgan.backend("{backend}"):
    got = call()
assert all(torch.equal(a, b) for a, b in zip(got, want)), (got, want)
"""


def listed(addition: str) -> set[str]:
    """The files that the page names for an addition."""
    entry = re.search(rf"^- \*\*{addition}\*\*: (.*?)(?=^- |^## )", PAGE, re.S | re.M).group(1)
    return set(re.findall(r"`([\w/<>.-]+/[\w<>.-]+\.(?:py|h|md))`", entry.split(" An omission")[0]))


@pytest.fixture
def copy(tmp_path):
    runner.copy(tmp_path)
    (tmp_path / "triton_kernels").symlink_to(tmp_path / "fastgan" / "triton_kernels")
    for name in ("setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def add(copy, addition, recipe):
    """Makes an addition in the copy, in the listed files and in no other."""
    assert set(recipe) == listed(addition)
    for name, edits in recipe.items():
        if isinstance(edits, str):
            (copy / name.replace("<name>", "plain")).write_text(edits)
            continue
        for old, new in edits:
            runner.plant(copy, name, old, new)


def python(copy, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, *arguments], cwd=copy, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(copy), "FASTGAN_NODES": "0", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_loss(copy):
    add(copy, "A loss", LOSS)
    code = """
import torch, fastgan
from fastgan.ops import reference
r, f = torch.linspace(-3, 3, 50), torch.linspace(2, -4, 50)
for form in (None, "paired", "average"):
    got = fastgan.discriminator_loss(r, f, "squared_hinge", relativistic=form)
    torch.testing.assert_close(got, reference.discriminator(r, f, "squared_hinge", form))
    torch.testing.assert_close(
        fastgan.generator_loss(f, r, "squared_hinge", relativistic=form),
        reference.generator(f, r, "squared_hinge", form),
    )
"""
    python(copy, "-c", code)


def test_a_penalty(copy):
    add(copy, "A penalty", PENALTY)
    code = """
import torch, fastgan
d = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Softplus(), torch.nn.Linear(8, 1))
x = torch.randn(5, 4, requires_grad=True)
(g,) = torch.autograd.grad(d(x).sum(), x)
want = 3 * (g.norm(dim=1) - 0.1).clamp(min=0).square().mean()
torch.testing.assert_close(fastgan.gradient_penalty(d, x.detach(), None, kind="r1-lp", weight=3.0, target=0.1), want)
fastgan.nn.GradientPenalty("r1-lp", interval=2)
fastgan.discriminator_step(d, x.detach(), x.detach(), penalty="r1-lp").total.backward()
"""
    python(copy, "-c", code)


def test_a_backend(copy):
    add(copy, "A backend", BACKEND)
    code = """
import torch, fastgan
with fastgan.backend("plain"):
    fastgan.generator_loss(torch.zeros(3, requires_grad=True)).backward()
assert fastgan.info()["backends"]["plain"] == "ready"
"""
    python(copy, "-c", code)


@pytest.mark.slow
@pytest.mark.skipif(native.native is None, reason="the compiled kernels are not there")
def test_a_phi(copy):
    add(copy, "A phi", PHI)
    python(copy, "setup.py", "-q", "build_ext", "--inplace", FASTGAN_NATIVE="1", FASTGAN_CUDA="0")
    python(copy, "-c", CHECK_PHI.format(backend="cpu"))
    pytest.importorskip("triton")
    python(copy, "-W", "ignore", "-c", CHECK_PHI.format(backend="triton"), TRITON_INTERPRET="1")


def test_a_trainer():
    """Each adapter says where its trainer's losses are, and has its formulas beside it and its row in the table."""
    from fastgan import compat

    names = {p.stem for p in (ROOT / "fastgan" / "compat").glob("[a-z]*") if p.stem[0] != "_"}
    table = (ROOT / "docs" / "drop-ins" / "index.md").read_text()
    assert listed("A trainer") == {
        "fastgan/compat/<trainer>.py", "bench/baselines/<trainer>.py", "docs/drop-ins/index.md",
        "docs/reference/compat.md",
    }  # fmt: skip
    assert set(re.findall(r"^\| `(\w+)` \| \w", table, re.M)) >= names == set(compat.TRAINERS)
