"""How stable-audio-tools computes the losses of one scale: both networks' at once."""

import torch
import torch.nn.functional as F


def get_hinge_losses(score_real, score_fake):
    """The discriminator's loss, and the generator's."""
    generator = -score_fake.mean()
    return torch.relu(1 - score_real).mean() + torch.relu(1 + score_fake).mean(), generator


def get_relativistic_losses(score_real, score_fake):
    """The discriminator's loss, and the generator's, of differences."""
    difference = score_real - score_fake
    return F.softplus(-difference).mean(), F.softplus(difference).mean()
