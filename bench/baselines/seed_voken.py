"""How SEED-Voken (Open-MAGVIT2, IBQ) computes its discriminator's losses, the weight between losses, and LeCam."""

import torch
import torch.nn.functional as F

from bench.baselines.taming import adopt_weight, calculate_adaptive_weight, hinge_d_loss, vanilla_d_loss

__all__ = ["adopt_weight", "calculate_adaptive_weight", "hinge_d_loss", "vanilla_d_loss"]


def _cross_entropy(labels, logits):
    """TensorFlow's form of the cross-entropy, element by element."""
    zeros = torch.zeros_like(logits)
    positive = logits >= zeros
    above = torch.where(positive, logits, zeros)
    minus_size = torch.where(positive, -logits, logits)
    return above - logits * labels + torch.log1p(torch.exp(minus_size))


def non_saturate_gen_loss(logits_fake):
    """The cross-entropy with 1 of each sample's mean logit."""
    batch, _, _, _ = logits_fake.shape
    means = torch.mean(logits_fake.reshape(batch, -1), dim=-1)
    return torch.mean(_cross_entropy(torch.ones_like(means), means))


def non_saturate_discriminator_loss(logits_real, logits_fake):
    """The same of both sides; the fake's batch size divides the real logits too."""
    batch, _, _, _ = logits_fake.shape
    real = logits_real.reshape(batch, -1).mean(dim=-1)
    fake = logits_fake.reshape(batch, -1).mean(dim=-1)
    real_loss = _cross_entropy(torch.ones_like(real), real)
    fake_loss = _cross_entropy(torch.zeros_like(fake), fake)
    return real_loss.mean() + fake_loss.mean()


class LeCAM_EMA:
    """Moving averages of the mean logits, as python floats."""

    def __init__(self, init=0.0, decay=0.999):
        self.logits_real_ema = init
        self.logits_fake_ema = init
        self.decay = decay

    def update(self, logits_real, logits_fake):
        """Move both averages."""
        real, fake = torch.mean(logits_real).item(), torch.mean(logits_fake).item()
        self.logits_real_ema = self.logits_real_ema * self.decay + real * (1 - self.decay)
        self.logits_fake_ema = self.logits_fake_ema * self.decay + fake * (1 - self.decay)


def lecam_reg(real_pred, fake_pred, lecam_ema):
    """The squared excess of real logits over the fake average, and of the real average over fake logits."""
    above = torch.mean(F.relu(real_pred - lecam_ema.logits_fake_ema).pow(2))
    below = torch.mean(F.relu(lecam_ema.logits_real_ema - fake_pred).pow(2))
    return above + below
