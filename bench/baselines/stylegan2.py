"""How rosinality's stylegan2-pytorch computes its losses and regularisers."""

import math

import torch
import torch.nn.functional as F


def d_logistic_loss(real_pred, fake_pred):
    """Softplus on both sides."""
    return F.softplus(-real_pred).mean() + F.softplus(fake_pred).mean()


def g_nonsaturating_loss(fake_pred):
    """Softplus of the negated logits."""
    return F.softplus(-fake_pred).mean()


def d_r1_loss(real_pred, real_img):
    """The mean squared norm of the samples' gradients; no factor 1/2."""
    (gradient,) = torch.autograd.grad(real_pred.sum(), real_img, create_graph=True)
    return gradient.pow(2).reshape(gradient.shape[0], -1).sum(1).mean()


def g_path_regularize(fake_img, latents, mean_path_length, decay=0.01):
    """The penalty, the new mean length (detached), and the lengths with their graph."""
    noise = torch.randn_like(fake_img) / math.sqrt(fake_img.shape[2] * fake_img.shape[3])
    (gradient,) = torch.autograd.grad((fake_img * noise).sum(), latents, create_graph=True)
    lengths = torch.sqrt(gradient.pow(2).sum(2).mean(1))
    mean = mean_path_length + decay * (lengths.mean() - mean_path_length)
    return (lengths - mean).pow(2).mean(), mean.detach(), lengths
