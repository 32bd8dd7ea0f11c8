"""How BasicSR computes its losses: one class for all types, with the loss weight on the generator's only."""

import math

import torch
from torch import nn
from torch.nn import functional as F


class GANLoss(nn.Module):
    """One object for all types."""

    def __init__(self, gan_type, real_label_val=1.0, fake_label_val=0.0, loss_weight=1.0):
        super().__init__()
        self.gan_type = gan_type
        self.real_label_val = real_label_val
        self.fake_label_val = fake_label_val
        self.loss_weight = loss_weight
        if gan_type == "vanilla":
            self.loss = nn.BCEWithLogitsLoss()
        elif gan_type == "lsgan":
            self.loss = nn.MSELoss()
        elif gan_type == "wgan":
            self.loss = lambda x, is_real: -x.mean() if is_real else x.mean()
        elif gan_type == "wgan_softplus":
            self.loss = lambda x, is_real: F.softplus(-x if is_real else x).mean()
        elif gan_type == "hinge":
            self.loss = nn.ReLU()
        else:
            raise NotImplementedError(f"GAN type {gan_type} is not implemented.")

    def get_target_label(self, input, target_is_real):
        """The flag itself for the two Wasserstein types, else the label in the input's shape and dtype."""
        if self.gan_type in ("wgan", "wgan_softplus"):
            return target_is_real
        return input.new_ones(input.size()) * (self.real_label_val if target_is_real else self.fake_label_val)

    def forward(self, input, target_is_real, is_disc=False):
        if self.gan_type != "hinge":
            loss = self.loss(input, self.get_target_label(input, target_is_real))
        elif is_disc:
            loss = self.loss(1 - input if target_is_real else 1 + input).mean()
        else:
            loss = -input.mean()
        return loss if is_disc else loss * self.loss_weight


class MultiScaleGANLoss(GANLoss):
    """The mean over a list's members; of a member that is a list, its last element counts."""

    def forward(self, input, target_is_real, is_disc=False):
        if not isinstance(input, list):
            return super().forward(input, target_is_real, is_disc)
        loss = 0
        for prediction in input:
            last = prediction[-1] if isinstance(prediction, list) else prediction
            loss = loss + super().forward(last, target_is_real, is_disc).mean()
        return loss / len(input)


def r1_penalty(real_pred, real_img):
    """The squared gradient's sum over a sample, without 1/2."""
    (gradient,) = torch.autograd.grad(real_pred.sum(), real_img, create_graph=True)
    return gradient.pow(2).reshape(gradient.shape[0], -1).sum(1).mean()


def g_path_regularize(fake_img, latents, mean_path_length, decay=0.01):
    """The path-length penalty, the mean length of this batch, and the running mean."""
    noise = torch.randn_like(fake_img) / math.sqrt(fake_img.shape[2] * fake_img.shape[3])
    (gradient,) = torch.autograd.grad((fake_img * noise).sum(), latents, create_graph=True)
    lengths = gradient.pow(2).sum(2).mean(1).sqrt()
    mean = mean_path_length + decay * (lengths.mean() - mean_path_length)
    penalty = (lengths - mean).pow(2).mean()
    return penalty, lengths.detach().mean(), mean.detach()


def gradient_penalty_loss(discriminator, real_data, fake_data, weight=None):
    """A penalty on the norm over the channels, one for each pixel."""
    alpha = torch.rand(real_data.size(0), 1, 1, 1).to(real_data)
    points = (alpha * real_data + (1.0 - alpha) * fake_data).detach().requires_grad_(True)
    scores = discriminator(points)
    (gradients,) = torch.autograd.grad(scores, points, torch.ones_like(scores), create_graph=True)
    if weight is not None:
        gradients = gradients * weight
    penalty = ((gradients.norm(2, dim=1) - 1) ** 2).mean()
    return penalty if weight is None else penalty / weight.mean()
