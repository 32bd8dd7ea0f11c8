"""torchgan's adapter against torchgan's own formulas: functions, modules, and whole training steps."""

import inspect

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Normal

from bench.baselines import torchgan as peer
from tests.helpers.adapters import (
    DTYPES,
    LAYOUTS,
    Critic,
    close,
    compare,
    images,
    public,
    same_parameters,
    same_penalty,
    sample,
    twice,
)

METHODS = ["forward", "train_ops", "set_arg_map", "update_k", "set_k"]
REDUCTIONS = ["mean", "sum", "none"]


@pytest.fixture
def ours():
    from fastgan.compat import torchgan

    torch.set_num_threads(1)
    return torchgan


@pytest.mark.parametrize("name", public(peer))
def test_names_and_parameters(ours, name):
    mine, theirs = getattr(ours, name), getattr(peer, name)
    same_parameters(mine, theirs)
    for method in METHODS if inspect.isclass(theirs) else []:
        own = getattr(theirs, method, None)
        # nn.Module's own forward stands for none.
        if own is not None and own is not nn.Module.forward:
            same_parameters(getattr(mine, method), own)


# ---------------------------------------------------------------------------------- functions

# (name, number of tensors, other arguments)
FUNCTIONS = [
    ("minimax_generator_loss", 1, {}),
    ("minimax_generator_loss", 1, {"nonsaturating": False}),
    ("minimax_discriminator_loss", 2, {}),
    ("minimax_discriminator_loss", 2, {"label_smoothing": 0.25}),
    ("least_squares_generator_loss", 1, {}),
    ("least_squares_generator_loss", 1, {"c": -0.5}),
    ("least_squares_discriminator_loss", 2, {}),
    ("least_squares_discriminator_loss", 2, {"a": -1.0, "b": 0.75}),
    ("wasserstein_generator_loss", 1, {}),
    ("wasserstein_discriminator_loss", 2, {}),
    ("energy_based_generator_loss", 1, {}),
    ("energy_based_discriminator_loss", 2, {"margin": 1.0}),
    ("energy_based_discriminator_loss", 2, {"margin": 30}),
    ("boundary_equilibrium_generator_loss", 1, {}),
    ("boundary_equilibrium_discriminator_loss", 2, {"k": 0.0}),
    ("boundary_equilibrium_discriminator_loss", 2, {"k": 0.375}),
]


# An element that is not summed in float64: the rounding of x - b counts twice in a square, and two such are added.
SQUARES = 2.0


def size_of(name, reduction):
    """What is summed where signs differ: each element, or their mean or sum."""
    if name.startswith(("least", "minimax")):
        return None

    def size(*x):
        sizes = [v.abs() if reduction not in ("mean", "sum") else getattr(v.abs(), reduction)() for v in x]
        return sum(sizes[1:], sizes[0])

    return size


def smoothed(options, reduction):
    """What a gradient's elements are the difference of, for a soft label; and half an ulp for that rounding."""
    label = 1 - options.get("label_smoothing", 0.0)
    if label == 1:
        return {}

    def slope(r, f):
        size = torch.sigmoid(r) + label
        return [size / r.numel() if reduction == "mean" else size, torch.zeros_like(f)]

    return {"slope": slope, "more": 0.5}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("name", "n", "options"), FUNCTIONS, ids=str)
def test_functions(ours, name, n, options, reduction, dtype):
    mine, theirs = getattr(ours, name), getattr(peer, name)
    for seed, layout in enumerate(LAYOUTS if reduction == "mean" else ["maps", "edges", "transposed"]):
        inputs = tuple(sample(layout, dtype, seed + 30 * i) for i in range(n))
        compare(
            lambda *x: mine(*x, **options, reduction=reduction),
            lambda *x: theirs(*x, **options, reduction=reduction),
            inputs,
            scale=size_of(name, reduction),
            more_value=SQUARES if reduction == "none" else 0.0,
            **smoothed(options, reduction),
        )


