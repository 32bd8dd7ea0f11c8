"""How VITS computes losses: HiFi-GAN's, in float32, with real feature maps that get no gradient."""

import torch


def discriminator_loss(disc_real_outputs, disc_generated_outputs):
    """The sum over discriminators, and the parts on real and on generated as python floats."""
    loss = 0
    real_losses, generated_losses = [], []
    for real, generated in zip(disc_real_outputs, disc_generated_outputs, strict=False):
        real_loss = torch.mean((1 - real.float()) ** 2)
        generated_loss = torch.mean(generated.float() ** 2)
        loss += real_loss + generated_loss
        real_losses.append(real_loss.item())
        generated_losses.append(generated_loss.item())
    return loss, real_losses, generated_losses


def generator_loss(disc_outputs):
    """The sum over discriminators, and its parts as tensors with their graph."""
    loss = 0
    parts = []
    for output in disc_outputs:
        part = torch.mean((1 - output.float()) ** 2)
        parts.append(part)
        loss += part
    return loss, parts


def feature_loss(fmap_r, fmap_g):
    """Twice the sum of the mean distances of all feature maps."""
    loss = 0
    for reals, generateds in zip(fmap_r, fmap_g, strict=False):
        for real, generated in zip(reals, generateds, strict=False):
            loss += torch.mean(torch.abs(real.float().detach() - generated.float()))
    return loss * 2
