"""Penalties and steps inside the user's own torch.compile: traced into the graph, or between its parts."""

import copy
import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import fastgan
from fastgan import requirements
from fastgan.discriminator import dynamo
from fastgan.nn import DiscriminatorLoss, GradientPenalty
from tests.discriminator import test_zoo

if lacking := requirements.lacking("engine='compiled'"):
    pytest.skip(f"penalties in a graph: {lacking}", allow_module_level=True)

STEP, DOUBLE = fastgan.discriminator_step, torch.float64


@pytest.fixture(autouse=True)
def _anew():
    torch.set_num_threads(1)
    torch._dynamo.reset()


def batch(seed, *shape):
    return torch.randn(shape or (4, 3, 8, 8), dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


REAL, FAKE, EPS = batch(1), batch(2), torch.tensor([0.1, 0.9, 0.4, 0.7], dtype=DOUBLE)


class Net(nn.Module):
    """A small discriminator, with something in its middle."""

    def __init__(self, between=None, **attributes):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.last = nn.Linear(64, 1)
        self.between = between or (lambda h: h)
        for name, value in attributes.items():
            setattr(self, name, value)
        self.double()

    def forward(self, x, labels=None):
        h = F.leaky_relu(self.second(self.between(F.leaky_relu(self.first(x), 0.2))), 0.2, inplace=True)
        return self.last(h.flatten(1)) if labels is None else self.last(h.flatten(1)) * labels[:, None]


def compiled_whole(function, **options):
    """A function under torch.compile as one graph, or an error."""
    options = {"backend": "aot_eager", "fullgraph": True, **options}
    return fastgan.compiling()(torch.compile(function, **options))


def results(function, d, *arguments):
    """Its value, the parameters' gradients and the buffers, from a fixed seed."""
    d.zero_grad()
    torch.manual_seed(3)
    value = function(d, *arguments)
    value.backward()
    return [value.detach(), *[p.grad for p in d.parameters()], *d.buffers()]


def same(got, want, tolerance=1e-10):
    for a, b in zip(got, want, strict=True):
        assert (a is None) is (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * 1e-2)


R1 = GradientPenalty("r1", weight=3.0)
HINGE = DiscriminatorLoss("hinge", relativistic="average")


def hinge_and_r1(d, real, fake):
    """One forward for the loss and a penalty of the caller's own gradient."""
    logits = d(real)
    (g,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    return fastgan.discriminator_loss(logits, d(fake), "hinge") + fastgan.norm_penalty(g, "power")


CALLS = {
    "r1": lambda d, real, fake: fastgan.r1_penalty(d, real),
    "r1, not pruned": lambda d, real, fake: fastgan.r1_penalty(d, real, prune=False),
    "r2 and a factor": lambda d, real, fake: 2.0 * fastgan.r2_penalty(d, fake, weight=0.5),
    "wgan-gp": lambda d, real, fake: fastgan.gradient_penalty(d, real, fake, eps=EPS),
    "wgan-gp, drawn": lambda d, real, fake: fastgan.gradient_penalty(d, real, fake, kind="wgan-lp", target=0.01),
    "dragan": lambda d, real, fake: fastgan.gradient_penalty(d, real, None, kind="dragan"),
    "approximate": lambda d, real, fake: fastgan.gradient_penalty(d, real, None, kind="r1-approx"),
    "with statistics": lambda d, real, fake: fastgan.gradient_penalty(d, real, fake, eps=EPS, return_stats=True)[0],
    "labels": lambda d, real, fake: fastgan.r1_penalty(d, real, EPS),
    "a function": lambda d, real, fake: fastgan.r1_penalty(lambda x: d(x) * 2, real),
    "a lazy module": lambda d, real, fake: R1(d, real),
    "engine='compiled'": lambda d, real, fake: fastgan.r1_penalty(d, real, engine="compiled"),
    "loss and penalty": lambda d, real, fake: fastgan.discriminator_loss(d(real), d(fake)) + fastgan.r1_penalty(d, real),
    "a step": lambda d, real, fake: STEP(d, real, fake, loss="hinge", penalty="r1").total,
    "a step with all": lambda d, real, fake: STEP(d, real, fake, loss=HINGE, penalty=["r1", R1, "r2", "wgan-gp"]).total,
    "labels that want one": lambda d, real, labels: fastgan.r1_penalty(d, real, labels if labels.dim() == 1 else EPS),
    "points": lambda d, real, fake: d(fastgan.interpolate(real, fake, EPS)).square().mean(),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_one_graph(name):
    """The same values and gradients, None's too, as without torch.compile, at the first call and the next."""
    function = CALLS[name]
    d = Net()
    twin = copy.deepcopy(d)
    outer = compiled_whole(function)
    for real, fake in ((REAL, FAKE), (FAKE, REAL)):
        same(results(outer, d, real, fake), results(function, twin, real, fake))


@pytest.mark.skipif(
    requirements.parsed(torch.__version__) < (2, 11), reason="a backward in a graph needs torch 2.11"
)
def test_backward_and_gradients_inside_of_the_graph():
    """As the switch of Dynamo's that fastgan.compiling() sets allows."""

    def step(d, real, fake):
        total = STEP(d, real, fake, loss="hinge", penalty="r1").total
        total.backward()
        return total.detach()

    d = Net()
    twin = copy.deepcopy(d)
    outer = compiled_whole(step)
    for k in range(2):
        d.zero_grad()
        twin.zero_grad()
        got, want = outer(d, batch(k), FAKE), step(twin, batch(k), FAKE)
        same([got, *[p.grad for p in d.parameters()]], [want, *[p.grad for p in twin.parameters()]])
    real = REAL.clone().requires_grad_()
    same(results(compiled_whole(hinge_and_r1), d, real, FAKE), results(hinge_and_r1, twin, real, FAKE))


def test_with_the_optimizer():
    """Several steps of training, by a compiled function that holds all but zero_grad."""

    def step(d, optimizer, real, fake):
        found = STEP(d, real, fake, loss="nonsaturating", penalty=["r1", "r2"])
        found.total.backward()
        optimizer.step()
        return found.total.detach()

    ours, twin = Net(), Net()
    outer = compiled_whole(step, fullgraph=False)
    pairs = [(d, torch.optim.SGD(d.parameters(), 0.1, momentum=0.9)) for d in (ours, twin)]
    for k in range(3):
        totals = []
        for call, (d, optimizer) in zip((outer, step), pairs, strict=True):
            optimizer.zero_grad()
            totals.append(call(d, optimizer, batch(k), FAKE))
        same([totals[0], *ours.parameters()], [totals[1], *twin.parameters()], 1e-8)


@pytest.mark.parametrize(
    "name", ["conv, in place", "spectral norm", "vocoder, hook", "attention", "batch norm", "list"]
)
def test_of_the_zoo(name):
    """A value with a graph, whose backward follows outside, is right for these too."""
    found = []
    for wrap in (lambda f: f, compiled_whole):
        penalty = wrap(lambda net, *given: fastgan.r1_penalty(net, given[0], *given[2:]))
        found.append(test_zoo.steps(lambda kind, net, *given, p=penalty: p(net, *given), "r1", name, DOUBLE))
    for got, want in zip(*found, strict=True):
        test_zoo.same(got, want)


@pytest.mark.parametrize("kind", ["wgan-gp", "dragan", "r1"])
def test_batches_of_several_sizes(kind):
    """As the last one of a loader has another."""

    def penalty(d, real, fake):
        return fastgan.gradient_penalty(d, real, fake, kind=kind)

    d = Net()
    twin, outer = copy.deepcopy(d), compiled_whole(penalty)
    for n in (4, 3, 2):
        torch.manual_seed(n)
        same(results(outer, d, REAL[:n], FAKE[:n]), results(penalty, twin, REAL[:n], FAKE[:n]))


@pytest.mark.parametrize("with_graph", [False, True])
def test_labels_that_want_a_gradient(with_graph):
    d = Net()
    twin, outer = copy.deepcopy(d), compiled_whole(CALLS["labels that want one"])
    found = []
    for each, function in ((d, outer), (twin, CALLS["labels that want one"])):
        leaf = EPS.clone().requires_grad_()
        labels = leaf.exp() if with_graph else leaf
        found.append([*results(function, each, REAL, labels), leaf.grad])
    same(*found)


def test_lazy_penalties():
    """Their counts go on; a handful of graphs serve all calls."""

    def step(d, lazy, real):
        return STEP(d, real, FAKE, penalty=lazy).total

    d, graphs = Net(), []

    def backend(graph, given):
        graphs.append(graph)
        return graph.forward

    lazy, twins = ([GradientPenalty("r1", weight=2.0, interval=3), GradientPenalty("r2")] for _ in range(2))
    outer = compiled_whole(step, backend=backend)
    for k in range(8):
        same([outer(d, lazy, batch(k))], [step(d, twins, batch(k))])
        assert lazy[0].calls == k + 1  # the other is due at every call, and a graph counts it no further
    assert len(graphs) <= 4


@pytest.mark.parametrize("mode", ["default", pytest.param("reduce-overhead", marks=pytest.mark.slow)])
def test_by_inductor(mode):
    """In the generated code the gradients are the same."""
    d = Net()
    twin = copy.deepcopy(d)
    outer = compiled_whole(CALLS["a step"], backend="inductor", mode=mode)
    same(results(outer, d, REAL, FAKE), results(CALLS["a step"], twin, REAL, FAKE))


# ---------------------------------------------------------------------------------- what changes between calls

CHANGES = {
    "mode": (lambda: Net(nn.Dropout(0.5)), lambda d: d.eval()),
    "attribute": (lambda: Net(nn.LeakyReLU(0.5)), lambda d: setattr(d.between, "negative_slope", 0.1)),
    "hook": (Net, lambda d: d.first.register_forward_hook(lambda m, a, r: 2 * r)),
    "tied weights": (
        lambda: Net(nn.Conv2d(4, 4, 3, padding=1)),
        lambda d: setattr(d.between, "bias", d.first.bias),
    ),
    "frozen": (Net, lambda d: d.first.weight.requires_grad_(False)),
    "weights": (Net, lambda d: d.load_state_dict({k: v + 1 for k, v in d.state_dict().items()})),
    "parametrization": (Net, lambda d: nn.utils.parametrizations.spectral_norm(d.first)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_followed(name):
    build, change = CHANGES[name]
    d = build()
    twin = copy.deepcopy(d)
    outer, function = compiled_whole(CALLS["r1"]), CALLS["r1"]
    same(results(outer, d, REAL, FAKE), results(function, twin, REAL, FAKE))
    for each in (d, twin):
        each.zero_grad()
        torch.manual_seed(5)
        change(each)
    same(results(outer, d, REAL, FAKE), results(function, twin, REAL, FAKE))


def test_a_hook_goes_unseen_without_the_switch():
    """As its own setting has it, which is why fastgan.compiling() sets another. If this fails, ours may go."""
    d, twin = Net(), Net()
    outer = torch.compile(lambda d, x: d(x), backend="aot_eager", fullgraph=True)
    outer(d, REAL)
    d.first.register_forward_hook(lambda m, a, r: 2 * r)
    assert torch.allclose(outer(d, REAL), twin(REAL))


def test_settings_are_known_and_given_back():
    """A newer torch that renames one, or changes its default, fails here."""
    config = torch._dynamo.config
    defaults = {"trace_autograd_ops": False, "allow_rnn": False, "allow_unspec_int_on_nn_module": False}
    defaults |= {"skip_nnmodule_hook_guards": True, "skip_no_tensor_aliasing_guards_on_parameters": True}
    defaults |= {"use_numpy_random_stream": False}
    assert defaults.keys() == dynamo.SETTINGS.keys()
    if requirements.parsed(torch.__version__) < (2, 11):
        del defaults["trace_autograd_ops"]
    assert {name: getattr(config, name) for name in defaults} == defaults
    with fastgan.compiling():
        with fastgan.compiling():
            pass
        assert dynamo.switch.on
        assert {name: getattr(config, name) for name in defaults} == {n: dynamo.SETTINGS[n] for n in defaults}
    assert not dynamo.switch.on
    assert {name: getattr(config, name) for name in defaults} == defaults


# ---------------------------------------------------------------------------------- what cannot be traced


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, upstream):
        return 2 * ctx.saved_tensors[0] * upstream


OTHER = nn.Conv2d(4, 4, 1).double()
REFUSED = {
    "a Function": (lambda: Net(Square.apply), "it applies a torch.autograd.Function"),
    "detached": (lambda: Net(torch.Tensor.detach), "its output does not depend on its input"),
    "a parameter of nobody's": (lambda: Net(lambda h, p=[OTHER]: p[0](h)), "parameters that no module holds"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    """With the reason; never with a part of the gradient missing."""
    build, why = REFUSED[name]
    with pytest.raises(RuntimeError, match=why):
        compiled_whole(CALLS["r1"])(build(), REAL, FAKE)


def test_a_function_is_no_obstacle_to_a_loss():
    """It is differentiated once there."""
    d, twin = Net(Square.apply), Net(Square.apply)
    function = lambda d, real, fake: STEP(d, real, fake, loss="hinge").total  # noqa: E731
    same(results(compiled_whole(function), d, REAL, FAKE), results(function, twin, REAL, FAKE))


def test_a_parameter_of_nobodys_without_pruning():
    build, _ = REFUSED["a parameter of nobody's"]
    d, twin, function = build(), build(), CALLS["r1, not pruned"]
    same(results(compiled_whole(function), d, REAL, FAKE), results(function, twin, REAL, FAKE))


def test_checkpoints():
    between = lambda h: checkpoint(torch.sin, h, use_reentrant=False)  # noqa: E731
    d, twin = Net(between), Net(between)
    same(results(compiled_whole(CALLS["r1"]), d, REAL, FAKE), results(CALLS["r1"], twin, REAL, FAKE))


@pytest.mark.parametrize("fullgraph", [True, False])
def test_a_break_inside_of_the_discriminator(fullgraph):
    """It raises, as a graph in parts has no second derivative."""

    def breaks(h):
        torch._dynamo.graph_break()
        return h

    outer = compiled_whole(CALLS["r1"], fullgraph=fullgraph)
    with pytest.raises(
        RuntimeError,
        match=r"graph_break|could not be traced as a whole|it ran as a compiled graph|broke the graph inside of it",
    ):
        outer(Net(breaks), REAL, FAKE)


def test_bad_arguments():
    for call in (
        lambda d, real, fake: fastgan.r1_penalty(3, real),
        lambda d, real, fake: fastgan.gradient_penalty(d, real, fake, kind="r3"),
        lambda d, real, fake: STEP(d, real, fake, loss="vanila"),
    ):
        with pytest.raises((RuntimeError, TypeError, ValueError)):
            compiled_whole(call)(Net(), REAL, FAKE)


def test_no_grad():
    """The value alone, inside of the graph."""
    d = Net()
    with torch.no_grad():
        got = compiled_whole(CALLS["r1"])(d, REAL, FAKE)
    assert not got.requires_grad
    torch.testing.assert_close(got, CALLS["r1"](d, REAL, FAKE).detach(), rtol=1e-12, atol=0)


# ---------------------------------------------------------------------------------- between the parts of a graph


def test_without_the_switch_it_runs_eagerly_and_says_so(caplog):
    from fastgan.discriminator import in_graphs  # which imports the compiler

    in_graphs._say.cache_clear()
    d, twin = Net(), Net()
    outer = torch.compile(CALLS["loss and penalty"], backend="aot_eager")
    with caplog.at_level(logging.WARNING, "fastgan"):
        for _ in range(2):
            same(results(outer, d, REAL, FAKE), results(CALLS["loss and penalty"], twin, REAL, FAKE))
    (record,) = [r for r in caplog.records if r.name == "fastgan"]
    assert "with fastgan.compiling() it is traced into the graph" in record.getMessage()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(CALLS["r1"], backend="aot_eager", fullgraph=True)(d, REAL, FAKE)


def test_the_switch_may_come_later():
    """A function that was compiled without it is compiled anew."""
    graphs = []

    def backend(graph, given):
        graphs.append(graph)
        return graph.forward

    d, twin = Net(), Net()
    inner = torch.compile(CALLS["loss and penalty"], backend=backend)
    inner(d, REAL, FAKE)
    count = len(graphs)
    with fastgan.compiling():
        same(results(inner, d, REAL, FAKE), results(CALLS["loss and penalty"], twin, REAL, FAKE))
    assert len(graphs) == count + 1
