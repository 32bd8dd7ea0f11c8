"""K11: a gradient in 16 bits is the exact one, rounded once, for every finite pattern."""

import math

import mpmath
import pytest
import torch

import fastgan
from fastgan.backends import native
from fastgan.ops.losses import TABLE
from tests.helpers import ulp

pytestmark = pytest.mark.skipif(native.native is None, reason="the compiled kernels are not there")
DTYPES = [torch.float16, torch.bfloat16]
FORMS = [None, "paired", "average"]


def finite_patterns(dtype, form):
    """Return every finite number of `dtype` twice, in two orders; with a mean, in a range whose sums stay small."""
    x = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
    x = x[x.isfinite()]
    y = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    return [t.clamp(-8, 8) for t in (x, y)] if form == "average" else [x, y]


def gradients(operands, call, upstream, direction=None):
    """Return the gradients of call(*operands), or the gradients of their product with a direction."""
    operands = [t.detach().requires_grad_() for t in operands]
    value = call(*operands)
    found = torch.autograd.grad(
        value,
        operands,
        torch.full_like(value, upstream),
        create_graph=direction is not None,
        materialize_grads=True,
    )
    if direction is None:
        return found
    pairs = [(t, d.to(t.dtype)) for t, d in zip(found, direction, strict=True) if t.requires_grad]
    first, cotangents = zip(*pairs, strict=True)
    return torch.autograd.grad(first, operands, cotangents, materialize_grads=True)


def calls(loss, form, reduction, **more):
    """Yield the losses of the discriminator and of the generator."""
    options = {"loss": loss, "relativistic": form, "reduction": reduction, **more}
    yield lambda real, fake: fastgan.discriminator_loss(real, fake, **options)
    if form is None:
        yield lambda real, fake: fastgan.generator_loss(fake, **options)
    else:
        yield lambda real, fake: fastgan.generator_loss(fake, real, **options)


def check(got, exact):
    for g, e in zip(got, exact, strict=True):
        want = ulp.nearest(e, g.dtype)
        assert int(((g != want) & ~(g.isnan() & want.isnan())).sum()) == 0


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", TABLE)
def test_k11_gradients_are_rounded_once(loss, dtype, form, reduction):
    """K11: as float64 kernels on the same numbers give them, for upstreams that are powers of two and others."""
    operands = finite_patterns(dtype, form)
    wide = [t.double() for t in operands]
    upstreams = (1.0, torch.tensor(3.7).item(), 2.0**18)
    for call in calls(loss, form, reduction):
        for upstream in upstreams:
            check(gradients(operands, call, upstream), gradients(wide, call, upstream))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", ["saturating", "nonsaturating"])
def test_k11_gradients_of_soft_labels_are_rounded_once(loss, dtype):
    operands = finite_patterns(dtype, None)
    wide = [t.double() for t in operands]
    for call in calls(loss, None, "sum", real_target=0.9, **({"fake_target": 0.2} if loss == "saturating" else {})):
        check(gradients(operands, call, 1.0), gradients(wide, call, 1.0))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", ["nonsaturating", "least_squares"])
def test_k11_second_derivatives_are_rounded_once(loss, dtype, form):
    operands = finite_patterns(dtype, form)
    wide = [t.double() for t in operands]
    random = torch.Generator().manual_seed(1)
    direction = [torch.randn(len(t), generator=random).to(dtype) for t in operands]
    for call in calls(loss, form, "mean"):
        check(gradients(operands, call, 1.0, direction), gradients(wide, call, 1.0, direction))


def test_k11_a_number_that_rounding_twice_gets_wrong():
    """K11: the gradient of softplus(-x) at -0.0107421875 lies 4e-9 past the middle of two numbers of float16."""
    x = torch.tensor([-0.0107421875], dtype=torch.float16, requires_grad=True)
    (got,) = torch.autograd.grad(fastgan.generator_loss(x, reduction="sum"), x)
    with mpmath.workprec(200):
        exact = -1 / (1 + mpmath.exp(mpmath.mpf(x.item())))
        below, above = mpmath.mpf(-0.5029296875), mpmath.mpf(-0.50244140625)
        want = min(below, above, key=lambda v: abs(v - exact))
    assert got.item() == float(want)


def spread(n):
    """Return float32 numbers of every size that a square can have, and as many where losses bend."""
    random = torch.Generator().manual_seed(n)
    x = torch.randint(0, 1 << 32, (n // 2,), generator=random).to(torch.int32).view(torch.float32)
    return torch.cat([x.nan_to_num(0).clamp(-1e37, 1e37), 4 * torch.randn(n - n // 2, generator=random)])


@pytest.mark.parametrize("loss", TABLE)
def test_k11_float32_gradients_are_within_what_is_promised(loss):
    """K11: a sum within 1 ulp, a mean within 3, and 5 with an upstream that is no power of two."""
    worst = {"sum": 0.0, "mean": 0.0, "upstream": 0.0}
    without = {"margin": 0.0} if loss == "softplus_square" else {}  # m - r is rounded before
    for n in (1000, 65_537, 777_777):
        x = spread(n)
        for reduction, upstream, key in (("sum", 1.0, "sum"), ("mean", 1.0, "mean"), ("mean", 3.7, "upstream")):
            number = torch.tensor(upstream).item()

            def call(real, fake, reduction=reduction):
                return fastgan.discriminator_loss(real, fake, loss, reduction=reduction, **without)

            got, exact = (gradients([t, torch.zeros_like(t)], call, number) for t in (x, x.double()))
            worst[key] = max(worst[key], ulp.error(got[0], exact[0]))
    assert worst["sum"] <= 1.0
    assert worst["mean"] <= 3.0
    assert worst["upstream"] <= 5.0
    if loss in ("saturating", "nonsaturating"):  # else the figures in README.md are of something else
        assert 1.5 < worst["mean"] < 2.3
        assert 2.5 < worst["upstream"] < 3.8


@pytest.mark.parametrize("n", [2, 3, 10, 127, 1000])
def test_k11_float64_norms_are_within_what_is_promised(n):
    """K11: squares and sums of float64 numbers are rounded in float64."""
    random = torch.Generator().manual_seed(n)
    g = torch.randn(20_000 // n, n, dtype=torch.float64, generator=random)
    with mpmath.workprec(200):
        worst = 0.0
        for row, norm in zip(g.tolist(), fastgan.gradient_norm(g).tolist(), strict=True):
            exact = mpmath.sqrt(mpmath.fsum(mpmath.mpf(v) ** 2 for v in row))
            worst = max(worst, float(abs(norm - exact) / math.ulp(float(exact))))
    assert worst <= 1.4
