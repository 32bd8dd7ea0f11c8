"""What a penalty leaves out is zero: gradients with and without it are the same, bit by bit."""

import functools
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import fastgan
from fastgan._torch_internals import pop_function_mode, push_function_mode
from fastgan.discriminator import prune

X = torch.linspace(-8, 8, 2 * 3 * 8 * 8, dtype=torch.float64).view(2, 3, 8, 8)
OPERATIONS = {
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, True),
    "torch.relu": torch.relu,
    "relu_": lambda x: x.relu_(),
    "torch.relu_": torch.relu_,
    "Tensor.relu": lambda x: x.relu(),
    "nn.ReLU": nn.ReLU(True),
    "F.leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "leaky, negative slope": lambda x: F.leaky_relu(x, -0.2),
    "leaky in place": lambda x: F.leaky_relu(x, 0.1, inplace=True),
    "F.leaky_relu_": lambda x: F.leaky_relu_(x, 0.1),
    "nn.LeakyReLU": nn.LeakyReLU(0.2),
    "F.relu6": F.relu6,
    "F.relu6 in place": lambda x: F.relu6(x, True),
    "F.hardtanh": lambda x: F.hardtanh(x, -2.0, 3.0),
    "nn.Threshold": nn.Threshold(0.1, 20.0),
    "torch.threshold": lambda x: torch.threshold(x, 0.1, 0.0),
    "abs": lambda x: x.abs(),
    "torch.abs": torch.abs,
    "hardshrink": F.hardshrink,
    "softshrink": lambda x: F.softshrink(x, 0.7),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "avg_pool2d, all": lambda x: F.avg_pool2d(x, (3, 2), stride=(2, 1), padding=1, count_include_pad=False),
    "nn.AvgPool2d": nn.AvgPool2d(3, 2, 1, ceil_mode=True),
}
LEFT = ("F.relu6 in place",)  # what is left as it is


@contextmanager
def pruning():
    """The mode, active for a block."""
    mode = prune.Prune(lambda call: call())
    push_function_mode(mode)
    try:
        yield mode
    finally:
        pop_function_mode()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name, dtype):
    """Values, gradients and what reaches the upstream are PyTorch's; nothing goes on to x."""

    def run(mode):
        x = X.to(dtype).requires_grad_()
        with mode:
            y = OPERATIONS[name](x * 1)
        up = torch.linspace(-1, 2, y.numel(), dtype=dtype).view(y.shape).requires_grad_()
        (g,) = torch.autograd.grad(y, x, up, create_graph=True)
        cotangent = torch.linspace(2, -1, g.numel(), dtype=dtype).view(g.shape)
        (by_up, by_x) = torch.autograd.grad(g, (up, x), cotangent, allow_unused=True)
        return (y, g, by_up), by_x, type(y.grad_fn).__name__

    plain, zeros, _ = run(torch.enable_grad())
    pruned, none, node = run(pruning())
    for a, b in zip(pruned, plain, strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()
    if name in LEFT:
        assert "PiecewiseLinear" not in node
    else:
        assert node == "PiecewiseLinearBackward"
        assert none is None
        assert zeros is not None
        assert not zeros.any()


def test_what_is_left_alone():
    """Leaves and views in place, data without gradients, and other tensors."""
    x = torch.randn(4, 6, requires_grad=True)
    with pruning() as mode:
        part = (x * 1)[:2]
        F.relu_(part)
        F.relu(x.detach())
        with torch.no_grad():
            F.relu(x)
        assert not mode.replaced
        with pytest.raises(RuntimeError, match="leaf"):
            F.relu_(x)


def same_gradients(net, *parameters, shape=(4, 3, 8, 8)):
    """Of R1 with and without pruning."""
    x = torch.randn(shape, dtype=torch.float64)
    found = []
    for pruned in (True, False):
        penalty = fastgan.r1_penalty(net, x, prune=pruned)
        found.append(torch.autograd.grad(penalty, parameters, allow_unused=True))
    for a, b in zip(*found, strict=True):
        assert (a is None) is (b is None)
        assert a is None or torch.equal(a, b)


def test_magnitudes_of_complex_numbers():
    """abs of a spectrum, as vocoders' discriminators take it, has a second derivative."""
    weight = torch.randn(8, 8, dtype=torch.float64, requires_grad=True)
    last = torch.randn(5, dtype=torch.float64)

    def net(x):
        spectrum = torch.fft.rfft(x.flatten(1, 2) @ weight)
        return (spectrum.abs() + torch.abs(spectrum)) @ last

    same_gradients(net, weight)


def test_transforms_inside_a_discriminator():
    weight = torch.randn(2, 8, 8, dtype=torch.float64, requires_grad=True)

    def net(x):
        one = torch.func.vmap(lambda w: F.relu(x.flatten(1, 2) @ w).sum((1, 2)))
        return one(weight).sum(0) + F.leaky_relu(x @ weight[0]).sum((1, 2, 3)) ** 2

    same_gradients(net, weight)


def test_other_modes_and_calls_by_name():
    weight = torch.randn(8, 8, dtype=torch.float64, requires_grad=True)

    def net(x):
        with torch.device("cpu"):
            return F.relu(input=x @ weight).square().sum((1, 2, 3)) + F.relu(weight).sum() * x.sum((1, 2, 3))

    same_gradients(net, weight)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return F.avg_pool2d(x + self.b(F.leaky_relu(self.a(F.leaky_relu(x, 0.2)), 0.2, inplace=True)), 2)


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.body = nn.Sequential(
            nn.LeakyReLU(0.2), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(True), nn.AvgPool2d(2), nn.Flatten()
        )
        self.last = nn.Linear(8 * 2 * 2, 1)

    def forward(self, x):
        return self.last(checkpoint(self.body, self.first(x), use_reentrant=False))


def conv(*norms):
    layers = []
    for k, (i, o) in enumerate(((3, 8), (8, 16))):
        layers += [nn.Conv2d(i, o, 4, 2, 1), *[norm(o) for norm in norms], nn.LeakyReLU(0.2, inplace=k == 0)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 1))


