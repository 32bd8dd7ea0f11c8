"""The Triton kernels, run by Triton's interpreter, against the CPU kernels: the same bits, everywhere.

In a process of its own: TRITON_INTERPRET=1 python -m pytest tests/kernels/triton/test_triton.py (`make test` runs it so). Every
comparison is exact, NaN as NaN. What the interpreter has wrong is mended in tests/helpers/interpreted.py.
"""

import itertools
import os

import pytest
import torch

import fastgan
from fastgan.backends import native
from tests.helpers import calls
from tests.helpers.calls import flat, gradients, layouts, logits, losses, parts, per_element, points, same
from tests.helpers.marks import slow_but

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1, in a process of its own", allow_module_level=True)
if native.native is None:
    pytest.skip("compares with the compiled kernels, which are not there", allow_module_level=True)

from fastgan.backends import triton as ft
from fastgan.backends.triton import losses as losses_of
from fastgan.backends.triton import norms as rows_of
from tests.helpers import interpreted, ulp

if interpreted.OLD and not interpreted.fma_is_true():
    pytest.skip("Triton's interpreter rounds fma twice before Triton 3.9", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of infinities
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
FORMS = [None, "paired", "average"]
SHORT = [1, 2, 31, 128, 1023, 1024, 1025]


def check_same(call):
    """`call()` on the CPU kernels and on the Triton kernels."""
    want = [t.detach().clone() for t in flat(call())]
    with fastgan.backend("triton"):
        got = [t.detach() for t in flat(call())]
    same(got, want, strides=False)  # a copy is made of what has gaps


def norms(grads, *arguments, **options):
    """`calls.norms`, and the statistics, which it leaves out."""
    call = calls.norms(grads, *arguments, **options)
    if not options.get("return_stats"):
        return call
    given = {k: v for k, v in options.items() if k != "second"}
    return lambda: [call(), fastgan.norm_penalty(grads, *arguments, **given)[1]]


@pytest.fixture
def as_on_a_device(monkeypatch):
    """Blocks as small as on a device, where the interpreter would take large ones."""
    monkeypatch.setattr(ft.Triton, "rows_at_once", lambda self, heavy: 1 if heavy else 8)
    monkeypatch.setattr(ft.Triton, "block", 1024)
    monkeypatch.setattr(ft.Triton, "tile", 1024)


@pytest.fixture
def no_single_program(monkeypatch):
    monkeypatch.setattr(losses_of, "ONE_CALL", 0)


def test_the_interpreter_has_a_true_fma():
    assert interpreted.fma_is_true(), "use Triton 3.9 or newer for these tests"


# ---------------------------------------------------------------------------------- element maths


def patterns(dtype):
    """All 16-bit patterns, or as many at random of more bits, with the edges."""
    if dtype.itemsize == 2:
        return torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype)
    generator = torch.Generator().manual_seed(0)
    limit = 2 ** (8 * dtype.itemsize - 1)
    integers = torch.int32 if dtype.itemsize == 4 else torch.int64
    bits = torch.randint(-limit, limit - 1, (40_000,), generator=generator, dtype=integers).view(dtype)
    near = torch.randn(24_000, generator=generator, dtype=dtype) * 30
    edges = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 104.0, -104.0, 746.0, -746.0], dtype=dtype)
    return torch.cat([bits, near, edges])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("phi", fastgan.backends.specs.PHIS)
