"""How VITS and its family compute losses: HiFi-GAN's, in float32, with real feature maps that get no gradient."""

import torch


def feature_loss(fmap_r, fmap_g):
    """Twice the sum of the mean distances of all feature maps."""
    total = 0
    for maps_r, maps_g in zip(fmap_r, fmap_g, strict=False):
        for real, generated in zip(maps_r, maps_g, strict=False):
            total = total + torch.mean(torch.abs(real.float().detach() - generated.float()))
    return total * 2


def discriminator_loss(disc_real_outputs, disc_generated_outputs):
    """The sum over discriminators, and the parts on real and on generated as python floats."""
    total = 0
    on_real, on_generated = [], []
    for real, generated in zip(disc_real_outputs, disc_generated_outputs, strict=False):
        part_r = torch.mean((1 - real.float()) ** 2)
        part_g = torch.mean(generated.float() ** 2)
        total = total + (part_r + part_g)
        on_real.append(part_r.item())
        on_generated.append(part_g.item())
    return total, on_real, on_generated


def generator_loss(disc_outputs):
    """The sum over discriminators, and its parts as tensors with their graph."""
    parts = [torch.mean((1 - output.float()) ** 2) for output in disc_outputs]
    total = 0
    for part in parts:
        total = total + part
    return total, parts
