"""K2: a discriminator that cannot be differentiated twice is refused at the call, by name, and others are not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastgan
from fastgan.nn import GradientPenalty

from . import plain

X = torch.randn(5, 3)


class Opaque(torch.autograd.Function):
    """x * sigmoid(x) as an extension computes it: autograd does not see the backward, nor is it told so."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        with torch.no_grad():
            s = torch.sigmoid(x)
            return g * (s + x * s * (1 - s))


class Scale(torch.autograd.Function):
    """x * w, of which the gradient by w alone is out of sight."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g * w, (g.detach() * x.detach()).sum(0)


class Twice(Opaque):
    """The same with a backward that can be differentiated."""

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return g * (s + x * s * (1 - s))


class Rectified(torch.autograd.Function):
    """relu, whose gradient depends on that of the result alone."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x > 0)
        return x.relu()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0]


class Rounded(torch.autograd.Function):
    """A straight-through estimator."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, g):
        return g


class Blocked(torch.autograd.Function):
    """A constant gradient of zeros."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return torch.zeros_like(g)


class Net(nn.Module):
    def __init__(self, f, place="middle"):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 1)
        self.scale = nn.Parameter(torch.randn(8))
        self.f, self.place = f, place

    def forward(self, x):
        h = torch.tanh(self.a(x))
        if self.place == "end":
            return self.f(self.c(torch.tanh(self.b(h))))
        v = self.f(self.b(h))
        return self.c(h + v if self.place == "residual" else v)


places = pytest.mark.parametrize("place", ["middle", "residual", "end"])
CALLS = {
    "penalty": lambda d: fastgan.r1_penalty(d, X, weight=1.0),
    "between": lambda d: fastgan.gradient_penalty(d, X, -X, prune=False),
    "module": lambda d: GradientPenalty("wgan-gp")(d, X, -X),
    "step": lambda d: fastgan.discriminator_step(d, X, -X, loss="hinge", penalty="r1").total,
}


@places
@pytest.mark.parametrize("call", CALLS)
def test_a_backward_out_of_sight(place, call):
    with pytest.raises(
        RuntimeError, match=r"function Opaque computes its gradient out of .*'(b|c)\.bias'.*r1-approx"
    ):
        CALLS[call](Net(Opaque.apply, place))


def test_zeros_prove_nothing():
    """A head that begins at zero hides what its Function computes: that is asked again at each call."""
    d = Net(Opaque.apply, "end")
    with torch.no_grad():
        d.c.weight.zero_()
    d.f = lambda x: Opaque.apply(x) * 0
    fastgan.r1_penalty(d, X)
    d = Net(Opaque.apply, "end")
    with pytest.raises(RuntimeError, match="function Opaque"):
        fastgan.r1_penalty(d, X)


class Split(torch.autograd.Function):
    """Two inputs, two results."""

    @staticmethod
    def forward(ctx, a, b):
        return a.clone(), b.clone()

    @staticmethod
    def backward(ctx, ga, gb):
        return ga, gb


class AddAuxiliary(torch.autograd.Function):
    """x, and a gradient of ones for another loss, whatever comes."""

    @staticmethod
    def forward(ctx, x, loss):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g, torch.ones(())


@pytest.mark.parametrize("prune", [True, False])
def test_gradients_that_are_constants_for_good_reason(prune):
    """Of a result that goes straight to the output, and of what does not depend on the result."""
    torch.manual_seed(0)
    linear = nn.Linear(3, 3)

    def split(x, apply):
        a, b = apply(torch.tanh(linear(x)), x)
        return torch.tanh(a).sum(1) + b.sum(1)

    def auxiliary(x, apply):
        h = linear(x)
        return torch.tanh(apply(torch.tanh(h), h.square().mean())).sum(1)

    got, want = (
        fastgan.r1_penalty(lambda x, f=f: split(x, f), X, prune=prune) for f in (Split.apply, lambda a, b: (a, b))
    )
    assert torch.equal(got, want)
    for a, b in zip(
        plain.gradients(got, linear.parameters()), plain.gradients(want, linear.parameters()), strict=True
    ):
        assert torch.equal(a, b)
    fastgan.r1_penalty(lambda x: auxiliary(x, AddAuxiliary.apply), X, prune=prune).backward()


def test_a_part_of_a_backward_out_of_sight():
    d = Net(None)
    d.f = lambda x: Scale.apply(torch.tanh(x), d.scale)
    with pytest.raises(RuntimeError, match="function Scale computes its gradient out of"):
        fastgan.r1_penalty(d, X)


@places
@pytest.mark.parametrize(("function", "same"), [(Twice, F.silu), (Rectified, F.relu)])
@pytest.mark.parametrize("prune", [True, False])
def test_functions_that_can_be_differentiated(place, function, same, prune):
    torch.manual_seed(0)
    d = Net(function.apply, place)
    twin = plain.in_double(d)
    twin.f = same
    for _ in range(2):  # also once it is known
        got = fastgan.r1_penalty(d, X, weight=2.0, prune=prune)
        plain.agree(got, d, plain.penalty(twin, X, lambda g: list(g), "power"), twin)


