"""A step in one forward, and approximate R1 as trainers run it."""

import functools
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import fastgan
from fastgan.discriminator import joined
from fastgan.nn import GradientPenalty


class Net(nn.Module):
    """A conditional discriminator, which may mix samples."""

    def __init__(self, mix=lambda h: h):
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.Identity()
        self.by_class = nn.Embedding(5, 8)
        self.score = nn.Linear(8, 2)
        self.mix = mix
        self.calls = 0

    def forward(self, x, labels=None, scale=1.0):
        self.calls += 1
        h = self.mix(F.leaky_relu(self.norm(self.first(x)), 0.2).mean((2, 3)))
        h = h if labels is None else h * self.by_class(labels)
        return scale * self.score(h)


REAL, FAKE = torch.randn(2, 6, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()
LABELS, OTHERS = torch.arange(6) % 5, (torch.arange(6) + 2) % 5
WEIGHTS = torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def approximate(kind, **options):
    return GradientPenalty(kind, sigma=0.05, normalize=True, **options)


PENALTIES = {
    "none": (None, 1),
    "r1": ("r1", 1),
    "r1 and r2": (["r1", "r2"], 1),
    "between": (["wgan-gp", "r1"], 2),
    "approximate": ([approximate("r1-approx"), approximate("r2-approx")], 1),
    "a part": ([approximate("r1-approx", part=0.5), approximate("r2-approx", part=0.34)], 1),
    "directions": ([approximate("r1-approx", directions=3)], 1),
    "exact on a part": ([GradientPenalty("r1", part=0.5), approximate("r1-approx")], 2),
}


def gradients(net, total):
    return torch.autograd.grad(total, list(net.parameters()), allow_unused=True)


def both(net, *args, real=REAL, fake=FAKE, **options):
    """The step with two forwards and with one, and their gradients."""
    found = []
    for concat in (False, True):
        torch.manual_seed(1)
        net.calls = 0
        step = fastgan.discriminator_step(net, real, fake, *args, concat=concat, **options)
        found.append((step, gradients(net, step.total), net.calls))
    return found


def close(a, b, tolerance=1e-11):
    for x, y in zip(a, b, strict=True):
        if x is None or y is None:
            assert x is y
        else:
            torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["", "weights"])
@pytest.mark.parametrize("name", PENALTIES)
def test_one_forward_is_as_good_as_several(name, weights):
    penalty, forwards = PENALTIES[name]
    options = {"penalty": penalty, "fake_args": (OTHERS,), "scale": 2.0, "sample_weights": weights}
    (apart, wanted, _), (joined, got, calls) = both(Net().double(), LABELS, **options)
    assert calls == forwards
    close(
        [joined.total, joined.real_logits, joined.fake_logits], [apart.total, apart.real_logits, apart.fake_logits]
    )
    close(got, wanted)
    assert joined.engine == apart.engine


def test_batches_of_two_sizes():
    (_, wanted, _), (_, got, _) = both(Net().double(), fake=FAKE[:4], penalty=["r1", "r2"])
    close(got, wanted)


def test_inputs_in_tuples_and_outputs_in_dicts():
    net = Net().double()

    def double(x):
        return {"critic": net(x[0]) + x[1], "other": net(x[0]).flatten()}

    net.parameters()
    found = []
    for concat in (False, True):
        step = fastgan.discriminator_step(
            double,
            (REAL, REAL[:, 0, 0, :2]),
            (FAKE, FAKE[:, 0, 0, :2]),
            output="critic",
            penalty="r1",
            concat=concat,
        )
        found.append(gradients(net, step.total))
    close(*found)


def test_samples_along_another_dimension():
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.rows, self.score = nn.GRU(5, 8), nn.Linear(8, 1)

        def forward(self, x):
            return self.score(self.rows(x)[0])

    net = Rows().double()
    real, fake = torch.randn(2, 7, 4, 5, dtype=torch.float64)
    for penalty in (None, [approximate("r1-approx", part=0.5)]):
        (_, wanted, _), (_, got, _) = both(net, real=real, fake=fake, batch_dim=1, penalty=penalty)
        close(got, wanted)


def test_pac():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.score = nn.Sequential(nn.Linear(10, 8), nn.LeakyReLU(), nn.Linear(8, 1))

        def forward(self, x):
            return self.score(x.reshape(-1, 10))

    real, fake = torch.randn(2, 8, 5, dtype=torch.float64)
    for penalty in ("r1", [approximate("r1-approx", part=0.5)]):
        (_, wanted, _), (_, got, _) = both(Packed().double(), real=real, fake=fake, pac=2, penalty=penalty)
        close(got, wanted)