@pytest.mark.parametrize(("name", "n", "options"), FUNCTIONS, ids=str)
def test_default_is_the_mean(ours, name, n, options):
    inputs = tuple(sample("maps", torch.float32, i) for i in range(n))
    values = [getattr(ours, name)(*inputs, *options.values(), **extra) for extra in ({}, {"reduction": "mean"})]
    assert values[0] == values[1]
    first = values[0][0] if isinstance(values[0], tuple) else values[0]
    assert first.shape == ()


@pytest.mark.parametrize(("name", "n", "options"), FUNCTIONS, ids=str)
def test_another_reduction_is_none_or_fails(ours, name, n, options):
    mine, theirs = getattr(ours, name), getattr(peer, name)
    inputs = tuple(sample("maps", torch.float32, i) for i in range(n))
    if name.startswith("minimax"):
        with pytest.raises(ValueError):
            mine(*inputs, **options, reduction="median")
        return
    compare(
        lambda *x: mine(*x, **options, reduction="median"),
        lambda *x: theirs(*x, **options, reduction="median"),
        inputs,
        scale=size_of(name, "none"),
        more_value=SQUARES,
    )


@pytest.mark.parametrize(("name", "n", "options"), FUNCTIONS, ids=str)
def test_a_second_backward(ours, name, n, options):
    inputs = [sample("maps", torch.float32, i).requires_grad_() for i in range(n)]
    value = getattr(ours, name)(*inputs, **options)
    twice(value[0] if isinstance(value, tuple) else value, *inputs)


@pytest.mark.parametrize(
    ("name", "options"),
    [(n, o) for n, count, o in FUNCTIONS if count == 2 and n.startswith(("least", "boundary"))],
    ids=str,
)
def test_unlike_batches(ours, name, options):
    mine, theirs = getattr(ours, name), getattr(peer, name)
    for reduction in ("mean", "sum"):
        compare(
            lambda r, f: mine(r, f, **options, reduction=reduction),
            lambda r, f: theirs(r, f, **options, reduction=reduction),
            (sample("N", torch.float32), sample("maps", torch.float32, 1)),
            scale=size_of(name, reduction),
        )


@pytest.mark.parametrize("name", ["wasserstein_discriminator_loss", "energy_based_discriminator_loss"])
def test_a_column_with_a_row(ours, name):
    options = [30.0] if name.startswith("energy") else []
    compare(
        lambda r, f: getattr(ours, name)(r, f, *options),
        lambda r, f: getattr(peer, name)(r, f, *options),
        (sample("Nx1", torch.float32), sample("Nx1", torch.float32, 1)[:, 0]),
        scale=size_of(name, "mean"),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 2, 2), (6, 1), (1, 4)], ids=str)
def test_pulling_away(ours, shape, dtype):
    codes = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    for x in (codes, codes.masked_fill(torch.arange(shape[-1]) == 0, 0.0)):
        found = []
        for module in (ours, peer):
            leaf = x.clone().requires_grad_()
            value = module.energy_based_pulling_away_term(d_hid=leaf)
            assert value.shape == ()
            assert value.dtype is dtype
            found.append((value, torch.autograd.grad(value, leaf)[0]))
        tolerance = 1e-5 if dtype is torch.float32 else 1e-12
        assert close(found[0][0], found[1][0], tolerance)
        assert shape[0] > 1 or found[0][0].isinf()
        if shape[0] > 1:
            assert close(found[0][1], found[1][1], tolerance)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_auxiliary_classification(ours, reduction):
    labels = torch.tensor([0, 3, 1, 2, 3])
    for dtype in (torch.float32, torch.float64):
        logits = torch.randn(5, 4, dtype=dtype)
        found = []
        for module in (ours, peer):
            leaf = logits.clone().requires_grad_()
            value = module.auxiliary_classification_loss(leaf, labels, reduction=reduction)
            assert value.dtype is dtype
            found.append((value, torch.autograd.grad(value.sum(), leaf)[0]))
        assert all(close(a, b, 1e-6) for a, b in zip(*found, strict=True))
    with pytest.raises(ValueError):
        ours.auxiliary_classification_loss(torch.randn(5, 4), labels, reduction="median")


