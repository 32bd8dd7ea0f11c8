"""pix2pix in miniature, with two scales of patches, before and after one changed import.

    python examples/pix2pix.py
    python examples/pix2pix.py --steps 2000

Outlines of shapes become coloured pictures; a shape's kind says its colour. The training is that of
pytorch-CycleGAN-and-pix2pix: GANLoss on conditional patch discriminators, and 100 times the L1 distance.
"""

from __future__ import annotations

import math
from types import ModuleType

import torch
from comparison import Curves, arguments, conclude, draw_pictures, run_both
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from tqdm import tqdm

# before:
from bench.baselines import cyclegan as own  # isort: skip

# after:
from fastgan.compat import cyclegan as fused  # isort: skip

SIZE, BATCH, LAMBDA_L1 = 32, 16, 100.0
COLOURS = ((0.9, 0.1, -0.6), (-0.7, 0.1, 0.9), (-0.4, 0.7, -0.3))  # of circles, squares and triangles


def distances(kind: Tensor, count: int) -> Tensor:
    """Return signed distances in pixels of each pixel to a random shape of that kind, negative within."""
    radius, angle = 5 + 5 * torch.rand(count, 1, 1), 2 * math.pi * torch.rand(count, 1, 1)
    centre = SIZE / 2 + (torch.rand(2, count, 1, 1) - 0.5) * SIZE / 2
    axis = torch.arange(SIZE) + 0.5
    x, y = axis[None, None, :] - centre[0], axis[None, :, None] - centre[1]
    across, down = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    circle = torch.hypot(x, y) - radius
    square = torch.maximum(across.abs(), down.abs()) - 0.85 * radius
    slopes = (across * math.cos(a) + down * math.sin(a) for a in (0.0, 2 * math.pi / 3, 4 * math.pi / 3))
    triangle = torch.stack(list(slopes)).amax(0) - 0.6 * radius
    return torch.stack([circle, square, triangle]).gather(0, kind.expand(1, -1, SIZE, SIZE))[0]


def shapes(count: int) -> tuple[Tensor, Tensor]:
    """Draw pictures of two shapes each, in [-1, 1]: their outlines, and themselves in colour on white."""
    outlines, pictures = torch.ones(count, 1, SIZE, SIZE), torch.ones(count, 3, SIZE, SIZE)
    for _ in range(2):
        kind = torch.randint(3, (count, 1, 1))
        away = distances(kind, count).unsqueeze(1)
        inside = (0.5 - away).clamp(0, 1)
        colour = torch.tensor(COLOURS)[kind.flatten()].unflatten(1, (3, 1, 1))
        pictures = torch.lerp(pictures, colour.expand_as(pictures), inside)
        line = (1.3 - away.abs()).clamp(0, 1)
        outlines = torch.where(inside > 0, 1.0, outlines)  # hides what lies behind
        outlines = torch.lerp(outlines, -torch.ones_like(outlines), line)
    return outlines, pictures


def block(ins: int, outs: int, stride: int) -> nn.Sequential:
    """Return a normalized convolution that halves the picture, keeps its size (stride 1) or doubles it (-2)."""
    if stride < 0:
        conv: nn.Module = nn.ConvTranspose2d(ins, outs, 4, stride=-stride, padding=1, bias=False)
    else:
        conv = nn.Conv2d(ins, outs, 2 + stride if stride > 1 else 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.InstanceNorm2d(outs, affine=True), nn.SiLU())


class Generator(nn.Module):
    """A U-Net of three levels: outlines -> coloured pictures."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.SiLU())
        self.down = nn.ModuleList([block(width, 2 * width, 2), block(2 * width, 2 * width, 2)])
        self.bottom = nn.Sequential(block(2 * width, 4 * width, 2), block(4 * width, 2 * width, -2))
        self.up = nn.ModuleList([block(4 * width, 2 * width, -2), block(4 * width, width, -2)])
        self.leave = nn.Sequential(nn.Conv2d(2 * width, 3, 3, padding=1), nn.Tanh())

    def forward(self, outlines: Tensor) -> Tensor:
        full = self.enter(outlines)
        half = self.down[0](full)
        quarter = self.down[1](half)
        x = self.up[0](torch.cat([self.bottom(quarter), quarter], 1))
        x = self.up[1](torch.cat([x, half], 1))
        return self.leave(torch.cat([x, full], 1))


class Discriminator(nn.Module):
    """Outlines and a picture -> a map of logits for patches, at full and at half size."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(4, width, 4, stride=2, padding=1),
                nn.SiLU(),
                block(width, 2 * width, 2),
                nn.Conv2d(2 * width, 1, 3, padding=1),
            )
            for _ in range(2)
        )

    def forward(self, outlines: Tensor, pictures: Tensor) -> list[Tensor]:
        both = torch.cat([outlines, pictures], 1)
        return [self.scales[0](both), self.scales[1](avg_pool2d(both, 2))]


def train(losses: ModuleType, steps: tqdm) -> tuple[Generator, Curves]:
    """Train both networks with the GANLoss of that module."""
    G, D = Generator(), Discriminator()
    gan, l1 = losses.GANLoss("lsgan"), nn.L1Loss()
    optimizer_g = torch.optim.Adam(G.parameters(), lr=2e-3, betas=(0.5, 0.999))
    optimizer_d = torch.optim.Adam(D.parameters(), lr=2e-4, betas=(0.5, 0.999))
    outlines, pictures = shapes(1024)

    def over_scales(predictions: list[Tensor], real: bool) -> Tensor:
        return torch.stack([gan(prediction, real) for prediction in predictions]).mean()

    curves: Curves = []
    for _ in steps:
        batch = torch.randint(len(outlines), (BATCH,))
        outline, real = outlines[batch], pictures[batch]
        fake = G(outline)

        optimizer_d.zero_grad()
        loss_fake = over_scales(D(outline, fake.detach()), False)
        loss_real = over_scales(D(outline, real), True)
        loss_d = (loss_fake + loss_real) * 0.5
        loss_d.backward()
        optimizer_d.step()

        D.requires_grad_(False)
        optimizer_g.zero_grad()
        loss_g = over_scales(D(outline, fake), True) + l1(fake, real) * LAMBDA_L1
        loss_g.backward()
        optimizer_g.step()
        D.requires_grad_(True)
        curves.append({"discriminator": loss_d.item(), "generator (GAN + 100 L1)": loss_g.item()})
    return G, curves


def main() -> None:
    """Train twice, and draw pictures that neither run has seen."""
    args = arguments("pix2pix", "Compares a small pix2pix with and without fastgan.")
    made, curves = run_both(train, own, fused, args)
    torch.manual_seed(args.seed + 1)
    outlines, pictures = shapes(10)
    with torch.no_grad():
        drawn = {run: generator(outlines) for run, generator in made.items()}
    rows = {"outline": outlines.expand(-1, 3, -1, -1), "true picture": pictures} | drawn
    samples = args.out / "samples.png"
    draw_pictures(rows, 10, f"pix2pix after {args.steps} steps, outlines not trained on", samples)
    conclude(curves, 'pix2pix: GANLoss("lsgan") of two scales + 100 L1', args, samples)


if __name__ == "__main__":
    main()
