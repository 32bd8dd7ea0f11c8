"""Every loss, form, dtype and layout against the reference in float64, and against values worked out by hand."""

import math

import pytest
import torch

import fastgan
from fastgan.ops import reference
from fastgan.ops.losses import LossOptions
from tests.helpers import ulp

LOSSES = list(fastgan.losses())
FORMS = [None, "paired", "average"]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
SIZES = [1, 3, 127, 1024, 1025, 5000]


def layouts(values: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same logical values (a 1-D tensor) laid out in memory in every awkward way."""
    n = values.numel()
    rows = max(k for k in range(1, int(n**0.5) + 1) if n % k == 0)
    table = values.view(rows, -1)
    padded = torch.empty(n + 1, dtype=values.dtype)
    padded[1:] = values
    every_third = torch.zeros(3 * n, dtype=values.dtype)
    every_third[::3] = values
    solid = values.view(10, -1, 5)  # three dimensions that do not merge
    return {
        "reversed dimensions": solid.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        "rolled dimensions": solid.permute(1, 2, 0).contiguous().permute(2, 0, 1),
        "contiguous": values.clone(),
        "transposed": table.t().contiguous().t(),
        "unaligned": padded[1:],
        "strided": every_third[::3],
        "4-D": table.t().contiguous().t().reshape(rows, 1, -1, 1),
        "channels last": table.reshape(1, rows, -1, 1).contiguous(memory_format=torch.channels_last),
        "negated": torch.view_as_complex(torch.stack([values, -values], dim=-1)).conj().imag
        if values.dtype in (torch.float32, torch.float64)
        else values.clone(),
    }


def draw(n: int, dtype: torch.dtype, scale: float = 3.0) -> torch.Tensor:
    # Multiples of 1/64 below 16: differences of two are exact in every dtype but bfloat16.
    return (torch.randn(n, dtype=torch.float64) * scale * 64).round().clamp(-1000, 1000).div(64).to(dtype)


def exact(role, r, f, loss, form):
    """Reference loss and gradients in float64, and the mean size of its summands."""
    r, f = r.double().flatten().requires_grad_(), f.double().flatten().requires_grad_()
    discriminator = role == "D"
    value = reference.discriminator(r, f, loss, form) if discriminator else reference.generator(f, r, loss, form)
    grads = torch.autograd.grad(value, (r, f), allow_unused=True)
    scale = r.abs().mean() + f.abs().mean() + 1.0
    return value.detach(), [torch.zeros_like(r) if g is None else g for g in grads], scale.detach()


def fused(role, r, f, loss, form, **options):
    r, f = r.detach().requires_grad_(), f.detach().requires_grad_()
    if role == "D":
        value = fastgan.discriminator_loss(r, f, loss, relativistic=form, **options)
    else:
        value = fastgan.generator_loss(f, r, loss, relativistic=form, **options)
    grads = torch.autograd.grad(value, (r, f), allow_unused=True)
    return value.detach(), [torch.zeros_like(x) if g is None else g for x, g in zip((r, f), grads, strict=True)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("role", ["D", "G"])
def test_against_the_reference(role, loss, form, dtype):
    for n in SIZES:
        r, f = draw(n, dtype), draw(n, dtype)
        value, grads = fused(role, r, f, loss, form)
        want, want_grads, scale = exact(role, r, f, loss, form)
        assert value.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
        # Summands are within 1 ulp (square: 1.5) and summed in float64; in float64 the reference is no
        # better than the kernels, and its own sums are n roundings deep.
        limit = 2.0 if dtype is not torch.float64 else 16.0
        assert ulp.error(value, want, scale) <= limit, n
        for got, expected in zip(grads, want_grads, strict=True):
            assert got.dtype is dtype
            if dtype in (torch.float16, torch.bfloat16):
                assert ulp.error(got, expected, _tiny(dtype)) <= 0.51, n  # rounded once, from float32
            else:
                # phi' 1 ulp, its factor and the product half each; a centred z is rounded as well, and
                # the mean's constant cancels part of it. In float64 it is autograd's own gradient that
                # cancels (1 - sigmoid), so there an ulp is that of the mean's factor.
                size = expected.abs().max() if form == "average" else None
                size = torch.ones(()) / n if dtype is torch.float64 else size
                assert ulp.error(got, expected, size) <= (3.0 if form is None else 9.0), n


def _tiny(dtype):
    return torch.tensor(torch.finfo(dtype).tiny, dtype=torch.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss", LOSSES)
def test_layouts_give_the_same_bits(loss, form, dtype):
    n = 3000
    r, f = layouts(draw(n, dtype)), layouts(draw(n, dtype))
    for role in "DG":
        value, grads = fused(role, r["contiguous"], f["contiguous"], loss, form)
        for name in r:
            got, got_grads = fused(role, r[name], f[name], loss, form)
            assert torch.equal(got, value), name
            for a, b, x in zip(got_grads, grads, (r[name], f[name]), strict=True):
                assert torch.equal(a.flatten(), b), name
                assert a.stride() == torch.empty_like(x).stride(), name


def test_0_dim_and_expanded():
    a = torch.tensor(0.5, requires_grad=True)
    fastgan.generator_loss(a, loss="hinge").backward()
    assert a.grad == -1.0
    b = torch.tensor([0.25, -1.0], requires_grad=True)
    wide = b[:, None].expand(2, 1500)
    loss = fastgan.discriminator_loss(wide, wide, "least_squares")
    assert torch.equal(loss, fastgan.discriminator_loss(wide.contiguous(), wide.contiguous(), "least_squares"))
    loss.backward()
    torch.testing.assert_close(b.grad, torch.tensor([-0.5 * 1 + 0.0, -3.0]), rtol=1e-6, atol=0)


LN2 = math.log(2.0)
GOLDEN = [  # role, loss, form, options, r, f, value, gradient to r, gradient to f
    ("D", "nonsaturating", None, {}, [0.0], [0.0], 2 * LN2, [-0.5], [0.5]),
    ("D", "saturating", None, {}, [0.0, 0.0], [0.0, 0.0], 2 * LN2, [-0.25, -0.25], [0.25, 0.25]),
    ("D", "bce", None, {"real_target": 0.9}, [0.0], [0.0], 2 * LN2, [-0.4], [0.5]),
    ("D", "bce", None, {"real_target": 0.75, "fake_target": 0.25}, [0.0], [0.0], 2 * LN2, [-0.25], [0.25]),
    ("D", "hinge", None, {}, [0.5, 2.0], [-0.25, -3.0], 0.25 + 0.375, [-0.5, 0.0], [0.5, 0.0]),
    ("D", "hinge", None, {"margin": 2.0}, [0.5, 2.0], [-0.25, -3.0], 0.75 + 0.875, [-0.5, 0.0], [0.5, 0.0]),
    ("D", "hinge", None, {}, [1.0], [-1.0], 0.0, [0.0], [0.0]),  # at the kink
    ("D", "least_squares", None, {}, [3.0], [2.0], 4.0 + 4.0, [4.0], [4.0]),
    ("D", "lsgan", None, {"targets": (-1.0, 2.0, 0.0)}, [3.0], [2.0], 1.0 + 9.0, [2.0], [6.0]),
    ("D", "wasserstein", None, {}, [3.0, 1.0], [2.0, -1.0], -2.0 + 0.5, [-0.5, -0.5], [0.5, 0.5]),
    ("D", "ranking", None, {}, [0.5, 3.0], [0.25, 0.0], 0.375, [-0.5, 0.0], [0.5, 0.0]),
    ("D", "nonsaturating", "paired", {}, [1.5], [1.5], LN2, [-0.5], [0.5]),
    ("D", "hinge", "average", {}, [1.0, 2.0], [0.0, 1.0], 0.5, [-0.75, -0.25], [0.25, 0.75]),
    ("G", "nonsaturating", None, {}, [0.0], [0.0], LN2, None, [-0.5]),
    ("G", "saturating", None, {}, [0.0], [0.0], -LN2, None, [-0.5]),
    ("G", "hinge", None, {}, [0.0], [0.75], -0.75, None, [-1.0]),
    ("G", "least_squares", None, {}, [0.0], [3.0], 4.0, None, [4.0]),
    ("G", "lsgan", None, {"targets": (0.0, 1.0, 2.0)}, [0.0], [3.0], 1.0, None, [2.0]),
    ("G", "wgan", None, {}, [0.0], [3.0, 1.0], -2.0, None, [-0.5, -0.5]),
    ("G", "ranking", None, {}, [0.0], [3.0], -3.0, None, [-1.0]),
    ("G", "hinge", "paired", {}, [0.5], [0.25], 1.25, [1.0], [-1.0]),
    ("G", "least_squares", "average", {}, [1.0], [3.0], (2.0 - 1.0) ** 2 + 4.0, [-6.0], [6.0]),
]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: f"{c[0]} {c[1]} {c[2]}")
def test_values_worked_out_by_hand(case):
    role, loss, form, options, r, f, value, grad_r, grad_f = case
    for dtype in (torch.float32, torch.float64):
        if len(r) != len(f):
            r = r * len(f)
        got, grads = fused(role, torch.tensor(r, dtype=dtype), torch.tensor(f, dtype=dtype), loss, form, **options)
        assert ulp.error(got, torch.tensor(value, dtype=torch.float64)) <= 1.0
        for mine, theirs in zip(grads, (grad_r, grad_f), strict=True):
            if theirs is not None and loss != "bce":
                assert mine.tolist() == theirs
            elif theirs is not None:
                assert ulp.error(mine, torch.tensor(theirs, dtype=torch.float64)) <= 2.0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("form", FORMS)
def test_reductions(loss, form):
    n = 2048  # a power of two: the mean's factor is exact
    r, f = draw(n, torch.float32), draw(n, torch.float32)
    for role in "DG":
        mean, grads = fused(role, r, f, loss, form)
        total, total_grads = fused(role, r, f, loss, form, reduction="sum")
        assert torch.equal(total, mean * n)
        for a, b in zip(grads, total_grads, strict=True):
            if form == "average":  # the centre's constant is rounded at another scale
                assert ulp.error(b, a.double() * n, (a.double() * n).abs().max()) <= 1.0
            else:
                assert torch.equal(a * n, b)
        call = fastgan.discriminator_loss if role == "D" else fastgan.generator_loss
        elements = call(*((r, f) if role == "D" else (f, r)), loss, relativistic=form, reduction="none")
        assert elements.shape == r.shape
        assert elements.dtype is torch.float32
        assert ulp.error(total, elements.double().sum(), elements.double().abs().sum()) <= 1.0


@pytest.mark.parametrize("form", FORMS)
def test_sequences_and_weights(form):
    shapes = [(4, 1, 7), (4, 30), (1500,)]
    reals = [torch.randn(s, requires_grad=True) for s in shapes]
    fakes = [torch.randn(s, requires_grad=True) for s in shapes]
    for weights in (None, (0.5, 2.0, 1.0), torch.tensor([0.5, 2.0, 1.0])):
        factors = [1.0] * 3 if weights is None else [float(w) for w in weights]
        for call, a, b in (
            (fastgan.discriminator_loss, reals, fakes),
            (fastgan.generator_loss, fakes, reals),
        ):
            together = call(a, b, "hinge", relativistic=form, weights=weights)
            apart = [call(x, y, "hinge", relativistic=form) for x, y in zip(a, b, strict=True)]
            want = sum(w * v.double() for w, v in zip(factors, apart, strict=True))
            assert ulp.error(together.detach(), want.detach(), want.detach().abs() + 1) <= 2.0
            grads = torch.autograd.grad(together, [*a, *b], allow_unused=True)
            for w, x, y, v, gx, gy in zip(factors, a, b, apart, grads[:3], grads[3:], strict=True):
                want_x, want_y = torch.autograd.grad(w * v, (x, y), allow_unused=True)
                assert ulp.error(gx, want_x.double(), want_x.double().abs().max()) <= 1.0
                assert (gy is None) == (want_y is None)
                if gy is not None:
                    assert ulp.error(gy, want_y.double(), want_y.double().abs().max()) <= 1.0
    elements = fastgan.discriminator_loss(reals, fakes, weights=[1, 2, 3], reduction="none")
    assert [e.shape for e in elements] == [torch.Size(s) for s in shapes]


def test_shapes_may_differ_where_nothing_is_paired():
    r, f = torch.randn(7, 1), torch.randn(3, 2)
    for form in (None, "average"):
        got = fastgan.discriminator_loss(r, f, relativistic=form)
        assert ulp.error(got, reference.discriminator(r.double(), f.double(), "nonsaturating", form)) <= 2.0


def test_reduce_terms():
    x, y = torch.randn(300, requires_grad=True), torch.randn(300, requires_grad=True)
    terms = [fastgan.term("abs", weight=2.0), fastgan.term("softplus", 0.5, 1.0, -0.25), fastgan.term("square")]
    loss, values = fastgan.reduce_terms(terms, [(x, y), x, y], return_values=True)
    a, b = x.detach().double(), y.detach().double()
    parts = [2 * (a - b).abs().mean(), (ulp.softplus(0.5 * a + 1) - 0.25 * a).mean(), (b**2).mean()]
    for got, want in zip(values, parts, strict=True):
        assert ulp.error(got, want) <= 4.0
    assert ulp.error(loss.detach(), sum(parts)) <= 4.0
    gx, gy = torch.autograd.grad(loss, (x, y))
    want_x = 2 * (a - b).sign() + 0.5 * ulp.sigmoid(0.5 * a + 1) - 0.25
    assert ulp.error(gx, want_x / 300, torch.ones(()) / 300) <= 4.0
    assert ulp.error(gy, (-2 * (a - b).sign() + 2 * b) / 300, torch.ones(()) / 300) <= 4.0
    centred = fastgan.reduce_terms([fastgan.term("square")], [(x, y)], centred=True, reduction="sum")
    assert ulp.error(centred.detach(), ((a - b.mean()) ** 2).sum()) <= 4.0
    for factor in (1.0, 2.5):  # y is a centre and nothing else: its gradient is the same everywhere
        gx, gy = torch.autograd.grad(centred * factor, (x, y), retain_graph=True)
        assert ulp.error(gx, 2 * factor * (a - b.mean()), torch.ones(())) <= 4.0
        assert ulp.error(gy, (-2 * factor * (a - b.mean()).sum() / 300).expand(300), torch.ones(())) <= 4.0


def test_register_loss():
    term = fastgan.term("relu_square", scale=-1.0, shift=1.0)
    fastgan.register_loss(
        "squared_hinge_test", real=term, fake=fastgan.term("relu_square", shift=1.0), generator=term
    )
    r, f = torch.randn(50), torch.randn(50)
    for form in FORMS:
        got = fastgan.discriminator_loss(r, f, "squared_hinge_test", relativistic=form)
        with fastgan.backend("reference"):
            want = fastgan.discriminator_loss(r.double(), f.double(), "squared_hinge_test", relativistic=form)
        assert ulp.error(got, want) <= 3.0
    with pytest.raises(ValueError, match="name: expected a new string, got 'hinge'"):
        fastgan.register_loss("hinge", real=term, fake=term, generator=term)
    with pytest.raises(TypeError, match=r"fake: expected a fastgan\.term, got int"):
        fastgan.register_loss("another", real=term, fake=1, generator=term)


def test_a_registered_paired_loss_never_broadcasts():
    term = fastgan.term("relu", scale=-1.0, shift=0.5)
    fastgan.register_loss("paired_test", real=term, fake=term, generator=term, aliases=("p_test",), paired=True)
    r, f = torch.randn(4), torch.randn(4)
    want = (0.5 - (r.double() - f.double())).clamp(min=0).mean()
    for name in ("paired_test", "p_test", "ranking"):
        for backend in ("auto", "reference"):
            with fastgan.backend(backend), pytest.raises(ValueError, match="a paired loss never broadcasts"):
                fastgan.discriminator_loss(r[:, None], f, name)
        fastgan.discriminator_loss(r[:3], f, name, relativistic="average")  # pairs nothing
        fastgan.generator_loss(f, loss=name)
    assert ulp.error(fastgan.discriminator_loss(r, f, "p_test"), want) <= 2.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_references_agree(dtype):
    """The table's terms, evaluated in plain PyTorch, against the formulas of the papers."""
    r, f = torch.randn(40, dtype=dtype), torch.randn(40, dtype=dtype)
    options = {
        "hinge": {"margin": 0.7},
        "ranking": {"margin": 0.7},
        "least_squares": {"targets": (-1.0, 0.5, 0.25)},
        "nonsaturating": {"real_target": 0.9, "fake_target": 0.1},
        "saturating": {"real_target": 0.9, "fake_target": 0.1},
    }
    for loss in LOSSES:
        if loss.endswith("_test"):
            continue
        given = options.get(loss, {})
        for form in FORMS:
            with fastgan.backend("reference"):
                d = fastgan.discriminator_loss(r, f, loss, relativistic=form, **given)
                g = fastgan.generator_loss(f, r, loss, relativistic=form, **given)
            o = LossOptions(loss, form, **given)
            assert ulp.error(d, reference.discriminator(r.double(), f.double(), loss, form, o), torch.ones(())) <= 8
            assert ulp.error(g, reference.generator(f.double(), r.double(), loss, form, o), torch.ones(())) <= 8


@pytest.mark.parametrize("form", FORMS)
def test_special_values_propagate(form):
    """Infinities and NaN go where the mathematics takes them, in each operand alone."""
    inf, nan = float("inf"), float("nan")
    ok = torch.zeros(4)
    for bad in (nan, inf, -inf):
        spoilt = torch.tensor([0.0, bad, 0.0, 0.0])
        for r, f in ((spoilt, ok), (ok, spoilt)):
            for loss in LOSSES:
                got, grads = fused("D", r, f, loss, form)
                with fastgan.backend("reference"):
                    want, want_grads = fused("D", r.double(), f.double(), loss, form)
                if math.isnan(bad):
                    assert got.isnan()
                    continue
                assert torch.equal(got.nan_to_num(12.5), want.float().nan_to_num(12.5)), (loss, bad)
                for a, b in zip(grads, want_grads, strict=True):
                    finite = b.isfinite()
                    assert torch.equal(a[finite], b[finite].float()), (loss, bad)
