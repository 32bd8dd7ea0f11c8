"""How StyleTTS 2 computes losses: HiFi-GAN's, and truncated relativistic least squares."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.baselines import hifigan

discriminator_loss = hifigan.discriminator_loss
generator_loss = hifigan.generator_loss
feature_loss = hifigan.feature_loss
__all__ = ["discriminator_loss", "feature_loss", "generator_loss"]


def _truncated(reals, fakes, tau):
    """The sum over discriminators of a mean of squares below the median, no more than tau each."""
    total = 0
    for real, fake in zip(reals, fakes, strict=False):
        median = torch.median(real - fake)
        below = real < fake + median
        mean = torch.mean(((real - fake - median) ** 2)[below])
        total = total + (tau - F.relu(tau - mean))
    return total


def discriminator_TPRLS_loss(disc_real_outputs, disc_generated_outputs):
    """Truncated at 0.04."""
    return _truncated(disc_real_outputs, disc_generated_outputs, 0.04)


def generator_TPRLS_loss(disc_real_outputs, disc_generated_outputs):
    """With real and fake swapped."""
    return _truncated(disc_generated_outputs, disc_real_outputs, 0.04)


class GeneratorLoss(nn.Module):
    """All of the generator's losses, of two discriminators."""

    def __init__(self, mpd, msd):
        super().__init__()
        self.mpd = mpd
        self.msd = msd

    def forward(self, y, y_hat):
        real_f, fake_f, maps_real_f, maps_fake_f = self.mpd(y, y_hat)
        real_s, fake_s, maps_real_s, maps_fake_s = self.msd(y, y_hat)
        features_f = feature_loss(maps_real_f, maps_fake_f)
        features_s = feature_loss(maps_real_s, maps_fake_s)
        relative = generator_TPRLS_loss(real_f, fake_f) + generator_TPRLS_loss(real_s, fake_s)
        adversarial = generator_loss(fake_s)[0] + generator_loss(fake_f)[0]
        return (adversarial + features_s + features_f + relative).mean()


class DiscriminatorLoss(nn.Module):
    """All of the discriminator's losses, of two discriminators."""

    def __init__(self, mpd, msd):
        super().__init__()
        self.mpd = mpd
        self.msd = msd

    def forward(self, y, y_hat):
        real_f, fake_f, _, _ = self.mpd(y, y_hat)
        real_s, fake_s, _, _ = self.msd(y, y_hat)
        relative = discriminator_TPRLS_loss(real_f, fake_f) + discriminator_TPRLS_loss(real_s, fake_s)
        return (discriminator_loss(real_s, fake_s)[0] + discriminator_loss(real_f, fake_f)[0] + relative).mean()