NETWORKS = {
    "conv": conv,
    "batch norm": lambda: conv(nn.BatchNorm2d),
    "instance norm": lambda: conv(nn.InstanceNorm2d),
    "group norm": lambda: conv(lambda n: nn.GroupNorm(2, n)),
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU6(), nn.Linear(16, 1)),
    "residual": lambda: nn.Sequential(nn.Conv2d(3, 8, 1), Residual(), Residual(), nn.ReLU(), nn.Flatten(), nn.Linear(32, 1)),
    "smooth": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.SiLU(), nn.Linear(16, 1)),
    "checkpointed": Checkpointed,
    "dropout": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1)),
    "spectral norm": lambda: nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 8, 4, 4)), nn.ReLU(True), nn.Flatten(), nn.Linear(32, 1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["wgan-gp", "r1"])
@pytest.mark.parametrize("name", NETWORKS)
def test_penalties_are_the_same(name, kind, dtype):
    """Value, statistics and all gradients, zeros and None's too; and buffers."""
    found = []
    for pruned in (True, False):
        torch.manual_seed(1)
        net = NETWORKS[name]().to(dtype)
        real, fake = (torch.randn(4, 3, 8, 8, dtype=dtype) for _ in range(2))
        real.requires_grad_()
        penalty, stats = fastgan.gradient_penalty(net, real, fake, kind=kind, prune=pruned, return_stats=True)
        parameters = [real, *net.parameters()]
        grads = torch.autograd.grad(penalty, parameters, allow_unused=True)
        found.append([penalty.detach(), stats.norms, *grads, *net.buffers()])
    for a, b in zip(*found, strict=True):
        assert (a is None) is (b is None)
        assert a is None or torch.equal(a, b)


def test_less_is_computed():
    """Nodes of the forward graph are not run again: with relu the second backward has no zeros to send."""
    net, x = conv(), torch.randn(2, 3, 8, 8)
    counts = []
    for pruned in (True, False):
        penalty = fastgan.r1_penalty(net, x, prune=pruned)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            penalty.backward()
        counts.append(sum(e.name == "aten::convolution_backward" for e in profile.events()))
    assert counts[0] < counts[1]


def test_only_masks_lead_to_the_parameters():
    """PyTorch gives zeros there, and so do we; it is no error."""
    bias = nn.Parameter(torch.randn(5))
    weight = torch.randn(5)
    penalty = fastgan.r1_penalty(lambda x: F.relu(x + bias) @ weight, torch.randn(3, 5), prune=True)
    penalty.backward()
    assert torch.equal(bias.grad, torch.zeros(5))


def test_the_penalty_may_be_changed_in_place():
    penalty = fastgan.r1_penalty(conv(), torch.randn(2, 3, 8, 8), prune=True)
    penalty *= 2
    penalty.backward()


V = torch.randn(8, 8, dtype=torch.float64)


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: F.leaky_relu(x, np.float32(0.2)),
        lambda x: F.leaky_relu(x, torch.tensor(0.2)),
        lambda x: F.avg_pool2d(x, np.int64(2)).repeat(1, 1, 2, 2),
        lambda x: torch.abs(x, out=None),
        lambda x: F.relu_(x * 1),
        lambda x: F.hardtanh(x, min_val=-0.5, max_val=0.5),
    ],
)
def test_arguments_of_all_kinds(operation):
    weight = torch.randn(8, 8, dtype=torch.float64, requires_grad=True)
    same_gradients(lambda x: (operation(x @ weight) * V).square().sum((1, 2, 3)), weight)


