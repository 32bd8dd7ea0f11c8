"""What stylegan3 (and stylegan2-ada-pytorch) computes inline in its loss: each value unreduced, for its reports."""

import math

import torch
import torch.nn.functional as F


def loss_gmain(gen_logits):
    """The generator's loss, of each element."""
    return F.softplus(-gen_logits)


def loss_dgen(gen_logits):
    """The discriminator's loss on generated images, of each element."""
    return F.softplus(gen_logits)


def loss_dreal(real_logits):
    """The discriminator's loss on real images, of each element."""
    return F.softplus(-real_logits)


def r1_penalty(real_logits, real_img):
    """The squared norm of each sample's gradient; the factor r1_gamma / 2 is the trainer's."""
    (gradient,) = torch.autograd.grad([real_logits.sum()], [real_img], create_graph=True)
    return gradient.square().sum([1, 2, 3])


def path_length_penalty(gen_img, gen_ws, pl_mean, pl_decay=None):
    """The squared distance of each length from their running mean, which is updated in place."""
    noise = torch.randn_like(gen_img) / math.sqrt(gen_img.shape[2] * gen_img.shape[3])
    (gradient,) = torch.autograd.grad([(gen_img * noise).sum()], [gen_ws], create_graph=True)
    lengths = gradient.square().sum(2).mean(1).sqrt()
    mean = pl_mean.lerp(lengths.mean(), pl_decay)
    pl_mean.copy_(mean.detach())
    return (lengths - mean).square()
