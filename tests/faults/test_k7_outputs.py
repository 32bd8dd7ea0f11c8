"""K7: which of a discriminator's outputs count."""

import warnings
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import nn

import fastgan
from fastgan.nn import GradientPenalty

from . import plain


class Both(NamedTuple):
    validity: torch.Tensor
    classes: torch.Tensor


class Auxiliary(nn.Module):
    """A critic with class logits and an embedding beside its validity."""

    def __init__(self, form="tuple"):
        super().__init__()
        self.body, self.validity, self.classes = nn.Linear(5, 16), nn.Linear(16, 1), nn.Linear(16, 10)
        self.form = form

    def forward(self, x, y=None):
        h = torch.tanh(self.body(x))
        v, c = self.validity(h), self.classes(h)
        return {
            "plain": v,
            "tuple": (v, c),
            "named": Both(v, c),
            "features": (v, [h, c]),
            "dict": {"h": h, "adv_output": v, "cls_output": c, "label": y, "proxy": None},
            "object": SimpleNamespace(logits=v, hidden=h),
        }[self.form]


CHOICES = {
    "tuple": (0, -2, lambda r: r[0]),
    "named": (0, "validity"),
    "features": (0, lambda r: r[0]),
    "dict": ("adv_output", lambda r: r["adv_output"]),
    "object": ("logits", lambda r: r.logits),
}
CASES = [(form, k) for form, ways in CHOICES.items() for k in range(len(ways))]
X, Y = torch.randn(6, 5), torch.randint(10, (6,))


@pytest.mark.parametrize(("form", "k"), CASES)
def test_the_chosen_output_alone_counts(form, k, recwarn):
    torch.manual_seed(0)
    d, output = Auxiliary(form), CHOICES[form][k]
    twin = plain.in_double(d)
    twin.form = "plain"
    want = plain.penalty(twin, X, lambda g: list(g), "power") / 2
    plain.agree(fastgan.r1_penalty(d, X, Y, output=output), d, want, twin)
    plain.agree(GradientPenalty("r1", weight=1.0, output=output)(d, X, None, Y), d, want, twin)
    step = fastgan.discriminator_step(d, X, -X, Y, loss="hinge", penalty="r1", output=output)
    d.form = "plain"
    same = fastgan.discriminator_step(d, X, -X, Y, loss="hinge", penalty="r1")
    assert torch.equal(step.total, same.total)
    assert torch.equal(step.real_logits, same.real_logits)
    assert not recwarn.list


@pytest.mark.parametrize("kind", ["wgan-gp", "r2", "dragan", "r1-approx"])
def test_every_kind(kind):
    torch.manual_seed(0)
    d = Auxiliary()
    found = []
    for form, output in (("tuple", 0), ("plain", None)):
        d.form = form
        torch.manual_seed(1)
        found.append(fastgan.gradient_penalty(d, X, -X, kind=kind, output=output).detach())
    assert torch.equal(*found)


def test_penalties_of_one_forward_with_outputs_of_their_own():
    """A step's penalties share a forward and still differentiate each its own output; the loss sees all."""
    torch.manual_seed(0)
    d = Auxiliary()
    penalties = [GradientPenalty("r1", output=0), GradientPenalty("r1", output=1)]
    seen = []

    def loss(real, fake):
        seen.append(len(real))
        return fastgan.discriminator_loss(real[0], fake[0], "hinge") + real[1].square().mean()

    step = fastgan.discriminator_step(d, X, -X, loss=loss, penalty=penalties)
    want = sum(fastgan.gradient_penalty(d, X, None, kind="r1", output=k) for k in (0, 1))
    assert torch.equal(step.penalty, want.detach())
    assert seen == [2]
    real, fake = d(X), d(-X)
    total = loss(real, fake) + want
    for a, b in zip(
        plain.gradients(step.total, d.parameters()), plain.gradients(total, d.parameters()), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("call", ["penalty", "approximation", "step"])
def test_it_warns_once_of_outputs_of_several_kinds(call, monkeypatch):
    monkeypatch.setattr("fastgan._checks._said", set())
    d = Auxiliary()
    calls = {
        "penalty": lambda: fastgan.r1_penalty(d, X),
        "approximation": lambda: fastgan.gradient_penalty(d, X, None, kind="r1-approx"),
        "step": lambda: fastgan.discriminator_step(d, X, X, loss="hinge"),
    }
    with pytest.warns(UserWarning, match="output=") as found:
        calls[call]()
    assert [w.filename for w in found] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calls[call]()


def test_scales_of_one_critic_do_not_warn(recwarn):
    conv = nn.Conv2d(3, 1, 3)
    images = torch.randn(2, 3, 8, 8)
    fastgan.r1_penalty(lambda x: [conv(x), conv(x[:, :, ::2, ::2])], images)
    fastgan.r1_penalty(lambda x: [conv(x).flatten(1), conv(x[:, :, ::2, ::2]).flatten(1)], images)  # as HiFi-GAN's
    assert not recwarn.list


BAD = [
    (2, ValueError, "output: the discriminator's result has 2 outputs, got 2"),
    ("logits", ValueError, "output: the discriminator's result has a tuple, got 'logits'"),
    (True, TypeError, "output: expected a key, an index or a function, got bool"),
    ([0], TypeError, "output: expected a key, an index or a function, got list"),
    (torch.tensor(0), TypeError, "output: expected a key, an index or a function, got Tensor"),
]


@pytest.mark.parametrize(("output", "error", "match"), BAD)
def test_bad_input(output, error, match):
    with pytest.raises(error, match=match):
        fastgan.r1_penalty(Auxiliary(), X, output=output)


def test_a_tensor_has_no_outputs_to_choose_from():
    with pytest.raises(ValueError, match="has a Tensor, got 0"):
        fastgan.r1_penalty(nn.Linear(5, 1), X, output=0)
    with pytest.raises(ValueError, match=r"has the keys 'h', .*got 'validity'"):
        fastgan.r1_penalty(Auxiliary("dict"), X, output="validity")
