"""output_penalty: penalties by outputs that a discriminator has returned already."""

import pytest
import torch
from torch import nn

import fastgan
from fastgan.penalties import KINDS

EXACT = [kind for kind, k in KINDS.items() if k.psi]


def critic(*shape, dtype=torch.float64):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(shape[0], 9), nn.Softplus(), nn.Linear(9, 2)).to(dtype)
    return net, torch.randn(5, *shape, dtype=dtype)


def grads(loss, net):
    return torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)


@pytest.mark.parametrize("kind", EXACT)
def test_the_same_as_where_the_discriminator_is_called(kind):
    """Bit by bit: the norms and the formula are the same."""
    net, x = critic(6)
    options = {"kind": kind, "weight": 3.0} | ({"target": 0.7} if kind in ("wgan-gp", "wgan-lp", "dragan") else {})
    eps = {} if KINDS[kind].inputs in ("real", "fake") else {"eps": torch.ones(5, dtype=x.dtype)}
    if kind == "dragan":
        eps["eps"] = torch.zeros(5, dtype=x.dtype)
    want = fastgan.gradient_penalty(net, x, x, prune=False, **options, **eps)
    inputs = x.clone().requires_grad_()
    got = fastgan.output_penalty(net(inputs), inputs, **options)
    assert torch.equal(got, want)
    for a, b in zip(grads(got, net), grads(want, net), strict=True):
        assert (a is None and b is None) or torch.equal(a, b) or (a is None and not b.any())


def test_several_inputs_and_outputs():
    """The norm is over both inputs, and the chosen output alone counts."""
    net, x = critic(6)
    y, factors = torch.randn(5, 3, dtype=x.dtype), torch.linspace(0, 2, 5, dtype=x.dtype)

    def both(pair):
        return {"critic": net(pair[0]) * pair[1].sum(1, keepdim=True), "classes": net(pair[0])}

    want, stats = fastgan.gradient_penalty(
        both, (x, y), None, kind="r1", output="critic", sample_weights=factors, return_stats=True
    )
    pair = tuple(t.clone().requires_grad_() for t in (x, y))
    got, found = fastgan.output_penalty(
        both(pair), pair, kind="r1", output="critic", sample_weights=factors, return_stats=True
    )
    assert torch.equal(got, want)
    assert torch.equal(found.norms, stats.norms)
    assert found.engine is None


def test_options_of_samples():
    net, x = critic(6)
    inputs = x[:4].clone().requires_grad_()
    got = fastgan.output_penalty(net(inputs).view(2, -1), inputs, pac=2)
    assert torch.equal(got, fastgan.gradient_penalty(net, x[:4], x[:4], pac=2, eps=torch.ones(2, dtype=x.dtype)))


def test_without_grad():
    net, x = critic(6)
    inputs = x.clone().requires_grad_()
    outputs = net(inputs)
    with torch.no_grad():
        assert not fastgan.output_penalty(outputs, inputs).requires_grad


class Once(torch.autograd.Function):
    """Has a first derivative alone."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x * g


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda net, x: fastgan.output_penalty(net(x), x.detach()), ValueError, "inputs: expected tensors that requ"),
        (lambda net, x: fastgan.output_penalty(net(x).detach(), x), RuntimeError, "no graph back to its input"),
        (lambda net, x: fastgan.output_penalty(net(x.clone()), torch.ones_like(x).requires_grad_()), ValueError,
         "does not depend on its input"),
        (lambda net, x: fastgan.output_penalty(net(x), x, kind="r1-approx"), ValueError, "calls the discriminator again"),
        (lambda net, x: fastgan.output_penalty(net(x), x, kind="gp"), ValueError, "kind: unknown name 'gp'"),
        (lambda net, x: fastgan.output_penalty(net(x)[:3], x), ValueError, "5 samples"),
        (lambda net, x: fastgan.output_penalty(nn.Linear(2, 1).double()(net(x)), x, kind="r1", target=2.0), ValueError,
         "target: has no effect"),
        (lambda net, x: fastgan.output_penalty(nn.utils.parametrizations.weight_norm(nn.Linear(6, 1)).double()(x[0]), x),
         ValueError, "samples"),
        (lambda net, x: fastgan.output_penalty(Once.apply(net(x)), x), RuntimeError, "Once"),
        (lambda net, x: fastgan.output_penalty(torch.utils.checkpoint.checkpoint(net, x, use_reentrant=True), x),
         RuntimeError, "use_reentrant"),
    ],
)  # fmt: skip
def test_refuses(make, error, said):
    net, x = critic(6)
    with pytest.raises(error, match=said):
        make(net, x.requires_grad_())
