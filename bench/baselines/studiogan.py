"""How PyTorch-StudioGAN computes its losses and regularisers."""

import math

import torch
from torch.nn import functional as F


def d_vanilla(d_logit_real, d_logit_fake, DDP):
    """The non-saturating discriminator loss."""
    return F.softplus(-d_logit_real).mean() + F.softplus(d_logit_fake).mean()


def g_vanilla(d_logit_fake, DDP):
    """The non-saturating generator loss."""
    return F.softplus(-d_logit_fake).mean()


def d_logistic(d_logit_real, d_logit_fake, DDP):
    """The same for batches of one size: one mean of the sums."""
    return (F.softplus(-d_logit_real) + F.softplus(d_logit_fake)).mean()


def g_logistic(d_logit_fake, DDP):
    """The non-saturating generator loss."""
    return F.softplus(-d_logit_fake).mean()


def d_ls(d_logit_real, d_logit_fake, DDP):
    """The least-squares discriminator loss, halved."""
    return (0.5 * (d_logit_real - 1.0) ** 2 + 0.5 * d_logit_fake**2).mean()


def g_ls(d_logit_fake, DDP):
    """The least-squares generator loss, halved."""
    return (0.5 * (d_logit_fake - 1.0) ** 2).mean()


def d_hinge(d_logit_real, d_logit_fake, DDP):
    """The hinge discriminator loss."""
    return F.relu(1.0 - d_logit_real).mean() + F.relu(1.0 + d_logit_fake).mean()


def g_hinge(d_logit_fake, DDP):
    """The hinge generator loss."""
    return -d_logit_fake.mean()


def d_wasserstein(d_logit_real, d_logit_fake, DDP):
    """The Wasserstein critic loss."""
    return (d_logit_fake - d_logit_real).mean()


def g_wasserstein(d_logit_fake, DDP):
    """The Wasserstein generator loss."""
    return -d_logit_fake.mean()


def crammer_singer_loss(adv_output, label, DDP, **_):
    """The multi-class hinge of scores (N, C): the label's against the best of the others."""
    of_label = adv_output.gather(1, label[:, None])[:, 0]
    others = adv_output.scatter(1, label[:, None], -torch.inf)
    return F.relu(1.0 + others.max(dim=1).values - of_label).mean()


def feature_matching_loss(real_embed, fake_embed):
    """The distance of the batches' mean features."""
    return (fake_embed.mean(dim=0) - real_embed.mean(dim=0)).abs().mean()


def lecam_reg(d_logit_real, d_logit_fake, ema):
    """LeCam's regulariser, with running means of the discriminator's outputs."""
    return F.relu(d_logit_real - ema.D_fake).pow(2).mean() + F.relu(ema.D_real - d_logit_fake).pow(2).mean()


def cal_deriv(inputs, outputs, device):
    """The gradient of the summed outputs, with a graph."""
    ones = torch.ones_like(outputs).to(device)
    return torch.autograd.grad(outputs, inputs, ones, create_graph=True)[0]


def _seen(images):
    """Zero, made of one pixel of each image, so that data-parallel wrappers see the images used."""
    return 0.0 * images[:, 0, 0, 0].mean()


def _scores(discriminator, images, labels):
    return discriminator(images, labels, eval=False)["adv_output"]


def _between(real_images, fake_images, device):
    alpha = torch.rand(real_images.shape[0], 1).view(-1, 1, 1, 1).to(device)
    points = alpha * real_images + (1 - alpha) * fake_images
    return points.detach().requires_grad_(True)


def cal_grad_penalty(real_images, real_labels, fake_images, discriminator, device):
    """The two-sided penalty between real and fake images."""
    points = _between(real_images, fake_images, device)
    gradients = cal_deriv(points, _scores(discriminator, points, real_labels), device)
    return ((gradients.flatten(1).norm(2, dim=1) - 1) ** 2).mean() + _seen(points)


def cal_dra_penalty(real_images, real_labels, discriminator, device):
    """The two-sided penalty around real images."""
    alpha = torch.rand(real_images.shape[0], 1, 1, 1).to(device)
    uniform = torch.rand(real_images.shape).to(device)
    points = (real_images + alpha * 0.5 * real_images.std() * uniform).detach().requires_grad_(True)
    gradients = cal_deriv(points, _scores(discriminator, points, real_labels), device)
    return ((gradients.flatten(1).norm(2, dim=1) - 1) ** 2).mean() + _seen(points)


def cal_maxgrad_penalty(real_images, real_labels, fake_images, discriminator, device):
    """The largest squared gradient norm between real and fake images."""
    points = _between(real_images, fake_images, device)
    gradients = cal_deriv(points, _scores(discriminator, points, real_labels), device)
    return (gradients.flatten(1).norm(2, dim=1) ** 2).max() + _seen(points)


def cal_r1_reg(adv_output, images, device):
    """Half of the squared gradient's sum over a sample."""
    gradients = cal_deriv(images, adv_output.sum(), device)
    return 0.5 * gradients.pow(2).flatten(1).sum(1).mean() + _seen(images)


def stylegan_cal_r1_reg(adv_output, images):
    """The same, as StyleGAN has it."""
    (gradients,) = torch.autograd.grad(adv_output.sum(), images, create_graph=True)
    return 0.5 * gradients.square().sum([1, 2, 3]).mean()


class PathLengthRegularizer:
    """The path-length penalty with its running mean."""

    def __init__(self, device, pl_decay=0.01, pl_weight=2, pl_no_weight_grad=False):
        self.pl_decay = pl_decay
        self.pl_weight = pl_weight
        self.pl_no_weight_grad = pl_no_weight_grad
        self.pl_mean = torch.zeros([], device=device)

    def cal_pl_reg(self, fake_images, ws):
        """The penalty of images made from `ws`; it moves the running mean."""
        noise = torch.randn_like(fake_images) / math.sqrt(fake_images.shape[2] * fake_images.shape[3])
        (gradients,) = torch.autograd.grad((fake_images * noise).sum(), ws, create_graph=True)
        lengths = gradients.square().sum(2).mean(1).sqrt()
        mean = self.pl_mean + self.pl_decay * (lengths.mean() - self.pl_mean)
        self.pl_mean.copy_(mean.detach())
        return (lengths - mean).square().mean() * self.pl_weight