def codes(logits, mean):
    return Categorical(logits=logits), Normal(mean, 1.5)


@pytest.mark.parametrize("reduction", [*REDUCTIONS, "median"])
def test_mutual_information(ours, reduction):
    logits, mean, c_cont = torch.randn(6, 3), torch.randn(6, 2), torch.randn(6, 2)
    c_dis = torch.tensor([0, 1, 2, 2, 1, 0])
    arguments = c_dis, c_cont, *codes(logits, mean)
    got, want = (m.mutual_information_penalty(*arguments, reduction) for m in (ours, peer))
    assert got.shape == want.shape
    assert got.dtype is want.dtype
    assert close(got, want, 1e-6)
    got, want = (m.MutualInformationPenalty(lambd=3.0, reduction=reduction)(*arguments) for m in (ours, peer))
    assert close(got, want, 1e-6)


def penalty(module, name, **options):
    def run(net, x):
        x = x * 1.0 if x.requires_grad else x.requires_grad_()
        return getattr(module, name)(x, net(x), **options)

    return run


PENALTIES = [
    ("wasserstein_gradient_penalty", {}),
    ("wasserstein_gradient_penalty", {"reduction": "none"}),
    ("wasserstein_gradient_penalty", {"reduction": "sum"}),
    ("dragan_gradient_penalty", {}),
    ("dragan_gradient_penalty", {"k": 2.5, "reduction": "none"}),
    ("dragan_gradient_penalty", {"k": 0.0, "reduction": "?"}),
]


@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize(("name", "options"), PENALTIES, ids=str)
def test_penalties(ours, name, options, maps):
    calls = [penalty(m, name, **options) for m in (ours, peer)]
    for wants in (True, False):
        same_penalty(*calls, images()[:1], lambda: Critic(maps=maps), wants=wants)
    same_penalty(*calls, [images()[0].contiguous(memory_format=torch.channels_last)], lambda: Critic(maps=maps))
    same_penalty(*calls, images(torch.float32)[:1], lambda: Critic(dtype=torch.float32), tolerance=1e-4)
    assert calls[0](Critic(maps=maps), images()[0]).shape == ()


@pytest.mark.parametrize("name", ["wasserstein_gradient_penalty", "dragan_gradient_penalty"])
def test_penalty_of_no_gradient(ours, name):
    weight = torch.zeros(3, 4, requires_grad=True)
    x = torch.randn(3, 4, requires_grad=True)
    value = getattr(ours, name)(x, (x * weight).sum(1))
    assert value == 1.0
    value.backward()
    assert not weight.grad.any()
    # The norm is the whole batch's, and so grows with it.
    for n in (1, 4, 9):
        x = torch.randn(n, 4, requires_grad=True)
        assert close(getattr(ours, name)(x, x.sum(1)), (2 * n**0.5 - 1) ** 2, 1e-6)


# ---------------------------------------------------------------------------------- modules

# (class, its arguments, number of tensors, attributes that are set afterwards)
MODULES = [
    ("MinimaxGeneratorLoss", {"nonsaturating": False}, 1, {"nonsaturating": True}),
    ("MinimaxDiscriminatorLoss", {"label_smoothing": 0.25}, 2, {"label_smoothing": 0.0}),
    ("LeastSquaresGeneratorLoss", {"c": 0.5}, 1, {"c": 2.0}),
    ("LeastSquaresDiscriminatorLoss", {"a": -1.0, "b": 0.5}, 2, {"a": 0.25, "b": 3.0}),
    ("WassersteinGeneratorLoss", {}, 1, {}),
    ("WassersteinDiscriminatorLoss", {"clip": (-0.01, 0.01)}, 2, {"clip": None}),
    ("EnergyBasedGeneratorLoss", {}, 1, {}),
    ("EnergyBasedDiscriminatorLoss", {"margin": 2.0}, 2, {"margin": 40.0}),
    ("BoundaryEquilibriumGeneratorLoss", {}, 1, {}),
    ("BoundaryEquilibriumDiscriminatorLoss", {"init_k": 0.25}, 2, {"k": 0.75}),
    ("FeatureMatchingGeneratorLoss", {}, 2, {}),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "options", "n", "attributes"), MODULES, ids=str)
