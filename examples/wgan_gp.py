"""WGAN-GP on handwritten digits, before and after one changed import.

    python examples/wgan_gp.py
    python examples/wgan_gp.py --steps 1000

The training is that of PyTorch-GAN's wgan_gp.py: five steps of the critic for each of the generator, and 10 times
the penalty of `compute_gradient_penalty`. That function draws from NumPy's global generator, before and after
alike.
"""

from __future__ import annotations

from types import ModuleType

import torch
from comparison import Curves, arguments, conclude, digits, draw_pictures, run_both
from torch import Tensor, nn
from tqdm import tqdm

# before:
from bench.baselines import wgan_gp as own  # isort: skip

# after:
from fastgan.compat import wgan_gp as fused  # isort: skip

NOISE, BATCH, CRITIC_STEPS, LAMBDA_GP = 32, 64, 5, 10.0


def generator(width: int = 256) -> nn.Sequential:
    """Return a network: noise -> a picture of 8 x 8 pixels in [-1, 1]."""
    return nn.Sequential(
        nn.Linear(NOISE, width),
        nn.SiLU(),
        nn.Linear(width, width),
        nn.SiLU(),
        nn.Linear(width, 64),
        nn.Tanh(),
        nn.Unflatten(1, (1, 8, 8)),
    )


def critic(width: int = 256) -> nn.Sequential:
    """Return a network: a picture -> one number, high for real; the penalty bounds its slope."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, width),
        nn.SiLU(),
        nn.Linear(width, width),
        nn.SiLU(),
        nn.Linear(width, 1),
    )


def train(losses: ModuleType, steps: tqdm) -> tuple[Tensor, Curves]:
    """Train both networks with the gradient penalty of that module; a step is one of the generator."""
    G, D = generator(), critic()
    optimizer_g = torch.optim.Adam(G.parameters(), lr=1e-3, betas=(0.0, 0.9))
    optimizer_d = torch.optim.Adam(D.parameters(), lr=1e-3, betas=(0.0, 0.9))
    images = digits()
    curves: Curves = []
    for _ in steps:
        for _ in range(CRITIC_STEPS):
            real = images[torch.randint(len(images), (BATCH,))]
            fake = G(torch.randn(BATCH, NOISE)).detach()
            optimizer_d.zero_grad()
            gradient_penalty = losses.compute_gradient_penalty(D, real, fake)
            loss_d = -D(real).mean() + D(fake).mean() + LAMBDA_GP * gradient_penalty
            loss_d.backward()
            optimizer_d.step()

        optimizer_g.zero_grad()
        loss_g = -D(G(torch.randn(BATCH, NOISE))).mean()
        loss_g.backward()
        optimizer_g.step()
        curves.append({"critic (with 10 GP)": loss_d.item(), "generator": loss_g.item()})
    with torch.no_grad():
        return G(torch.randn(48, NOISE)), curves


def main() -> None:
    """Train twice, and draw the pictures that both generators make from the same noise."""
    args = arguments("wgan_gp", "Compares a small WGAN-GP with and without fastgan.")
    made, curves = run_both(train, own, fused, args)
    samples = args.out / "samples.png"
    real = digits()[torch.randperm(1797)[:48]]
    draw_pictures({"real": real} | made, 16, f"WGAN-GP after {args.steps} steps", samples)
    conclude(curves, "WGAN-GP: Wasserstein losses + 10 compute_gradient_penalty", args, samples)


if __name__ == "__main__":
    main()
