"""All adapters against their trainers' formulas, over options that are drawn (tests/proof/adapter_cases.py)."""

import random

import pytest
import torch
from torch.nn import functional as F

from fastgan import compat
from fastgan.compat import gigagan, mmagic, r3gan, taming
from tests.proof import adapter_cases, adapters

SEEDS = (1, 2)


@pytest.fixture(autouse=True)
def _one_thread(_poison):
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", adapters.SUBJECTS)
def test_a_few_cases(name):
    assert adapters.find(name, 10, 0) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", adapters.SUBJECTS)
def test_many_cases(name, seed):
    adapters.find(name, 100, seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", adapters.SUBJECTS)
def test_each_value_of_each_option(name):
    for case in adapter_cases.each(name):
        assert not adapter_cases.failure(case), adapter_cases.text(case)


def test_nothing_is_left_out():
    """Each public name of each adapter is asked for by some case."""
    adapter_cases.USED.clear()
    for name in adapters.SUBJECTS:
        for case in adapter_cases.each(name, adapter_cases.NAMING):
            adapters.check(case)
    used = {trainer: set() for trainer in compat.TRAINERS} | adapter_cases.USED
    for trainer in compat.TRAINERS:
        assert adapter_cases.wanted(trainer) <= used[trainer], trainer
    for trainer, names in adapter_cases.NOT_COMPARED.items():
        for name in names:
            assert hasattr(getattr(compat, trainer), name)


def test_a_case_is_a_test():
    for name in adapters.SUBJECTS:
        case = adapter_cases.drawn(name, random.Random(name))
        assert eval(repr(case), {"Case": adapters.Case}) == case
        assert adapter_cases.drawn(name, random.Random(name)) == case


def planted(monkeypatch, module, name, wrong, subject, cases=60):
    """Return what is said of a wrong adapter; the test that is printed fails, and passes without it."""
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(AssertionError) as found:
        adapters.find(subject, cases, 0)
    said, _, lines = str(found.value).partition("\n")
    assert lines.startswith("from tests.proof.adapters import Case, check\ndef test_found():\n    check(Case(")
    exec(lines, names := {})
    with pytest.raises(AssertionError):
        names["test_found"]()
    monkeypatch.undo()
    names["test_found"]()
    return said, lines


def test_a_wrong_value_is_found(monkeypatch):
    """By a part in 10^5, for one of the criteria."""
    right = mmagic.GANLoss.forward

    def wrong(self, x, target_is_real, is_disc=False, mask=None):
        value = right(self, x, target_is_real, is_disc, mask)
        return value * (1 + 1e-5) if self.gan_type == "lsgan" and not target_is_real else value

    said, lines = planted(monkeypatch, mmagic.GANLoss, "forward", wrong, "mmagic.GANLoss")
    assert said.startswith("the value, element 0 of 1, is ")
    assert "'gan_type': 'lsgan'" in lines
    assert "'target_is_real': False" in lines
    assert "'loss_weight': 1.0, " in lines  # made small
    assert "'shape': (6,), 'layout': 'contiguous', 'edges': False" in lines


def test_a_wrong_gradient_is_found(monkeypatch):
    def wrong(real, fake):
        return -(F.logsigmoid(real) + F.logsigmoid(fake.detach())).mean()

    said, _ = planted(monkeypatch, gigagan, "aux_matching_loss", wrong, "gigagan.aux_matching_loss")
    assert said == "gradients for [True, False], the trainer's for [True, True]"


def test_a_wrong_graph_is_found(monkeypatch):
    right = gigagan.gradient_penalty
    said, _ = planted(
        monkeypatch,
        gigagan,
        "gradient_penalty",
        lambda *args, **options: right(*args, **options).detach(),
        "gigagan.gradient_penalty",
    )
    assert said == "result value: requires_grad is False, the trainer's True"


def test_other_draws_are_found(monkeypatch):
    right = mmagic.gradient_penalty_loss

    def wrong(*args, **options):
        value = right(*args, **options)
        torch.rand(1)
        return value

    said, _ = planted(monkeypatch, mmagic, "gradient_penalty_loss", wrong, "mmagic.gradient_penalty_loss")
    assert said.startswith("draw: ")


def test_another_type_is_found(monkeypatch):
    def wrong(weight, global_step, threshold=0, value=0.0):
        return float(value if global_step < threshold else weight)

    said, lines = planted(monkeypatch, taming, "adopt_weight", wrong, "taming.adopt_weight")
    assert said == "result: float, the trainer's int"
    assert "'weight': 1" in lines


def test_a_step_that_differs_is_found(monkeypatch):
    """In what it leaves in the networks alone."""
    right = r3gan.AdversarialTraining.AccumulateGeneratorGradients

    def wrong(self, *args, **options):
        result = right(self, *args, **options)
        next(self.Generator.parameters()).grad.mul_(1 + 1e-6)
        return result

    training = r3gan.AdversarialTraining
    name = "AccumulateGeneratorGradients"
    _, lines = planted(monkeypatch, training, name, wrong, "r3gan.AdversarialTraining")
    assert "'role': 'generator'" in lines


def test_an_error_is_found(monkeypatch):
    right = taming.hinge_gen_loss

    def wrong(x):
        if x.dim() == 4:
            raise ValueError("of images")
        return right(x)

    monkeypatch.setattr(taming, "hinge_gen_loss", wrong)
    with pytest.raises(AssertionError, match=r"^ValueError: of images\nfrom tests"):
        adapters.find("taming.hinge_gen_loss", 60, 0)