def test_every_phi(phi, dtype):
    """Value, first and second derivative."""
    x = patterns(dtype)
    want = ulp.jet(phi, x)
    with fastgan.backend("triton"):
        got = ulp.jet(phi, x)
    same(got, want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("phi", fastgan.backends.specs.PHIS)
def test_every_phi_with_a_linear_part(phi, dtype):
    x = patterns(dtype)[-30_000:]

    def call():
        for scale, linear in ((1.0, -0.25), (-1.0, 0.9), (2.0, -2.0)):
            t = x.clone().requires_grad_()
            (value,) = fastgan.reduce_terms(
                [fastgan.term(phi, scale=scale, shift=0.3, linear=linear)], [t], reduction="none"
            )
            yield value
            yield torch.autograd.grad(value, t, torch.ones_like(value))

    check_same(lambda: list(call()))


# ---------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss", fastgan.losses())
def test_losses(loss, form, dtype):
    if loss == "ranking" and form:
        pytest.skip("ranking is relativistic as it stands")
    check_same(losses(logits(1300, dtype=dtype), logits(1300, dtype=dtype, seed=1), loss=loss, relativistic=form))


@pytest.mark.parametrize("n", slow_but(SHORT, [*SHORT, 20_000]))
@pytest.mark.parametrize("form", FORMS)
def test_sizes(form, n):
    check_same(losses(logits(n), logits(n, seed=1), loss="hinge", relativistic=form, return_stats=True))
    check_same(losses(logits(n), logits(n, seed=1), loss="hinge", relativistic=form, reduction="none"))


@pytest.mark.usefixtures("as_on_a_device")
@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("form", slow_but(["average"], FORMS))
def test_launch_shapes_of_a_device(form, single, monkeypatch):
    if not single:
        monkeypatch.setattr(losses_of, "ONE_CALL", 0)
    for n, dtype in ((3, torch.float32), (2500, torch.bfloat16)):
        r, f = logits(n, dtype=dtype), logits(n, dtype=dtype, seed=1)
        check_same(losses(r, f, relativistic=form, return_stats=True, second=not single))


@pytest.mark.parametrize("form", slow_but(["average"], FORMS))
def test_four_chunks_a_program(form, monkeypatch):
    monkeypatch.setattr(losses_of.LossLaunches, "chunks_at_once", lambda self, tables: 4)
    check_same(losses(logits(40_000), logits(40_000, seed=1), loss="hinge", relativistic=form, return_stats=True))


def test_sums_of_more_than_a_million_elements(monkeypatch):
    """Three levels of the tree; of one tensor beside a small one."""
    monkeypatch.setattr(losses_of.LossLaunches, "chunks_at_once", lambda self, tables: 32)
    big = logits(1024 * 1024 + 5)
    check_same(losses(big, big[:7], loss="hinge", return_stats=True, second=False))


def test_sums_in_float64():
    """Of numbers whose sum depends on the order."""
    x = torch.randn(5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1e3
    x[2500:] = -x[:2500].flip(0)  # next to nothing remains but rounding errors
    for n in (5000, 1024, 700):
        check_same(lambda n=n: [fastgan.reduce_terms([fastgan.term("identity")], [x[:n]], reduction="sum")])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_infinities_and_nan(form, dtype):
    x = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, 3.0, -3.0], dtype=dtype)
    for loss in ("nonsaturating", "hinge", "least_squares"):
        check_same(losses(x, x.flip(0), loss=loss, relativistic=form, return_stats=True))


@pytest.mark.parametrize("form", slow_but([None], FORMS))
def test_lists_of_tensors_over_several_tables(form):
    """More than a table holds: 17 pairs of all sizes, weighted."""
    sizes = [1 + 137 * k % 1500 for k in range(17)]
    real = [logits(n) for n in sizes]
    fake = [logits(n, seed=9) for n in sizes]
    weights = [0.5 + k % 3 for k in range(17)]
    check_same(losses(real, fake, relativistic=form, second=form == "average", weights=weights, return_stats=True))
    check_same(losses(real, fake, relativistic=form, second=False, reduction="none"))


@pytest.mark.parametrize("count", slow_but([3, 5], [3, 5, 6, 7, 9]))
@pytest.mark.parametrize("form", FORMS)
def test_lists_shorter_than_their_table(form, count):
    """The terms that are not there change nothing: no NaN of theirs, no zero, no statistic."""
    real = [logits(n) for n in (40, 128, 1100, 7, 129, 60, 1, 2, 3)[:count]]
    fake = [logits(r.numel(), seed=1) for r in real]
    options = {"relativistic": form, "return_stats": True, "second": form == "average"}
    check_same(losses(real, fake, **options))
    check_same(losses(real, fake, weights=torch.linspace(0.1, 2, count), loss="hinge", **options))
    real[1][3] = torch.nan
    check_same(losses([r[:60] for r in real], [f[:60] for f in fake], **options))
    check_same(losses(real[:3], fake[:3], relativistic=form, reduction="none"))
    for x in (real[:3], [torch.full((n,), -0.0) for n in (5, 6, 7)]):
        check_same(lambda x=x: fastgan.reduce_terms([fastgan.term("identity")] * 3, x, return_values=True))


