"""The snippets of docs/large-discriminators.md run, and give the gradients of plain arithmetic in one process."""

import copy
import re
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

import fastgan
from fastgan.discriminator import attention
from tests.helpers import ROOT
from tests.helpers.ranks import group_of_one, needs_fsdp

PAGE = (ROOT / "docs" / "large-discriminators.md").read_text()
SHARDED, TRANSFORMER = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def batch():
    torch.manual_seed(1)
    return torch.randn(2, 24, 4), torch.randn(2, 24, 4)


def discriminator():
    """The page's, on `names`."""
    torch.manual_seed(0)
    real, fake = batch()
    names = {"torch": torch, "nn": nn, "partial": partial, "checkpoint": checkpoint, "fastgan": fastgan}
    exec(TRANSFORMER, names | {"real": real, "fake": fake}, found := {})
    return found


def plainly(net, loss, weight):
    """The gradients of loss and R1 as one writes them."""
    real, fake = batch()
    real.requires_grad_()
    net.zero_grad()
    with sdpa_kernel(SDPBackend.MATH):
        logits = net(real)
        (g,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        r1 = weight / 2 * g.square().sum((1, 2)).mean()
        (fastgan.discriminator_loss(logits, net(fake), loss) + r1).backward()
    return [p.grad for p in net.parameters()]


def agree(got, want):
    size = max(float(w.abs().max()) for w in want)
    for g, w in zip(got, want, strict=True):
        assert float((g - w).abs().max()) <= 1e-5 * size


@pytest.mark.parametrize("few", [0, attention.FEW])
def test_a_transformer(few, monkeypatch):
    monkeypatch.setattr(attention, "FEW", few)
    D = discriminator()["D"]
    agree([p.grad for p in D.parameters()], plainly(copy.deepcopy(D), "hinge", 1.0))


@needs_fsdp
def test_a_sharded_discriminator(tmp_path):
    D = discriminator()["D"]
    D.zero_grad()
    twin = copy.deepcopy(D)
    real, fake = batch()
    with group_of_one(tmp_path):
        exec(SHARDED, {"fastgan": fastgan, "D": D, "real": real, "fake": fake})
        got = [p.grad.full_tensor() for p in D.parameters()]
    agree(got, plainly(twin, "nonsaturating", 10.0 * 16))
