"""How SpeechBrain's HiFi-GAN computes losses: per discriminator, summed by two functions."""

import torch.nn.functional as F
from torch import nn


class MSEGLoss(nn.Module):
    """The generator's loss of one discriminator."""

    def forward(self, score_fake):
        return F.mse_loss(score_fake, score_fake.new_ones(score_fake.shape))


class MelganFeatureLoss(nn.Module):
    """The mean distance over all maps of all discriminators; gradients go to the real side too."""

    def forward(self, fake_feats, real_feats):
        total, count = 0, 0
        for i, fakes in enumerate(fake_feats):
            for fake, real in zip(fakes, real_feats[i], strict=False):
                total = total + F.l1_loss(fake, real)
                count += 1
        return total / count


class MSEDLoss(nn.Module):
    """The discriminator's loss of one discriminator, and its parts."""

    def forward(self, score_fake, score_real):
        on_real = F.mse_loss(score_real, score_real.new_ones(score_real.shape))
        on_fake = F.mse_loss(score_fake, score_fake.new_zeros(score_fake.shape))
        return on_real + on_fake, on_real, on_fake


def _apply_G_adv_loss(scores_fake, loss_func):
    """The sum over discriminators."""
    if not isinstance(scores_fake, list):
        return loss_func(scores_fake)
    total = 0
    for score in scores_fake:
        total += loss_func(score)
    return total


def _apply_D_loss(scores_fake, scores_real, loss_func):
    """The sum over discriminators; the parts are those of the last one, added to themselves."""
    total, on_real, on_fake = 0, 0, 0
    if not isinstance(scores_fake, list):
        return loss_func(scores_fake, scores_real)
    for fake, real in zip(scores_fake, scores_real, strict=False):
        part, on_real, on_fake = loss_func(score_fake=fake, score_real=real)
        total += part
        on_real += on_real
        on_fake += on_fake
    return total, on_real, on_fake
