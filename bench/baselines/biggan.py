"""How BigGAN-PyTorch computes its losses: fake comes first, and the loss on real comes back first."""

import torch
from torch.nn import functional as F


def loss_dcgan_dis(dis_fake, dis_real):
    """The non-saturating discriminator losses on real and on fake."""
    return torch.mean(F.softplus(-dis_real)), torch.mean(F.softplus(dis_fake))


def loss_dcgan_gen(dis_fake):
    """The non-saturating generator loss."""
    return torch.mean(F.softplus(-dis_fake))


def loss_hinge_dis(dis_fake, dis_real):
    """The hinge discriminator losses on real and on fake."""
    return torch.mean(F.relu(1.0 - dis_real)), torch.mean(F.relu(1.0 + dis_fake))


def loss_hinge_gen(dis_fake):
    """The hinge generator loss."""
    return -torch.mean(dis_fake)


generator_loss = loss_hinge_gen
discriminator_loss = loss_hinge_dis
