"""First, second and third order; repeated, batched and functional differentiation; tampering."""

import pytest
import torch

import fastgan
from fastgan.ops import reference
from tests.helpers import ulp

LOSSES = ["saturating", "nonsaturating", "hinge", "least_squares", "wasserstein", "ranking"]
FORMS = [None, "paired", "average"]


def pair(n=5, dtype=torch.float64):
    return (
        (torch.randn(n, dtype=dtype) * 2).requires_grad_(),
        (torch.randn(n, dtype=dtype) * 2).requires_grad_(),
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradcheck_and_gradgradcheck(loss, form, reduction):
    r, f = pair()
    for call in (
        lambda r, f: fastgan.discriminator_loss(r, f, loss, relativistic=form, reduction=reduction),
        lambda r, f: fastgan.generator_loss(f, r, loss, relativistic=form, reduction=reduction),
    ):
        torch.autograd.gradcheck(call, (r, f))
        torch.autograd.gradgradcheck(call, (r, f))


def test_gradgradcheck_of_a_sequence_with_weights():
    tensors = [t for _ in range(2) for t in pair(4)]

    def call(*t):
        return fastgan.discriminator_loss(t[:2], t[2:], relativistic="average", weights=(0.5, 3.0))

    torch.autograd.gradcheck(call, tensors)
    torch.autograd.gradgradcheck(call, tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss", LOSSES)
def test_second_order_against_float64(loss, form, dtype):
    """Gradients of <v, gradient> with respect to both logits and the upstream."""
    r, f = (torch.randn(1500).to(dtype).requires_grad_() for _ in range(2))
    v = [torch.randn(1500).to(dtype) for _ in range(2)]
    up = torch.tensor(1.5, requires_grad=True)

    def second(r, f, up, v):
        loss_value = fastgan.discriminator_loss(r, f, loss, relativistic=form)
        first = torch.autograd.grad(loss_value, (r, f), up, create_graph=True)
        if not any(g.requires_grad for g in first):
            return None
        grads = torch.autograd.grad(first, (r, f, up), v, allow_unused=True)
        return [torch.zeros_like(x) if g is None else g for x, g in zip((r, f, up), grads, strict=True)]

    got = second(r, f, up, v)
    with fastgan.backend("reference"):
        wide = [t.detach().double().requires_grad_() for t in (r, f, up)]
        want = second(*wide, [t.double() for t in v])
    if want is None:
        assert all(torch.equal(g, torch.zeros_like(g)) for g in got[:2])
        return
    for g, w in zip(got, want, strict=True):
        scale = w.abs().max() if w.dim() else torch.tensor(1e-2)  # <v, g> cancels
        assert ulp.error(g, w, scale) <= 8.0


def test_third_order():
    """Past the second order the reference takes over; its derivatives are autograd's."""
    x = torch.randn(4, dtype=torch.float64, requires_grad=True)
    y = torch.randn(4, dtype=torch.float64, requires_grad=True)

    def derivative(call, order):
        value = call(x, y)
        for _ in range(order):
            (g,) = torch.autograd.grad(value, x, create_graph=True)
            value = (g * torch.arange(1, 5)).sum()
        return value

    for form in FORMS:
        for order in (3, 4):
            got = derivative(lambda a, b: fastgan.discriminator_loss(a, b, relativistic=form), order)
            want = derivative(lambda a, b: reference.discriminator(a, b, "nonsaturating", form), order)
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-14)


def test_backward_twice_with_different_upstreams():
    """The pattern of adaptive weights and balancers: two backwards over the graph before the real one."""
    for form in FORMS:
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            r, f = pair(3000, dtype)
            loss = fastgan.discriminator_loss(r, f, relativistic=form)
            one = torch.autograd.grad(loss, (r, f), retain_graph=True)
            for g in one:
                g.mul_(7.0)  # whoever was given a gradient owns it
            three = torch.autograd.grad(loss, (r, f), torch.tensor(3.0).to(loss), retain_graph=True)
            again = torch.autograd.grad(loss, (r, f), retain_graph=True)
            fresh = torch.autograd.grad(fastgan.discriminator_loss(r, f, relativistic=form), (r, f))
            scaled = torch.autograd.grad(
                fastgan.discriminator_loss(r, f, relativistic=form), (r, f), torch.tensor(3.0).to(loss)
            )
            for a, b, c, d in zip(again, fresh, three, scaled, strict=True):
                assert torch.equal(a, b)  # computed anew in backward, or by forward: the same bits
                assert torch.equal(c, d)
            loss.backward()
            assert torch.equal(r.grad, fresh[0])
            r.grad = f.grad = None


def test_gradients_of_one_side_only():
    for form in FORMS:
        for detach_real in (True, False):
            r, f = pair(200, torch.float32)
            a, b = (r.detach(), f) if detach_real else (r, f.detach())
            fastgan.discriminator_loss(a, b, relativistic=form).backward()
            want = torch.autograd.grad(fastgan.discriminator_loss(r, f, relativistic=form), (r, f))
            got = f.grad if detach_real else r.grad
            assert torch.equal(got, want[detach_real])
            r.grad = f.grad = None
            (2 * fastgan.generator_loss(b, a, relativistic=form or "paired")).backward()  # not handed out as it is


def test_an_in_place_edit_raises():
    for n in (4, 5000):
        logits = torch.randn(n, requires_grad=True) * 1.0
        loss = fastgan.generator_loss(logits)
        logits.add_(1.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_batched_backward():
    for form in FORMS:
        r, f = pair(6)
        loss = fastgan.discriminator_loss(r, f, relativistic=form)
        ups = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
        batched = torch.autograd.grad(loss, (r, f), ups, is_grads_batched=True, retain_graph=True)
        for k, up in enumerate(ups):
            for b, g in zip(batched, torch.autograd.grad(loss, (r, f), up, retain_graph=True), strict=True):
                torch.testing.assert_close(b[k], g, rtol=1e-14, atol=0)
    r, f = pair(3)
    hessian = torch.autograd.functional.hessian(lambda x: fastgan.generator_loss(x), r, vectorize=True)
    assert ulp.error(hessian.diagonal(), ulp.sigmoid_slope(r.detach()) / 3) <= 4.0


def test_functional_transforms():
    r, f = (t.detach() for t in pair(6))

    def loss(r, f):
        return fastgan.discriminator_loss(r, f, "hinge", relativistic="average")

    want = torch.func.grad(lambda r, f: reference.discriminator(r, f, "hinge", "average"))(r, f)
    torch.testing.assert_close(torch.func.grad(loss)(r, f), want)
    rows = torch.stack([r, f])
    batched = torch.vmap(loss)(rows, rows.flip(0))
    torch.testing.assert_close(batched, torch.stack([loss(r, f), loss(f, r)]))
    per_sample = torch.vmap(torch.func.grad(loss))(rows, rows.flip(0))
    torch.testing.assert_close(per_sample[0], want)
    _, tangent = torch.func.jvp(loss, (r, f), (torch.ones_like(r), torch.zeros_like(f)))
    torch.testing.assert_close(tangent, want.sum())
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(r, torch.ones_like(r))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(loss(dual, f)).tangent, want.sum())
    with fastgan.backend("cpu"), pytest.raises(RuntimeError, match="need the reference backend"):
        torch.func.grad(loss)(r, f)


def test_the_graph_lets_go_of_its_memory():
    import weakref

    logits = torch.randn(100, requires_grad=True)
    inner = logits * 1.0
    watch = weakref.ref(inner)
    loss = fastgan.generator_loss(inner)
    del inner
    loss.backward()
    del loss
    assert watch() is None


def test_unused_terms_and_none_upstreams():
    r, f = pair(4)
    elements = fastgan.reduce_terms([fastgan.term("square"), fastgan.term("abs")], [r, f], reduction="none")
    (g,) = torch.autograd.grad(elements[0].sum(), r)
    assert torch.equal(g, 2 * r)


def test_saved_tensor_hooks_are_seen():
    """Offloading and checkpointing hook what is saved."""
    seen = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t.shape) or t, lambda t: t):
        r, f = pair(4)
        fastgan.discriminator_loss(r, f).backward()
    assert seen == [r.shape, f.shape]