def test_modules(ours, name, options, n, attributes, dtype):
    mine, theirs = (getattr(m, name)(**options) for m in (ours, peer))
    inputs = tuple(sample("maps", dtype, i) for i in range(n))

    def check(reduction):
        size = size_of(name.lower().replace("leastsquares", "least"), reduction)
        smoothing = {"label_smoothing": getattr(mine, "label_smoothing", 0.0)}
        compare(mine, theirs, inputs, scale=size, **smoothed(smoothing, reduction))

    check("mean")
    for loss in (mine, theirs):
        assert loss.reduction == "mean"
        assert isinstance(loss, nn.Module)
        loss.reduction = "sum"
        for key, value in attributes.items():
            assert hasattr(loss, key)
            setattr(loss, key, value)
    check("sum")


@pytest.mark.parametrize("name", ["WassersteinGradientPenalty", "DraganGradientPenalty"])
def test_penalty_modules(ours, name):
    def call(module):
        loss = getattr(module, name)(lambd=5.0)
        if name.startswith("Dragan"):
            loss.k = 2.0
        return lambda net, x: loss(x, net(x))

    same_penalty(call(ours), call(peer), images()[:1])


def test_pulling_away_module(ours):
    d_hid = torch.randn(4, 6, dtype=torch.float64)
    for ratio in (0.1, 2.0):
        got, want = (m.EnergyBasedPullingAwayTerm(pt_ratio=ratio)(None, d_hid) for m in (ours, peer))
        assert close(got, want, 1e-12)


def test_feature_matching_takes_known_reductions(ours):
    loss = ours.FeatureMatchingGeneratorLoss(reduction="median")
    with pytest.raises(ValueError):
        loss(torch.ones(3), torch.ones(3))


def test_bases(ours):
    for name in ("GeneratorLoss", "DiscriminatorLoss"):
        base = getattr(ours, name)
        a, b = base(), base("sum", None)
        assert (a.reduction, b.reduction, a.override_train_ops) == ("mean", "sum", None)
        a.set_arg_map({"device": "gpu"})
        a.set_arg_map({"labels": "classes"})
        assert (a.arg_map, b.arg_map) == ({"device": "gpu", "labels": "classes"}, {})
    for name in public(peer):
        kind = getattr(peer, name)
        for base in ("GeneratorLoss", "DiscriminatorLoss") if inspect.isclass(kind) else ():
            if issubclass(kind, getattr(peer, base)) and name != "MutualInformationPenalty":
                assert issubclass(getattr(ours, name), getattr(ours, base)), name


def test_balance(ours):
    mine, theirs = (m.BoundaryEquilibriumDiscriminatorLoss(init_k=0.5, lambd=0.25, gamma=0.5) for m in (ours, peer))
    for on_real, on_fake in [(2.0, 0.5), (1.0, 3.0), (9.0, 0.0), (0.25, 30.0), (1.0, 0.5)]:
        for loss in (mine, theirs):
            loss.update_k(on_real, on_fake)
        assert (mine.k, mine.convergence_metric) == (theirs.k, theirs.convergence_metric)
    mine.set_k(0.75)
    assert mine.k == 0.75
    mine.set_k()
    assert mine.k == 0.0


# ---------------------------------------------------------------------------------- steps


class Generator(nn.Module):
    """Small images of noise, and of labels or codes."""

    encoding_dims, num_classes = 5, 4

    def __init__(self, label_type, log):
        super().__init__()
        self.label_type, self.log = label_type, log
        self.layer = nn.Linear(5, 12)
        self.classes = nn.Embedding(4, 12)

    def forward(self, noise, *more):
        self.log.append(("G", tuple(noise.shape), [m.tolist() for m in more]))
        h = self.layer(noise)
        for m in more:
            h = h + (m.sum(1, keepdim=True) if m.is_floating_point() else self.classes(m))
        return torch.tanh(h).view(-1, 3, 2, 2)


