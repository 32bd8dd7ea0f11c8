"""How DAC (descript-audio-codec) computes losses: least squares and feature distances, of lists of maps.

The last map of each discriminator is its logits.
"""

import torch
import torch.nn.functional as F
from torch import nn


def discriminator_loss(d_fake, d_real):
    """The sum over discriminators."""
    loss = 0
    for fake, real in zip(d_fake, d_real, strict=False):
        loss += torch.mean(fake[-1] ** 2)
        loss += torch.mean((1 - real[-1]) ** 2)
    return loss


def generator_loss(d_fake, d_real):
    """The sum over discriminators, and that of the distances of all maps but the last."""
    loss = 0
    for fake in d_fake:
        loss += torch.mean((1 - fake[-1]) ** 2)
    features = 0
    for i, fakes in enumerate(d_fake):
        for j, fake in enumerate(fakes[:-1]):
            features += F.l1_loss(fake, d_real[i][j].detach())
    return loss, features


class GANLoss(nn.Module):
    """The same, of AudioSignals and a discriminator."""

    def __init__(self, discriminator):
        super().__init__()
        self.discriminator = discriminator

    def forward(self, fake, real):
        """The discriminator's outputs, of fake first."""
        return self.discriminator(fake.audio_data), self.discriminator(real.audio_data)

    def discriminator_loss(self, fake, real):
        """The sum over discriminators, with fake detached."""
        return discriminator_loss(*self.forward(fake.clone().detach(), real))

    def generator_loss(self, fake, real):
        """The adversarial loss and the features' distances."""
        return generator_loss(*self.forward(fake, real))
