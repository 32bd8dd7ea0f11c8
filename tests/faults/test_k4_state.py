"""K4: state that is shared, poisoned or ignored."""

import copy
import functools
import math
import pickle

import pytest
import torch
from torch import nn

import fastgan
from fastgan.nn import DiscriminatorLoss, GeneratorLoss, GradientPenalty, LeCam

R, F = torch.randn(8, 1), torch.randn(8, 1)
X = torch.randn(4, 3)

# ---------------------------------------------------------------------------- LeCam


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_an_overflow_does_not_stay_in_the_averages(bad):
    lecam, twin = LeCam(0.3), LeCam(0.3)
    spiked = R.clone()
    spiked[3] = bad
    for real in (R, spiked, R):
        value = lecam(real, F)
        if real is R:
            want = twin(R, F)
        else:  # the fake logits of that call were finite, and count
            twin.fake_average.copy_(twin._moved(twin.fake_average, F))
    assert lecam.real_average.isfinite()
    assert torch.equal(lecam.real_average, twin.real_average)
    assert torch.equal(lecam.fake_average, twin.fake_average)
    assert torch.equal(value, want)


def test_steps_go_on_after_an_overflow_in_float16():
    torch.manual_seed(0)
    d = nn.Sequential(nn.Linear(4, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    optimizer, scaler = torch.optim.Adam(d.parameters(), 1e-3), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    lecam, moved = LeCam(0.3), []
    for it in range(12):
        real, fake = torch.randn(8, 4), torch.randn(8, 4) + 1
        with torch.autocast("cpu", dtype=torch.float16):
            logits = d(real * 1e5 if it == 4 else real), d(fake)
            loss = fastgan.discriminator_loss(*logits, "hinge") + lecam(*logits)
        before = d[0].weight.detach().clone()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        moved.append(not torch.equal(before, d[0].weight))
    assert moved == [it != 4 for it in range(12)]


def test_averages_of_an_older_checkpoint_recover():
    lecam = LeCam(0.3)
    lecam.real_average.fill_(math.nan)
    assert lecam(R, F).isfinite()
    torch.testing.assert_close(lecam.real_average[0], R.mean())


@pytest.mark.parametrize(
    "call",
    [
        lambda lecam: lecam(R, torch.arange(8)),
        lambda lecam: lecam(R, [F, F]),
        lambda lecam: lecam(R, None),
        lambda lecam: lecam(R, F.double()),
    ],
)
def test_a_failed_call_moves_no_average(call):
    lecam = LeCam(0.3)
    with pytest.raises((TypeError, ValueError)):
        call(lecam)
    assert (lecam.real_average.item(), lecam.fake_average.item(), lecam.calls) == (0, 0, 0)


# ---------------------------------------------------------------------------- lazy penalties


def due(penalty, discriminators, calls=16):
    found = [0] * len(discriminators)
    for _ in range(calls):
        for k, d in enumerate(discriminators):
            found[k] += penalty(d, X) is not None
    return found


def test_one_lazy_penalty_for_several_discriminators():
    a, b, c = nn.Linear(3, 1), nn.Linear(3, 1), nn.Linear(3, 1)
    assert due(GradientPenalty("r1", interval=4), [a, b]) == [4, 4]
    assert due(GradientPenalty("r1", interval=3), [a, b, c], 9) == [3, 3, 3]
    assert due(GradientPenalty("r1", interval=4), [lambda x: a(x), lambda x: b(x)]) == [4, 4]
    penalty = GradientPenalty("r1", interval=4)
    found = [0, 0]
    for _ in range(16):
        for k, d in enumerate((a, b)):
            found[k] += fastgan.discriminator_step(d, X, X, penalty=penalty).penalty is not None
    assert found == [4, 4]


def test_a_discriminator_is_one_in_whatever_form_it_comes():
    """New lambdas at each call, methods, and compiled forms of it."""
    a = nn.Linear(3, 1)
    penalty = GradientPenalty("r1", interval=4)
    forms = [lambda: a, lambda: a.forward, lambda: torch.compile(a, backend="eager"), lambda: lambda x: a(x)]
    assert sum(penalty(form(), X) is not None for form in forms * 4) == 4
    functions = [lambda x: (x * weight).sum(1) for weight in [torch.ones(3, requires_grad=True)] * 2]
    penalty = GradientPenalty("r1", interval=2, prune=False)
    assert [penalty(functions[k % 2], X) is not None for k in range(4)] == [True, False, True, False]


class Trainer2:
    def __init__(self):
        self.D = nn.Linear(3, 1)

    def d(self, x):
        return self.D(x)


class Weighs:
    def __init__(self):
        self.weight = torch.ones(3, requires_grad=True)

    def __call__(self, x):
        return (x * self.weight).sum(1)


def weighed(weight, x):
    return (x * weight).sum(1)


def pairs():
    trainers = Trainer2(), Trainer2()
    weights = [torch.ones(3, requires_grad=True) for _ in range(2)]
    yield [t.d for t in trainers]
    yield [lambda x, t=t: t.D(x) for t in trainers]
    yield [Weighs(), Weighs()]
    yield [functools.partial(weighed, w) for w in weights]


@pytest.mark.parametrize("k", range(4))
def test_discriminators_of_all_kinds_are_told_apart(k):
    """Methods of plain objects, callable objects, and functions of raw parameters."""
    assert due(GradientPenalty("r1", interval=4, prune=False), list(pairs())[k]) == [4, 4]


def test_wrapped_for_several_devices_it_is_the_same():
    d = nn.Linear(3, 1)
    penalty = GradientPenalty("r1", interval=2)
    assert [penalty(form, X) is not None for form in (d, nn.DataParallel(d), d, d)] == [True, False, True, False]


@pytest.mark.parametrize(
    ("name", "value"),
    [("interval", 0), ("interval", True), ("part", 2.0), ("part", 0.0), ("kind", "r9"), ("pac", 0)],
)
def test_attributes_are_checked_when_they_are_set(name, value):
    penalty = GradientPenalty("r1")
    with pytest.raises((TypeError, ValueError), match=name):
        setattr(penalty, name, value)
    with pytest.raises(ValueError, match="reduction"):
        DiscriminatorLoss("hinge").reduction = "summ"


def test_counts_are_kept_in_checkpoints():
    a, b = nn.Linear(3, 1), nn.Linear(3, 1)
    penalty = GradientPenalty("r1", interval=4)
    for d in (a, a, a, b):
        penalty(d, X)
    for other in (GradientPenalty("r1", interval=4), copy.deepcopy(penalty), pickle.loads(pickle.dumps(penalty))):
        other.load_state_dict(penalty.state_dict())
        assert [other(d, X) is not None for d in (a, b, a, b, b, b)] == [False, False, True, False, False, True]


class Trainer(nn.Module):
    def __init__(self, **parts):
        super().__init__()
        self.d = nn.Linear(3, 1)
        for name, part in parts.items():
            setattr(self, name, part)


@pytest.mark.parametrize("make", [lambda: GradientPenalty("r1", interval=4), lambda: LeCam(0.3)])
def test_strict_loading_of_a_checkpoint_without_counts(make):
    old = Trainer(part=make()).state_dict()
    del old["part._extra_state"]
    new = Trainer(part=make())
    new.part.calls = 2
    assert new.load_state_dict(old, strict=True).missing_keys == []
    assert new.part.calls == 2
    del old["d.bias"]
    with pytest.raises(RuntimeError, match=r"d\.bias"):
        new.load_state_dict(old, strict=True)


# ---------------------------------------------------------------------------- options as attributes


def test_options_of_a_penalty_are_attributes():
    d = nn.Linear(3, 1)
    penalty = GradientPenalty("wgan-gp", weight=5.0)
    assert (penalty.weight, penalty.target, penalty.prune) == (5.0, 1.0, True)
    penalty.weight, penalty.target = 1.0, 0.5
    want = fastgan.gradient_penalty(d, X, X, weight=1.0, target=0.5)
    assert torch.equal(penalty(d, X, X), want)
    assert torch.equal(fastgan.discriminator_step(d, X, X, penalty=penalty).penalty, want.detach())
    assert "weight=1.0" in repr(penalty)
    for name, value in (("weight", math.inf), ("over", "pixel"), ("power", 3), ("weight", "1")):
        with pytest.raises((TypeError, ValueError), match=name):
            setattr(penalty, name, value)
    assert penalty.options == {"weight": 1.0, "target": 0.5}
    assert copy.deepcopy(penalty).weight == pickle.loads(pickle.dumps(penalty)).weight == 1.0
    penalty.interval = 2
    assert penalty.due().weight == 2.0
    with pytest.raises(AttributeError, match="no attribute 'wieght'"):
        penalty.wieght  # noqa: B018


@pytest.mark.parametrize("module", [DiscriminatorLoss, GeneratorLoss])
def test_options_of_a_loss_are_attributes(module):
    loss = module("least_squares")
    assert loss.targets == (0.0, 1.0, 1.0)
    loss.targets, loss.reduction = (-1.0, 0.5, 0.25), "sum"
    arguments = (R, F) if module is DiscriminatorLoss else (F,)
    assert torch.equal(
        loss(*arguments), module("least_squares", targets=(-1.0, 0.5, 0.25), reduction="sum")(*arguments)
    )
    with pytest.raises(ValueError, match="margin: has no effect"):
        loss.margin = 0.5
    hinge = DiscriminatorLoss("hinge")
    hinge.margin = 0.5
    assert torch.equal(hinge(R, F), fastgan.discriminator_loss(R, F, "hinge", margin=0.5))
    with pytest.raises(TypeError, match="margin"):
        hinge.margin = "1"
    assert hinge.margin == 0.5
