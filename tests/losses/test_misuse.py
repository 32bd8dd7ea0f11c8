"""Bad input through every argument of every public function: the matrix of tests/proof/misuse.py."""

import inspect
from functools import cache

import pytest
import torch
import torch.distributed as dist

import fastgan
from tests.helpers.ranks import group_of_one, needs_gloo
from tests.proof import misuse
from tests.proof.faults_of_roles import logits
from tests.proof.forms_of_functions import CONTEXTS, Form, Watched, forms

FUNCTIONS = sorted({form.name.split()[0] for form in forms()})


@cache
def of_functions():
    """The cells of each function."""
    found = {name: [] for name in FUNCTIONS}
    for cell in misuse.cells():
        found[cell.form.name.split()[0]].append(cell)
    return found


def is_ordinary(cell):
    """Whether it is computed in the usual way, and with gradients."""
    return not any(way and cell.form.name.endswith(way) for way in CONTEXTS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_bad_input(name):
    found = misuse.failures([cell for cell in of_functions()[name] if is_ordinary(cell)])
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_bad_input_in_other_ways(name):
    """By Python, by each backend, without gradients, and as the first logits of a process."""
    found = misuse.failures([cell for cell in of_functions()[name] if not is_ordinary(cell)])
    assert not found, "\n".join(found)


def test_every_public_function_is_in_the_matrix():
    unchecked = {"info", "losses"}  # which take no arguments
    public = {
        name
        for name in fastgan.__all__
        if callable(getattr(fastgan, name)) and not name[0].isupper() and name not in unchecked
    }
    assert public <= set(FUNCTIONS)
    modules = {f"nn.{name}" for name in fastgan.nn.__all__}
    assert modules <= set(FUNCTIONS)


BOOLEANS = (  # but for the penalties' normalize
    "return_stats", "prune", "concat", "keep_outputs", "per_sample", "rescale", "paired", "centred", "return_values",
    "with_graph", "attached", "normalize", "detach_real",
)  # fmt: skip
ELSEWHERE = {  # arguments that no role fits, each with why
    "args": "the discriminator's",
    "kwargs": "the discriminator's",
    "options": "those of the function",
    "real_outputs": "whatever a discriminator returns",
    **dict.fromkeys(BOOLEANS, "whatever is true or false"),
}


def test_every_argument_is_in_the_matrix():
    """A new argument is a new column."""
    tried = {}
    for form in forms():
        tried.setdefault(form.name.split()[0], set()).update(form.roles)
    missing = []
    for name in FUNCTIONS:
        function = fastgan.nn if name.startswith("nn.") else fastgan
        for part in name.removeprefix("nn.").split("."):
            function = getattr(function, part)
        for argument in inspect.signature(function).parameters:
            if argument not in {*tried[name], *ELSEWHERE, "self"}:
                missing.append(f"{name}: {argument}")
    assert missing == NOT_CHECKED


# A generator's samples are whatever its discriminator takes; and so late is it seen whether they have a graph.
NOT_CHECKED = ["generator_step: fake"]


@pytest.mark.parametrize("k", range(8))
def test_numbers_that_are_none(k):
    """NaN and infinities are no errors: every eighth case here, all of them in the proof."""
    found = [wrong for s in list(misuse.specials())[k::64] if (wrong := misuse.wrong_number(s))]
    assert not found, "\n".join(found)


@needs_gloo
def test_real_dtensors(tmp_path):
    """Of torch.distributed, where the matrix has a class of that name."""
    from torch.distributed.tensor import distribute_tensor

    with group_of_one(tmp_path):
        mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
        d = distribute_tensor(logits(), mesh)
        for call, name in (
            (lambda: fastgan.discriminator_loss(d, logits()), "real_logits"),
            (lambda: fastgan.generator_loss(d), "fake_logits"),
            (lambda: fastgan.gradient_norm(d), "grads"),
            (lambda: fastgan.interpolate(logits(), d), "fake"),
            (lambda: fastgan.r1_penalty(Watched(), d), "real"),
            (lambda: fastgan.discriminator_step(Watched(), d, d), "real"),
        ):
            with pytest.raises(TypeError, match=f"^{name}: expected a plain tensor, got a DTensor"):
                call()


def test_a_cell_can_fail(monkeypatch):
    """Where an error is another one, comes late, or does not come, the cell says so."""
    cell = next(c for c in misuse.cells() if c.form.name == "gradient_norm" and c.name == "torch.int64")
    assert not misuse.tried(cell)
    assert "wanted" in misuse.tried(cell._replace(fault=cell.fault._replace(text="{n}: expected more")))
    assert "wanted" in misuse.tried(cell._replace(fault=cell.fault._replace(error=ValueError)))
    assert "no error" in misuse.tried(cell._replace(fault=cell.fault._replace(make=lambda t: t)))
    sound = cell.form.sound
    drawing = Form("drawn", lambda **a: (torch.rand(1), cell.form.call(**a)), sound, cell.form.roles)
    assert "has changed" in misuse.tried(cell._replace(form=drawing))


@pytest.mark.parametrize("wrong", ["hinge", "hing", 3, 0.5, len])
def test_a_loss_in_the_place_of_real_logits(wrong):
    """`generator_loss(f, "hinge")` once gave the non-saturating loss, by analogy with `discriminator_loss(r, f, "hinge")`."""
    fake = torch.randn(4, requires_grad=True)
    hint = f"; name a loss by loss='{wrong}'" if isinstance(wrong, str) else ""
    message = f"real_logits: expected a tensor, a sequence of tensors or None, got {type(wrong).__name__}{hint}"
    for call in (fastgan.generator_loss, fastgan.nn.GeneratorLoss("hinge")):
        with pytest.raises(TypeError) as error:
            call(fake, wrong)
        assert str(error.value) == message
    for right in (None, fake, [fake], (fake, fake)):
        fastgan.generator_loss(fake, right, "hinge")


def test_a_loss_in_the_place_of_real_samples():
    net = torch.nn.Linear(3, 1)
    with pytest.raises(
        TypeError, match="real: expected samples or None, got the str 'hinge'; name a loss by loss='hinge'"
    ):
        fastgan.generator_step(net, torch.randn(4, 3, requires_grad=True), "hinge")
