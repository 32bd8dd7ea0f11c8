"""Norms and penalties on given gradients: values, both orders, extremes, masks, and the same bits everywhere."""

import math
from contextlib import nullcontext
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastgan
from fastgan.backends import cpu
from tests.helpers import ulp
from tests.kernels.cpu.test_invariance import tree

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
PSI = [
    ("two_sided", {}),
    ("two_sided", {"target": 0.3}),
    ("one_sided", {"target": 0.5}),
    *(("power", {"power": p}) for p in (1, 2, 3, 6)),
]
SHAPES = [(4, 3, 5, 7), (1, 1), (2, 1500), (3, 3, 40, 10), (2, 2050, 3), (300, 2), (2, 130, 4)]


def over_for(shape):
    return ["sample", "channel", "batch"] if len(shape) > 2 else ["sample", "batch"]


def everything(g, kind, options, over, reduction="mean", **more):
    """The penalty, its gradient, and the gradients of <v, gradient> by gradients and upstream; v has few bits."""
    g = g.detach().requires_grad_()
    value = fastgan.norm_penalty(g, kind, over=over, reduction=reduction, **options, **more)
    up = torch.linspace(0.5, 1.5, value.numel()).to(value.dtype).reshape(value.shape).requires_grad_()
    (first,) = torch.autograd.grad(value, g, up, create_graph=True)
    v = torch.sin(torch.arange(g.numel())).mul(64).round().div(64).reshape(g.shape).to(g.dtype)
    second = torch.autograd.grad(first, (g, up), v, retain_graph=True, allow_unused=True)
    (plain,) = torch.autograd.grad(value, g, torch.ones_like(value))
    return [value.detach(), first.detach(), *second, plain]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("kind", "options"), PSI, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_the_reference(shape, kind, options, dtype):
    g = (torch.randn(shape, dtype=torch.float64) * 0.3).to(dtype)
    # In ulp: value, gradient, both of second order, gradient for an upstream of 1. Doubles lose a few in
    # long sums, and where n and the target cancel; a second order adds what cancels.
    limits = (1024, 64, 64, 64, 64) if dtype is torch.float64 else (1, 1, 4, 16, 1)
    for over in over_for(shape):
        for reduction in ("mean", "sum", "none"):
            with fastgan.backend("cpu"):
                got = everything(g, kind, options, over, reduction)
            with fastgan.backend("reference"):
                want = everything(g.double(), kind, options, over, reduction)
            for k, (a, b, limit) in enumerate(zip(got, want, limits, strict=True)):
                if b is None:
                    assert a is None or not a.any()
                    continue
                scale = b.abs().amax().expand(b.shape) if k in (2, 3) or dtype is torch.float64 else None
                if k == 3 and dtype is torch.float64:
                    scale = want[1].abs().sum().expand(b.shape)  # the sum of what <v, gradient> adds
                assert ulp.error(a, b, scale) <= limit, (over, reduction, k)


@pytest.mark.parametrize(("kind", "options"), PSI, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradcheck_and_gradgradcheck(kind, options, reduction):
    for shape in ((3, 4), (2, 3, 2, 2)):
        g = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        mask = torch.rand(shape, dtype=torch.float64) + 0.5
        for over in over_for(shape):
            weights = None if over == "batch" else torch.rand(shape[0])

            def call(g, over=over, weights=weights, mask=mask):
                return fastgan.norm_penalty(
                    g, kind, over=over, reduction=reduction, mask=mask, weights=weights, **options
                )

            torch.autograd.gradcheck(call, (g,))
            torch.autograd.gradgradcheck(call, (g,))


def test_third_order_and_batched_and_functional():
    g = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)

    def derivative(order, backend):
        with fastgan.backend(backend):
            value = fastgan.norm_penalty(g, target=0.4)
            for _ in range(order):
                (d,) = torch.autograd.grad(value, g, create_graph=True)
                value = (d * torch.cos(g.detach())).sum()
        return value

    for order in (1, 2, 3, 4):
        torch.testing.assert_close(derivative(order, "cpu"), derivative(order, "reference"), rtol=1e-11, atol=1e-12)
    value = fastgan.norm_penalty(g)
    (batched,) = torch.autograd.grad(value, g, torch.tensor([1.0, 2.0], dtype=torch.float64), is_grads_batched=True)
    (single,) = torch.autograd.grad(fastgan.norm_penalty(g), g)
    torch.testing.assert_close(batched, torch.stack([single, 2 * single]), rtol=1e-15, atol=0)
    functional = torch.func.grad(lambda g: fastgan.norm_penalty(g))(g.detach())
    torch.testing.assert_close(functional, single)
    masks = torch.rand(3, 1, 4, dtype=torch.float64)
    masked = torch.func.vmap(lambda g, m: fastgan.norm_penalty(g[None], mask=m))(g.detach(), masks)
    one = fastgan.norm_penalty(g.detach()[1:2], mask=masks[1])
    torch.testing.assert_close(masked[1], one)
    rows = torch.func.vmap(lambda g: fastgan.gradient_norm(g[None])[0])(g.detach())
    torch.testing.assert_close(rows, fastgan.gradient_norm(g.detach()))