# ---------------------------------------------------------------------------------- who mixes samples


MIXERS = {
    "centred deviation": lambda h: (lambda x: x - x.mean(1, keepdim=True))(h + h.std(0, keepdim=True)),
    "softmax": lambda h: torch.softmax(h + h.std(0, keepdim=True), 1),
    "relative to the first": lambda h: h - h[:1],
    "deviation": lambda h: h + h.std(0, keepdim=True),
    "attention": lambda h: torch.softmax(h @ h.T, 1) @ h,
    "flip": lambda h: h.flip(0),
}


@pytest.mark.parametrize("penalty", [None, "r1"])
@pytest.mark.parametrize("name", MIXERS)
def test_who_mixes_samples_is_refused_at_the_first_call(name, penalty):
    net = Net(MIXERS[name]).double()
    for _ in range(2):
        with pytest.raises(ValueError, match="concat: the discriminator mixes samples"):
            fastgan.discriminator_step(net, REAL, FAKE, concat=True, penalty=penalty)
        with pytest.raises(ValueError, match="mixes samples"):
            fastgan.discriminator_step(lambda x: net(x), REAL, FAKE, concat=True, penalty=penalty)


def test_batch_norm_is_refused_in_training():
    net = Net().double()
    net.norm = nn.BatchNorm2d(8).double()
    with pytest.raises(ValueError, match="concat: the discriminator has a BatchNorm2d"):
        fastgan.discriminator_step(net, REAL, FAKE, concat=True)
    net.eval()
    (_, wanted, _), (_, got, _) = both(net)
    close(got, wanted)


def test_a_mode_is_looked_at_by_itself():
    net = Net().double()
    net.mix = lambda h: h + h.mean(0) if net.training else h
    net.eval()
    fastgan.discriminator_step(net, REAL, FAKE, concat=True)
    net.train()
    with pytest.raises(ValueError, match="mixes samples"):
        fastgan.discriminator_step(net, REAL, FAKE, concat=True)


def test_nan_logits_are_no_mixing_and_no_proof():
    net = Net().double()
    fastgan.discriminator_step(net, REAL * float("nan"), FAKE, concat=True)
    net = Net(MIXERS["deviation"]).double()
    fastgan.discriminator_step(net, REAL * float("nan"), FAKE, concat=True)
    with pytest.raises(ValueError, match="mixes samples"):
        fastgan.discriminator_step(net, REAL, FAKE, concat=True)


def test_a_last_layer_of_zeros_is_no_proof():
    net = Net(MIXERS["deviation"]).double()
    nn.init.zeros_(net.score.weight)
    fastgan.discriminator_step(net, REAL, FAKE, concat=True)
    nn.init.ones_(net.score.weight)
    with pytest.raises(ValueError, match="mixes samples"):
        fastgan.discriminator_step(net, REAL, FAKE, concat=True)


def test_switches_and_options_are_looked_at_by_themselves():
    class Switched(Net):
        mixing = False

        def forward(self, x, mix=False):
            self.mix = MIXERS["deviation"] if mix or self.mixing else lambda h: h
            return super().forward(x)

    net = Switched().double()
    fastgan.discriminator_step(net, REAL, FAKE, concat=True)
    for discriminator, options in ((net, {"mix": True}), (functools.partial(net, mix=True), {})):
        with pytest.raises(ValueError, match="mixes samples"):
            fastgan.discriminator_step(discriminator, REAL, FAKE, concat=True, **options)
    net.mixing = True
    with pytest.raises(ValueError, match="mixes samples"):
        fastgan.discriminator_step(net, REAL, FAKE, concat=True)


