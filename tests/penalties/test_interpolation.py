"""Points between real and fake: values, derivatives, draws."""

import numpy as np
import pytest
import torch

import fastgan
from fastgan.backends import cpu
from tests.helpers import ulp

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_values(backend, dtype):
    real, fake = torch.randn(6, 3, 700).to(dtype), torch.randn(6, 3, 700).to(dtype)
    fake[:, 0] = real[:, 0]
    eps = torch.rand(6, dtype=torch.float64 if dtype is torch.float64 else torch.float32)
    eps[3:] **= 4  # with more bits than 1 - eps has room for
    eps[0], eps[1] = 0, 1
    with fastgan.backend(backend):
        got = fastgan.interpolate(real, fake, eps)
        assert got.dtype is dtype
        assert torch.equal(got[0], fake[0])
        assert torch.equal(got[1], real[1])
        assert torch.equal(got[:, 0], real[:, 0])  # exactly, where they are equal
        e = eps.double()[:, None, None]
        want = e * real.double() + (1 - e) * fake.double()
        larger = torch.maximum(real.double().abs(), fake.double().abs())
        assert ulp.error(got, want, larger) <= (2.0 if dtype in (torch.float32, torch.float64) else 0.51)
        assert torch.equal(fastgan.interpolate(real, fake, eps[:, None, None]), got)
        assert torch.equal(fastgan.interpolate(real, fake, eps.double()), got)


def test_eps_of_any_strides():
    real, fake = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    for eps in (torch.rand(8)[::2], torch.tensor([0.3]).expand(4), torch.rand(4, 4)[:, :1], torch.rand(4, 4)[:, 1]):
        want = fastgan.interpolate(real, fake, eps.clone().reshape(4).contiguous())
        got = fastgan.interpolate(real, fake, eps)
        assert torch.equal(got, want)
        for a, b in zip(*(torch.autograd.grad(x.sum(), (real, fake)) for x in (got, want)), strict=True):
            assert torch.equal(a, b)
    out = (torch.empty(4, 3),)
    with pytest.raises(ValueError, match="eps: expected a contiguous tensor, got one with gaps"):
        cpu.native.interpolate_forward((real.detach(),), (fake.detach(),), torch.rand(8)[::2], out, 1)
    rows = torch.func.vmap(lambda r, f: fastgan.interpolate(r[None], f[None], torch.tensor([0.25]))[0])(real, fake)
    torch.testing.assert_close(rows, fastgan.interpolate(real, fake, torch.full((4,), 0.25)))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_nothing_overflows(backend):
    real, fake = torch.full((1, 9), 3e38), torch.full((1, 9), -3e38)
    with fastgan.backend(backend):
        for e, want in ((0.0, fake), (0.5, 0 * fake), (1.0, real)):
            assert torch.equal(fastgan.interpolate(real, fake, torch.tensor([e])), want)
        inf = torch.full((1, 2), float("inf"))
        assert torch.equal(fastgan.interpolate(inf, inf, torch.tensor([0.5])), inf)
    wide = torch.full((1, 9), 1.5e308, dtype=torch.float64)
    assert torch.equal(fastgan.interpolate(wide, -wide, torch.tensor([0.25])), -0.5 * wide)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_gradcheck_and_gradgradcheck(backend):
    real, fake = (torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    eps = (torch.rand(3, dtype=torch.float64) * 0.8 + 0.1).requires_grad_()
    with fastgan.backend(backend):
        torch.autograd.gradcheck(fastgan.interpolate, (real, fake, eps))
        torch.autograd.gradgradcheck(fastgan.interpolate, (real, fake, eps))
        torch.autograd.gradcheck(lambda r, f, e: fastgan.interpolate((r, f), (f, r * 2), e), (real, fake, eps))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_only_where_they_are_asked_for(dtype):
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    real, fake, u = (torch.randn(4, 2000).to(dtype) for _ in range(3))
    eps = torch.rand(4, dtype=wide)
    for asked in ((True, False, False), (False, True, False), (False, False, True), (True, True, True)):
        operands = [t.clone().requires_grad_(a) for t, a in zip((real, fake, eps), asked, strict=True)]
        fastgan.interpolate(*operands).backward(u)
        for t, a in zip(operands, asked, strict=True):
            assert (t.grad is not None) == a
    r, f, e = (t.grad for t in operands)
    assert torch.equal(r, (eps[:, None] * u.to(wide)).to(dtype))
    assert torch.equal(f, ((1 - eps)[:, None] * u.to(wide)).to(dtype))
    # In more than float64: a sum of PyTorch's has the rounding of the processor's vectors.
    ur, rr, fr = (t.double().numpy().astype(np.longdouble) for t in (u, real, fake))
    exact = torch.from_numpy((ur * (rr - fr)).sum(1).astype(np.float64))
    assert ulp.error(e, exact, torch.full((4,), 60.0)) <= 4.0


def test_draws():
    """As torch.rand(N) draws, from the generator given; none where eps is given."""
    real, fake = torch.randn(5, 3), torch.randn(5, 3)
    torch.manual_seed(4)
    eps = torch.rand(5)
    torch.manual_seed(4)
    assert torch.equal(fastgan.interpolate(real, fake), fastgan.interpolate(real, fake, eps))
    seeded = torch.Generator().manual_seed(9)
    drawn = torch.rand(5, generator=torch.Generator().manual_seed(9))
    assert torch.equal(fastgan.interpolate(real, fake, generator=seeded), fastgan.interpolate(real, fake, drawn))
    state = torch.get_rng_state()
    fastgan.interpolate(real, fake, eps)
    assert torch.equal(torch.get_rng_state(), state)


def test_tuples_share_eps():
    a, b, c, d = torch.randn(4, 3), torch.randn(4, 2, 2), torch.randn(4, 3), torch.randn(4, 2, 2)
    eps = torch.rand(4)
    x, y = fastgan.interpolate((a, b), [c, d], eps)
    assert torch.equal(x, fastgan.interpolate(a, c, eps))
    assert torch.equal(y, fastgan.interpolate(b, d, eps))


def test_layouts_are_kept():
    real, fake = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    eps = torch.rand(2)
    want = fastgan.interpolate(real, fake, eps)
    last = real.to(memory_format=torch.channels_last)
    for f in (fake, fake.to(memory_format=torch.channels_last)):
        got = fastgan.interpolate(last, f, eps)
        assert torch.equal(got, want)
        assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_threads_and_instruction_sets(dtype):
    real, fake = torch.randn(7, 20_011).to(dtype), torch.randn(7, 20_011).to(dtype)
    eps = torch.rand(7)
    sets = cpu.native.isas()
    results = []
    try:
        for isa in sets:
            cpu.native.set_isa(isa)
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                operands = [t.clone().requires_grad_() for t in (real, fake, eps)]
                out = fastgan.interpolate(*operands)
                results.append([out.detach(), *torch.autograd.grad(out, operands, real)])
    finally:
        cpu.native.set_isa(sets[0])
    for r in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(r, results[0], strict=True))


def test_negated_views():
    z = torch.randn(3, 4, dtype=torch.complex64).conj().imag
    assert z.is_neg()
    assert torch.equal(fastgan.interpolate(z, z, torch.rand(3)), z)
    assert torch.equal(fastgan.gradient_norm(z), fastgan.gradient_norm(z.clone()))
