"""The examples in the docstrings of public names run."""

import inspect
import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import fastgan
from tests.docs.test_snippets import names

PUBLIC = {
    **{name: getattr(fastgan, name) for name in fastgan.__all__},
    **{f"nn.{name}": getattr(fastgan.nn, name) for name in fastgan.nn.__all__},
}
TELL_IN_A_LINE = {"compile_info", "info", "losses"}


def example(thing):
    """The indented lines before the sections of a docstring."""
    text = re.split(r"^(?:Args|Attributes|Returns|Raises):$", inspect.getdoc(thing) or "", flags=re.M)[0]
    return "".join(line[4:] + "\n" for line in text.splitlines() if line.startswith("    "))


EXAMPLES = {name: example(thing) for name, thing in PUBLIC.items() if callable(thing) and example(thing)}


def test_functions_have_examples():
    functions = {name for name, thing in PUBLIC.items() if inspect.isfunction(thing)}
    assert functions - set(EXAMPLES) == TELL_IN_A_LINE


class Codec(nn.Module):
    """A discriminator that returns logits and feature maps."""

    def forward(self, x):
        h = x.flatten(1)
        return h.mean(1), [h]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name, clean):
    space = names()
    fake, last = space["fake"], space["G"][0]
    space |= {
        "optimizer_d": torch.optim.SGD(space["D"].parameters(), 0.1),
        "loss": fastgan.generator_loss(space["D"](fake)), "nll": fake.abs().mean(), "last_layer": last.weight,
        "decoder": SimpleNamespace(conv_out=last), "codebook_loss": fake.square().mean(), "x": space["real"],
        "real_maps": [[space["real"]]], "fake_maps": [[fake]], "mel": fake.abs().mean(), "l1": fake.abs().mean(),
        "commitment": fake.square().mean(),
    }  # fmt: skip
    if name == "nn.LossBalancer":
        space["D"] = Codec()
    exec(compile(EXAMPLES[name], name, "exec"), space)
