"""How TiTok (bytedance/1d-tokenizer) computes its discriminator's loss and LeCam, which is of mean logits."""

import torch
import torch.nn.functional as F

from bench.baselines.taming import hinge_d_loss

__all__ = ["hinge_d_loss"]


def compute_lecam_loss(logits_real_mean, logits_fake_mean, ema_logits_real_mean, ema_logits_fake_mean):
    """The squared excess of the real mean over the fake average, and of the real average over the fake mean."""
    loss = torch.mean(torch.pow(F.relu(logits_real_mean - ema_logits_fake_mean), 2))
    loss += torch.mean(torch.pow(F.relu(ema_logits_real_mean - logits_fake_mean), 2))
    return loss