def test_backward_twice_and_tampering():
    g = torch.randn(4, 5, requires_grad=True)
    value = fastgan.norm_penalty(g)
    first = torch.autograd.grad(value, g, retain_graph=True)[0]
    kept = first.clone()
    first.mul_(7)
    assert torch.equal(torch.autograd.grad(value, g, retain_graph=True)[0], kept)
    with torch.no_grad():
        g.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(value, g)


def test_constants_changed_in_place_are_seen():
    g = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    for option in ("mask", "weights"):
        constant = torch.rand(4, 1, dtype=torch.float64) if option == "mask" else torch.rand(4, dtype=torch.float64)
        value = fastgan.norm_penalty(g, **{option: constant})
        constant.zero_()
        with pytest.raises(RuntimeError, match="mask or weights: modified by an inplace operation"):
            torch.autograd.grad(value, g)
    value, stats = fastgan.norm_penalty(g, return_stats=True)
    stats.norms.zero_()
    assert torch.equal(torch.autograd.grad(value, g)[0], torch.autograd.grad(fastgan.norm_penalty(g), g)[0])


# ---------------------------------------------------------------------------------- accuracy


def exact_norm(row):
    """The square root of the correctly rounded sum of squares, which are exact for float32."""
    return math.sqrt(math.fsum((row.double() ** 2).tolist()))


@pytest.mark.parametrize("magnitude", [1e-30, 1e-20, 1.0, 1e20, 1e30])
@pytest.mark.parametrize("n", [1, 2, 3, 127, 1025, 50_000, 3 * 1024 * 1024])
def test_norms_are_within_an_ulp(n, magnitude):
    g = (torch.randn(1, n) * magnitude).float()
    want = torch.tensor([exact_norm(g[0])], dtype=torch.float64)
    assert ulp.error(fastgan.gradient_norm(g), want) <= 0.5 + 1e-6
    for dtype in (torch.bfloat16, torch.float16):
        small = g.to(dtype) if n < 60_000 else g[:, :60_000].to(dtype)
        got = fastgan.gradient_norm(small)
        assert got.dtype is torch.float32
        exact = exact_norm(small[0])
        if math.isfinite(exact):
            assert ulp.error(got, torch.tensor([exact], dtype=torch.float64)) <= 0.5 + 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_gradients_are_correctly_rounded(dtype):
    """Of every row, whatever its size: the exact gradient rounded once."""
    scales = torch.logspace(-4, 4, 40, dtype=torch.float64)
    g = (torch.randn(40, 700, dtype=torch.float64) * scales[:, None]).to(dtype).requires_grad_()
    value = fastgan.norm_penalty(g, reduction="none")
    up = torch.full_like(value, 1.25)
    (got,) = torch.autograd.grad(value, g, up)
    wide = g.detach().double()
    n = torch.tensor([exact_norm(row) for row in g.detach()], dtype=torch.float64)[:, None]
    assert ulp.error(got, 1.25 * 2 * (n - 1) * wide / n) <= 0.5 + 1e-5


