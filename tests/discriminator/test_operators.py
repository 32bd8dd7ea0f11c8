"""PyTorch's own list of operators as discriminators (tests/proof/operators.py): all by `-m slow`, here a few."""

import pytest
import torch

pytest.importorskip("expecttest")  # which PyTorch's list imports

from fastgan.discriminator import prune
from tests.proof import operators

FEW = ["abs", "nn.functional.avg_pool2d", "nn.functional.hardsigmoid", "nn.functional.leaky_relu", "sort", "eq"]


def pytest_generate_tests(metafunc):
    """Give all names to the slow test: where it is left out, the list, which takes seconds to load, is not."""
    if "name" in metafunc.fixturenames and metafunc.function is test_all:
        left_out = "not slow" in metafunc.config.getoption("markexpr")
        metafunc.parametrize("name", ["all"] if left_out else operators.NAMES)


@pytest.fixture(autouse=True)
def _one_thread(_poison):
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)  # some operators have no such way


@pytest.mark.slow
def test_all(name):
    operators.compare(name, 0)


@pytest.mark.parametrize("name", FEW)
def test_a_few(name):
    assert operators.compare(name, 0) >= 2


def test_names():
    """Those that are left out are PyTorch's, too."""
    from torch.testing._internal.common_methods_invocations import op_db

    assert len(operators.NAMES) > 600
    known = {op.name for op in op_db} | {f"{op.name}.{op.variant_test_name}" for op in op_db}
    assert {name for names in operators.LEFT_OUT.values() for name in names} <= known
    assert set(FEW) <= set(operators.NAMES) <= known


def test_a_wrong_derivative_is_found(monkeypatch):
    monkeypatch.setitem(prune.RULES, torch.abs, lambda x: prune.Rule(torch.abs, lambda g, x: 1.25 * g * x.sgn()))
    with pytest.raises(AssertionError, match=r"abs, function, .*: prune=True: the value is") as found:
        operators.compare("abs", 0)
    monkeypatch.undo()
    exec(lines := str(found.value).partition("\n")[2], names := {})
    assert "def test_found():" in lines
    names["test_found"]()


def test_a_gradient_that_is_lost_is_found(monkeypatch):
    """Also where both sides lose it."""
    penalty = operators.plain

    def lost(net, real, fake, kind, prune=True):
        value = penalty(net, real, fake, kind)
        return value.detach() + 0.0 * sum(p.sum() for p in net.parameters())

    monkeypatch.setattr(operators, "ours", lost)
    with pytest.raises(AssertionError, match=r"sin, function.*gradient 0 is"):
        operators.compare("sin", 0)
    monkeypatch.setattr(operators, "plain", lost)
    with pytest.raises(AssertionError, match="no parameter gets a gradient, of a penalty with the slope"):
        operators.compare("sin", 0)


def test_a_missing_error_is_found(monkeypatch):
    penalty = operators.ours

    def patient(net, *arguments, **options):
        try:
            return penalty(net, *arguments, **options)
        except RuntimeError:
            return sum(p.sum() for p in net.parameters())

    monkeypatch.setattr(operators, "ours", patient)
    with pytest.raises(AssertionError, match=r"hardsigmoid, function.*plainly .*is not implemented"):
        operators.compare("nn.functional.hardsigmoid", 0)
