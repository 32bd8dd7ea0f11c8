"""K13: a discriminator that ends in a sigmoid gives probabilities where logits are taken."""

import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import fastgan
from fastgan import probabilities


@pytest.fixture
def fresh(monkeypatch):
    """A process that has seen no logits."""
    watch = probabilities.Watch()
    monkeypatch.setattr("fastgan.functional.probabilities", watch)
    monkeypatch.setattr("fastgan._checks._said", set())
    return watch


CALLS = {
    "discriminator": lambda x: fastgan.discriminator_loss(x, x, "bce"),
    "generator": lambda x: fastgan.generator_loss(x),
    "list": lambda x: fastgan.discriminator_loss([x, x], [x, x], "saturating"),
    "module": lambda x: fastgan.nn.DiscriminatorLoss("logistic")(x, x),
    "step": lambda x: fastgan.discriminator_step(lambda z: z, x, x),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("size", [7, 600])
def test_it_warns_once(call, size, fresh):
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="takes logits.*sigmoid") as found:  # noqa: PT031
        for _ in range(600 // size + 1):
            CALLS[call](torch.randn(size).sigmoid())
    assert len(found) == 1
    assert found[0].filename == __file__
    assert not fresh.undecided


@pytest.mark.parametrize("call", CALLS)
def test_logits_do_not(call, fresh):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CALLS[call](torch.randn(20))
        assert not fresh.undecided
        for _ in range(5):
            CALLS[call](torch.rand(600))


def test_losses_that_are_no_cross_entropy_do_not(fresh):
    x = torch.rand(600)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for loss in ("hinge", "least_squares", "wasserstein", "ranking"):
            fastgan.discriminator_loss(x, x, loss)
        fastgan.discriminator_loss(x, x, relativistic="paired")
        torch.compile(lambda x: fastgan.discriminator_loss(x, x), backend="eager")(x)
        torch.func.vmap(lambda x: fastgan.generator_loss(x))(x.reshape(2, 300))
    assert fresh.undecided


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_a_graph_traced_operation_by_operation_is_not_looked_at(mode, fresh):
    """Also as the first call of a process; and fake tensors have no numbers."""
    make_fx(lambda x: fastgan.discriminator_loss(x, x), tracing_mode=mode)(torch.randn(5))
    with FakeTensorMode():
        fastgan.discriminator_loss(torch.randn(5), torch.randn(5))
    assert fresh.undecided


def test_a_head_that_begins_at_zero_says_nothing(fresh):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastgan.discriminator_loss(torch.zeros(600), torch.zeros(600))
    assert fresh.undecided


def test_what_is_no_number_is_no_probability(fresh):
    x = torch.rand(600)
    x[5] = torch.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastgan.discriminator_loss(x, x)
    assert not fresh.undecided


def test_a_name_that_is_none_raises_its_own_error(fresh):
    """Also before anything is decided."""
    x = torch.rand(5)
    for loss in (["hinge"], None, 3):
        with pytest.raises(ValueError, match="loss: unknown name"):
            fastgan.discriminator_loss(x, x, loss)
