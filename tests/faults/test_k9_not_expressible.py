"""K9: what trainers ask of a loss beside logits: one role at a time, labels and masks per element.

Right values are those of the plain formula, by autograd in float64.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import fastgan
from fastgan.ops import elementwise, reference
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


def close(got, want, dtype, summands=1e-30):
    """Whether numbers agree as well as their dtype, and the size of what they are sums of, allow."""
    assert got.shape == want.shape
    scale = want.abs().max().clamp_min(summands)
    assert (got.double() - want).abs().max() <= WITHIN[dtype] * scale, (got, want)


def agree(got, tensors, want, twins, summands=1e-30):
    """Whether a value and its gradients are those in float64."""
    dtype = tensors[0].dtype
    close(got, want, torch.float64 if dtype == torch.float64 else torch.float32, summands)
    wants = torch.autograd.grad(want.sum(), twins, retain_graph=True)
    for g, w in zip(torch.autograd.grad(got.sum(), tensors), wants, strict=True):
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


# ---------------------------------------------------------------------------- labels and masks

FORMS = [None, "paired", "average"]
REAL = {
    "saturating": lambda x, y: F.softplus(x, threshold=1000) - y * x,
    "nonsaturating": lambda x, y: F.softplus(x, threshold=1000) - y * x,
    "hinge": lambda x, y: F.relu(1 - x),
    "least_squares": lambda x, y: (x - y) ** 2,
    "wasserstein": lambda x, y: -x,
    "ranking": lambda x, y: F.relu(1 - x),
}
FAKE = {
    **REAL,
    "hinge": lambda x, y: F.relu(1 + x),
    "wasserstein": lambda x, y: x,
    "ranking": lambda x, y: F.relu(1 + x),
}
GENERATOR = {
    **REAL,
    "saturating": lambda x, y: y * x - F.softplus(x, threshold=1000),
    **dict.fromkeys(("hinge", "ranking"), lambda x, y: -x),
}


def reduced(values, w, reduction):
    w = torch.ones_like(values) if w is None else w.double().expand(values.shape)
    if reduction == "none":
        return w * values
    return (w * values).sum() / (w.sum() if reduction == "mean" else 1)


def formula(loss, form, r, f, labels=(1.0, 0.0), masks=(None, None), reduction="mean"):
    """The discriminator's loss as it is written down, in float64."""
    wr, wf = masks
    yr, yf = [y.double() if isinstance(y, torch.Tensor) else y for y in labels]
    if form == "paired" or loss == "ranking":
        both = None if wr is None and wf is None else 1.0
        for w in masks:
            both = both if w is None else both * w.double().expand(r.shape)
        return reduced(REAL[loss](r - f, yr), both, reduction)
    if form == "average":
        mean_f, mean_r = reduced(f, wf, "mean"), reduced(r, wr, "mean")
        r, f = r - mean_f, f - mean_r
    return reduced(REAL[loss](r, yr), wr, reduction) + reduced(FAKE[loss](f, yf), wf, reduction)


