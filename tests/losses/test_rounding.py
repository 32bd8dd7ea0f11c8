"""K11: a gradient in 16 bits is the exact one, rounded once, for every finite pattern."""

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
