"""How DAC (descript-audio-codec) computes losses: least squares and feature distances, of lists of maps.

The last map of each discriminator is its logits.
"""

import torch
import torch.nn.functional as F


def discriminator_loss(d_fake, d_real):
    """The sum over discriminators."""
    loss = 0
    for fake, real in zip(d_fake, d_real, strict=True):
        loss += torch.mean(fake[-1] ** 2)
        loss += torch.mean((1 - real[-1]) ** 2)
    return loss


def generator_loss(d_fake, d_real):
    """The sum over discriminators, and that of the distances of all maps but the last."""
    loss = 0
    for fake in d_fake:
        loss += torch.mean((1 - fake[-1]) ** 2)
    features = 0
    for fakes, reals in zip(d_fake, d_real, strict=True):
        for fake, real in zip(fakes[:-1], reals[:-1], strict=True):
            features += F.l1_loss(fake, real.detach())
    return loss, features
