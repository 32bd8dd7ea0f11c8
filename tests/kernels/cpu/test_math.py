"""Element maths: every phi and its two derivatives, from the smallest denormal to infinity."""

import mpmath
import pytest
import torch

import fastgan
from fastgan.backends.specs import PHIS
from tests.helpers import exact, exhaustive, ulp


@pytest.mark.parametrize("phi", PHIS)
def test_float32_patterns(phi):
    assert max(exhaustive.worst(phi, stride=20011).values()) <= 1.0


@pytest.mark.parametrize("phi", PHIS)
def test_kernels_agree_with_the_exhaustive_program(phi):
    """The same, through the built kernels: every 65,537th pattern, denormals, infinities and NaN among them."""
    x = torch.arange(0, 1 << 32, 65537, dtype=torch.int64).to(torch.int32).view(torch.float32)
    for got, function in zip(ulp.jet(phi, x), ulp.EXACT[phi], strict=True):
        assert ulp.error(got, function(x.double())) <= 1.0


def all_patterns(dtype):
    return torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("phi", PHIS)
def test_all_16_bit_patterns(phi, dtype):
    """Values (float32) within 1 ulp; both derivatives (16-bit) correctly rounded, all 65,536 of them."""
    x = all_patterns(dtype)
    value, first, second = ulp.jet(phi, x)
    f, df, ddf = ulp.EXACT[phi]
    exact = x.double()
    assert value.dtype is torch.float32
    assert ulp.error(value, f(exact)) <= 1.0
    assert first.dtype is second.dtype is dtype
    for got, want in ((first, df(exact)), (second, ddf(exact))):
        if phi.startswith("softplus"):  # the others are exact in float64
            assert ulp.tie_distance(want, dtype) > 2.0**-38
        assert torch.equal(got.nan_to_num(7.0), ulp.nearest(want, dtype).nan_to_num(7.0))


def test_the_oracle_rounds_once():
    """K11: 1 + 2^-11 + 2^-30 is above a tie of float16, and by way of float32 it would become that tie."""
    x = torch.tensor([1 + 2.0**-11 + 2.0**-30, 1 + 2.0**-11, 1 + 3 * 2.0**-11, 65520.0, 65519.9, 2.0**-25, -0.0])
    x = x.double() + torch.tensor([2.0**-30, 0, 0, 0, 0, 0, 0], dtype=torch.float64)
    want = torch.tensor([1 + 2.0**-10, 1.0, 1 + 2.0**-9, torch.inf, 65504.0, 0.0, -0.0], dtype=torch.float16)
    assert torch.equal(ulp.nearest(x, torch.float16), want)
    assert not torch.equal(x.to(torch.float16), want)


@pytest.mark.parametrize("phi", PHIS)
def test_float64(phi):
    """Within 1 ulp of 200-bit arithmetic, near 0, in the middle, and where e^-|x| is denormal."""
    with mpmath.workprec(200):
        g = torch.Generator().manual_seed(1)
        uniform = torch.rand(600, generator=g, dtype=torch.float64)
        exponents = torch.rand(200, generator=g, dtype=torch.float64) * 600 - 300
        x = torch.cat([(uniform[:200] - 0.5) * 4, (uniform[200:400] - 0.5) * 80, (uniform[400:] - 0.5) * 1490])
        x = torch.cat([x, 10**exponents, -(10**exponents), torch.tensor([0.0, 5e-324, 1e-310, 709.0, -745.0])])
        for k, got in enumerate(ulp.jet(phi, x.double())):
            for value, point in zip(got.tolist(), x.tolist(), strict=True):
                assert exact.distance(value, exact.jet(phi, point)[k]) <= 1.0, (point, value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_softplus_at_infinity_and_nan(dtype):
    x = torch.tensor([float("inf"), float("-inf"), float("nan")], dtype=dtype)
    value, first, second = ulp.jet("softplus", x)
    inf, nan = float("inf"), float("nan")
    torch.testing.assert_close(value, torch.tensor([inf, 0.0, nan]).to(value), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(first, torch.tensor([1.0, 0.0, nan]).to(first), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(second, torch.tensor([0.0, 0.0, nan]).to(second), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("target", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_soft_labels_do_not_cancel(target, dtype):
    """softplus(x) - t x over the whole range, where the naive difference loses every digit."""
    magnitudes = torch.logspace(-30, 4, 400, dtype=torch.float64)
    x = torch.cat([magnitudes, -magnitudes]).to(dtype).requires_grad_()
    value = fastgan.generator_loss(x, loss="bce", real_target=target, reduction="none")
    wide = x.detach().double()
    # max(x, 0) - t x has no cancellation when it is written as (1 - t) x or -t x.
    exact = torch.where(wide > 0, (1 - target) * wide, -target * wide) + torch.log1p(torch.exp(-wide.abs()))
    limit = 1.5 if dtype is torch.float32 else 2.5  # the reference in float64 is itself off by as much
    assert ulp.error(value.detach(), exact) <= limit


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float16, 11), (torch.bfloat16, 8)])
def test_k11_ties_go_to_even(dtype, bits):
    """K11: of a number between two of 16 bits, whether it is their middle or a little beside it."""
    half = 2.0**-bits
    numbers = [1 + k * half + d for k in (1, 3) for d in (0.0, 2.0**-40, -(2.0**-40))]
    want = [1.0, 1 + 2 * half, 1.0, 1 + 4 * half, 1 + 4 * half, 1 + 2 * half]
    for weight, expected in zip(numbers, want, strict=True):
        x = torch.zeros(3, dtype=dtype, requires_grad=True)
        loss = fastgan.reduce_terms([fastgan.term("identity", weight=weight)], [x], reduction="sum")
        assert torch.autograd.grad(loss, x)[0].tolist() == [expected] * 3
