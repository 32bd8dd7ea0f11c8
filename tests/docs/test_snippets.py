"""Every block of Python on every page runs: a page's blocks one after the other, in one namespace."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastgan
from tests.docs import pages
from tests.helpers.ranks import group_of_one

ELSEWHERE = [name for names in pages.ELSEWHERE.values() for name in names]
RUN_HERE = [page for page in pages.PAGES if pages.snippets(page) and pages.name(page) not in ELSEWHERE]


def names():
    """What pages refer to without making it."""
    torch.manual_seed(0)
    D = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    G = nn.Sequential(nn.Linear(4, 192), nn.Tanh(), nn.Unflatten(1, (3, 8, 8)))
    real, fake = torch.randn(8, 3, 8, 8), G(torch.randn(8, 4))
    real_logits, fake_logits = (D(x).detach().requires_grad_() for x in (real, fake))
    return {
        "__name__": "__page__", "torch": torch, "nn": nn, "F": F, "fastgan": fastgan, "D": D, "G": G, "real": real,
        "fake": fake, "z": torch.randn(8, 4), "labels": torch.arange(8) % 3, "real_logits": real_logits,
        "fake_logits": fake_logits, "mpd": D, "msd": D,
        "fused_act": SimpleNamespace(FusedLeakyReLUFunction=Activation),
        "bias_act": SimpleNamespace(bias_act=lambda x: F.leaky_relu(x, 0.2)),
    }  # fmt: skip


class Activation(torch.autograd.Function):
    """As a trainer's fused activation."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return F.leaky_relu(x, 0.2)

    @staticmethod
    def backward(ctx, g):
        return torch.where(ctx.saved_tensors[0] > 0, g, 0.2 * g)


@pytest.mark.parametrize("page", RUN_HERE, ids=pages.name)
def test_snippets_run(page, clean, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = names()
    if page.stem == "faq":  # its fakes are data
        space["fake"] = space["fake"].detach()
    if "ddp" in page.read_text():
        with group_of_one(tmp_path):
            space["ddp"] = nn.parallel.DistributedDataParallel(space["D"])
            run(page, space)
            del space["ddp"]
    else:
        run(page, space)


def run(page, space):
    for k, block in enumerate(pages.snippets(page)):
        exec(compile(block, f"{pages.name(page)}, block {k + 1}", "exec"), space)


def test_pages_that_run_elsewhere_are_there():
    for listed in pages.ELSEWHERE.values():
        assert all((pages.ROOT / name).exists() for name in listed)