@pytest.fixture
def evaluated(monkeypatch):
    """The shapes of the blocks in which the sums evaluate terms."""
    from fastgan.triton_kernels import loss

    shapes, evaluate = [], loss.evaluate
    monkeypatch.setattr(
        loss, "evaluate", lambda code, z, *a: shapes.append(tuple(int(n) for n in z.shape)) or evaluate(code, z, *a)
    )
    return shapes


@pytest.mark.usefixtures("as_on_a_device")
@pytest.mark.parametrize(
    ("count", "n", "options", "blocks"),
    [
        (1, 64, {}, [(1, 2, 128)]),
        (1, 128, {"return_stats": True}, [(1, 2, 128)]),
        (1, 64, {"relativistic": "paired", "return_stats": True}, [(1, 1, 128)]),
        (3, 64, {"return_stats": True}, [(1, 8, 128)]),
        (3, 129, {}, [(8, 1, 128)] * 6),
        (1, 300, {"return_stats": True}, [(1, 1, 128)] * 6),
        (1, 64, {"relativistic": "average", "return_stats": True}, [(1, 1, 128)] * 2),
        (1, 64, {"real_target": 0.9}, [(1, 1, 128)] * 2),
        (1, 200, {"real_target": 0.9}, [(8, 1, 128)] * 2),
    ],
)
def test_rows_of_lanes_that_are_empty_are_not_evaluated(count, n, options, blocks, evaluated):
    """One warp has both terms of a small loss at a time."""
    real, fake = [logits(n, seed=k) for k in range(count)], [logits(n, seed=9 + k) for k in range(count)]

    check_same(lambda: [fastgan.discriminator_loss(real, fake, **options)])
    assert evaluated == blocks


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", [None, "paired"])
def test_small_terms_side_by_side(form, dtype):
    """Up to a row of lanes; of sizes that differ."""
    for sizes in ((128, 1), (127, 128), (128, 129), (64,), (3, 100, 128, 2, 31)):
        real = [logits(n, dtype=dtype) for n in sizes]
        fake = [logits(n, dtype=dtype, seed=1) for n in sizes]
        for loss in ("nonsaturating", "hinge"):
            check_same(losses(real, fake, loss=loss, relativistic=form, return_stats=True, second=False))
    base = logits(200, dtype=dtype)
    check_same(losses(base[1:65], base[7:71], relativistic=form, second=False))


@pytest.mark.parametrize("dtype", slow_but([torch.float32], DTYPES))
def test_weights_in_a_tensor(dtype):
    real, fake = [logits(n) for n in (5, 1100, 70)], [logits(n, seed=1) for n in (5, 1100, 70)]
    weights = torch.tensor([0.1, 2.0, 0.7], dtype=dtype)
    for form in FORMS:
        check_same(losses(real, fake, relativistic=form, weights=weights, return_stats=True))
        check_same(losses(real, fake, relativistic=form, weights=weights, reduction="none", second=False))


