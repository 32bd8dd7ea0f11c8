"""How taming-transformers (VQGAN) computes its discriminator's losses and the weight between the generator's."""

import torch
import torch.nn.functional as F


def hinge_d_loss(logits_real, logits_fake):
    """Half the sum of both sides' hinge."""
    real = torch.mean(F.relu(1.0 - logits_real))
    fake = torch.mean(F.relu(1.0 + logits_fake))
    return 0.5 * (real + fake)


def vanilla_d_loss(logits_real, logits_fake):
    """Half the sum of both sides' softplus."""
    return 0.5 * (torch.mean(F.softplus(-logits_real)) + torch.mean(F.softplus(logits_fake)))


def hinge_gen_loss(logit_fake):
    """The negated mean: inline in VQGAN, a function of this name in LlamaGen."""
    return -torch.mean(logit_fake)


def adopt_weight(weight, global_step, threshold=0, value=0.0):
    """`value` until global_step reaches the threshold, `weight` from then on."""
    return value if global_step < threshold else weight


def calculate_adaptive_weight(nll_loss, g_loss, last_layer, discriminator_weight=None):
    """How much larger the reconstruction's gradient at the last layer is than the discriminator's."""
    nll_grad = torch.autograd.grad(nll_loss, last_layer, retain_graph=True)[0]
    g_grad = torch.autograd.grad(g_loss, last_layer, retain_graph=True)[0]
    weight = torch.norm(nll_grad) / (torch.norm(g_grad) + 1e-4)
    return torch.clamp(weight, 0.0, 1e4).detach() * discriminator_weight
