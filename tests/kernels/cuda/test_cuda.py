"""The CUDA kernels, run on the CPU (tests/helpers/cusim), against the CPU kernels: the same bits, everywhere.

Every comparison is exact. Launch shapes and the order of threads and blocks vary; neither may be seen.
"""

import itertools
import sys
import threading
import time

import pytest
import torch

import fastgan
from tests.helpers import simulated
from tests.helpers.calls import flat, gradients, layouts, logits, losses, norms, parts, per_element, points, same

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
FORMS = [None, "paired", "average"]
# Warps a block, blocks a multiprocessor, multiprocessors; zeros: as on a device.
SHAPES = [(0, 0, 0), (1, 1, 1), (3, 1, 2), (8, 1, 1), (8, 16, 132)]


@pytest.fixture(scope="module")
def sim():
    return simulated.kernels()


@pytest.fixture(autouse=True)
def _as_before(sim):
    yield
    sim.module.cuda_shape(0, 0, 0)
    sim.set_order(0, 0)
    sim.stream = 1
    assert not sim.shared.cusim_counters_left(), "a launch left its counters as the next must not find them"
    assert not any(room.any() for room in sim.zeroed)


def check_same(call, strides=True):
    """`call()` on the CPU kernels and on the simulated ones, bit by bit (NaN as NaN)."""
    want = [t.detach().clone() for t in flat(call())]
    with simulated.serving():
        got = [t.detach() for t in flat(call())]
    same(got, want, strides)


# ---------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_with_a_graph(sim, dtype):
    for n in (1, 1025, 3000):
        check_same(parts(logits(n, dtype=dtype), logits(n, dtype=dtype, seed=1)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss", fastgan.losses())
def test_losses(sim, loss, form, dtype):
    if loss == "ranking" and form:
        pytest.skip("ranking is relativistic as it stands")
    for n in (1, 31, 1025, 3000):
        check_same(losses(logits(n, dtype=dtype), logits(n, dtype=dtype, seed=1), loss=loss, relativistic=form))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", simulated.ORDERS)
@pytest.mark.parametrize("form", FORMS)
def test_every_launch_shape_and_order(sim, form, order, shape):
    sim.module.cuda_shape(*shape)
    sim.set_order(simulated.ORDERS[order], 7)
    n = 2 * 1024 * 5 + 3  # with these shapes: one block, blocks that do several chunks, one each
    check_same(losses(logits(n), logits(n, seed=1), relativistic=form, return_stats=True, second=False))
    check_same(losses(logits(n), logits(n, seed=1), relativistic=form, reduction="none"))


@pytest.mark.parametrize("form", FORMS)
def test_sums_of_more_than_a_million_elements(sim, form):
    """Three levels of the tree; of one tensor beside a small one."""
    big, small = logits(1024 * 1024 + 5), logits(1024 * 1024 + 5, seed=1)
    if form != "paired":
        small = small[:7]
    check_same(losses(big, small, loss="hinge", relativistic=form, return_stats=True, second=False))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_infinities_and_nan(sim, form, dtype):
    x = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, 3.0, -3.0], dtype=dtype)
    for loss in ("nonsaturating", "hinge", "least_squares", "wasserstein"):
        check_same(losses(x, x.flip(0), loss=loss, relativistic=form, return_stats=True))


PHIS = fastgan.backends.specs.PHIS
# Scale, shift and linear part of a term: usual ones, and some at which floats and doubles part.
FORMULAS = [
    (1.0, 0.0, 0.0), (-1.0, 1.0, 0.0), (1.0, 0.0, -0.9), (0.1, 1e-3, 0.25), (-3.7, 0.1, 1e-20), (-1.0, 0.0, 1e-37),
    (1e-30, 0.0, 0.0), (1e25, -1.0, 0.0), (0.0, 1.0, 0.5), (-2.0, -0.0, 0.0), (0.5, 1e-38, 0.0), (-1.0, 0.0, 1e-7),
    (1e-3, 1e6, -1e-9), (0.1, -0.3, 0.0),
]  # fmt: skip


