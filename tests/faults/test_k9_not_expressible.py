"""K9: what trainers ask of a loss beside logits: one role at a time, labels and masks per element.

Right values are those of the plain formula, by autograd in float64.
"""

from __future__ import annotations

import pytest
import torch

import fastgan
from fastgan.ops import reference
from fastgan.ops.losses import LossOptions

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
PLAIN = ["saturating", "nonsaturating", "hinge", "least_squares", "wasserstein"]
# What a float32 result, or a gradient in that dtype, may be off, relative to the largest.
WITHIN = {torch.float32: 1e-6, torch.float64: 1e-13, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def logits(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()


def wide(*tensors):
    """Copies in float64."""
    return [t.detach().double().requires_grad_() for t in tensors]


def close(got, want, dtype):
    """Whether numbers agree as well as their dtype allows."""
    assert got.shape == want.shape
    scale = want.abs().max().clamp_min(1e-30)
    assert (got.double() - want).abs().max() <= WITHIN[dtype] * scale, (got, want)


def agree(got, tensors, want, twins):
    """Whether a value and its gradients are those in float64."""
    dtype = tensors[0].dtype
    close(got, want, torch.float64 if dtype == torch.float64 else torch.float32)
    for g, w in zip(torch.autograd.grad(got.sum(), tensors), torch.autograd.grad(want.sum(), twins), strict=True):
        close(g, w, dtype)


# ---------------------------------------------------------------------------- one role at a time


def part(loss, role, x, options=None):
    """The loss on one role's logits, element by element."""
    make = reference._on_real if role == 0 else reference._on_fake
    return make(loss, options or LossOptions(loss))(x)


def alone(role, x, *arguments, **options):
    return fastgan.discriminator_loss(*((x, None) if role == 0 else (None, x)), *arguments, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("role", [0, 1])
@pytest.mark.parametrize("loss", PLAIN)
def test_one_role_alone(loss, role, dtype):
    x = logits(40, 3, dtype=dtype)
    (twin,) = wide(x)
    want = part(loss, role, twin)
    agree(alone(role, x, loss), [x], want.mean(), [twin])
    agree(alone(role, x, loss, reduction="sum"), [x], part(loss, role, twin).sum(), [twin])
    close(alone(role, x, loss, reduction="none"), want, torch.float64 if dtype == torch.float64 else torch.float32)
    if loss in ("saturating", "nonsaturating"):
        soft = LossOptions(loss, real_target=0.9, fake_target=0.2)
        got = alone(role, x, loss, real_target=0.9, fake_target=0.2)
        agree(got, [x], part(loss, role, twin, soft).mean(), [twin])


@pytest.mark.parametrize("loss", PLAIN)
def test_both_roles_add_up_bit_for_bit(loss):
    r, f = [logits(50, 1), logits(7, seed=1)], [logits(30, seed=2), logits(2, 9, seed=3)]
    total, stats = fastgan.discriminator_loss(r, f, loss, weights=[1.0, 0.5], return_stats=True)
    real, real_stats = alone(0, r, loss, weights=[1.0, 0.5], return_stats=True)
    fake, fake_stats = alone(1, f, loss, weights=[1.0, 0.5], return_stats=True)
    assert real == stats.loss_real
    assert fake == stats.loss_fake
    for name in stats._fields:
        mine, other = (real_stats, fake_stats) if "real" in name else (fake_stats, real_stats)
        assert getattr(mine, name) == getattr(stats, name), name
        missing = getattr(other, name)
        assert missing == 0 if name.startswith("loss") else missing.isnan(), name
    want = torch.autograd.grad(total, [*r, *f])
    got = [*torch.autograd.grad(real, r), *torch.autograd.grad(fake, f)]
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_one_role_in_sequences_and_other_backends():
    r = [logits(5, 1), logits(3, 2, seed=1)]
    got, twins = alone(0, r, "hinge"), wide(*r)
    agree(got, r, torch.stack([part("hinge", 0, t).mean() for t in twins]).sum(), twins)
    with fastgan.backend("reference"):
        assert torch.allclose(alone(0, r, "hinge"), got)
    each = alone(0, r, "hinge", reduction="none")
    assert [tuple(t.shape) for t in each] == [(5, 1), (3, 2)]


@pytest.mark.parametrize("role", [0, 1])
def test_one_role_compiled_and_twice_differentiated(role):
    x = logits(6, 2, dtype=torch.float64)
    compiled = torch.compile(lambda x: alone(role, x, "nonsaturating"), fullgraph=True)
    (twin,) = wide(x)
    agree(compiled(x), [x], part("nonsaturating", role, twin).mean(), [twin])
    assert torch.autograd.gradcheck(lambda x: alone(role, x, "nonsaturating"), x)
    assert torch.autograd.gradgradcheck(lambda x: alone(role, x, "nonsaturating"), x)


def test_forms_that_compare_need_both_roles():
    x = logits(4)
    for options in ({"relativistic": "paired"}, {"relativistic": "average"}, {"loss": "ranking"}):
        with pytest.raises(ValueError, match=r"^fake_logits: expected logits for"):
            fastgan.discriminator_loss(x, None, **options)
        with pytest.raises(ValueError, match=r"^real_logits: expected logits for"):
            fastgan.discriminator_loss(None, x, **options)
    with pytest.raises(ValueError, match="real_logits and fake_logits: expected logits of at least one"):
        fastgan.discriminator_loss(None, None)
    with pytest.raises(TypeError):
        fastgan.discriminator_loss(x, [])
    with pytest.raises(ValueError, match="relativistic"):
        fastgan.discriminator_loss(x, None, relativistic="pair")