def test_float64_rows_whose_squares_overflow_or_underflow():
    for magnitude in (1e-320, 1e-310, 1e-200, 1e-160, 1e160, 1e200, 1e307):
        g = (torch.rand(3, 5000, dtype=torch.float64) - 0.5) * magnitude * 0.01
        got = fastgan.gradient_norm(g)
        for row, n in zip(g, got, strict=True):
            exact = sum(Fraction(x) ** 2 for x in row.tolist())
            assert abs(Fraction(n.item()) ** 2 / exact - 1) < Fraction(1, 10**14) or magnitude < 1e-300
        g.requires_grad_()
        (unit,) = torch.autograd.grad(fastgan.gradient_norm(g).sum(), g, create_graph=True)
        assert unit.isfinite().all()
        if magnitude > 1e-300:
            torch.testing.assert_close(fastgan.gradient_norm(unit.detach()), torch.ones(3, dtype=torch.float64))
            torch.testing.assert_close(unit, g / got[:, None], rtol=1e-14, atol=0)
        for backend in ("cpu", "reference"):
            with fastgan.backend(backend):
                (double,) = torch.autograd.grad(fastgan.norm_penalty(g, "power", reduction="sum"), g)
            assert torch.equal(double, 2 * g)  # though the value has underflowed or overflowed
        # The same rows at an ordinary size have the same directions.
        h = (g.detach() / magnitude).requires_grad_()
        (same,) = torch.autograd.grad(fastgan.gradient_norm(h).sum(), h)
        torch.testing.assert_close(unit, same, rtol=1e-13 if magnitude > 1e-300 else 1.0, atol=1e-15)


@pytest.mark.skipif(cpu.native is None, reason="the compiled kernels are not there")
@pytest.mark.parametrize("over", ["sample", "channel"])
def test_k11_float64_rows_of_huge_and_tiny_numbers(over):
    """K11: h / n underflows where n is 1e300 and h is 1e-30, but the gradient 2 (n - 1) h / n does not."""
    small = torch.logspace(-300, 290, 119, dtype=torch.float64)
    for sign in (1.0, -1.0):
        row = torch.cat([torch.tensor([1e300], dtype=torch.float64), sign * small])
        g = row.view(1, -1, 1, 1).repeat(2, 1, 1, 1).requires_grad_()
        n = fastgan.gradient_norm(g, over=over)
        (got,) = torch.autograd.grad(fastgan.norm_penalty(g, over=over, reduction="sum"), g, create_graph=True)
        assert ulp.error(n.detach().flatten(), torch.full((2,), 1e300, dtype=torch.float64)) <= 2.0
        torch.testing.assert_close(got.detach(), 2 * g.detach(), rtol=1e-14, atol=0)
        # In the direction v = (0, small) the second derivative is 2 v as well: what bends is of the size v / n.
        v = torch.cat([torch.zeros(1, dtype=torch.float64), sign * small]).view_as(g[:1]).expand_as(g)
        (second,) = torch.autograd.grad(got, g, v)
        torch.testing.assert_close(second[:, 1:], 2 * v[:, 1:], rtol=1e-14, atol=0)


@pytest.mark.parametrize("magnitude", [1e-38, 1e-30, 1e-25, 1e20, 1e30])
@pytest.mark.parametrize("kind", ["two_sided", "one_sided", "power"])
def test_float32_gradients_at_extremes(kind, magnitude):
    """What the usual recipe makes inf, 0 or NaN."""
    g = (torch.randn(2, 3, 40, 40) * magnitude).requires_grad_()
    options = {} if kind == "power" else {"target": 0.5 * magnitude}
    (got,) = torch.autograd.grad(fastgan.norm_penalty(g, kind, reduction="sum", **options), g)
    wide = g.detach().double()
    n = torch.tensor([exact_norm(row.flatten()) for row in g.detach()], dtype=torch.float64)[:, None, None, None]
    want = 2 * wide if kind == "power" else 2 * (n - 0.5 * magnitude) * wide / n
    assert ulp.error(got, want) <= 0.5 + 1e-5


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("kind", "options"), PSI, ids=str)
def test_a_row_of_zeros(kind, options, dtype, backend):
    with fastgan.backend(backend):
        g = torch.randn(3, 4, 5).to(dtype)
        g[1] = 0
        for over in ("sample", "channel"):
            value, first, second, up, _ = everything(g, kind, options, over, "none")
            assert first.isfinite().all()
            assert not first[1].any()
            assert value.isfinite().all()
            if second is not None:
                assert second.isfinite().all()
                true = options.get("power") == 2  # the one that is smooth there
                assert second[1].any() == true
            assert up.isfinite().all()
        x = g.detach().double().requires_grad_()
        (d,) = torch.autograd.grad(fastgan.norm_penalty(x, kind, **options), x, create_graph=True)
        (dd,) = torch.autograd.grad(d.sum(), x, create_graph=True)
        if dd.requires_grad:
            assert torch.autograd.grad(dd.sum(), x, allow_unused=True, materialize_grads=True)[0].isfinite().all()