def every_logit(dtype):
    """All 65,536 patterns of 16 bits."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("phi", PHIS)
@pytest.mark.parametrize("steady", [False, True])
def test_gradients_of_every_16_bit_logit(sim, steady, phi, dtype):
    """Those that floats round to, and the others, as doubles round to; alone and in pairs."""
    sim.module.cuda_shape(8, 1, 1 if steady else 1000)
    x = every_logit(dtype)
    other = x[torch.randperm(x.numel(), generator=torch.Generator().manual_seed(1))]
    other[::5] = x[::5]  # at the kink of those without a shift

    def call(scale, shift, linear, upstream, paired):
        def run():
            real, fake = x.clone().requires_grad_(), other.clone().requires_grad_()
            term = fastgan.term(phi, scale=scale, shift=shift, linear=linear)
            tensors = [(real, fake)] if paired else [real]
            loss = fastgan.reduce_terms([term], tensors, reduction="sum", weights=[1 / 3])
            return torch.autograd.grad(loss, (real, fake) if paired else (real,), torch.tensor(upstream))

        return run

    for formula, upstream in zip(FORMULAS, itertools.cycle([1.0, 1.5, -1 / 3, 65536.0, 1e-30, 1e-17])):
        check_same(call(*formula, upstream, False))
        check_same(call(*formula, upstream, True))


# The part of 16-bit gradients that doubles may have to round: from intervals of 2^-18, where bfloat16 has 2^7 steps from
# one power of 2 to the next, and float16 2^10. All four of a thread's elements are, of cheap functions.
MOST_IN_DOUBLE = {torch.bfloat16: 0.02, torch.float16: 0.03}


@pytest.mark.parametrize("dtype", list(MOST_IN_DOUBLE))
@pytest.mark.parametrize("phi", [phi for phi in PHIS if phi not in ("huber", "softplus_square")])  # they are all
def test_few_gradients_of_16_bits_are_taken_from_doubles(sim, phi, dtype):
    """Whatever their sign, of arguments below, above and, without a shift, at the kink."""
    n = 8192
    x = (torch.randn(n, generator=torch.Generator().manual_seed(1)) * 4).to(dtype).requires_grad_()
    y = torch.where(torch.arange(n) % 4 > 0, x.detach().roll(1), x.detach()).requires_grad_()
    for scale, upstream in itertools.product((1.0, -1.0), (1.1234567, -0.31415926)):
        for term, of in ((fastgan.term(phi, scale=scale, shift=1.0), x), (fastgan.term(phi, scale=scale), (x, y))):
            if phi in ("square", "softplus") and isinstance(of, tuple):
                continue
            with simulated.serving():
                loss = fastgan.reduce_terms([term], [of])
                sim.gradients_in_double()
                torch.autograd.grad(loss, x, torch.tensor(upstream))
                assert sim.gradients_in_double() <= MOST_IN_DOUBLE[dtype] * n, (scale, upstream, of is x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", range(9))
@pytest.mark.parametrize("multiprocessors", [1, 1000])
def test_tensors_that_are_not_aligned(sim, multiprocessors, offset, dtype):
    """As halves of a batch of real and fake samples are: at any element, with gradients that are aligned."""
    sim.module.cuda_shape(8, 1, multiprocessors)
    n = 20 * 1024 + 5
    both = logits(2 * n + 9, dtype=dtype)
    real, fake = both[offset : offset + n], both[offset + n : offset + 2 * n]
    for form in (None, "paired"):
        check_same(losses(real, fake, relativistic=form, second=False))
        check_same(losses(real, fake, relativistic=form, second=False, upstream=1.0, loss="hinge"))
    check_same(losses(real[:3000], fake, relativistic="average", return_stats=True))
    check_same(losses(real[:3], fake[:2]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_of_every_16_bit_logit_from_a_mean(sim, dtype):
    x = every_logit(dtype)
    x = x[x.abs() < 1000]  # else the mean is NaN
    for loss in ("nonsaturating", "hinge", "least_squares"):
        check_same(losses(x, x.roll(777), loss=loss, relativistic="average", second=False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("form", [None, "paired"])
def test_a_step_reads_logits_once_and_writes_gradients_once(sim, form, dtype):
    """Forward does both; backward leaves them as they are where its upstream is 1."""
    n = 8 * 1024
    real, fake = logits(n, dtype=dtype).requires_grad_(), logits(n, dtype=dtype, seed=1).requires_grad_()
    all_bytes = 2 * n * real.element_size()
    for upstream, again in ((1.0, 0), (0.5, all_bytes)):
        with simulated.serving():
            sim.bytes_moved()
            loss = fastgan.discriminator_loss(real, fake, relativistic=form)
            assert sim.bytes_moved() == (all_bytes, all_bytes)
            found = torch.autograd.grad(loss, (real, fake), torch.tensor(upstream, dtype=loss.dtype))
            assert sim.bytes_moved() == (again, again)
        loss = fastgan.discriminator_loss(real, fake, relativistic=form)
        same(found, torch.autograd.grad(loss, (real, fake), torch.tensor(upstream, dtype=loss.dtype)))


def test_float16_leaves_gradients_to_backward(sim):
    """Its upstream is a loss scale."""
    real = logits(4096, dtype=torch.float16).requires_grad_()
    with simulated.serving():
        sim.bytes_moved()
        loss = fastgan.generator_loss(real)
        assert sim.bytes_moved() == (2 * 4096, 0)
        loss.backward()
        assert sim.bytes_moved() == (2 * 4096, 2 * 4096)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_lists_of_tensors_over_several_tables(sim, form, dtype):
    """More than a table holds: 70 pairs of all sizes, weighted."""
    sizes = [1 + 37 * k % 1500 for k in range(70)]
    real = [logits(n, dtype=dtype) for n in sizes]
    fake = [logits(n, dtype=dtype, seed=9) for n in sizes]
    weights = [0.5 + k % 3 for k in range(70)]
    for options in ({"return_stats": True}, {"weights": weights, "reduction": "sum"}, {"reduction": "none"}):
        check_same(losses(real, fake, relativistic=form, **options))


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_in_a_tensor(sim, dtype):
    real, fake = [logits(n) for n in (5, 1100, 70)], [logits(n, seed=1) for n in (5, 1100, 70)]
    weights = torch.tensor([0.1, 2.0, 0.7], dtype=dtype)
    for form in FORMS:
        check_same(losses(real, fake, relativistic=form, weights=weights, return_stats=True))
        check_same(losses(real, fake, relativistic=form, weights=weights[::1], reduction="none"))
    with simulated.serving():
        r = [x.requires_grad_() for x in real]
        loss = fastgan.discriminator_loss(r, fake, weights=weights)
        weights += 1
        with pytest.raises(RuntimeError, match="weights: modified by an inplace operation"):
            loss.backward()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_layouts(sim, form, dtype):
    for a, b in itertools.pairwise([*layouts(dtype), next(layouts(dtype))]):
        check_same(losses(a, b, relativistic=form, return_stats=True))
        check_same(losses(a, b, relativistic=form, reduction="none"))


def test_more_strided_tensors_than_a_table_holds(sim):
    real = [logits(20, 60).t() for _ in range(9)]
    fake = [logits(20, 60, seed=1).t() for _ in range(9)]
    for form in FORMS:
        check_same(losses(real, fake, relativistic=form))


def test_many_dimensions(sim):
    x = logits(2, 3, 2, 3, 2, 3, 2, 3)[..., ::2].permute(7, 0, 6, 1, 5, 2, 4, 3)
    with simulated.serving() as kernels:
        assert kernels.prepare(x).is_contiguous()
    check_same(losses(x, x.flip(0), relativistic="average"), strides=False)  # it is copied


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pairs", [1, 2, 40])
def test_centres_that_are_nothing_else(sim, pairs, dtype):
    """Their gradient is one number everywhere; 40 pairs are more than a table holds."""

    def call(reduction):
        x = [logits(1 + 700 * k % 2100, dtype=dtype, seed=k).requires_grad_() for k in range(pairs)]
        y = [logits(1 + 900 * k % 3100, dtype=dtype, seed=k + 99).requires_grad_() for k in range(pairs)]
        terms = [fastgan.term("softplus", linear=0.25 * k) for k in range(pairs)]
        result = fastgan.reduce_terms(terms, list(zip(x, y, strict=True)), centred=True, reduction=reduction)
        total = sum((r * 1.5).sum() for r in flat([result]))
        first = torch.autograd.grad(total, [*x, *y], create_graph=True)
        return result, first, torch.autograd.grad(sum(g.sum() for g in first), [*x, *y])

    for reduction in ("mean", "none"):
        check_same(lambda r=reduction: call(r))


@pytest.mark.parametrize("dtype", DTYPES)
def test_second_order_without_cotangents_of_the_centres(sim, dtype):
    """Their mean is 0, and no kernel has any of their elements to read."""

    def call():
        x, y = logits(1500, dtype=dtype).requires_grad_(), logits(700, dtype=dtype, seed=1).requires_grad_()
        loss = fastgan.reduce_terms([fastgan.term("softplus")], [(x, y)], centred=True)
        (first,) = torch.autograd.grad(loss, [x], create_graph=True)
        return first, torch.autograd.grad(first.square().sum(), [x, y])

    check_same(call)


def test_terms_of_ones_own(sim):
    t = [fastgan.term("softplus", linear=0.5), fastgan.term("abs", scale=-2.0, shift=0.1, weight=3.0)]

    def call():
        x = [logits(n, seed=n).requires_grad_() for n in (1300, 2200)]
        for reduction in ("mean", "none"):
            result = fastgan.reduce_terms(t, x, reduction=reduction)
            yield result
            yield torch.autograd.grad(sum(r.sum() for r in flat([result])), x)

    check_same(lambda: list(call()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_masks_and_labels_per_element(sim, form, dtype):
    for n in (3, 300):
        real, fake = logits(n, 7, dtype=dtype), logits(n, 7, dtype=dtype, seed=1)
        for options in per_element(n, form):
            for reduction in ("mean", "sum", "none"):
                check_same(losses(real, fake, relativistic=form, reduction=reduction, **options))


def test_masks_of_many_members(sim):
    """More terms, operands and tensors with gaps than a table holds."""
    real, fake = [[logits(5, 7, seed=2 * k + j) for k in range(40)] for j in range(2)]
    masks = [None if k % 3 == 0 else torch.rand(5, 1) for k in range(40)]
    for form in FORMS:
        call = losses(
            real, fake, relativistic=form, loss="nonsaturating", real_mask=masks, real_target=[fake[0] > 0] * 40
        )
        check_same(call)


def test_soft_labels_and_margins(sim):
    r, f = logits(2000), logits(2000, seed=1)
    check_same(losses(r, f, loss="bce", real_target=0.9, fake_target=0.1))
    check_same(losses(r, f, loss="hinge", margin=0.3, relativistic="average"))
    check_same(losses(r, f, loss="least_squares", targets=(-1.0, 0.7, 0.0)))


def test_backward_twice_from_different_upstreams(sim):
    def call():
        r, f = logits(2500).requires_grad_(), logits(2500, seed=1).requires_grad_()
        loss = fastgan.discriminator_loss(r, f, relativistic="average")
        first = torch.autograd.grad(loss * 3, (r, f), retain_graph=True)
        return first, torch.autograd.grad(loss * -0.1, (r, f), retain_graph=True), torch.autograd.grad(loss, (r, f))

    check_same(call)


# ---------------------------------------------------------------------------------- norms and penalties

KINDS = [
    ("two_sided", {}),
    ("one_sided", {"target": 0.5}),
    ("power", {}),
    ("power", {"power": 1}),
    ("power", {"power": 6}),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("over", ["sample", "channel", "batch"])
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_penalties(sim, kind, options, over, dtype):
    for shape in ((4, 3, 5, 7), (2, 5, 30, 31), (3, 40, 2)):
        g = gradients(*shape, dtype=dtype)
        check_same(norms(g, kind, over=over, **options))
        check_same(norms(g, kind, over=over, reduction="none", **options))


@pytest.mark.parametrize("dtype", DTYPES)
def test_signs_of_zeros(sim, dtype):
    x = torch.full((1,), -100.0, dtype=dtype).requires_grad_()
    c = torch.zeros(1024, dtype=dtype).requires_grad_()

    def call():
        loss = fastgan.reduce_terms([fastgan.term("softplus")], [(x, c)], centred=True, reduction="sum")
        first = torch.autograd.grad(loss, (x, c), retain_graph=True)
        return first, torch.autograd.grad(loss, (x, c), retain_graph=True), torch.autograd.grad(loss * -1, (x, c))

    check_same(call)
    for channels in (1, 3, 127, 128, 130):
        g = torch.zeros(2, channels, 3, 3, dtype=dtype)
        g[:1] = -1
        for over in ("sample", "channel", "batch"):
            check_same(norms(g, over=over))
            check_same(norms(-g[:1], over=over, **({} if over == "batch" else {"weights": torch.tensor([-1.0])})))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", simulated.ORDERS)
def test_penalties_in_every_launch_shape_and_order(sim, order, shape):
    sim.module.cuda_shape(*shape)
    sim.set_order(simulated.ORDERS[order], 3)
    for rows, length in ((3, 9000), (1, 2049), (40, 1300), (200, 3)):
        check_same(norms(gradients(rows, length), return_stats=True, second=rows < 40))


def test_norms_of_a_long_row(sim):
    """Three levels of the tree within a row, by several blocks."""
    check_same(norms(gradients(2, 1024 * 1024 + 33), return_stats=True, second=False))
    check_same(norms(gradients(1024 * 1024 + 33, dtype=torch.bfloat16), over="batch", second=False))


def test_more_rows_than_one_launch_adds_up(sim):
    check_same(norms(gradients(5000, 2), return_stats=True))
    check_same(norms(gradients(5000, 40), return_stats=True, second=False))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("over", ["sample", "channel", "batch"])
def test_several_tensors_masks_and_weights(sim, over, dtype):
    """More tensors than a table holds."""
    gs = [gradients(3, 2 + k, 6, 50, dtype=dtype, seed=k) for k in range(6)]
    check_same(norms(gs, over=over))
    mask = torch.rand(3, 1, 6, 50, generator=torch.Generator().manual_seed(0)) > 0.3
    options = {"mask": mask} if over == "batch" else {"mask": mask, "weights": torch.tensor([1.0, 0.5, 3.0])}
    check_same(norms(gs[0], over=over, **options))
    check_same(norms(gs[1], "power", power=3, over=over, reduction="none", **options))


@pytest.mark.parametrize("exponent", [-320, -300, -160, 0, 140, 160, 305])
@pytest.mark.parametrize("shape", [(3, 5), (3, 50), (2, 5000)])
def test_doubles_whose_squares_overflow_or_underflow(sim, shape, exponent):
    g = gradients(*shape, dtype=torch.float64) * 10.0**exponent
    check_same(norms(g, "power", power=1, second=exponent > -300))
    many = [gradients(*shape, dtype=torch.float64, seed=k) * 10.0**exponent for k in range(6)]
    check_same(norms(many, "power", power=1, second=exponent > -300, return_stats=True))
    check_same(norms(many, over="batch", second=False))
    many[0][1, 1] = torch.inf
    check_same(norms(many, second=False))
    mixed = gradients(*shape, dtype=torch.float64) * 10.0**-30  # K11: a factor that must not meet h / n too late
    mixed[:, 0] = 10.0 ** min(abs(exponent), 300)
    check_same(norms(mixed))
    wide = gradients(3, 4, 30, dtype=torch.float64) * 10.0**exponent
    check_same(norms(wide, "power", power=1, over="channel", second=exponent > -300))


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_of_gradients(sim, dtype):
    g = gradients(3, 5, 14, 15, dtype=dtype)
    for t in (
        g.contiguous(memory_format=torch.channels_last),
        g.flatten()[1:-1049].view(2, 5, 10, 21) if g.numel() > 3150 else g.flatten()[1:2101].view(2, 5, 10, 21),
        g[:, :, ::2, ::3],
        g.permute(2, 1, 0, 3),
        g[:1].expand(4, 5, 14, 15),
    ):
        for over in ("sample", "channel", "batch"):
            check_same(norms(t, over=over, return_stats=True))


def test_infinities_and_nan_in_gradients(sim):
    for bad in (torch.inf, torch.nan):
        for dtype in DTYPES:
            g = gradients(4, 300, dtype=dtype)
            g[2, 77] = bad
            check_same(norms(g, return_stats=True, second=False))
            check_same(norms(g[:, 70:80], return_stats=True, second=False))


# ---------------------------------------------------------------------------------- points between samples


@pytest.mark.parametrize("order", simulated.ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_points(sim, dtype, order):
    sim.set_order(simulated.ORDERS[order], 5)
    for shape in ((1, 1), (5, 3), (70, 20), (3, 5000), (4, 3, 33, 35)):
        real, fake = gradients(*shape, dtype=dtype), gradients(*shape, dtype=dtype, seed=1)
        real.flatten()[::3] = fake.flatten()[::3]
        check_same(points(real, fake))
        check_same(points(real, fake, need_eps=False))
    many = tuple(gradients(3, 2000 + k, dtype=dtype, seed=k) for k in range(6))
    check_same(points(many, tuple(m.flip(1) for m in many)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_points_in_all_layouts(sim, dtype):
    real, fake = gradients(3, 5, 14, 15, dtype=dtype), gradients(3, 5, 14, 15, dtype=dtype, seed=1)
    check_same(points(real.contiguous(memory_format=torch.channels_last), fake))
    check_same(points(real[:, :, ::2, ::3], fake[:, :, ::2, 1::3]))
    check_same(points(real.permute(1, 0, 3, 2), fake.permute(1, 0, 3, 2).contiguous()))


@pytest.mark.parametrize("shape", SHAPES)
def test_points_in_every_launch_shape(sim, shape):
    sim.module.cuda_shape(*shape)
    check_same(points(gradients(3, 9000), gradients(3, 9000, seed=1)))


# ---------------------------------------------------------------------------------- memory and errors


def test_counters_are_a_streams_own_and_a_captures_own(sim):
    """A stream gets counters once; a launch that is captured gets new ones, set to 0 by its graph."""
    with simulated.serving():
        for stream, streams, captures in (
            (101, 1, 0),
            (101, 0, 0),
            (102, 1, 0),
            (101, 0, 0),
            (-5, 0, 1),
            (-5, 0, 1),
        ):
            sim.stream = stream
            before = sim.shared.cusim_streams(), len(sim.zeroed)
            fastgan.generator_loss(logits(40_000))
            assert (sim.shared.cusim_streams(), len(sim.zeroed)) == (before[0] + streams, before[1] + captures)
        sim.stream = 103
        fastgan.generator_loss(logits(100))  # one block needs none
        assert sim.shared.cusim_streams() == before[0]


def test_counters_are_a_devices_own(sim):
    """Streams of two devices may have one number."""
    spec = sim.module.Spec([(1, 0, -1, -1, 1.0, 0.0, 0.0, 1.0, 0.0, 0, 0, 0, -1, -1)], [0])
    streams = sim.shared.cusim_streams()
    for device in (3, 4, 3):
        where = (device, 104, sim._empty, sim._zeros)
        sim.module.cuda_forward(spec, (logits(40_000),), None, torch.empty(()), (), 2, None, False, False, where)
    assert sim.shared.cusim_streams() == streams + 2


def test_other_threads_run_during_a_launch(sim):
    """A launch blocks while the device's queue is full; Python's lock is free meanwhile."""
    spec = sim.module.Spec([(1, 0, -1, -1, 1.0, 0.0, 0.0, 1.0, 0.0, 0, 0, 0, -1, -1)], [0])
    x, result, ticks, stop = logits(1024 * 1024), torch.empty(()), [], threading.Event()
    memory = sim._empty(1 << 20)
    where = (0, 1, lambda size: memory, lambda size: memory)  # nothing else lets go of the lock
    sim.module.cuda_shape(1, 1, 1)  # one block

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # nor does the interpreter
    other = threading.Thread(target=tick)
    try:
        other.start()
        begin = time.perf_counter()
        sim.module.cuda_forward(spec, (x,), None, result, (), 2, None, False, False, where)
        end = time.perf_counter()
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        other.join()
    # A launch takes nearly all of the call; its first and last moments are the call's own.
    margin = (end - begin) / 4
    assert any(begin + margin < t < end - margin for t in ticks)


def test_what_the_binding_refuses(sim):
    module, x, place = sim.module, logits(40_000), sim.place()
    spec = module.Spec([(1, 0, -1, -1, 1.0, 0.0, 0.0, 1.0, 0.0, 0, 0, 0, -1, -1)], [0])
    result = torch.empty(())

    def forward(tensors=(x,), out=result, reduction=2, where=place, weights=()):
        module.cuda_forward(spec, tensors, None, out, weights, reduction, None, False, False, where)

    forward()
    for wrong, error, message in (
        ({"tensors": (torch.empty(3, device="meta"),)}, ValueError, r"x\[0\]: expected a tensor with memory"),
        ({"tensors": (torch.empty(0),)}, ValueError, r"x\[0\]: expected at least one element"),
        ({"tensors": (x.int(),)}, ValueError, r"x\[0\]: expected float32, .* got torch.int32"),
        ({"tensors": (x, x)}, ValueError, "x: expected 1 operands, got 2"),
        ({"out": torch.empty((), dtype=torch.float64)}, ValueError, "result: expected float32"),
        ({"out": torch.empty(2)}, ValueError, "result: expected 1 elements, got 2"),
        ({"reduction": 7}, ValueError, "reduction: expected a code from 0 to 2, got 7"),
        ({"weights": torch.ones(4)[::2]}, ValueError, "weights: expected a contiguous tensor"),
        (
            {"weights": torch.ones(2, dtype=torch.int64)},
            ValueError,
            "weights: expected float32, .* got torch.int64",
        ),
        ({"where": place[:3]}, ValueError, "where: expected device, stream and two functions, got 3"),
        (
            {"where": (0, 1, lambda n: place[2](n + 1)[1:], place[3])},
            RuntimeError,
            "where: expected functions that give memory aligned",
        ),
    ):
        with pytest.raises(error, match=message):
            forward(**wrong)
    odd = torch.zeros(2, 4, 2, 4, 2, 4, 2, 4)[..., ::2].permute(7, 0, 6, 1, 5, 2, 4, 3)
    with pytest.raises(ValueError, match="6 dimensions"):
        forward((odd,))
    with pytest.raises(ValueError, match=r"cuda_shape: expected 0 to 8 warps .* got 9, 0, 0"):
        module.cuda_shape(9, 0, 0)
    with pytest.raises(ValueError, match="cuda_shape"):
        module.cuda_shape(1, -1, 0)
