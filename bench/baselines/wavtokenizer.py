"""How WavTokenizer, and Vocos before it, compute losses: hinge by clamp, sums from the int 0; and DAC's."""

import torch
from torch import nn

from bench.baselines import dac


class GeneratorLoss(nn.Module):
    """The sum over discriminators, and its parts."""

    def forward(self, disc_outputs):
        parts = [torch.clamp(1 - logits, min=0).mean() for logits in disc_outputs]
        total = 0
        for part in parts:
            total = total + part
        return total, parts


class DiscriminatorLoss(nn.Module):
    """The sum over discriminators, and its parts on real and on generated as floats."""

    def forward(self, disc_real_outputs, disc_generated_outputs):
        total = 0
        on_real, on_generated = [], []
        for real, generated in zip(disc_real_outputs, disc_generated_outputs, strict=False):
            part_r = torch.clamp(1 - real, min=0).mean()
            part_g = torch.clamp(1 + generated, min=0).mean()
            total = total + (part_r + part_g)
            on_real.append(part_r.item())
            on_generated.append(part_g.item())
        return total, on_real, on_generated


class FeatureMatchingLoss(nn.Module):
    """The sum of the mean distances of all feature maps; gradients go to the real side too."""

    def forward(self, fmap_r, fmap_g):
        total = 0
        for reals, generateds in zip(fmap_r, fmap_g, strict=False):
            for real, generated in zip(reals, generateds, strict=False):
                total = total + torch.abs(real - generated).mean()
        return total


class DACGANLoss(nn.Module):
    """DAC's losses, of tensors."""

    def __init__(self, discriminator):
        super().__init__()
        self.discriminator = discriminator

    def forward(self, fake, real):
        """The discriminator's outputs, of fake first."""
        return self.discriminator(fake), self.discriminator(real)

    def discriminator_loss(self, fake, real):
        """The sum over discriminators, with fake detached."""
        return dac.discriminator_loss(*self.forward(fake.clone().detach(), real))

    def generator_loss(self, fake, real):
        """The adversarial loss and the features' distances."""
        return dac.generator_loss(*self.forward(fake, real))