def test_infinities_and_nan_propagate():
    g = torch.ones(3, 4)
    g[0, 1], g[1, 2] = math.inf, math.nan
    norms = fastgan.gradient_norm(g)
    assert norms[0] == math.inf
    assert norms[1].isnan()
    assert norms[2] == 2.0
    for kind in ("two_sided", "one_sided", "power"):
        values = fastgan.norm_penalty(g, kind, reduction="none")
        assert values[0] == math.inf
        assert values[1].isnan()
        _, stats = fastgan.norm_penalty(g, kind, return_stats=True)
        assert stats.norm_min.isnan()
        assert stats.norm_max.isnan()
    wide = fastgan.gradient_norm(g.double())
    assert wide[0] == math.inf
    assert wide[1].isnan()


# ---------------------------------------------------------------------------------- the same bits


def same(a, b):
    return all(
        x is y is None or torch.equal(x.nan_to_num(3.0), y.nan_to_num(3.0)) for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("over", ["sample", "channel", "batch"])
def test_threads_and_instruction_sets(over, dtype):
    g = torch.randn(5, 3, 100, 67).to(dtype)
    mask = torch.rand(5, 1, 100, 67)
    results = []
    sets = cpu.native.isas()
    try:
        for isa in sets:
            cpu.native.set_isa(isa)
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                results.append(
                    everything(g, "two_sided", {}, over) + everything(g, "power", {"power": 6}, over, mask=mask)
                )
    finally:
        cpu.native.set_isa(sets[0])
    assert all(same(results[0], r) for r in results[1:])


@pytest.mark.parametrize("n", [1, 2, 3, 5, 64, 127, 128, 129, 1000, 1024, 1025, 5000, 1024 * 1024 + 1])
def test_squares_are_summed_over_the_documented_tree(n):
    g = torch.randn(n) * torch.logspace(-8, 8, n)
    want = tree(np.square(g.double().numpy()))
    want = torch.tensor(want, dtype=torch.float64).float()
    assert fastgan.norm_penalty(g[None], "power", reduction="sum") == want
    assert fastgan.norm_penalty(g, "power", over="batch") == want
    if n <= 5000:
        pixels = g.reshape(1, n, 1).expand(1, n, 300).contiguous()  # rows side by side
        assert (fastgan.norm_penalty(pixels, "power", over="channel", reduction="none") == want).all()
    if n <= 128:  # of doubles too, where no fma enters
        wide = g.double()
        want = tree(np.square(wide.numpy()))
        assert fastgan.norm_penalty(wide[None], "power", reduction="sum") == want
        assert (fastgan.norm_penalty(pixels.double(), "power", over="channel", reduction="none") == want).all()


def test_a_row_does_not_depend_on_its_neighbours():
    g = torch.randn(7, 3, 21, 19)
    for over in ("sample", "channel"):
        together = everything(g, "two_sided", {}, over, "none")
        for i in range(7):
            alone = fastgan.norm_penalty(g[i : i + 1], over=over, reduction="none")
            assert torch.equal(alone[0], together[0][i])


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=5),
    st.randoms(use_true_random=False),
    st.sampled_from(["sample", "channel", "batch"]),
    st.sampled_from(DTYPES),
)
def test_any_strides(shape, random, over, dtype):
    """Random views have the bits of their contiguous copies."""
    steps = [random.randint(1, 3) for _ in shape]
    order = list(range(len(shape)))
    random.shuffle(order)

    def view():
        base = torch.randn([s * k + 1 for s, k in zip(shape, steps, strict=True)]).to(dtype)
        base = base.permute(order).contiguous().permute([order.index(d) for d in range(len(shape))])
        for d, (s, k) in enumerate(zip(shape, steps, strict=True)):
            base = base.narrow(d, 1, s * k)[(slice(None),) * d + (slice(None, None, k),)]
        return base

    g, mask = view(), view().float()
    mask.abs_()  # in place: its strides are kept
    if not mask.any():
        return
    a = everything(g, "two_sided", {}, over, mask=mask)
    b = everything(g.contiguous(), "two_sided", {}, over, mask=mask.contiguous())
    assert same(a, b)
    r, f, e = view(), view(), torch.rand(shape[0])
    assert torch.equal(fastgan.interpolate(r, f, e), fastgan.interpolate(r.contiguous(), f.contiguous(), e))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e5, 1e5, width=32), min_size=1, max_size=40), st.integers(-80, 80))