class Discriminator(nn.Module):
    """Scores; or features, classes, distributions of codes, hidden codes and scores."""

    def __init__(self, label_type, log, returns="scores"):
        super().__init__()
        self.label_type, self.log, self.returns = label_type, log, returns
        self.layer, self.score, self.kinds = nn.Linear(12, 6), nn.Linear(6, 1), nn.Linear(6, 4)
        self.classes = nn.Embedding(4, 6)

    def forward(self, x, *more, **options):
        state = getattr(self, "embeddings", None)
        passed = [m if isinstance(m, bool) else m.tolist() for m in more]
        self.log.append(("D", x.requires_grad, round(x.sum().item(), 6), passed, options, state))
        h = torch.tanh(self.layer(x.flatten(1)))
        if self.returns == "codes":
            return None, Categorical(logits=self.kinds(h)), Normal(self.score(h), 1.0)
        for label in more:
            h = h + self.classes(label)
        if options.get("feature_matching"):
            return h
        if options.get("mode") == "classifier":
            return self.kinds(h)
        score = self.score(h)[:, 0]
        return (h, score) if self.returns == "hidden" else score


class Optimizer(torch.optim.SGD):
    """Which tells what it is asked."""

    def __init__(self, network, name, log):
        super().__init__(network.parameters(), lr=0.05)
        self.name, self.log = name, log

    def zero_grad(self, *args, **kwargs):
        self.log.append(("zero_grad", self.name))
        super().zero_grad(*args, **kwargs)

    def step(self, *args, **kwargs):
        self.log.append(("step", self.name))
        return super().step(*args, **kwargs)


class World:
    """Two networks, their optimizers, data, and a log of what was called: all that a Trainer gives by name."""

    def __init__(self, labels=("none", "none"), labelled=False, returns="scores", embeddings=None):
        torch.manual_seed(21)
        self.log = []
        self.generator, self.discriminator = (
            Generator(labels[0], self.log),
            Discriminator(labels[1], self.log, returns),
        )
        self.optimizer_generator = Optimizer(self.generator, "G", self.log)
        self.optimizer_discriminator = Optimizer(self.discriminator, "D", self.log)
        self.real_inputs, self.device, self.batch_size = torch.randn(7, 3, 2, 2), torch.device("cpu"), 7
        self.labels = torch.tensor([0, 1, 2, 3, 1, 1, 0]) if labelled else None
        self.dis_code, self.cont_code = torch.tensor([0, 1, 2, 3, 3, 2, 1]), torch.randn(7, 1)
        self.network, self.optimizer = self.discriminator, self.optimizer_discriminator
        if embeddings is not None:
            self.discriminator.embeddings = embeddings

    def call(self, loss):
        """train_ops with its arguments by name."""
        names = inspect.signature(loss.train_ops).parameters
        return loss.train_ops(**{name: getattr(self, name) for name in names})

    def state(self):
        return [
            *self.generator.parameters(),
            *self.discriminator.parameters(),
            torch.get_rng_state(),
            torch.rand(3),
        ]


