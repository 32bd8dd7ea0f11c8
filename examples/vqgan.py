"""VQGAN on handwritten digits, before and after one changed import.

    python examples/vqgan.py
    python examples/vqgan.py --steps 1000
    python examples/vqgan.py --double

The training is that of taming-transformers: an autoencoder with a codebook, straight-through gradients, and a patch
discriminator that joins in after half of the steps. For `calculate_adaptive_weight`, two gradients are taken at the
decoder's last layer before the real backward pass.

In float32 the two curves diverge, by some percent, 30 to 40 steps after the discriminator has joined in. The last
bit of fastgan's adaptive weight is rounded differently, and this training amplifies that at each step. It does the
same to the trainer's own losses with one bit of the weight changed; with --double the curves stay together.
"""

from __future__ import annotations

from types import ModuleType

import torch
from comparison import Curves, arguments, conclude, digits, draw_pictures, run_both
from torch import Tensor, nn
from torch.nn.functional import embedding, interpolate, mse_loss
from tqdm import tqdm

# before:
from bench.baselines import taming as own  # isort: skip

# after:
from fastgan.compat import taming as fused  # isort: skip

SIZE, BATCH, CODES, DEPTH = 16, 32, 64, 4
DISC_FACTOR, DISC_WEIGHT, CODEBOOK_WEIGHT = 1.0, 0.2, 1.0


class Autoencoder(nn.Module):
    """Pictures of 16 x 16 pixels -> 4 x 4 entries of a codebook -> pictures."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * width, DEPTH, 3, padding=1),
            nn.GroupNorm(1, DEPTH, affine=False),  # keeps the encoder from running away from the codebook
        )
        self.codebook = nn.Parameter(torch.randn(CODES, DEPTH))
        self.decoder = nn.Sequential(
            nn.Conv2d(DEPTH, 2 * width, 3, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(width, width, 4, stride=2, padding=1),
            nn.SiLU(),
        )
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reconstructed pictures, and the codebook's loss."""
        found = self.encoder(images).movedim(1, -1)
        nearest = torch.cdist(found.flatten(0, 2), self.codebook).argmin(1).unflatten(0, found.shape[:-1])
        codes = embedding(nearest, self.codebook)
        codebook_loss = mse_loss(found, codes.detach()) + 0.25 * mse_loss(codes, found.detach())
        straight_through = found + (codes - found).detach()
        return self.last(self.decoder(straight_through.movedim(-1, 1))), codebook_loss


def discriminator(width: int = 32) -> nn.Sequential:
    """Return a network: a picture -> logits of patches."""
    return nn.Sequential(
        nn.Conv2d(1, width, 4, stride=2, padding=1),
        nn.SiLU(),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
        nn.SiLU(),
        nn.Conv2d(2 * width, 1, 3, padding=1, bias=False),  # real and fake would cancel in its gradient
    )


def train(losses: ModuleType, steps: tqdm) -> tuple[Autoencoder, Curves]:
    """Train the autoencoder and the discriminator with the losses of that module."""
    model, D = Autoencoder(), discriminator()
    optimizer_g = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.5, 0.99))
    optimizer_d = torch.optim.Adam(D.parameters(), lr=2e-4, betas=(0.5, 0.99))
    images, start = large_digits(), len(steps) // 2
    curves: Curves = []
    for step in steps:
        real = images[torch.randint(len(images), (BATCH,))]
        drawn, codebook_loss = model(real)
        disc_factor = losses.adopt_weight(DISC_FACTOR, step, threshold=start)

        nll_loss = (real - drawn).abs().mean()
        g_loss = -D(drawn).mean()
        d_weight = losses.calculate_adaptive_weight(nll_loss, g_loss, model.last.weight, DISC_WEIGHT)
        loss = nll_loss + d_weight * disc_factor * g_loss + CODEBOOK_WEIGHT * codebook_loss
        optimizer_g.zero_grad()
        loss.backward()
        optimizer_g.step()

        d_loss = disc_factor * losses.hinge_d_loss(D(real), D(drawn.detach()))
        optimizer_d.zero_grad()
        d_loss.backward()
        optimizer_d.step()
        curves.append({"autoencoder (weighted sum)": loss.item(), "discriminator": d_loss.item()})
    return model, curves


def large_digits() -> Tensor:
    """Return the digits at twice their size."""
    return interpolate(digits(), scale_factor=SIZE // 8, mode="bilinear")


def main() -> None:
    """Train twice, and draw the pictures that both autoencoders make of the same digits."""
    args = arguments("vqgan", "Compares a small VQGAN with and without fastgan.")
    made, curves = run_both(train, own, fused, args)
    images = large_digits()
    chosen = images[torch.randperm(len(images))[:32]]
    with torch.no_grad():
        drawn = {run: model(chosen)[0] for run, model in made.items()}
    samples = args.out / "samples.png"
    title = f"VQGAN after {args.steps} steps: 4 x 4 codes of {CODES} for each digit"
    draw_pictures({"original": chosen} | drawn, 16, title, samples)
    conclude(curves, "VQGAN: L1 + adaptive weight x adversarial + codebook; hinge_d_loss", args, samples)


if __name__ == "__main__":
    main()