def test_properties(values, exponent):
    """A power of two goes through; signs and zeros do not matter; the norm is that of all parts' norms."""
    g = torch.tensor(values)[None]
    n = fastgan.gradient_norm(g)
    if n > 1e-3:
        assert torch.equal(
            fastgan.gradient_norm(torch.ldexp(g, torch.tensor(exponent))), torch.ldexp(n, torch.tensor(exponent))
        )
    assert torch.equal(fastgan.gradient_norm(-g), n)
    assert torch.equal(fastgan.gradient_norm((g, torch.zeros_like(g))), n)
    assert fastgan.norm_penalty(g, "one_sided", target=2.0) <= fastgan.norm_penalty(g, target=2.0)
    parts = fastgan.gradient_norm(torch.stack([fastgan.gradient_norm(x[:, None]) for x in g]))
    assert ulp.error(parts, n.double()) <= 2.0


# ---------------------------------------------------------------------------------- options


def test_several_tensors_have_one_norm():
    a, b = torch.randn(4, 3, 5), torch.randn(4, 8).half()
    both = torch.cat([a.flatten(1), b.flatten(1).float()], 1)
    assert ulp.error(fastgan.gradient_norm((a, b)), both.double().norm(dim=1)) <= 1.0
    assert ulp.error(fastgan.gradient_norm([a, b], over="batch"), both.double().norm()) <= 1.0
    a.requires_grad_()
    b.requires_grad_()
    grads = torch.autograd.grad(fastgan.norm_penalty((a, b)), (a, b))
    with fastgan.backend("reference"):
        wanted = torch.autograd.grad(fastgan.norm_penalty((a, b)), (a, b))
    for g, w in zip(grads, wanted, strict=True):
        assert g.dtype is w.dtype
        torch.testing.assert_close(g, w, rtol=2e-3 if g.dtype is torch.float16 else 1e-6, atol=0)


def test_masks_as_image_restorers_have_them():
    """BasicSR's and mmagic's formula, for a norm a pixel and a norm a sample."""
    g = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    holes = torch.rand(2, 1, 6, 5) > 0.4
    soft = torch.rand(2, 1, 6, 5)
    for over, dims in (("channel", 1), ("sample", (1, 2, 3))):
        for m in (holes, holes.float(), soft, soft.double(), soft.expand(2, 3, 6, 5)):
            mask = m.double()
            want = (((g * mask).norm(2, dim=dims) - 1) ** 2).mean() / mask.mean()
            got = fastgan.norm_penalty(g, over=over, mask=m)
            torch.testing.assert_close(got, want, rtol=1e-13, atol=0)
            torch.testing.assert_close(
                torch.autograd.grad(got, g)[0],
                torch.autograd.grad(want, g, retain_graph=True)[0],
                rtol=1e-12,
                atol=1e-15,
            )


