"""The losses of the script of RelativisticGAN, chosen by a number from 1 to 8, as functions; outputs are (N,)."""

import torch
import torch.nn.functional as F
from torch import nn


def _labels(x, value):
    # Always float32, whatever x is: with 16-bit outputs these losses are therefore float32.
    return torch.full((x.size(0),), value, dtype=torch.get_default_dtype(), device=x.device)


def _average(real, fake, y, y2, loss_D):
    """The relativistic average losses 6 to 8, with label y for real and y2 for fake."""
    real, fake = real - torch.mean(fake), fake - torch.mean(real)
    if loss_D == 6:
        bce = nn.BCEWithLogitsLoss()
        return (bce(real, _labels(real, y)) + bce(fake, _labels(fake, y2))) / 2
    sign = 2.0 * y - 1.0
    if loss_D == 7:
        ones = _labels(real, sign)
        return (torch.mean((real - ones) ** 2) + torch.mean((fake + ones) ** 2)) / 2
    return (torch.mean(F.relu(1.0 - sign * real)) + torch.mean(F.relu(1.0 + sign * fake))) / 2


def discriminator_loss(y_pred, y_pred_fake, loss_D=None):
    """The discriminator's loss of that number; 1 is of probabilities, the others of logits."""
    real, fake = y_pred, y_pred_fake
    if loss_D == 1:
        bce = nn.BCELoss()
        return bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))
    if loss_D == 2:
        return torch.mean((real - _labels(real, 1.0)) ** 2) + torch.mean((fake - _labels(fake, 0.0)) ** 2)
    if loss_D == 3:
        return -torch.mean(real) + torch.mean(fake)
    if loss_D == 4:
        return torch.mean(F.relu(1.0 - real)) + torch.mean(F.relu(1.0 + fake))
    if loss_D == 5:
        return nn.BCEWithLogitsLoss()(real - fake, _labels(real, 1.0))
    return _average(real, fake, 1.0, 0.0, loss_D)


def generator_loss(y_pred_fake, y_pred=None, loss_D=None):
    """The generator's loss of that number; from 5 on it is of the real outputs too."""
    real, fake = y_pred, y_pred_fake
    if loss_D == 1:
        return nn.BCELoss()(fake, torch.ones_like(fake))
    if loss_D == 2:
        return torch.mean((fake - _labels(fake, 1.0)) ** 2)
    if loss_D in (3, 4):
        return -torch.mean(fake)
    if loss_D == 5:
        return nn.BCEWithLogitsLoss()(fake - real, _labels(fake, 1.0))
    return _average(real, fake, 0.0, 1.0, loss_D)


def gradient_penalty(D, x, x_fake, penalty=None):
    """WGAN-GP with its weight, of 4-D images; three norms, each over a dimension more, are a sample's norm."""
    u = torch.empty(x.size(0), 1, 1, 1, device=x.device).uniform_(0, 1)
    points = (x.detach() * u + x_fake.detach() * (1 - u)).requires_grad_(True)
    (gradient,) = torch.autograd.grad(D(points), points, grad_outputs=x.new_ones(x.size(0)), create_graph=True)
    return penalty * ((gradient.norm(2, 1).norm(2, 1).norm(2, 1) - 1) ** 2).mean()