@pytest.mark.parametrize("form", FORMS)
def test_dtypes_side_by_side(form):
    """16 bits and float32 in one launch, and phis of several kinds."""
    real = [logits(1100, dtype=d) for d in (torch.float32, torch.bfloat16, torch.float16)]
    fake = [logits(1100, dtype=d, seed=1) for d in (torch.float32, torch.bfloat16, torch.float16)]
    check_same(losses(real, fake, relativistic=form, return_stats=True))
    t = [
        fastgan.term("softplus", linear=0.5),
        fastgan.term("abs", scale=-2.0, shift=0.1, weight=3.0),
        fastgan.term("relu"),
    ]

    def call():
        x = [v.clone().requires_grad_() for v in real]
        for reduction in ("mean", "none"):
            result = fastgan.reduce_terms(t, x, reduction=reduction)
            yield result
            yield torch.autograd.grad(sum(r.float().sum() for r in flat([result])), x)

    check_same(lambda: list(call()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_masks_and_labels_per_element(form, dtype):
    for n in (3, 300):
        real, fake = logits(n, 7, dtype=dtype), logits(n, 7, dtype=dtype, seed=1)
        for k, options in enumerate(per_element(n, form)):
            reduction = ("mean", "sum", "none")[k % 3] if n > 3 else "mean"
            check_same(losses(real, fake, relativistic=form, reduction=reduction, **options))


@pytest.mark.parametrize("single", [True, False])
def test_masks_in_launch_shapes_of_a_device(single, monkeypatch, as_on_a_device):
    if not single:
        monkeypatch.setattr(losses_of, "ONE_CALL", 0)
    real, fake = logits(300, 7), logits(300, 7, seed=1)
    for options in per_element(300, "average"):
        check_same(losses(real, fake, relativistic="average", **options))


def test_masks_of_many_members():
    """More terms than a table of a call with masks holds."""
    real, fake = [[logits(5, 7, seed=2 * k + j) for k in range(18)] for j in range(2)]
    masks = [None if k % 3 == 0 else torch.rand(5, 1) for k in range(18)]
    check_same(losses(real, fake, loss="nonsaturating", real_mask=masks, real_target=[fake[0] > 0] * 18))


@pytest.mark.parametrize("dtype", slow_but([torch.float32], DTYPES))
def test_values_with_a_graph(dtype):
    for n in (1, 2100):
        check_same(parts(logits(n, dtype=dtype), logits(n, dtype=dtype, seed=1)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts(dtype):
    made = list(layouts(dtype, 1200))
    for a, b in itertools.pairwise(made):
        check_same(losses(a, b, relativistic="paired", return_stats=True))


@pytest.mark.parametrize(
    ("pairs", "dtype"), slow_but([(1, torch.bfloat16)], [(1, torch.bfloat16), (17, torch.float32)])
)
def test_centres_that_are_nothing_else(pairs, dtype):
    """Their gradient is one number everywhere; 17 pairs are more than a table holds."""

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


def test_some_operands_without_gradients():
    def call():
        r, f = logits(1300).requires_grad_(), logits(1300, seed=1)
        for form in FORMS:
            loss = fastgan.discriminator_loss(r, f, relativistic=form)
            (g,) = torch.autograd.grad(loss * 2, r, create_graph=True)
            yield loss, g, torch.autograd.grad(g.square().sum(), r)

    check_same(lambda: list(call()))


def test_backward_twice_from_different_upstreams():
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
def test_penalties(kind, options, over, dtype):
    for shape in ((4, 3, 5, 7), (2, 5, 30, 11), (3, 40, 2)):
        check_same(norms(gradients(*shape, dtype=dtype), kind, over=over, **options))
    check_same(norms(gradients(4, 3, 5, 7, dtype=dtype), kind, over=over, reduction="none", **options))


@pytest.mark.parametrize("dtype", slow_but([torch.float32], DTYPES))
def test_signs_of_zeros(dtype):
    x = torch.full((1,), -100.0, dtype=dtype).requires_grad_()
    c = torch.zeros(1024, dtype=dtype).requires_grad_()

    def call():
        loss = fastgan.reduce_terms([fastgan.term("softplus")], [(x, c)], centred=True, reduction="sum")
        first = torch.autograd.grad(loss, (x, c), retain_graph=True)
        return first, torch.autograd.grad(loss, (x, c), retain_graph=True), torch.autograd.grad(loss * -1, (x, c))

    check_same(call)
    for n in (1, 1024):
        minus = torch.full((n,), -0.0, dtype=dtype)
        for phi in ("identity", "square"):
            check_same(lambda m=minus, p=phi: list(centred_zeros(m, p)))
    for channels in (1, 128, 130):
        g = torch.zeros(2, channels, 3, 3, dtype=dtype)
        g[1:] = -1
        check_same(norms(g, over="channel", reduction="none"))
        check_same(norms(g, over="sample", reduction="none", weights=torch.tensor([-1.0, 1.0])))


def centred_zeros(minus, phi):
    """Signs that follow from a mean of -0."""
    x, centre = minus.clone().requires_grad_(), minus.clone()
    term = fastgan.term(phi, shift=-0.0)
    loss = fastgan.reduce_terms([term], [(x, centre)], centred=True)
    yield loss, torch.autograd.grad(loss, x)
    yield fastgan.reduce_terms([term], [(x.detach(), centre)], centred=True, reduction="none")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_are_rounded_once(dtype):
    """Some 7 of 60,000 float16 products round otherwise by way of float32; and ties go to even."""
    x = logits(1300, dtype=dtype)
    check_same(losses(x, x.flip(0), loss="least_squares", reduction="sum", second=False))
    check_same(norms(gradients(60_000, 1, dtype=dtype), "power", reduction="none", second=False))


@pytest.mark.usefixtures("as_on_a_device")
@pytest.mark.parametrize("over", ["sample", "channel", "batch"])
def test_penalties_in_launch_shapes_of_a_device(over):
    for shape in ((3, 9, 20, 25), (2, 150, 5, 5), (40, 3, 2)):
        check_same(norms(gradients(*shape), over=over, return_stats=True))


@pytest.mark.parametrize("shape", [(1, 150_000), (2, 4097), (34, 4200), (128, 4100), (129, 4100), (3, 3000)])
def test_sums_over_chunks_in_the_last_program(shape):
    """Of few groups; of more, and of up to 4 chunks, elsewhere."""
    g = gradients(*shape)
    check_same(norms(g, "one_sided", target=0.9, return_stats=True, second=shape[0] < 40))
    if shape[0] < 10:
        check_same(norms(g, over="batch"))
        g[-1, 7] = torch.nan
        check_same(norms(g, "power", reduction="none", return_stats=True, second=False))


def test_sums_over_chunks_of_several_tensors():
    """One has a chunk; others have 5 chunks and more."""
    gs = [gradients(9, n, dtype=d) for n, d in ((5000, torch.float32), (3, torch.bfloat16), (6000, torch.float16))]
    check_same(norms(gs, return_stats=True))
    check_same(norms([g.double() for g in gs], "power", power=1, return_stats=True))


@pytest.mark.parametrize("rows", [1, 2, 127, 128, 129, 300])
def test_statistics_of_few_norms(rows):
    for dtype in (torch.float32, torch.float64):
        g = gradients(rows, 3, dtype=dtype)
        check_same(norms(g, return_stats=True, second=False))
        g[-1] = torch.nan
        check_same(norms(g, return_stats=True, second=False))


@pytest.mark.usefixtures("as_on_a_device")
@pytest.mark.parametrize(("rows", "times"), [(1, 1), (64, 1), (129, 2), (1025, 8)])
def test_rows_of_lanes_without_norms_are_not_evaluated(rows, times, monkeypatch):
    from fastgan.triton_kernels import penalty

    calls, psi = [], penalty._psi
    monkeypatch.setattr(penalty, "_psi", lambda *a: calls.append(1) or psi(*a))
    check_same(lambda: [fastgan.norm_penalty(gradients(rows, 3))])
    assert len(calls) == times


@pytest.mark.parametrize(
    ("dtypes", "rounds"),
    [
        ([torch.float32], False),
        ([torch.float64], False),
        ([torch.bfloat16], True),
        ([torch.float16, torch.float32], True),
    ],
)
def test_only_16_bits_are_rounded_to_odd(dtypes, rounds, monkeypatch):
    from fastgan.triton_kernels import penalty

    calls, to_odd = [], penalty.to_odd
    monkeypatch.setattr(penalty, "to_odd", lambda x: calls.append(1) or to_odd(x))
    check_same(norms([gradients(3, 70, dtype=d) for d in dtypes]))
    assert bool(calls) == rounds


def test_many_rows():
    """More than one program makes norms of, and channels of pixels."""
    check_same(norms(gradients(20_000, 3), return_stats=True))
    check_same(norms(gradients(20_000, 3), "power", power=3, reduction="none"))


@pytest.mark.slow
def test_norms_of_a_long_row():
    """Three levels of the tree within a row."""
    check_same(norms(gradients(2, 1024 * 1024 + 33), return_stats=True, second=False))


@pytest.mark.parametrize("dtype", slow_but([torch.float32], DTYPES))
@pytest.mark.parametrize("over", ["sample", "channel", "batch"])
def test_several_tensors_masks_and_weights(over, dtype):
    """More tensors than a table holds."""
    gs = [gradients(3, 2 + k, 6, 20, dtype=dtype, seed=k) for k in range(10)]
    check_same(norms(gs, over=over))
    mask = torch.rand(3, 1, 6, 20, generator=torch.Generator().manual_seed(0)) > 0.3
    options = {"mask": mask} if over == "batch" else {"mask": mask, "weights": torch.tensor([1.0, 0.5, 3.0])}
    check_same(norms(gs[:2], over=over, **{**options, "mask": [mask, mask]}))
    check_same(norms(gs[1], "power", power=3, over=over, reduction="none", **options))


def test_gradients_of_several_dtypes():
    gs = [gradients(3, 700, dtype=d) for d in (torch.float32, torch.bfloat16, torch.float16)]
    check_same(norms(gs, return_stats=True))
    check_same(norms([gradients(3, 2000), gradients(3, 2)], "power", power=1))


@pytest.mark.parametrize("exponent", [-320, -300, -160, 0, 140, 160, 305])
@pytest.mark.parametrize("shape", [(3, 5), (3, 50), pytest.param((2, 5000), marks=pytest.mark.slow)])
def test_doubles_whose_squares_overflow_or_underflow(shape, exponent):
    g = gradients(*shape, dtype=torch.float64) * 10.0**exponent
    check_same(norms(g, "power", power=1, second=exponent > -300))
    many = [gradients(*shape, dtype=torch.float64, seed=k) * 10.0**exponent for k in range(3)]
    check_same(norms(many, over="batch", second=False))
    many[0][1, 1] = torch.inf
    check_same(norms(many, second=False, return_stats=True))
    mixed = gradients(*shape, dtype=torch.float64) * 10.0**-30  # K11: a factor that must not meet h / n too late
    mixed[:, 0] = 10.0 ** min(abs(exponent), 300)
    check_same(norms(mixed))
    if shape == (3, 50):
        wide = gradients(3, 4, 30, dtype=torch.float64) * 10.0**exponent
        check_same(norms(wide, "power", power=1, over="channel", second=exponent > -300))


@pytest.mark.parametrize("dtype", slow_but([torch.float32], DTYPES))
def test_layouts_of_gradients(dtype):
    g = gradients(3, 5, 14, 15, dtype=dtype)
    for t in (
        g.contiguous(memory_format=torch.channels_last),
        g.flatten()[1:2101].view(2, 5, 10, 21),
        g[:, :, ::2, ::3],
        g.permute(2, 1, 0, 3),
        g[:1].expand(4, 5, 14, 15),
    ):
        for over in ("sample", "channel", "batch"):
            check_same(norms(t, over=over, return_stats=True))


def test_infinities_and_nan_in_gradients():
    for bad in (torch.inf, torch.nan):
        for dtype in DTYPES:
            g = gradients(4, 300, dtype=dtype)
            g[2, 77] = bad
            check_same(norms(g, return_stats=True, second=False))
            check_same(norms(g[:, 70:80], return_stats=True, second=False))


# ---------------------------------------------------------------------------------- points between samples


@pytest.mark.parametrize("dtype", DTYPES)
def test_points(dtype):
    for shape in ((1, 1), (5, 3), (70, 20), (3, 5000), (4, 3, 33, 35)):
        real, fake = gradients(*shape, dtype=dtype), gradients(*shape, dtype=dtype, seed=1)
        real.flatten()[::3] = fake.flatten()[::3]
        check_same(points(real, fake))
    check_same(points(real, fake, need_eps=False))
    many = tuple(gradients(3, 1000 + k, dtype=dtype, seed=k) for k in range(10))
    check_same(points(many, tuple(m.flip(1) for m in many)))


@pytest.mark.usefixtures("as_on_a_device")
@pytest.mark.parametrize("dtype", DTYPES)
def test_points_in_all_layouts(dtype):
    real, fake = gradients(3, 5, 14, 15, dtype=dtype), gradients(3, 5, 14, 15, dtype=dtype, seed=1)
    check_same(points(real.contiguous(memory_format=torch.channels_last), fake))
    last = [t.contiguous(memory_format=torch.channels_last) for t in (real, fake)]
    check_same(points(*last))
    check_same(points(real[:, :, ::2, ::3], fake[:, :, ::2, 1::3]))
    check_same(points(real.permute(1, 0, 3, 2), fake.permute(1, 0, 3, 2).contiguous()))


# ---------------------------------------------------------------------------------- the backend


def test_auto_leaves_cpu_tensors_to_the_cpu():
    assert fastgan.info()["backends"]["triton"] == "ready"
    assert fastgan.backends.get((torch.zeros(3),)) is not ft.BACKEND


def test_a_compiled_graph_keeps_the_backend(monkeypatch):
    calls = []
    forward, backward = ft.Triton.loss_forward, ft.Triton.loss_backward
    monkeypatch.setattr(ft.Triton, "loss_forward", lambda *a, **k: calls.append("forward") or forward(*a, **k))
    monkeypatch.setattr(ft.Triton, "loss_backward", lambda *a, **k: calls.append("backward") or backward(*a, **k))
    compiled = torch.compile(fastgan.generator_loss, fullgraph=True, backend="aot_eager")
    x = logits(50).requires_grad_()
    with fastgan.backend("triton"):
        loss = compiled(x)
    (g,) = torch.autograd.grad(loss, x)
    assert calls == ["forward", "backward"]
    same([g], torch.autograd.grad(fastgan.generator_loss(x), x))


def test_a_compiled_graph_gets_the_strides_that_it_was_promised():
    """Where the kernels made a copy, too; inductor relies on it."""
    compiled = torch.compile(fastgan.generator_loss, fullgraph=True, backend="inductor")
    x = logits(4, 3, 5, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    with fastgan.backend("triton"):
        loss = compiled(x)
        (g,) = torch.autograd.grad(loss, x)
    same([g], torch.autograd.grad(fastgan.generator_loss(x), x))


def test_a_graph_of_tensors_elsewhere_is_not_served():
    compiled = torch.compile(fastgan.generator_loss, fullgraph=True, backend="eager")
    assert compiled(torch.empty(4, device="meta")).device.type == "meta"


def test_zeros_of_either_sign_among_the_weights():
    pair = [logits(5), logits(5, seed=1)], [logits(5, seed=2), logits(5, seed=3)]
    for weight in (0.0, -0.0):
        check_same(losses(*pair, loss="hinge", weights=[weight, 1.0]))
    check_same(norms(gradients(3, 5), target=-0.0))


@pytest.mark.slow
def test_a_centre_of_several_terms_in_a_later_table():
    """Which no public function asks for."""
    from fastgan.backends.specs import LossSpec, OperandTerm, Term
    from fastgan.ops import loss

    terms = [OperandTerm(Term("softplus"), k) for k in range(16)]
    terms += [OperandTerm(Term("softplus", weight=k - 15.0), k, mean_operand=18, member=0) for k in (16, 17)]
    spec = LossSpec(tuple(terms), (0,) * 19)

    def call():
        x = [logits(40 + k).requires_grad_() for k in range(19)]
        for reduction in ("mean", "none"):
            result, _ = loss.evaluate(spec, tuple(x), reduction=reduction)
            yield torch.autograd.grad(sum(r.sum() for r in flat([result])), x)

    check_same(lambda: list(call()))


def test_rows_too_long_for_indices_of_32_bits(monkeypatch):
    """With such indices for shorter rows: with gaps, and without."""
    monkeypatch.setattr(rows_of, "LONG", 1)
    g = gradients(3, 5, 14, 15)
    for t in (g.contiguous(memory_format=torch.channels_last), g[:, :, ::2, ::3], g):
        check_same(norms(t))
    check_same(points(g[:, :, ::2, ::3], g[:, :, ::2, 1::3]))


def test_fewer_terms_and_parts_where_parameters_must_be_few(monkeypatch):
    """As on devices that take 2 KB of them."""
    for module in (losses_of, rows_of):
        monkeypatch.setattr(module, "parameter_bytes", lambda kind: 1984)
    assert losses_of.most_terms("xpu") == 7
    real, fake = [logits(40 + k) for k in range(8)], [logits(40 + k, seed=1) for k in range(8)]
    check_same(losses(real, fake, relativistic="average", return_stats=True, second=False))
    gs = [gradients(3, 2 + k, 6, 5, seed=k).transpose(1, 3) for k in range(10)]
    check_same(norms(gs))


def test_a_gradient_penalty():
    def call():
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Softplus(), torch.nn.Linear(8, 1))
        real, fake = logits(5, 6), logits(5, 6, seed=1)
        eps = torch.linspace(0, 1, 5)
        loss = fastgan.gradient_penalty(net, real, fake, eps=eps)
        return loss, torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)

    check_same(call)