class Grouped(nn.Module):
    """Minibatch deviation over groups, as StyleGAN's."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = Net()
        self.group = 1

    def forward(self, x, group=None, share=1.0):
        found, group = self.net(x), group or self.group
        groups = found.unflatten(0, (-1, group))
        return (
            (found - share * groups.mean(1, keepdim=True).expand_as(groups).flatten(0, 1)) if group > 1 else found
        )


def test_numbers_and_what_functions_use_are_looked_at_by_themselves():
    net = Grouped().double()
    del net.net.calls  # which would be another number at each call
    net.net.forward = lambda x: net.net.score(F.relu(net.net.first(x)).mean((2, 3)))
    group, owner = 1, SimpleNamespace(net=net, group=1)

    def step(discriminator, **options):
        fastgan.discriminator_step(discriminator, REAL, FAKE, concat=True, **options)

    uses = [lambda x: net(x, group), lambda x: owner.net(x, owner.group), lambda x, g=group: net(x, g), net]
    for discriminator in uses:
        step(discriminator)
    step(net, group=1)
    group = owner.group = 3
    uses[2].__defaults__ = (3,)
    for discriminator in uses[:3]:
        with pytest.raises(ValueError, match="mixes samples"):
            step(discriminator)
    with pytest.raises(ValueError, match="mixes samples"):
        step(net, group=3)
    step(net, group=3, share=0.0)
    with pytest.raises(ValueError, match="mixes samples"):
        step(net, group=3, share=0.5)
    net.group = 3
    with pytest.raises(ValueError, match="mixes samples"):
        step(net)


def test_what_was_seen_does_not_grow_without_end():
    net, x = nn.Linear(2, 1), torch.randn(2, 2)
    for k in range(300):
        fastgan.discriminator_step(lambda x, k: net(x) * k, x, x, float(k), concat=True)
    assert 0 < len(joined._seen[net]) <= 256


def test_a_reentrant_checkpoint_says_what_to_do():
    net, inner = Net().double(), nn.Linear(8, 8).double()
    net.mix = lambda h: checkpoint(inner, h, use_reentrant=True)
    with pytest.raises(RuntimeError, match=r"concat: reentrant checkpointing .* use_reentrant=False"):
        fastgan.discriminator_step(net, REAL, FAKE, concat=True)


def test_a_value_alone_is_not_joined():
    net = Net(MIXERS["deviation"]).double()
    with torch.no_grad():
        totals = [fastgan.discriminator_step(net, REAL, FAKE, concat=concat).total for concat in (False, True)]
    assert torch.equal(*totals)


def test_labels_of_packed_samples():
    """One for each sample, which has two entries."""
    net = Net().double()

    def packed(x, labels):
        return net(x.unflatten(0, (-1, 2)).mean(1), labels)

    for fakes in (LABELS[:3], OTHERS[:3]):
        found = []
        for concat in (False, True):
            options = {"fake_args": (fakes,), "pac": 2, "concat": concat, "penalty": "r1"}
            step = fastgan.discriminator_step(packed, REAL, FAKE, LABELS[:3], **options)
            found.append([step.total, *gradients(net, step.total)])
        close(*found)


class Steps(nn.Module):
    """A network over time with an output (time, samples)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.score = nn.Linear(4, 1)

    def forward(self, x):
        return self.score(x)[..., 0] * torch.arange(1, 1 + len(x), dtype=x.dtype)[:, None]


def test_an_output_of_time_steps_and_samples():
    net = Steps().double()
    for n in (3, 2, 3):
        real, fake = torch.randn(2, 8, n, 4, dtype=torch.float64)
        (_, wanted, _), (_, got, _) = both(net, real=real, fake=fake, batch_dim=1)
        close(got, wanted)
    real, fake = torch.randn(2, 8, 4, 4, dtype=torch.float64)  # a multiple of the samples
    (_, wanted, _), (_, got, _) = both(
        net, real=real, fake=fake, batch_dim=1, penalty=[approximate("r1-approx", part=0.5)]
    )
    close(got, wanted)
    real, fake = torch.randn(2, 4, 2, 4, dtype=torch.float64)  # as many steps as samples
    with pytest.raises(ValueError, match="concat: expected outputs of which one dimension has 4 entries"):
        both(net, real=real, fake=fake, batch_dim=1)
    with pytest.raises(ValueError, match="sample_weights: expected outputs of which one dimension"):
        fastgan.gradient_penalty(
            net, real, None, kind="r1-approx", batch_dim=1, sample_weights=torch.ones(2, dtype=torch.float64)
        )


def test_results_in_which_tensors_cannot_be_found():
    net = Net().double()

    class Result(dict):
        pass

    for options in ({"concat": True}, {"keep_outputs": True}):
        with pytest.raises(
            TypeError, match="expected the discriminator to return tensors in lists, tuples or dicts"
        ):
            fastgan.discriminator_step(lambda x: Result(a=net(x)), REAL, FAKE, output="a", **options)


