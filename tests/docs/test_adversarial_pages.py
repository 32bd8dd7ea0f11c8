"""Snippets of whole steps run, and the code after a change does the same as the code before it."""

import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import fastgan
from fastgan.compat import audiocraft, hifigan
from tests.docs.pages import ELSEWHERE, ROOT

PAGE = "\n".join((ROOT / name).read_text() for name in ELSEWHERE["test_adversarial_pages"])


def snippets():
    """The page's Python by the heading above it."""
    found = {}
    for part in re.split(r"^##+ ", PAGE, flags=re.M):
        blocks = re.findall(r"```python\n(.*?)```", part, re.S)
        if blocks:
            found[part.splitlines()[0].removeprefix("# ")] = blocks
    return found


SNIPPETS = snippets()
SHAPE = (8, 1, 8, 8)


class Member(nn.Module):
    """Convolutions; returns the maps, of which the last are the logits."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(
            [nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2), nn.Conv2d(4, 1, 3)]
        )

    def forward(self, x):
        maps = []
        for conv in self.convs:
            x = conv(F.silu(x)) if maps else conv(x)
            maps.append(x)
        return maps


class Members(nn.Module):
    """Two members, whose result is given as a trainer has it."""

    def __init__(self, form):
        super().__init__()
        self.members = nn.ModuleList([Member(), Member()])
        self.form = form

    def forward(self, *images):
        each = [[member(x) for member in self.members] for x in images]
        logits, maps = [[m[-1] for m in ms] for ms in each], [[m[:-1] for m in ms] for ms in each]
        if self.form == "vocoder":  # real and fake in one call
            return logits[0], logits[1], maps[0], maps[1]
        return each[0] if self.form == "lists" else (logits[0], maps[0])


class Noised(nn.Module):
    """Takes a timestep."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(65, 16), nn.SiLU(), nn.Linear(16, 1))

    def forward(self, x, t):
        return self.net(torch.cat([x.flatten(1), t[:, None]], 1)).squeeze(1)


def small():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(144, 1))


DISCRIMINATORS = {
    "A vocoder": lambda: Members("vocoder"),
    "A codec": lambda: Members("lists"),
    "EnCodec": lambda: Members("tuple"),
    "Adversarial distillation": Noised,
}


def names(heading):
    """What a section's snippets refer to, made from one seed."""
    torch.manual_seed(0)
    D = next((make for start, make in DISCRIMINATORS.items() if heading.startswith(start)), small)().double()
    G = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 1, 3, padding=1)).double()
    real, z = torch.randn(2, *SHAPE, dtype=torch.float64)
    fake = G(z)
    n = SimpleNamespace(torch=torch, F=F, fastgan=fastgan, audiocraft=audiocraft, G=G, D=D, real=real, fake=fake)
    n.generator_loss, n.feature_loss = hifigan.generator_loss, hifigan.feature_loss
    n.mpd, n.y, n.y_hat, n.mel_loss = D, real, fake, F.l1_loss(fake, real)
    n.optimizer_d, n.optimizer_g = (torch.optim.SGD(net.parameters(), 0.1) for net in (D, G))
    n.last_layer, n.nll, n.codebook_loss = G[2].weight, F.l1_loss(fake, real), G[0].weight.square().mean()
    n.x, n.y_leaf, n.gamma = real.clone().requires_grad_(), fake.detach().requires_grad_(), 2.0
    if heading.startswith("R3GAN"):
        n.y = n.y_leaf
    n.r1 = fastgan.nn.GradientPenalty("r1", interval=2)
    n.paired_d = fastgan.nn.DiscriminatorLoss("nonsaturating", relativistic="paired")
    n.paired_g = fastgan.nn.GeneratorLoss("nonsaturating", relativistic="paired")
    if heading.startswith("EnCodec"):
        n.l1, n.mel = F.l1_loss(fake, real), (fake.mean(1) - real.mean(1)).square().mean()
        (logits, maps), (_, on_real) = D(fake), D(real)
        n.adversarial = -sum(x.mean() for x in logits)
        n.features = fastgan.feature_matching_loss(on_real, maps)
    return n


def run(heading, block):
    """A snippet's names after it has run."""
    n = names(heading)
    exec(compile(block, heading, "exec"), vars(n))
    return n


def trains(block):
    """Whether D gets gradients by a snippet, and whether G does."""
    of_d = "discriminator_step" in block or "discriminator_loss(" in block
    return of_d, not of_d or "generator_step" in block


@pytest.mark.parametrize("heading", SNIPPETS)
def test_a_snippet_runs_and_trains(heading):
    *_, block = SNIPPETS[heading]
    n = run(heading, block)
    for_d, for_g = trains(block)
    for net, wanted in ((n.G, for_g), (n.D, for_d)):
        found = [p.grad for p in net.parameters() if p.grad is not None]
        assert bool(found) == wanted
        assert all(g.isfinite().all() for g in found)
        assert any(g.any() for g in found) == wanted
    assert all(p.requires_grad for p in n.D.parameters())


BOTH = [heading for heading, blocks in SNIPPETS.items() if blocks[0].startswith("# before\n")]


@pytest.mark.parametrize("heading", BOTH)
def test_after_is_as_before(heading):
    """Weights after optimizers have stepped, and the generator's gradients."""
    before, after = SNIPPETS[heading]
    assert before.startswith("# before\n")
    assert after.startswith("# after\n")
    one, other = run(heading, before), run(heading, after)
    for net in ("G", "D"):
        for p, q in zip(getattr(one, net).parameters(), getattr(other, net).parameters(), strict=True):
            torch.testing.assert_close(q, p, rtol=1e-9, atol=1e-12)
    for p, q in zip(one.G.parameters(), other.G.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-5, atol=1e-7)  # a balancer's averages are float32


def test_the_page_has_the_trainers():
    assert [h.split(":")[0].split(",")[0] for h in BOTH] == [
        "Images", "A vocoder", "A codec", "EnCodec", "VQGAN", "R3GAN",
    ]  # fmt: skip
    assert any(h.startswith("Adversarial distillation") for h in SNIPPETS)


def test_units_of_a_generator_step():
    """The page's count: on fake 3 units become 2, on real with maps that are not detached up to 3 become 1."""
    layers, found = 5, {}
    net = nn.Sequential(*[nn.Conv2d(2, 2, 3, padding=1) for _ in range(layers)])
    for name, x in (("fake", torch.randn(1, 2, 9, 9, requires_grad=True)), ("real", torch.randn(1, 2, 9, 9))):
        for frozen in (False, True):
            with FlopCounterMode(display=False) as counter:
                with fastgan.frozen(*[net] * frozen):
                    loss = net(x).sum()
                if loss.requires_grad:
                    loss.backward()
            found[name, frozen] = counter.get_total_flops()
    unit = found["real", True]
    assert found["fake", False] == 3 * unit
    assert found["fake", True] == 2 * unit
    assert found["real", False] == 3 * unit - unit // layers  # the first layer needs no gradient by its input
