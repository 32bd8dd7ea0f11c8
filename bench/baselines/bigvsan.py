"""How BigVSAN computes losses: squares of softplus, of two outputs of each discriminator."""

import torch
import torch.nn.functional as F

from bench.baselines import hifigan

feature_loss = hifigan.feature_loss
__all__ = ["feature_loss"]


def discriminator_loss(disc_real_outputs, disc_generated_outputs):
    """The sum over discriminators, and its parts on real and on generated as python floats."""
    total = 0
    on_real, on_generated = [], []
    for (real, real_direction), (fake, fake_direction) in zip(
        disc_real_outputs, disc_generated_outputs, strict=False
    ):
        part_r = torch.mean(F.softplus(1 - real) ** 2) + torch.mean(F.softplus(1 - real_direction) ** 2)
        part_g = torch.mean(F.softplus(fake) ** 2) + torch.mean(-(F.softplus(1 - fake_direction) ** 2))
        total = total + (part_r + part_g)
        on_real.append(part_r.item())
        on_generated.append(part_g.item())
    return total, on_real, on_generated


def generator_loss(disc_outputs):
    """The sum over discriminators, and its parts as tensors."""
    parts = [torch.mean(F.softplus(1 - output) ** 2) for output in disc_outputs]
    total = 0
    for part in parts:
        total = total + part
    return total, parts