def test_weights_of_samples():
    g = torch.randn(3, 2, 4, dtype=torch.float64)
    w = torch.tensor([0.0, 1.0, 2.5])
    want = ((g.norm(dim=1) - 1) ** 2 * w.double()[:, None]).mean()
    torch.testing.assert_close(fastgan.norm_penalty(g, over="channel", weights=w), want)
    want = (g.flatten(1).norm(dim=1) - 1).square() * w.double()
    torch.testing.assert_close(fastgan.norm_penalty(g, weights=w, reduction="none"), want)
    with fastgan.backend("reference"):
        torch.testing.assert_close(fastgan.norm_penalty(g, weights=w, reduction="sum"), want.sum())
    negated = torch.tensor([1 - 2j], dtype=torch.complex128).conj().imag
    assert negated.is_neg()
    assert fastgan.norm_penalty(torch.ones(1, 4), weights=negated, target=0.0) == 8.0


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_statistics(backend):
    g = torch.randn(50, 30) * 0.2
    with fastgan.backend(backend):
        value, stats = fastgan.norm_penalty(g, target=1.1, return_stats=True)
    n = g.double().norm(dim=1)
    want = [n, n.mean(), n.std(correction=0), n.min(), n.max(), (n > 1.1).double().mean()]
    for got, w in zip(stats[:6], want, strict=True):
        assert got.dtype is torch.float32
        assert not got.requires_grad
        assert ulp.error(got, w) <= 2.0
    assert stats.engine is None
    assert torch.equal(value, fastgan.norm_penalty(g, target=1.1))
    assert stats.norms.shape == (50,)


def test_nothing_is_recorded_without_a_need():
    g = torch.randn(3, 4, requires_grad=True)
    with torch.no_grad():
        assert not fastgan.norm_penalty(g).requires_grad
    assert not fastgan.norm_penalty(g.detach()).requires_grad
    with torch.inference_mode():
        assert fastgan.norm_penalty(torch.ones(1, 4)) == 1.0


def test_a_penalty_scaled_for_float16_keeps_its_gradients():
    g = torch.full((4096, 2), 2.0**-10, dtype=torch.float16, requires_grad=True)
    fastgan.norm_penalty(g, "power").mul(2.0**16).backward()
    assert torch.equal(g.grad, torch.full_like(g, 2.0**-10 * 2 / 4096 * 2**16))


def compiled_penalty(g):
    return fastgan.norm_penalty(g * 1.0, "one_sided", target=0.2) + fastgan.gradient_norm(g, over="channel").sum()


def compiled_points(g):
    return fastgan.interpolate(g * 2, g, torch.linspace(0, 1, g.shape[0], dtype=g.dtype)).square().sum()


def compiled_mask(g):
    return fastgan.norm_penalty(
        g * 1.0, mask=torch.linspace(0, 1, 6, dtype=g.dtype), weights=torch.ones(g.shape[0])
    )


@pytest.mark.parametrize("call", [compiled_penalty, compiled_points, compiled_mask])
def test_compile_traces_the_whole_graph(call):
    torch._dynamo.reset()
    step = torch.compile(call, fullgraph=True, backend="aot_eager")
    for n in (4, 5, 9):
        g = torch.randn(n, 3, 6, dtype=torch.float64, requires_grad=True)
        got, want = step(g), call(g)
        torch.testing.assert_close(got, want, rtol=1e-13, atol=0)
        torch.testing.assert_close(
            torch.autograd.grad(got, g), torch.autograd.grad(want, g), rtol=1e-12, atol=1e-14
        )


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_modified_masks_under_compiled_autograd(before, after):
    """A mask that changed before the forward is fine, one that changes after it is not."""
    from torch._dynamo import compiled_autograd

    x = torch.randn(6, 4, requires_grad=True)
    mask = torch.ones(6, 4)
    if before:
        mask[0] = 2
    value = fastgan.norm_penalty(x, mask=mask)
    (want,) = torch.autograd.grad(value, x, retain_graph=True)
    if after:
        mask.mul_(3)
    compiler = compiled_autograd._enable(lambda module: torch.compile(module, backend="eager"))
    with pytest.raises(RuntimeError, match="modified by an inplace") if after else nullcontext(), compiler:
        value.backward()
    assert after or torch.equal(x.grad, want)


@pytest.mark.parametrize("call", [fastgan.gradient_norm, fastgan.norm_penalty])
@pytest.mark.parametrize("nothing", [(), []])
def test_no_gradients_at_all(call, nothing):
    with pytest.raises(ValueError, match="grads: expected at least one tensor"):
        call(nothing)
