"""How RAE computes its discriminator's losses and the weight between losses; RQ-VAE's losses are the same."""

import torch
import torch.nn.functional as F


def _reduced(reduction):
    return torch.mean if reduction == "mean" else torch.sum


def hinge_d_loss(logits_real, logits_fake, reduction="mean"):
    """Half the sum of both sides' hinge."""
    reduce = _reduced(reduction)
    return 0.5 * (reduce(F.relu(1.0 - logits_real)) + reduce(F.relu(1.0 + logits_fake)))


def vanilla_d_loss(logits_real, logits_fake, reduction="mean"):
    """Half the sum of both sides' softplus."""
    reduce = _reduced(reduction)
    return 0.5 * (reduce(F.softplus(-logits_real)) + reduce(F.softplus(logits_fake)))


def vanilla_g_loss(logits_fake, reduction="mean"):
    """The negated mean, or the negated sum."""
    if reduction == "mean":
        return -torch.mean(logits_fake)
    if reduction == "sum":
        return -torch.sum(logits_fake)
    raise ValueError(f"Unsupported reduction {reduction!r}")


def calculate_adaptive_weight(recon_loss, gan_loss, layer, max_d_weight=1e4):
    """How much larger the reconstruction's gradient at a layer is than the discriminator's."""
    recon_grad = torch.autograd.grad(recon_loss, layer, retain_graph=True)[0]
    gan_grad = torch.autograd.grad(gan_loss, layer, retain_graph=True)[0]
    weight = torch.norm(recon_grad) / (torch.norm(gan_grad) + 1e-6)
    return torch.clamp(weight, 0.0, max_d_weight).detach()
