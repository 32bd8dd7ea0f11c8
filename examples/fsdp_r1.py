"""R1 of a discriminator that fully_shard (FSDP2) has sharded, beside one process: the same gradients.

    python examples/fsdp_r1.py                                     # two processes on the CPU
    python examples/fsdp_r1.py --blocks 8 --width 512
    torchrun --nproc-per-node 4 examples/fsdp_r1.py                # or on as many GPUs

Each block is sharded, and then the whole. `fastgan.discriminator_step` shares D(real) between loss and R1. Each
rank also takes all ranks' batches through an unsharded copy, and compares every parameter's gradient.
"""

from __future__ import annotations

import argparse
import copy
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import bars
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from options import positive
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from tqdm import tqdm

import fastgan
from fastgan.nn import GradientPenalty


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def discriminator(o: argparse.Namespace, device: torch.device) -> nn.Sequential:
    """Return a discriminator, of the same weights on every rank."""
    torch.manual_seed(0)
    blocks = [Block(o.width) for _ in range(o.blocks)]
    net = nn.Sequential(nn.Linear(o.features, o.width), *blocks, nn.LeakyReLU(0.2), nn.Linear(o.width, 1))
    return net.to(device, getattr(torch, o.dtype))


def sharded(net: nn.Sequential) -> nn.Sequential:
    """Shard each block, and the whole."""
    for module in net:
        if isinstance(module, Block):
            fully_shard(module)
    return fully_shard(net)


def batches(o: argparse.Namespace, rank: int, step: int, device: torch.device) -> list[Tensor]:
    """Return a rank's real and fake samples of a step."""
    g = torch.Generator().manual_seed(1000 * step + rank)
    found = [torch.randn(o.batch, o.features, generator=g) for _ in range(2)]
    return [t.to(device, getattr(torch, o.dtype)) for t in found]


def backward(net: nn.Module, real: Tensor, fake: Tensor) -> None:
    """Leave the gradients of loss and penalty."""
    penalty = GradientPenalty("r1", weight=10.0)
    fastgan.discriminator_step(net, real, fake, loss="nonsaturating", penalty=penalty).total.backward()


def gathered(net: nn.Module) -> int:
    """Return how many bytes of parameters this rank holds now: of its shards, or of whole ones."""
    local = [p.to_local() if hasattr(p, "to_local") else p for p in net.parameters()]
    return sum(t.numel() * t.element_size() for t in local)


def watch(real: Tensor, net: nn.Module, held: list[int]) -> None:
    """Note how much is held where a backward ends: at the input, R1's own as well as the one within it."""
    real.requires_grad_().register_hook(lambda _: held.append(gathered(net)))


def train(rank: int, ranks: int, device: torch.device, o: argparse.Namespace) -> None:
    """Train for some steps, sharded and not, and compare."""
    plain = discriminator(o, device)
    net = sharded(copy.deepcopy(plain))
    ours, theirs = (torch.optim.Adam(m.parameters(), 1e-3) for m in (net, plain))
    largest = 0.0
    for step in tqdm(range(o.steps), desc="training", disable=rank > 0):
        real, fake = batches(o, rank, step, device)
        held = [gathered(net)]
        watch(real, net, held)
        backward(net, real, fake)
        held.append(gathered(net))
        for other in range(ranks):
            backward(plain, *batches(o, other, step, device))
        size = max(float(p.grad.abs().max()) for p in plain.parameters()) / ranks
        for p, q in zip(net.parameters(), plain.parameters(), strict=True):
            q.grad /= ranks  # FSDP takes the mean over ranks
            largest = max(largest, float((p.grad.full_tensor() - q.grad).abs().max()) / size)
        for optimizer in (ours, theirs):
            optimizer.step()
            optimizer.zero_grad()
    if rank == 0:
        whole = sum(p.numel() * p.element_size() for p in plain.parameters())
        print(f"{ranks} ranks, {o.dtype}: {whole} bytes of parameters")
        print(f"a rank holds {held[0]} before a step, {max(held)} while R1 goes backward, {held[-1]} after")
        print(f"largest difference of a gradient over {o.steps} steps: {largest:.1e} of the largest gradient")
        kib = {"before": held[0] / 1024, "in R1's backward": max(held) / 1024, "after": held[-1] / 1024}
        title = f"R1 under FSDP2, on {ranks} ranks"
        bars.draw({"parameters that a rank holds, KiB": kib}, title, o.out / "held.png")


def run(rank: int, ranks: int, store: str | None, o: argparse.Namespace) -> None:
    """Be one rank; without a store, one that torchrun has started."""
    on_gpus = torch.cuda.is_available() and torch.cuda.device_count() >= ranks
    device = torch.device("cuda", rank) if on_gpus else torch.device("cpu")
    if on_gpus:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    where = {} if store is None else {"init_method": f"file://{store}", "rank": rank, "world_size": ranks}
    dist.init_process_group("nccl" if on_gpus else "gloo", **where)
    train(dist.get_rank(), dist.get_world_size(), device, o)
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Start two ranks, or be one of torchrun's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=positive, default=2, help="processes, where torchrun has started none")
    parser.add_argument("--blocks", type=positive, default=4)
    parser.add_argument("--width", type=positive, default=64)
    parser.add_argument("--features", type=positive, default=32)
    parser.add_argument("--batch", type=positive, default=8, help="samples on each rank")
    parser.add_argument("--steps", type=positive, default=3)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float64")
    parser.add_argument("--out", type=Path, default=Path("demo/fsdp_r1"), help="folder of the picture")
    o = parser.parse_args()
    if "RANK" in os.environ:
        run(int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1")), None, o)
        return
    with TemporaryDirectory() as folder:
        mp.spawn(run, (o.ranks, f"{folder}/store", o), nprocs=o.ranks)


if __name__ == "__main__":
    main()
