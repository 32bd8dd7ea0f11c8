"""K3: 16-bit numbers beside float32 are taken as float32, as PyTorch's arithmetic and trainers' recipes do."""

import pytest
import torch
from torch import nn

import fastgan
from fastgan.nn import GradientPenalty

HALVES = [torch.float16, torch.bfloat16]
halves = pytest.mark.parametrize("half", HALVES)
swapped = pytest.mark.parametrize("swap", [False, True])


def operands(half, swap, *shape):
    """A float32 and a 16-bit tensor that require grad, and the latter's float32 twin."""
    torch.manual_seed(0)
    wide, narrow = torch.randn(shape), torch.randn(shape).to(half)
    pair = [narrow, wide] if swap else [wide, narrow]
    return [t.clone().requires_grad_() for t in pair], [t.float().requires_grad_() for t in pair]


def same(got, want, mixed, twins, paired=True):
    """Whether a value is that of the float32 twins, and gradients too, in each operand's own dtype.

    Where operands are not paired a 16-bit one is read as it is, and its gradient is rounded once from float64.
    """
    assert torch.equal(got, want)
    grads = torch.autograd.grad(got.sum(), mixed)
    for a, b, t in zip(grads, torch.autograd.grad(want.sum(), twins), mixed, strict=True):
        assert a.dtype == t.dtype
        if paired:
            assert torch.equal(a, b.to(t.dtype))
        else:
            unit = torch.finfo(t.dtype).eps
            torch.testing.assert_close(a, b.to(t.dtype), rtol=2 * unit, atol=1e-7 * b.abs().max().item())


@halves
@swapped
@pytest.mark.parametrize("loss", list(fastgan.losses()))
@pytest.mark.parametrize("relativistic", [None, "paired", "average"])
def test_losses(half, swap, loss, relativistic):
    mixed, twins = operands(half, swap, 33)
    for function in (fastgan.discriminator_loss, fastgan.generator_loss):
        if function is fastgan.generator_loss and relativistic is None:
            continue
        got = function(*mixed, loss=loss, relativistic=relativistic)
        want = function(*twins, loss=loss, relativistic=relativistic)
        same(got, want, mixed, twins, relativistic == "paired" or (relativistic is None and loss == "ranking"))


@halves
@swapped
def test_unreduced_and_sequences(half, swap):
    mixed, twins = operands(half, swap, 33)
    same(*[fastgan.discriminator_loss(*o, "hinge", reduction="none") for o in (mixed, twins)], mixed, twins)
    lists = [([o[0][:9], o[1][9:]], [o[1][:9], o[0][9:]]) for o in (mixed, twins)]
    same(*[fastgan.discriminator_loss(*o, "bce", relativistic="paired") for o in lists], mixed, twins)


@halves
@swapped
def test_interpolation(half, swap):
    mixed, twins = operands(half, swap, 5, 7)
    eps = torch.rand(5)
    got = fastgan.interpolate(*mixed, eps)
    assert got.dtype == torch.float32
    same(got, fastgan.interpolate(*twins, eps), mixed, twins)
    packed = [fastgan.interpolate(o[0][:4], o[1][:4], eps[:2], pac=2) for o in (mixed, twins)]
    assert torch.equal(*packed)


def test_float16_beside_bfloat16():
    a, b = torch.randn(6).half(), torch.randn(6).bfloat16()
    want = fastgan.discriminator_loss(a.float(), b.float(), relativistic="paired")
    assert torch.equal(fastgan.discriminator_loss(a, b, relativistic="paired"), want)


@halves
@swapped
@pytest.mark.parametrize("kind", ["wgan-gp", "wgan-lp", "wgan-div"])
def test_penalties(half, swap, kind):
    mixed, twins = operands(half, swap, 6, 4)
    torch.manual_seed(1)
    d, eps = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1)), torch.rand(6)
    found = [fastgan.gradient_penalty(d, *o, kind=kind, eps=eps) for o in (mixed, twins)]
    same(*found, mixed, twins)
    steps = []
    for o in (mixed, twins):
        torch.manual_seed(2)
        real, fake = (t.detach() for t in o)
        steps.append(fastgan.discriminator_step(_wide(d), real, fake, loss="hinge", penalty=GradientPenalty(kind)))
    assert torch.equal(steps[0].total, steps[1].total)


def _wide(d):
    return lambda x: d(x.float())


def test_under_autocast():
    """A generator under autocast gives bfloat16; the real batch is float32 (Lightning's bf16-mixed)."""
    torch.manual_seed(0)
    g, d, real = nn.Linear(3, 4), nn.Linear(4, 1), torch.randn(5, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fake = g(torch.randn(5, 3))
        assert fake.dtype == torch.bfloat16
        step = fastgan.discriminator_step(d, real, fake, loss="hinge", penalty="wgan-gp")
        fastgan.gradient_penalty(d, real, fake).backward()
    assert step.total.isfinite()


@halves
@swapped
def test_feature_matching(half, swap):
    mixed, twins = operands(half, swap, 4, 9)
    got, want = (fastgan.feature_matching_loss([o[0]], [o[1]], detach_real=False) for o in (mixed, twins))
    same(got, want, mixed, twins)


@pytest.mark.parametrize("other", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("relativistic", [None, "paired", "average"])
def test_float64_beside_others_is_refused_with_the_way_out(other, relativistic):
    a, b = torch.randn(4, 3).double(), torch.randn(4, 3).to(other)
    for call in (
        lambda: fastgan.discriminator_loss(a, b, relativistic=relativistic),
        lambda: fastgan.interpolate(a, b),
        lambda: fastgan.gradient_penalty(nn.Linear(3, 1), a, b),
        lambda: fastgan.feature_matching_loss(a, b),
    ):
        with pytest.raises(TypeError, match=r"float64.*\.double\(\) or \.float\(\)"):
            call()