@places
@pytest.mark.parametrize("function", [Rounded, Blocked])
def test_constant_gradients_are_no_fault(place, function):
    torch.manual_seed(0)
    d = Net(function.apply, place)
    if function is Blocked and place != "residual":
        return
    fastgan.r1_penalty(d, X).backward()
    torch.manual_seed(0)
    twin = Net((lambda x: x) if function is Rounded else torch.zeros_like, place)
    if function is Rounded and place == "middle":
        got, want = (fastgan.r1_penalty(n, X) for n in (d, twin))
        assert torch.equal(got, want)


def test_operators_without_a_derivative():
    """torch.library's: one that has a formula for its first derivative alone, and one that has none."""
    with torch.library._scoped_library("fastgan_k2", "DEF") as library:
        library.define("silu_bwd(Tensor g, Tensor x) -> Tensor")

        def run(g, x):  # as compiled code does, of which autograd sees nothing
            s = torch.sigmoid(x.detach())
            return torch.from_numpy((g.detach() * (s + x.detach() * s * (1 - s))).numpy().copy())

        library.impl("silu_bwd", run, "CPU")

        class Raw(Opaque):
            @staticmethod
            def backward(ctx, g):
                return torch.ops.fastgan_k2.silu_bwd(g, ctx.saved_tensors[0])

        with pytest.raises(RuntimeError, match="second derivative, which it does not have"):
            fastgan.r1_penalty(Net(Raw.apply), X)


@torch.library.custom_op("fastgan_k2b::silu_fwd", mutates_args=())
def silu_fwd(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


@torch.library.custom_op("fastgan_k2b::silu_bwd", mutates_args=())
def silu_bwd(g: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    s = torch.sigmoid(x)
    return g * (s + x * s * (1 - s))


silu_fwd.register_autograd(
    lambda ctx, g: silu_bwd(g, ctx.saved_tensors[0]),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
)


@places
def test_custom_operators(place):
    with pytest.raises(RuntimeError, match=r"operator fastgan_k2b_silu_bwd_default has no derivative.*\.bias'"):
        fastgan.r1_penalty(Net(silu_fwd, place), X)


LATE = {
    "cdist": (lambda h: torch.cdist(h, h).exp().neg().sum(1, keepdim=True), r"torch\.cdist: write .*'b\.bias'"),
    "cdist, 1": (lambda h: torch.cdist(h, h, p=1.0).sum(1, keepdim=True), r"torch\.cdist: write"),
    "pdist": (lambda h: F.pdist(h).sum() + h, r"F\.pdist: write"),
    "ctc": (
        lambda h: (
            h + F.ctc_loss(h.log_softmax(1)[:, None], torch.tensor([[1, 2]]), torch.tensor([5]), torch.tensor([2]))
        ),
        r"there is none of aten::_ctc_loss_backward .*'b\.bias'",
    ),
}


@pytest.mark.parametrize("name", LATE)
def test_operators_that_raise_late(name):
    f, match = LATE[name]
    d = Net(f)
    d.c = nn.LazyLinear(1)
    d(X)
    with pytest.raises(RuntimeError, match=match):
        fastgan.r1_penalty(d, X)


def test_the_formula_that_the_refusal_of_cdist_names():
    torch.manual_seed(0)
    d = Net(lambda h: h + (h[:, None] - h[None]).square().sum(-1).exp().neg().sum(1, keepdim=True))
    twin = plain.in_double(d)
    got = fastgan.r1_penalty(d, X, weight=2.0)
    plain.agree(got, d, plain.penalty(twin, X, lambda g: list(g), "power"), twin, within=2e-5)


def frozen():
    return nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 1)).requires_grad_(False)


@pytest.mark.parametrize("make", [frozen, lambda: nn.Sequential(nn.Linear(3, 8), nn.ReLU()).requires_grad_(False)])
@pytest.mark.parametrize("engine", ["eager", "compiled"])
@pytest.mark.parametrize("kind", ["r1", "wgan-gp"])
def test_a_frozen_discriminator_would_train_nothing(make, engine, kind):
    d = make()
    for call in (
        lambda: fastgan.gradient_penalty(d, X, -X, kind=kind, engine=engine),
        lambda: fastgan.discriminator_step(d, X, -X, loss="hinge", penalty=kind, engine=engine),
    ):
        with pytest.raises(RuntimeError, match=r"all of its parameters are frozen.*train nothing.*torch\.no_grad"):
            call()


def test_what_a_frozen_discriminator_is_good_for():
    """The value under no_grad, and a penalty that trains a generator or an embedding."""
    torch.manual_seed(0)
    d, g = frozen(), nn.Linear(2, 3)
    z = torch.randn(4, 2)
    with torch.no_grad():
        value = fastgan.r2_penalty(d, g(z))
    fake = g(z)
    penalty = fastgan.r2_penalty(d, fake)
    assert torch.equal(penalty, value)
    twin, generator = plain.in_double(d), plain.in_double(g)
    x = generator(z.double())
    (grad,) = torch.autograd.grad(twin(x).sum(), x, create_graph=True)
    plain.agree(penalty, g, grad.square().sum(1).mean() / 2, generator)
    embedding = torch.randn(5, 3, requires_grad=True)
    fastgan.r1_penalty(lambda x, e: d(x * e), X, embedding).backward()
    assert embedding.grad.abs().sum() > 0
