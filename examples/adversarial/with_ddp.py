"""The same GAN in DistributedDataParallel: two processes on the CPU, connected by gloo.

    python examples/adversarial/with_ddp.py

Both networks are wrapped. DDP averages gradients during a backward, and expects one per module and step: loss and
penalty of the discriminator share one backward. In the generator's step the discriminator is frozen, and DDP sends
nothing of it. Ranks draw other batches and other noise; each has half of the batch.
"""

from __future__ import annotations

import argparse
import gc
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from common import (
    GAMMA,
    INTERVAL,
    Generator,
    arguments,
    batches,
    conclude,
    discriminator,
    losses,
    noise_like,
    optimizer,
)
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

import fastgan

RANKS = 2


def train(rank: int, args: argparse.Namespace) -> nn.Module:
    """Train as one of the ranks, and return the generator without its wrapper."""
    G, D = DistributedDataParallel(Generator()), DistributedDataParallel(discriminator())  # rank 0's weights
    torch.manual_seed(args.seed + 1 + rank)
    optimizer_g, optimizer_d = optimizer(G), optimizer(D)
    r1 = fastgan.nn.GradientPenalty("r1", weight=GAMMA, interval=INTERVAL)
    progress = tqdm(batches(args.steps), unit="step", mininterval=0.5, disable=rank > 0)
    for (both,) in progress:
        real = both[: len(both) // RANKS]
        fake = G(noise_like(real))

        step_d = fastgan.discriminator_step(D, real, fake.detach(), penalty=r1)
        optimizer_d.zero_grad()
        step_d.total.backward()
        optimizer_d.step()

        step_g = fastgan.generator_step(D, fake)
        optimizer_g.zero_grad()
        step_g.total.backward()
        optimizer_g.step()
        progress.set_postfix(losses(step_d, step_g), refresh=False)
    check(D, G)
    return G.module


def check(*networks: nn.Module) -> None:
    """Raise unless the weights are those of the first rank."""
    for p in [p for network in networks for p in network.parameters()]:
        first = p.detach().clone()
        dist.broadcast(first, 0)
        if not torch.equal(first, p):
            raise RuntimeError("the ranks have drifted apart")


def run(rank: int, port: int, args: argparse.Namespace) -> None:
    """Be one of the ranks; draw samples as the first."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS)
    G = train(rank, args)
    gc.collect()  # a DDP wrapper that outlives the group may never return from its own end (torch 2.13)
    dist.destroy_process_group()
    if rank == 0:
        conclude(G, args)


def main() -> None:
    """Start the ranks."""
    args = arguments("ddp")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(run, (port, args), nprocs=RANKS)


if __name__ == "__main__":
    main()