def test_other_function_modes_see_what_was_called():
    class Gelu(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return F.gelu(args[0]) if func is F.relu else func(*args, **(kwargs or {}))

    weight = torch.randn(8, 8, dtype=torch.float64, requires_grad=True)
    with Gelu():
        same_gradients(lambda x: F.relu(x @ weight).sum((1, 2, 3)), weight)


def test_an_inner_gradient_that_is_a_constant():
    weight, other = (torch.randn(8, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def net(x):
        (slope,) = torch.autograd.grad(F.relu(x @ weight).sum(), x)
        return (slope * F.relu(x @ other)).sum((1, 2, 3))

    same_gradients(net, weight, other)


@pytest.mark.parametrize("attach", [lambda t: t, lambda t: t * 2])
@pytest.mark.parametrize("operation", [F.relu, torch.abs, lambda x: F.avg_pool2d(x, 2).repeat(1, 1, 2, 2)])
def test_operations_on_the_input_itself(operation, attach):
    """Data with a graph get the zeros that PyTorch gives them."""
    found = []
    for pruned in (True, False):
        torch.manual_seed(3)
        data = torch.randn(4, 3, 8, 8, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(8, 8, dtype=torch.float64, requires_grad=True)
        penalty = fastgan.r1_penalty(lambda x: (operation(x) @ weight).sum((1, 2, 3)), attach(data), prune=pruned)
        found.append(torch.autograd.grad(penalty, (data, weight), allow_unused=True))
    for a, b in zip(*found, strict=True):
        assert (a is None) is (b is None)
        assert a is None or torch.equal(a, b)


def test_parameters_may_change_and_be_frozen():
    """As without pruning: a bias may be changed before the backward, and a frozen network is refused."""
    bias = torch.zeros(8, requires_grad=True)
    weight = torch.randn(8, 8, requires_grad=True)
    penalty = fastgan.r1_penalty(
        lambda x: F.relu(x @ weight + bias).sum((1, 2, 3)), torch.randn(2, 3, 8, 8), prune=True
    )
    with torch.no_grad():
        bias.add_(1)
    penalty.backward()
    assert torch.equal(bias.grad, torch.zeros(8))
    frozen = NETWORKS["mlp"]().requires_grad_(False)
    with pytest.raises(RuntimeError, match="all of its parameters are frozen"):
        fastgan.r1_penalty(frozen, torch.randn(2, 3, 8, 8), prune=True)


def compared(make, x, *args, wrap=lambda net: net):
    """Gradients of R1 with pruning (the default) and without, of two networks of the same weights."""
    found = []
    for options in ({}, {"prune": False}):
        torch.manual_seed(2)
        net = make()
        penalty, stats = fastgan.gradient_penalty(
            wrap(net), x, None, *args, kind="r1", return_stats=True, **options
        )
        penalty.backward()
        found.append([stats.engine, *[p.grad for p in net.parameters()]])
    return found


@pytest.mark.parametrize("where", ["module", "all modules", "a function's module", "a partial's module"])
def test_backward_hooks_of_modules_see_what_pytorch_sends(where):
    """With such hooks nothing is pruned."""
    calls = []

    def make():
        net = NETWORKS["mlp"]()
        calls.clear()
        if where != "all modules":
            net[1].register_full_backward_pre_hook(lambda module, sent: calls.append(sent[0].shape))
        return net

    wrap = {"a function's module": lambda net: lambda x: net(x), "a partial's module": functools.partial}
    handle = nn.modules.module.register_module_full_backward_pre_hook(
        lambda module, sent: calls.append(sent[0].shape)
    )
    if where != "all modules":
        handle.remove()
    try:
        one, other = compared(make, torch.randn(2, 3, 8, 8), wrap=wrap.get(where, lambda net: net))
    finally:
        handle.remove()
    assert one[0] == other[0] == "eager"
    assert calls
    for a, b in zip(one[1:], other[1:], strict=True):
        assert (a is None) is (b is None)
        assert a is None or torch.equal(a, b)


def test_hooks_of_tensors_are_not_called_with_nothing():
    """Inside of a forward hooks on tensors see gradients, or are not called."""
    seen = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 1)

        def forward(self, x):
            h = self.a(x)
            h.register_hook(lambda g: seen.append(g.shape))
            h.register_hook(hook=lambda g: 2 * g)
            return self.b(F.relu(h))

    one, other = compared(Watched, torch.randn(3, 8))
    assert one[0] == "eager, pruned"
    assert set(seen) == {torch.Size([3, 8])}
    for a, b in zip(one[1:], other[1:], strict=True):
        assert (a is None) is (b is None)
        assert a is None or torch.equal(a, b)


def test_sparse_gradients_stay_sparse():
    class Conditional(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.last = nn.Embedding(5, 8, sparse=True), nn.Linear(8, 1)

        def forward(self, x, labels):
            return self.last(F.relu(x + self.embedding(labels)))

    one, other = compared(Conditional, torch.randn(3, 8), torch.tensor([0, 2, 2]))
    assert one[0] == "eager"
    assert one[1].is_sparse
    assert other[1].is_sparse
