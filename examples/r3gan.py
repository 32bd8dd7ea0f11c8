"""R3GAN on handwritten digits, before and after one changed import.

    python examples/r3gan.py
    python examples/r3gan.py --steps 1000

The training is R3GAN's: `AdversarialTraining` accumulates the gradients of the paired relativistic loss and,
for the discriminator, of R1 and R2; the trainer zeroes them and steps. Networks have no normalization; both see
the digit's class.
"""

from __future__ import annotations

from types import ModuleType

import torch
from comparison import Curves, arguments, conclude, digits, draw_pictures, run_both
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import one_hot
from tqdm import tqdm

# before:
from bench.baselines import r3gan as own  # isort: skip

# after:
from fastgan.compat import r3gan as fused  # isort: skip

NOISE, CLASSES, BATCH, GAMMA = 32, 10, 128, 1.0


class Generator(nn.Module):
    """Noise and the digit wanted -> a picture of 8 x 8 pixels."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(NOISE + CLASSES, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 64),
            nn.Unflatten(1, (1, 8, 8)),
        )

    def forward(self, noise: Tensor, conditions: Tensor) -> Tensor:
        return self.net(torch.cat([noise, conditions], 1))


class Discriminator(nn.Module):
    """A picture and its class -> a logit for each sample, high for real."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
        )
        self.score = nn.Linear(width, CLASSES)

    def forward(self, images: Tensor, conditions: Tensor) -> Tensor:
        return (self.score(self.features(images)) * conditions).sum(1)


def train(losses: ModuleType, steps: tqdm) -> tuple[Tensor, Curves]:
    """Train both networks with the AdversarialTraining of that module."""
    G, D = Generator(), Discriminator()
    trainer = losses.AdversarialTraining(G, D)
    optimizer_g = torch.optim.Adam(G.parameters(), lr=2e-3, betas=(0.0, 0.99))
    optimizer_d = torch.optim.Adam(D.parameters(), lr=2e-3, betas=(0.0, 0.99))
    images, classes = digits(), torch.tensor(load_digits().target)
    curves: Curves = []
    for _ in steps:
        batch = torch.randint(len(images), (BATCH,))
        real, conditions = images[batch], one_hot(classes[batch], CLASSES).to(images.dtype)

        optimizer_d.zero_grad()
        noise = torch.randn(BATCH, NOISE)
        relativistic, _, r1, r2 = trainer.AccumulateDiscriminatorGradients(noise, real, conditions, GAMMA)
        loss_d = relativistic.mean() + GAMMA / 2 * (r1 + r2).mean()
        optimizer_d.step()

        D.requires_grad_(False)
        optimizer_g.zero_grad()
        noise = torch.randn(BATCH, NOISE)
        relativistic, _ = trainer.AccumulateGeneratorGradients(noise, real, conditions)
        loss_g = relativistic.mean()
        optimizer_g.step()
        D.requires_grad_(True)
        curves.append({"discriminator (with R1, R2)": loss_d.item(), "generator": loss_g.item()})
    wanted = one_hot(torch.arange(50) % CLASSES, CLASSES).to(images.dtype)
    with torch.no_grad():
        return G(torch.randn(len(wanted), NOISE), wanted), curves


def main() -> None:
    """Train twice, and draw the pictures that both generators make from the same noise."""
    args = arguments("r3gan", "Compares a small R3GAN with and without fastgan.")
    made, curves = run_both(train, own, fused, args)
    samples = args.out / "samples.png"
    target = torch.tensor(load_digits().target)
    chosen = torch.stack([torch.nonzero(target == c)[:5, 0] for c in range(CLASSES)], 1).flatten()
    draw_pictures({"real": digits()[chosen]} | made, 20, f"R3GAN after {args.steps} steps", samples)
    conclude(curves, "R3GAN: AdversarialTraining with R1 and R2", args, samples)


if __name__ == "__main__":
    main()