@pytest.fixture
def double():
    """The whole step in float64, draws included."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def same_steps(ours, name, world, options=None, attributes=(), steps=3, tolerance=1e-10, set_first=None):
    """Some steps with each: the same calls, values, random draws, parameters and attributes."""
    found = []
    for module in (ours, peer):
        here = World(**world)
        loss = getattr(module, name)(**(options or {}))
        for key, value in (set_first or {}).items():
            setattr(loss, key, value)
        torch.manual_seed(3)
        values = [here.call(loss) for _ in range(steps)]
        assert all(type(v) is float for v in values)
        found.append((here.log, [*values, *here.state(), *(getattr(loss, a) for a in attributes)], here))
    (log, got, mine), (their_log, want, _) = found
    assert log == their_log
    for a, b in zip(got, want, strict=True):
        assert close(a, b, tolerance)
    return mine


NONE, LABELLED = {}, {"labels": ("required", "required"), "labelled": True}
WORLDS = {
    "none": NONE,
    "required": LABELLED,
    "generated": {"labels": ("generated", "none")},
    "generated for both": {"labels": ("generated", "generated")},
    "generated, and labels": {"labels": ("generated", "required"), "labelled": True},
    "labels for the discriminator": {"labels": ("none", "required"), "labelled": True},
    "labels for the generator": {"labels": ("required", "none"), "labelled": True},
}
STEPS = [
    ("MinimaxGeneratorLoss", {}),
    ("MinimaxGeneratorLoss", {"nonsaturating": False}),
    ("LeastSquaresGeneratorLoss", {"c": 0.5}),
    ("WassersteinGeneratorLoss", {"reduction": "sum"}),
    ("EnergyBasedGeneratorLoss", {}),
    ("BoundaryEquilibriumGeneratorLoss", {}),
    ("MinimaxDiscriminatorLoss", {"label_smoothing": 0.2}),
    ("LeastSquaresDiscriminatorLoss", {"a": -1.0}),
    ("WassersteinDiscriminatorLoss", {}),
    ("WassersteinDiscriminatorLoss", {"clip": (-0.1, 0.2)}),
    ("EnergyBasedDiscriminatorLoss", {"margin": 0.5}),
    ("BoundaryEquilibriumDiscriminatorLoss", {"init_k": 0.5, "lambd": 0.3}),
    ("WassersteinGradientPenalty", {}),
    ("WassersteinGradientPenalty", {"lambd": 2.0, "reduction": "none"}),
    ("DraganGradientPenalty", {"k": 0.5}),
    ("FeatureMatchingGeneratorLoss", {}),
]


@pytest.mark.parametrize("world", list(WORLDS))
@pytest.mark.parametrize(("name", "options"), STEPS, ids=str)
def test_train_ops(ours, double, name, options, world):
    attributes = ["k", "convergence_metric"] if name.startswith("BoundaryEquilibriumD") else []
    same_steps(ours, name, WORLDS[world], options, attributes)


@pytest.mark.parametrize(("name", "options"), STEPS, ids=str)
def test_train_ops_in_float32(ours, name, options):
    # The log has inputs' sums to six digits.
    found = []
    for module in (ours, peer):
        here = World()
        loss = getattr(module, name)(**options)
        torch.manual_seed(3)
        found.append((here.call(loss), *here.state()))
    assert all(close(a, b, 1e-5) for a, b in zip(*found, strict=True))


def test_what_a_penalty_returns(ours, double):
    """Not weighted; the step is."""
    for name in ("WassersteinGradientPenalty", "DraganGradientPenalty"):
        values = []
        for weight in (1.0, 10.0):
            here = World()
            torch.manual_seed(3)
            values.append(here.call(getattr(ours, name)(lambd=weight)))
            values.append(here.discriminator.layer.weight.clone())
        assert values[0] == values[2]
        assert not torch.equal(values[1], values[3])


def test_only_the_clip_that_is_set(ours, double):
    for clip in ((-0.01, 0.01), [-0.02, 0.03]):
        same_steps(ours, "WassersteinDiscriminatorLoss", NONE, {"clip": clip}, steps=1)
    same_steps(ours, "WassersteinDiscriminatorLoss", NONE, {}, set_first={"clip": [-0.02, 0.03]})


@pytest.mark.parametrize("name", ["EnergyBasedGeneratorLoss", "EnergyBasedDiscriminatorLoss"])
@pytest.mark.parametrize("before", [True, False])
def test_embeddings_are_off_in_between(ours, double, name, before):
    here = same_steps(ours, name, {"embeddings": before})
    assert here.discriminator.embeddings is True
    assert {entry[-1] for entry in here.log if entry[0] == "D"} == {False}
    here = same_steps(ours, name, NONE)
    assert not hasattr(here.discriminator, "embeddings")


def test_pulling_away_step(ours, double):
    same_steps(ours, "EnergyBasedPullingAwayTerm", {"returns": "hidden", "embeddings": True}, {"pt_ratio": 0.5})


@pytest.mark.parametrize("name", ["AuxiliaryClassifierGeneratorLoss", "AuxiliaryClassifierDiscriminatorLoss"])
def test_classifier_steps(ours, double, name):
    world = {"labels": ("required", "none"), "labelled": True}
    same_steps(ours, name, world)
    same_steps(ours, name, world, {"reduction": "sum"})
    if name.endswith("DiscriminatorLoss"):
        with pytest.raises(Exception, match="label"):
            World(labels=("none", "none")).call(getattr(ours, name)())


@pytest.mark.parametrize("name", ["HistoricalAverageGeneratorLoss", "HistoricalAverageDiscriminatorLoss"])
def test_historical_average(ours, double, name):
    found = []
    for module in (ours, peer):
        here = World()
        loss = getattr(module, name)(lambd=0.3)
        network, optimizer = (here.generator, here.optimizer_generator)
        values = []
        for _ in range(4):
            values.append(loss.train_ops(network, optimizer))
            for p in network.parameters():
                p.data.mul_(1.1)
        assert values[0] == 0.0
        assert all(type(v) is float for v in values)
        found.append((here.log, [*values, *network.parameters()]))
    assert found[0][0] == found[1][0]
    assert all(close(a, b, 1e-10) for a, b in zip(found[0][1], found[1][1], strict=True))
    assert loss.reduction == "elementwise_mean"


def test_mutual_information_step(ours, double):
    """The trainer's own value has no graph and its step fails; here there may be one."""
    with pytest.raises(RuntimeError):
        World(returns="codes").call(peer.MutualInformationPenalty())
    here = World(returns="codes")
    loss = ours.MutualInformationPenalty(lambd=2.0)
    torch.manual_seed(3)
    try:
        value = here.call(loss)
    except RuntimeError:
        return
    assert type(value) is float
    names = [entry[0] for entry in here.log]
    assert names == ["zero_grad", "zero_grad", "G", "D", "step", "step"]
    assert here.log[3][3] == [True]
    again = World(returns="codes")
    torch.manual_seed(3)
    fake = again.generator(torch.randn(7, 5), again.dis_code, again.cont_code)
    _, dist_dis, dist_cont = again.discriminator(fake, True)
    want = -(dist_dis.log_prob(again.dis_code).mean() + dist_cont.log_prob(again.cont_code).mean()) / 2
    assert close(value, 2.0 * want, 1e-6)


@pytest.mark.parametrize("name", ["MinimaxGeneratorLoss", "MinimaxDiscriminatorLoss", "WassersteinGradientPenalty"])
def test_labels_that_are_missing(ours, name):
    with pytest.raises(Exception, match="label"):
        World(labels=("required", "none")).call(getattr(ours, name)())
    if not name.endswith("GeneratorLoss"):
        with pytest.raises(Exception, match="label"):
            World(labels=("none", "required")).call(getattr(ours, name)())


OVERRIDES = [name for name in public(peer) if inspect.isclass(getattr(peer, name))]


@pytest.mark.parametrize("name", OVERRIDES)
def test_override(ours, name):
    found = []
    for module in (ours, peer):
        here, seen = World(labelled=True), []

        def steps(*args, seen=seen, **kwargs):
            seen.extend([*args, *kwargs.values()])
            return "what it returns"

        loss = getattr(module, name)(override_train_ops=steps)
        here.optimizer_generator.log.clear()
        assert here.call(loss) == "what it returns"
        assert not here.log
        named = {id(value): key for key, value in vars(here).items() if key not in ("network", "optimizer")}
        named[id(loss)] = "the loss"
        found.append([named[id(value)] for value in seen])
    assert found[0] == found[1]
