"""Common code of the adversarial examples: the networks, the digits and the picture at the end."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import fastgan

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for what the other examples share
from comparison import digits, draw_pictures
from options import positive

NOISE, BATCH = 32, 64
INTERVAL, GAMMA = 4, 0.5  # of the lazy R1 penalty


class Generator(nn.Module):
    """Noise -> a picture of 8 x 8 pixels."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(NOISE, 4 * width),
            nn.SiLU(),
            nn.Unflatten(1, (width, 2, 2)),
            nn.ConvTranspose2d(width, width // 2, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(width // 2, width // 4, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width // 4, 1, 3, padding=1),
        )

    def forward(self, noise: Tensor) -> Tensor:
        return self.net(noise)


def discriminator(width: int = 64) -> nn.Sequential:
    """Return a network: a picture -> a logit for each sample, high for real."""
    return nn.Sequential(
        nn.Conv2d(1, width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(8 * width, 1),
    )


def noise_like(real: Tensor) -> Tensor:
    """Return noise for as many samples."""
    return torch.randn(len(real), NOISE, device=real.device)


def optimizer(network: nn.Module) -> torch.optim.Optimizer:
    """Return an optimizer with the settings that both networks have."""
    return torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.0, 0.99))


def batches(steps: int) -> DataLoader:
    """Return a loader of that many batches of digits, each a list of one tensor."""
    images = TensorDataset(digits())
    return DataLoader(images, BATCH, sampler=RandomSampler(images, True, steps * BATCH), drop_last=True)


def arguments(name: str) -> argparse.Namespace:
    """Read the command line, seed PyTorch, and use one thread: the networks gain nothing from more."""
    parser = argparse.ArgumentParser(description="Trains a small GAN on handwritten digits, on the CPU.")
    parser.add_argument("--steps", type=positive, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("demo") / name, help="folder for the picture")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    return args


def losses(step_d: fastgan.DiscriminatorStep, step_g: fastgan.GeneratorStep) -> dict[str, str]:
    """Return the two losses as text, for the progress bar."""
    return {"D": f"{step_d.loss:.3f}", "G": f"{step_g.loss:.3f}"}


def conclude(generator: nn.Module, args: argparse.Namespace) -> None:
    """Draw generated digits beside real ones, and print where the picture is."""
    images, path = digits(), args.out / "samples.png"
    with torch.no_grad():
        fake = generator(torch.randn(60, NOISE))
    rows = {"real": images[torch.randperm(len(images))[:40]], "generated": fake}
    draw_pictures(rows, 20, f"A GAN with lazy R1 after {args.steps} steps", path)
    print("wrote", path)