def test_errors():
    net = Net().double()
    for message, real, args, options in (
        ("concat: expected real and fake of one shape per sample", REAL[:, :, 1:], (), {}),
        ("concat: expected one value of args", REAL, (LABELS,), {"fake_args": (None,)}),
        ("concat: expected args of one form", REAL, (LABELS,), {"fake_args": ()}),
        ("concat: expected one value of args", REAL, (1.0,), {"fake_args": (2.0,)}),
        ("concat: has no place beside groups", REAL, (), {"groups": torch.tensor([0, 0, 1, 1, 2, 2])}),
        ("sample_weights: expected shape", REAL, (), {"penalty": "r1-approx", "sample_weights": WEIGHTS[:3]}),
        ("sample_weights: expected shape", REAL, (), {"penalty": "r1", "sample_weights": WEIGHTS[:3]}),
    ):
        with pytest.raises(ValueError, match=message):
            fastgan.discriminator_step(net, real, FAKE, *args, concat=True, **options)
    with pytest.raises(ValueError, match="concat: expected outputs with entries for each of 12 samples"):
        fastgan.discriminator_step(lambda x: net(x).mean(), REAL, FAKE, concat=True)


def test_fakes_with_a_graph_are_warned_of(monkeypatch):
    monkeypatch.setattr("fastgan._checks._said", set())
    fake = FAKE.clone().requires_grad_() * 1
    with pytest.warns(UserWarning, match=r"fake: has a graph.*fake\.detach"):
        fastgan.discriminator_step(Net().double(), REAL, fake)


@pytest.mark.slow
def test_compiled():
    """The first call runs eagerly, to see whether samples are mixed; the next as one graph."""
    net = Net().double()
    options = {"penalty": ["r1", approximate("r1-approx")], "concat": True, "sample_weights": WEIGHTS}
    engines = []
    for _ in range(2):
        torch.manual_seed(1)
        step = fastgan.discriminator_step(net, REAL, FAKE, engine="compiled", **options)
        got, _ = gradients(net, step.total), engines.append(step.engine)
    torch.manual_seed(1)
    close(got, gradients(net, fastgan.discriminator_step(net, REAL, FAKE, **options).total), 1e-9)
    assert engines == ["eager, pruned", "compiled"]

    def step(real, fake):
        return fastgan.discriminator_step(net, real, fake, penalty="r1", concat=True).total

    with fastgan.compiling():
        total = torch.compile(step, backend="aot_eager", fullgraph=True)(REAL, FAKE)
    close(gradients(net, total), gradients(net, step(REAL, FAKE)), 1e-9)


# ---------------------------------------------------------------------------------- approximate R1


