"""A transformer discriminator with exact R1, beside the same with attention in PyTorch's plain arithmetic.

    python examples/transformer_r1.py
    python examples/transformer_r1.py --tokens 4096 --checkpoint

Sequences are sums of sines against noise. Each step is `fastgan.discriminator_step`: the loss, and R1 on the loss's
forward. Then one step's gradients, time and peak memory are compared with plain arithmetic's, where that fits.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import bars
import torch
from options import positive
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

import fastgan
from fastgan.nn import GradientPenalty

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for the benchmarks' measure of memory
from bench.suites.penalty_steps import peak

CHANNELS, WEIGHT = 4, 10.0


class Discriminator(nn.Module):
    """Sequences (N, tokens, channels) -> a logit for each."""

    def __init__(self, o: argparse.Namespace) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(CHANNELS, o.width), nn.Linear(o.width, 1)
        self.position = nn.Parameter(0.02 * torch.randn(o.tokens, o.width))
        # In blocks like these nobody asks for attention's weights, and dropout is off.
        block = nn.TransformerEncoderLayer(o.width, o.heads, 4 * o.width, 0.0, "gelu", batch_first=True)
        self.blocks = nn.ModuleList(copy.deepcopy(block) for _ in range(o.blocks))
        self.checkpoint = o.checkpoint

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) + self.position
        for block in self.blocks:
            h = checkpoint(block, h, use_reentrant=False) if self.checkpoint else block(h)
        return self.head(h.mean(1))


def batch(o: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Return sines of random frequencies, and noise."""
    time = torch.arange(o.tokens)[:, None] / o.tokens
    frequencies = 20 * torch.rand(o.batch, 1, CHANNELS)
    return torch.sin(6.28 * frequencies * time), torch.randn(o.batch, o.tokens, CHANNELS)


def backward(net: nn.Module, real: Tensor, fake: Tensor) -> fastgan.DiscriminatorStep:
    """Leave the gradients of loss and R1."""
    net.zero_grad()
    penalty = GradientPenalty("r1", weight=WEIGHT)
    step = fastgan.discriminator_step(net, real, fake, loss="nonsaturating", penalty=penalty)
    step.total.backward()
    return step


def plainly(net: nn.Module, real: Tensor, fake: Tensor) -> None:
    """Do the same as one writes it, with attention in plain arithmetic."""
    net.zero_grad()
    with sdpa_kernel(SDPBackend.MATH):
        x = real.detach().requires_grad_()
        logits = net(x)
        (g,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        r1 = WEIGHT / 2 * g.square().sum((1, 2)).mean()
        (fastgan.discriminator_loss(logits, net(fake)) + r1).backward()


def measured(work: Callable[[], object], net: nn.Module) -> tuple[float, float, list[Tensor]]:
    """Return the seconds of a step, its peak memory in MiB, and the gradients that it leaves."""
    memory = peak(net, work, "cpu")
    start = perf_counter()
    work()
    return perf_counter() - start, memory, [p.grad.clone() for p in net.parameters() if p.grad is not None]


def main() -> None:
    """Train for some steps, then compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=positive, default=1024)
    parser.add_argument("--blocks", type=positive, default=2)
    parser.add_argument("--width", type=positive, default=128)
    parser.add_argument("--heads", type=positive, default=4)
    parser.add_argument("--batch", type=positive, default=2)
    parser.add_argument("--steps", type=positive, default=5)
    parser.add_argument("--checkpoint", action="store_true", help="recompute each block in the backward")
    parser.add_argument("--alone", action="store_true", help="without plain arithmetic, which may not fit")
    parser.add_argument("--out", type=Path, default=Path("demo/transformer_r1"), help="folder of the picture")
    o = parser.parse_args()
    if o.width % o.heads:
        parser.error(f"argument --width: expected a multiple of the {o.heads} heads, got {o.width}")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler, which measures memory, is to print nothing
    torch.manual_seed(0)
    net = Discriminator(o)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    progress = tqdm(range(o.steps), desc="training")
    for _ in progress:
        step = backward(net, *batch(o))
        optimizer.step()
        progress.set_postfix(loss=f"{float(step.loss):.3f}", R1=f"{float(step.penalty):.3g}")
    real, fake = batch(o)
    seconds, memory, grads = measured(lambda: backward(net, real, fake), net)
    print(f"{o.tokens} tokens: {seconds:.2f} s per step, {memory:.0f} MiB at the peak")
    times, peaks = {"fastgan": seconds}, {"fastgan": memory}
    if not o.alone:
        seconds, memory, plain = measured(lambda: plainly(net, real, fake), net)
        print(f"plain arithmetic: {seconds:.2f} s per step, {memory:.0f} MiB at the peak")
        times["plain arithmetic"], peaks["plain arithmetic"] = seconds, memory
        size = max(float(g.abs().max()) for g in plain)
        off = max(float((a - b).abs().max()) for a, b in zip(grads, plain, strict=True)) / size
        print(f"largest difference of a gradient: {off:.1e} of the largest gradient")
    title = f"A step of loss and exact R1, {o.tokens} tokens"
    bars.draw({"peak memory, MiB": peaks, "seconds": times}, title, o.out / "cost.png")


if __name__ == "__main__":
    main()