def numbers(*shape, seed=5):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# The size of what a Wasserstein loss is a sum of, in which real and fake cancel.
SUMMANDS = {"mean": 1.0, "sum": 84.0, "none": 1.0}
# Masks of (12, 7): one per sample, per element, expanded, with gaps, of other dtypes.
MASKS = {
    "sample": (numbers(12, 1) > 0.4, numbers(12, 1, seed=6)),
    "element": (numbers(12, 7), numbers(12, 7, seed=6) > 0.5),
    "expanded": (numbers(1, 7).expand(12, 7), numbers(12, 1).expand(12, 7)),
    "gaps": (numbers(7, 12).t(), numbers(12, 14)[:, ::2]),
    "dtypes": (numbers(1, 7).double(), numbers(12, 1, seed=6).bfloat16()),
    "one": (None, numbers(12, 7) > 0.5),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss", [*PLAIN, "ranking"])
def test_masks(loss, form, dtype):
    if loss == "ranking" and form:
        pytest.skip("is its own form")
    r, f = logits(12, 7, dtype=dtype), logits(12, 7, seed=1, dtype=dtype)
    twins = wide(r, f)
    for kind, masks in MASKS.items():
        for reduction in ("mean", "sum", "none"):
            given = {"relativistic": form, "real_mask": masks[0], "fake_mask": masks[1], "reduction": reduction}
            for backend in ("auto", "reference") if kind == "element" else ("auto",):
                with fastgan.backend(backend):
                    got = fastgan.discriminator_loss(r, f, loss, **given)
                    want = formula(loss, form, *twins, masks=masks, reduction=reduction)
                    agree(got, [r, f], want, twins, SUMMANDS[reduction] if loss == "wasserstein" else 1e-30)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss", PLAIN)
def test_masks_of_the_generator(loss, form, dtype):
    r, f = logits(12, 7, dtype=dtype), logits(12, 7, seed=1, dtype=dtype)
    twins = wide(r, f)
    wr, wf = MASKS["element"]
    for reduction in ("mean", "sum", "none"):
        if form is None:
            got = fastgan.generator_loss(f, None, loss, fake_mask=wf, reduction=reduction)
            label = 0.0 if loss == "saturating" else 1.0
            agree(got, [f], reduced(GENERATOR[loss](twins[1], label), wf, reduction), twins[1:])
        else:
            options = {"relativistic": form, "real_mask": wr, "fake_mask": wf, "reduction": reduction}
            got = fastgan.generator_loss(f, r, loss, **options)
            agree(got, [f, r], formula(loss, form, *twins[::-1], masks=(wf, wr), reduction=reduction), twins[::-1])


def test_masks_of_different_shapes_and_of_members():
    r, f = [logits(5, 9), logits(3, 2, seed=1)], [logits(6, 4, seed=2), logits(3, 3, seed=3)]
    twins = [wide(*r), wide(*f)]
    masks = [[numbers(5, 9) > 0.3, None], [numbers(6, 1), numbers(3, 3) > 0.2]]
    for form in (None, "average"):
        got = fastgan.discriminator_loss(
            r, f, "hinge", relativistic=form, real_mask=masks[0], fake_mask=masks[1], weights=[1.0, 0.25]
        )
        want = sum(
            w * formula("hinge", form, twins[0][m], twins[1][m], masks=(masks[0][m], masks[1][m]))
            for m, w in enumerate((1.0, 0.25))
        )
        agree(got, [*r, *f], want, [*twins[0], *twins[1]])
    alone_ = fastgan.discriminator_loss(None, f, "hinge", fake_mask=masks[1])
    want = sum(reduced(FAKE["hinge"](t, 0), w, "mean") for t, w in zip(twins[1], masks[1], strict=True))
    agree(alone_, f, want, twins[1])


LABELS = {
    "hard": (numbers(12, 7) > 0.5, numbers(12, 1, seed=6) > 0.5),
    "soft": (0.7 + 0.3 * numbers(12, 1), 0.3 * numbers(1, 7, seed=6)),
    "all": (numbers(12, 7), numbers(7, 12, seed=6).double().t()),
    "one": (0.9, numbers(12, 7)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss", ["saturating", "nonsaturating"])
def test_labels(loss, form, dtype):
    r, f = logits(12, 7, dtype=dtype), logits(12, 7, seed=1, dtype=dtype)
    twins = wide(r, f)
    for kind, labels in LABELS.items():
        if form == "paired" and isinstance(labels[0], float):
            continue
        given = (
            {"real_target": labels[0]} if form == "paired" else {"real_target": labels[0], "fake_target": labels[1]}
        )
        for masks in ((None, None), MASKS["element"]):
            for reduction in ("mean", "sum", "none"):
                for backend in ("auto", "reference") if kind == "all" else ("auto",):
                    options = {"real_mask": masks[0], "fake_mask": masks[1], "relativistic": form, **given}
                    with fastgan.backend(backend):
                        got = fastgan.discriminator_loss(r, f, loss, reduction=reduction, **options)
                        want = formula(loss, form, *twins, labels, masks, reduction)
                        agree(got, [r, f], want, twins)


@pytest.mark.parametrize("dtype", DTYPES)
def test_labels_of_the_generator(dtype):
    f, r = logits(12, 7, dtype=dtype), logits(12, 7, seed=1, dtype=dtype)
    twins = wide(f, r)
    soft, fake_labels = LABELS["all"]
    for loss, name in (("saturating", "fake_target"), ("nonsaturating", "real_target")):
        got = fastgan.generator_loss(f, None, loss, **{name: soft})
        agree(got, [f], GENERATOR[loss](twins[0], soft.double()).mean(), twins[:1])
        for form in ("paired", "average"):
            given = {"real_target": soft} if form == "paired" else {"real_target": soft, "fake_target": fake_labels}
            got = fastgan.generator_loss(f, r, loss, relativistic=form, **given)
            agree(got, [f, r], formula(loss, form, *twins, (soft, fake_labels)), twins)


@pytest.mark.parametrize("loss", ["saturating", "nonsaturating"])
def test_hard_labels_cancel_nothing(loss):
    """A label of 1 or 0 in a tensor is as exact as the number."""
    x = torch.tensor([-90.0, -30.0, -3.0, 0.0, 3.0, 30.0, 90.0, -torch.inf, torch.inf]).requires_grad_()
    for label in (0.0, 1.0):
        options = {"reduction": "none"}
        got = alone(0, x, loss, real_target=torch.full((9,), label), **options)
        want = alone(0, x, loss, real_target=label, **options)
        assert torch.equal(got, want)
        ups = torch.ones(9)
        assert torch.equal(*(torch.autograd.grad(v, x, ups)[0] for v in (got, want)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masks", [(None, None), MASKS["element"]])
def test_targets(masks, dtype):
    r, f = logits(12, 7, dtype=dtype), logits(12, 7, seed=1, dtype=dtype)
    twins = wide(r, f)
    a, b, c = numbers(12, 1) > 0.5, 1 + numbers(12, 7), numbers(1, 7).double()
    masked = {"real_mask": masks[0], "fake_mask": masks[1]}
    for reduction in ("mean", "sum", "none"):
        for targets in ((a, b, 1.0), (0.25, b, 1.0), [a, 0.5, 1.0]):
            got = fastgan.discriminator_loss(r, f, "lsgan", targets=targets, reduction=reduction, **masked)
            want = formula("least_squares", None, *twins, (targets[1], targets[0]), masks, reduction)
            agree(got, [r, f], want, twins)
        got = fastgan.generator_loss(f, None, "lsgan", targets=(0, 1, c), reduction=reduction, fake_mask=masks[1])
        agree(got, [f], reduced((twins[1] - c) ** 2, masks[1], reduction), twins[1:])
    got = fastgan.discriminator_loss([r, f], [f, r.detach()], "lsgan", targets=(0.0, [b, c], 1.0))
    want = sum(formula("least_squares", None, *t, (y, 0.0)) for t, y in ((twins, b), (twins[::-1], c)))
    agree(got, [r, f], want + 0 * twins[0].sum() - (twins[0] ** 2).mean() + (twins[0].detach() ** 2).mean(), twins)


# Calls of float64 logits with everything, for derivatives of the second order and for graphs.
CALLS = {
    "masks": lambda r, f: fastgan.discriminator_loss(
        r, f, "bce", real_mask=numbers(4, 1), fake_mask=numbers(4, 3) > 0.4
    ),
    "none": lambda r, f: fastgan.discriminator_loss(r, f, "bce", real_mask=numbers(4, 1), reduction="none"),
    "paired": lambda r, f: fastgan.discriminator_loss(
        r,
        f,
        "bce",
        relativistic="paired",
        real_mask=numbers(4, 1),
        fake_mask=numbers(4, 3),
        real_target=numbers(4, 3),
    ),
    "average": lambda r, f: fastgan.generator_loss(
        f, r, "lsgan", relativistic="average", real_mask=numbers(4, 1), fake_mask=numbers(4, 3) > 0.4
    ),
    "labels": lambda r, f: fastgan.discriminator_loss(
        r, f, "bce", relativistic="average", real_target=numbers(4, 3), fake_target=numbers(4, 1) > 0.5
    ),
    "targets": lambda r, f: fastgan.discriminator_loss(r, f, "lsgan", targets=(numbers(4, 1), numbers(4, 3), 1.0)),
}


@pytest.mark.parametrize("name", CALLS)
def test_second_derivatives(name):
    r, f = logits(4, 3, dtype=torch.float64), logits(4, 3, seed=1, dtype=torch.float64)
    assert torch.autograd.gradcheck(CALLS[name], (r, f))
    assert torch.autograd.gradgradcheck(CALLS[name], (r, f))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CALLS)
def test_in_a_graph(name, dtype):
    r, f = logits(4, 3, dtype=dtype), logits(4, 3, seed=1, dtype=dtype)
    w, m, t = numbers(4, 1), numbers(4, 3) > 0.4, numbers(4, 3)
    calls = {
        "masks": lambda r, f, w, m, t: fastgan.discriminator_loss(r, f, "bce", real_mask=w, fake_mask=m),
        "none": lambda r, f, w, m, t: fastgan.discriminator_loss(r, f, "bce", real_mask=w, reduction="none"),
        "paired": lambda r, f, w, m, t: fastgan.discriminator_loss(
            r, f, "bce", relativistic="paired", real_mask=w, fake_mask=m, real_target=t
        ),
        "average": lambda r, f, w, m, t: fastgan.generator_loss(
            f, r, "lsgan", relativistic="average", real_mask=w, fake_mask=m
        ),
        "labels": lambda r, f, w, m, t: fastgan.discriminator_loss(r, f, "bce", real_target=t, fake_target=m),
        "targets": lambda r, f, w, m, t: fastgan.discriminator_loss([r], [f], "lsgan", targets=([w], [t], 1.0)),
    }
    call = calls[name]
    got = torch.compile(call, fullgraph=True)(r, f, w, m, t)
    want = call(r, f, w, m, t)
    close(got, want.double(), torch.float32)
    grads = [torch.autograd.grad(v.sum(), [r, f]) for v in (got, want)]
    for a, b in zip(*grads, strict=True):
        close(a, b.double(), dtype)


def test_under_a_transform():
    r, f, w = logits(6, 4).detach(), logits(6, 4, seed=1).detach(), numbers(6, 4)
    one = lambda r, f, w: fastgan.discriminator_loss(r, f, "hinge", real_mask=w)  # noqa: E731
    got = torch.func.vmap(torch.func.grad(one))(r, f, w)
    want = torch.stack([torch.func.grad(one)(*row) for row in zip(r, f, w, strict=True)])
    assert torch.allclose(got, want, atol=1e-7)


def test_a_mask_modified_before_backward_is_noticed():
    r, w = logits(5), numbers(5)
    loss = alone(0, r, "bce", real_mask=w, reduction="sum")
    w.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, r, create_graph=True)


x, ones = torch.zeros(4, 3), torch.ones(4, 3)
BAD = [
    (lambda: fastgan.discriminator_loss(x, x, real_mask=ones[0]), ValueError, r"real_mask: expected 2 dimensions .*\(4, 3\), got \(3,\)"),
    (lambda: fastgan.discriminator_loss(x, x, fake_mask=torch.ones(2, 3)), ValueError, r"fake_mask: .*got \(2, 3\)"),
    (lambda: fastgan.discriminator_loss(x, x, real_mask=-ones), ValueError, r"real_mask: expected finite numbers in \[0, inf\], got some from -1 to -1"),
    (lambda: fastgan.discriminator_loss(x, x, real_mask=ones * torch.inf), ValueError, "real_mask: expected finite"),
    (lambda: fastgan.discriminator_loss(x, x, real_mask=ones * torch.nan), ValueError, "real_mask: expected finite"),
    (lambda: fastgan.discriminator_loss(x, x, real_mask=ones.int()), TypeError, "real_mask: expected a bool or floating-point tensor, got torch.int32"),
    (lambda: fastgan.discriminator_loss(x, x, real_mask=1.0), TypeError, "real_mask: expected a bool or floating-point tensor, got float"),
    (lambda: fastgan.discriminator_loss(x, x, real_mask=ones.to("meta")), ValueError, "real_mask: expected a tensor on cpu, as real_logits"),
    (lambda: fastgan.discriminator_loss(x, x, real_mask=ones.clone().requires_grad_()), ValueError, "real_mask: expected constants"),
    (lambda: fastgan.discriminator_loss(x, x, real_mask=ones * 0), ValueError, "real_mask: expected an element above 0"),
    (lambda: fastgan.discriminator_loss(x, x, relativistic="paired", real_mask=ones, fake_mask=0 * ones), ValueError, "real_mask and fake_mask: expected an element above 0"),
    (lambda: fastgan.discriminator_loss(x, x, real_mask=ones, return_stats=True), ValueError, "return_stats: expected no masks"),
    (lambda: fastgan.discriminator_loss(x, x, relativistic="average", real_mask=ones, process_group=1), ValueError, "process_group: expected no masks"),
    (lambda: fastgan.discriminator_loss([x], [x], real_mask=ones), ValueError, "real_mask: expected a sequence of 1 tensors, one per member, got Tensor"),
    (lambda: fastgan.discriminator_loss([x], [x], real_mask=[ones, ones]), ValueError, "real_mask: expected a sequence of 1 tensors, one per member, got 2"),
    (lambda: fastgan.discriminator_loss(x, x, real_mask=[ones]), TypeError, "real_mask: .*got list"),
    (lambda: fastgan.discriminator_loss(x, None, fake_mask=ones), ValueError, "fake_mask: expected None where fake_logits have no part"),
    (lambda: fastgan.generator_loss(x, x, real_mask=ones), ValueError, "real_mask: expected None where real_logits have no part"),
    (lambda: fastgan.discriminator_loss(x, x, real_target=ones[0]), ValueError, r"real_target: expected 2 dimensions"),
    (lambda: fastgan.discriminator_loss(x, x, real_target=2 * ones), ValueError, r"real_target: expected finite numbers in \[0, 1\], got some from 2 to 2"),
    (lambda: fastgan.discriminator_loss(x, x, "hinge", real_target=ones), ValueError, "real_target: has no effect on loss 'hinge'"),
    (lambda: fastgan.discriminator_loss(x, x, relativistic="paired", fake_target=ones), ValueError, "fake_target: has no effect on this loss"),
    (lambda: fastgan.discriminator_loss(x, None, fake_target=ones), ValueError, "fake_target: has no effect on this loss"),
    (lambda: fastgan.generator_loss(x, fake_target=ones), ValueError, "fake_target: has no effect on this loss"),
    (lambda: fastgan.discriminator_loss(x, x, "lsgan", relativistic="paired", targets=(0, ones, 1)), ValueError, "targets: expected numbers for relativistic='paired'"),
    (lambda: fastgan.discriminator_loss(x, x, "lsgan", targets=(0, ones, 1), return_stats=True), ValueError, "return_stats: expected targets that are numbers"),
    (lambda: fastgan.discriminator_loss(x, x, "lsgan", targets=(0, 1, ones)), ValueError, r"targets\[2\]: has no effect on this loss"),
    (lambda: fastgan.discriminator_loss(x, x, "lsgan", targets=(ones * torch.nan, 1, 1)), ValueError, r"targets\[0\]: expected finite numbers"),
    (lambda: fastgan.discriminator_loss([x, x], [x, x], real_target=[ones, None]), TypeError, "real_target: expected a bool or floating-point tensor, got NoneType"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BAD)))
def test_what_is_refused(number):
    call, kind, message = BAD[number]
    with pytest.raises(kind, match=message):
        call()


def test_statistics_beside_labels():
    r, f = logits(5, 2), logits(5, 2, seed=1)
    total, stats = fastgan.discriminator_loss(r, f, "bce", real_target=numbers(5, 2), return_stats=True)
    assert torch.allclose(total, stats.loss_real + stats.loss_fake)
    assert torch.allclose(stats.real_mean, r.mean())
    assert stats.real_accuracy == (r > 0).float().mean()


# ---------------------------------------------------------------------------- terms and feature maps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("phi", ["abs", "square", "softplus", "relu_square"])
def test_masks_of_terms(phi, dtype):
    x, y, z = logits(6, 5, dtype=dtype), logits(6, 5, seed=1, dtype=dtype), logits(4, dtype=dtype)
    twins = wide(x, y, z)
    w, m = numbers(6, 1), numbers(4) > 0.3
    terms = [fastgan.term(phi, weight=0.5), fastgan.term(phi, scale=-1.0, shift=0.25)]
    f = {"abs": torch.abs, "square": torch.square, "softplus": F.softplus, "relu_square": lambda a: F.relu(a) ** 2}[
        phi
    ]
    for reduction in ("mean", "sum"):
        got = fastgan.reduce_terms(terms, [(x, y), z], reduction=reduction, masks=[w, m])
        wants = [0.5 * reduced(f(twins[0] - twins[1]), w, reduction), reduced(f(0.25 - twins[2]), m, reduction)]
        agree(got, [x, y, z], sum(wants), twins)
        total, values = fastgan.reduce_terms(
            terms, [(x, y), z], reduction=reduction, masks=[w, m], return_values=True, with_graph=True
        )
        assert torch.equal(total, got)
        agree(values[0], [x, y], wants[0], twins[:2])
        agree(values[1], [z], wants[1], twins[2:])
    each = fastgan.reduce_terms(terms, [(x, y), z], reduction="none", masks=[None, m])
    assert torch.equal(each[1] != 0, m & (each[1] != 0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_masked_feature_matching(loss, normalize, dtype):
    shapes = [(3, 4, 9), (3, 8, 5), (3, 2, 7)]
    real = [logits(*s, dtype=dtype) for s in shapes]
    fake = [logits(*s, seed=9, dtype=dtype) for s in shapes]
    own = [numbers(3, 1, 9) > 0.4, None, numbers(3, 2, 7)]
    size = torch.abs if loss == "l1" else torch.square
    for mask in (own, numbers(3, 1, 1)):
        masks = [mask] * 3 if isinstance(mask, torch.Tensor) else mask
        got = fastgan.feature_matching_loss(
            [real[:2], real[2:]],
            [fake[:2], fake[2:]],
            loss=loss,
            normalize=normalize,
            mask=mask,
            weights=[1.0, 2.0, 0.5],
        )
        twins, want = wide(*fake), 0.0
        for f, r, w, weight in zip(twins, wide(*real), masks, (1.0, 2.0, 0.5), strict=True):
            over = reduced(size(r.detach()), w, "mean") if normalize else 1.0
            want = want + weight * reduced(size(f - r.detach()), w, "mean") / over
        agree(got, fake, want, twins)


def test_masked_feature_matching_in_a_graph_and_refusals():
    real, fake, w = logits(3, 4, 9).detach(), logits(3, 4, 9, seed=1), numbers(3, 1, 9) > 0.4
    call = lambda r, f, w: fastgan.feature_matching_loss([r, r], [f, f * 2], mask=w)  # noqa: E731
    got, want = torch.compile(call, fullgraph=True)(real, fake, w), call(real, fake, w)
    close(got, want.double(), torch.float32)
    close(torch.autograd.grad(got, fake)[0], torch.autograd.grad(want, fake)[0].double(), torch.float32)
    for mask, message in (
        ([w, w], "mask: expected one for each of 1 pairs of maps, got 2"),
        (w[0], r"mask: expected 3 dimensions that broadcast to those of fake_features"),
        ([~w & w], r"mask\[0\]: expected an element above 0, got none"),
    ):
        with pytest.raises(ValueError, match=message):
            fastgan.feature_matching_loss(real, fake, mask=mask)
    with pytest.raises(TypeError, match="mask: expected a tensor or a sequence of them, got float"):
        fastgan.feature_matching_loss(real, fake, mask=1.0)
    with pytest.raises(ValueError, match="masks: expected one for each of 1 terms, got 2"):
        fastgan.reduce_terms([fastgan.term("abs")], [fake], masks=[w, w])


def test_second_derivatives_of_masked_terms():
    x, y = logits(4, 3, dtype=torch.float64), logits(4, 3, seed=1, dtype=torch.float64)
    call = lambda x, y: fastgan.reduce_terms(  # noqa: E731
        [fastgan.term("softplus"), fastgan.term("square")],
        [(x, y), (y, x)],
        centred=True,
        masks=[numbers(4, 1), None],
    )
    assert torch.autograd.gradcheck(call, (x, y))
    assert torch.autograd.gradgradcheck(call, (x, y))


# ---------------------------------------------------------------------------- the truncated relativistic loss


def tprls(r, f, tau=0.04):
    """The loss as StyleTTS 2 and HiFTNet write it."""
    m = torch.median(r - f)
    return tau - F.relu(tau - ((((r - f) - m) ** 2)[r < f + m]).mean())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tau", [0.04, 50.0])
@pytest.mark.parametrize("shape", [(4, 1, 50), (7,), (3, 1), (2, 600)])
def test_truncated_relativistic(shape, tau, dtype):
    r, f = logits(*shape, dtype=dtype), logits(*shape, seed=1, dtype=dtype)
    twins = wide(r, f)
    agree(fastgan.truncated_relativistic_loss(r, f, tau=tau), [r, f], tprls(*twins, tau), twins)
    swapped = fastgan.truncated_relativistic_loss(f, r, tau=tau)
    agree(swapped, [r, f], tprls(*twins[::-1], tau), twins)
    both = fastgan.truncated_relativistic_loss([r, f], [f, r.detach()], tau=tau)
    agree(both, [r, f], tprls(*twins, tau) + tprls(twins[1], twins[0].detach(), tau), twins)


def test_truncated_relativistic_in_small_twice_and_in_a_graph():
    r, f = logits(9, dtype=torch.float64), logits(9, seed=1, dtype=torch.float64)
    near = (f + 0.1 * r).detach().requires_grad_()  # L below tau, where there is a gradient
    call = lambda r, f: fastgan.truncated_relativistic_loss(r, f, tau=1.0)  # noqa: E731
    assert call(near, f) < 1
    assert torch.autograd.gradcheck(call, (near, f))
    assert torch.autograd.gradgradcheck(call, (near, f))
    agree(torch.compile(call, fullgraph=True)(near, f), [near, f], tprls(near, f, 1.0), [near, f])
    assert call(r[:1], f[:1]).isnan()
    assert tprls(r[:1], f[:1]).isnan()


def test_truncated_relativistic_refuses():
    x = torch.zeros(4)
    for arguments, options, message in (
        ((x, x[:3]), {}, r"real_logits and fake_logits: expected one shape, got \(4,\) and \(3,\)"),
        (([x], [x, x]), {}, "real_logits and fake_logits: expected as many members, got 1 and 2"),
        ((x, x), {"tau": -1.0}, "tau: expected a number in"),
        ((x, x.to("meta")), {}, "real_logits and fake_logits: expected all on one device"),
    ):
        with pytest.raises(ValueError, match=message):
            fastgan.truncated_relativistic_loss(*arguments, **options)


def test_a_number_that_stands_in_for_a_tensor_is_refused():
    """The terms that a tensor belongs to are known by such a number in its place."""
    x, label = torch.randn(4, 1), torch.rand(4, 1)
    for number in elementwise._LABELS.values():
        with pytest.raises(ValueError, match="expected another number beside a tensor"):
            fastgan.discriminator_loss(x, x, real_target=label, fake_target=number)
        fastgan.discriminator_loss(x, x, fake_target=number)