def formula(net, x, sigma, directions, weights=None, normalize=True):
    """The mean over samples, outputs and directions of the squared difference."""
    total = 0.0
    for _ in range(directions):
        d = (net(x) - net(x + sigma * torch.randn(x.shape, dtype=x.dtype))) ** 2
        d = d if weights is None else d * weights[:, None]
        total = total + d.mean() / directions
    return total / sigma**2 if normalize else total


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["", "weights"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("directions", [1, 3])
def test_the_formula(directions, normalize, weights):
    net = Net().double()
    options = {"sigma": 0.1, "directions": directions, "normalize": normalize}
    torch.manual_seed(0)
    got = fastgan.gradient_penalty(net, REAL, None, kind="r1-approx", weight=3.0, sample_weights=weights, **options)
    torch.manual_seed(0)
    wanted = 3.0 * formula(net, REAL, 0.1, directions, weights, normalize)
    close([got, *gradients(net, got)], [wanted, *gradients(net, wanted)])
    torch.manual_seed(0)
    close([GradientPenalty("r1-approx", weight=3.0, **options)(net, REAL, sample_weights=weights)], [got])


def test_it_is_about_r1():
    """Normalised, a weight of gamma / 2 stands for R1 of weight gamma: over many directions, of a linear network."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 1)).double()
    torch.manual_seed(0)
    got = fastgan.gradient_penalty(
        net, REAL, None, kind="r1-approx", sigma=0.1, normalize=True, weight=0.5, directions=1000
    )
    assert abs(got / fastgan.r1_penalty(net, REAL, weight=1.0) - 1) < 0.05


def test_a_perturbation_of_the_users():
    """Of a diffusion model's samples: neighbours get the noise of the same timestep."""
    net, noise, moved = Net().double(), torch.randn(REAL.shape, dtype=torch.float64), []

    def at_same_timestep(x):
        moved.append(x + 0.1)
        return moved[-1]

    got = fastgan.gradient_penalty(
        net, REAL + noise, None, kind="r1-approx", perturb=at_same_timestep, sigma=0.1, normalize=True, weight=1.0
    )
    close([got], [((net(REAL + noise) - net(moved[0])) ** 2).mean() / 0.01])
    step = fastgan.discriminator_step(
        net, REAL, FAKE, penalty=GradientPenalty("r2-approx", perturb=at_same_timestep, part=0.5), concat=True
    )
    close([moved[1]], [FAKE[:3] + 0.1])
    close([step.penalty], [10 * ((net(FAKE[:3]) - net(moved[1])) ** 2).mean()])


def test_weights_of_an_exact_penalty():
    net = Net().double()
    x = REAL.clone().requires_grad_()
    (g,) = torch.autograd.grad(net(x).sum(), x)
    got = fastgan.r1_penalty(net, REAL, sample_weights=WEIGHTS)
    close([got], [0.5 * (WEIGHTS * g.flatten(1).square().sum(1)).mean()])
    step = fastgan.discriminator_step(
        net, REAL, FAKE, penalty=GradientPenalty("r1", part=0.5), sample_weights=WEIGHTS
    )
    close([step.penalty], [0.5 * (WEIGHTS * g.flatten(1).square().sum(1))[:3].mean()])


def test_unfit_options():
    net = Net().double()
    for error, message, options in (
        (ValueError, "normalize: has no effect on kind 'r1'", {"kind": "r1", "normalize": True}),
        (ValueError, "directions: has no effect", {"kind": "r1", "directions": 2}),
        (ValueError, "perturb: has no effect", {"kind": "r1", "perturb": lambda x: x}),
        (ValueError, "directions: expected", {"kind": "r1-approx", "directions": 0}),
        (TypeError, "normalize: expected True or False", {"kind": "r1-approx", "normalize": 1}),
        (TypeError, "perturb: expected a function", {"kind": "r1-approx", "perturb": 0.1}),
        (ValueError, "sigma: expected how far", {"kind": "r1-approx", "perturb": lambda x: x, "normalize": True}),
        (ValueError, "sigma: has no effect beside perturb", {"kind": "r1-approx", "perturb": lambda x: x, "sigma": 0.1}),
        (ValueError, "perturb: expected it to return inputs of shapes", {"kind": "r1-approx", "perturb": lambda x: x[:2]}),
        (ValueError, "perturb: expected it to return a neighbour", {"kind": "r1-approx", "perturb": lambda x: x}),
        (ValueError, "sample_weights: expected finite numbers of 0 or more", {"kind": "r1", "sample_weights": -WEIGHTS}),
        (ValueError, "sample_weights: expected finite numbers of 0 or more", {"kind": "r1-approx", "sample_weights": -WEIGHTS}),
        (ValueError, "sample_weights: expected finite numbers of 0 or more", {"kind": "r1", "sample_weights": WEIGHTS / 0}),
        (TypeError, "sample_weights: expected a floating-point tensor", {"kind": "r1-approx", "sample_weights": 1.0}),
        (ValueError, "sample_weights: has no effect over='batch'", {"kind": "r1", "over": "batch", "sample_weights": WEIGHTS}),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            fastgan.gradient_penalty(net, REAL, None, **options)
    for add in (lambda x: x.add_(1.0), lambda x: (x.add_(1.0), x + 1)[1]):
        with pytest.raises(ValueError, match="perturb: expected a function that leaves x as it is"):
            fastgan.gradient_penalty(net, REAL.clone(), None, kind="r1-approx", perturb=add)


@pytest.mark.parametrize("form", ["sum", "each"])
def test_centring(form):
    r, f = torch.randn(2, 5, 2, dtype=torch.float64).requires_grad_().unbind()
    got = fastgan.centering_penalty([r, r], [f, f], form=form, weight=0.3)
    wanted = 0.6 * ((r + f).square().mean() if form == "sum" else r.square().mean() + f.square().mean())
    close(
        [got, *torch.autograd.grad(got, [r, f], retain_graph=True)], [wanted, *torch.autograd.grad(wanted, [r, f])]
    )
    with pytest.raises(ValueError, match="form"):
        fastgan.centering_penalty(r, f, form="both")
