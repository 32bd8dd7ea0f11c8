"""How gigagan-pytorch computes its losses: low logits are real, high ones fake."""

import torch
import torch.nn.functional as F


def generator_hinge_loss(fake):
    """The mean, not negated."""
    return fake.mean()


def discriminator_hinge_loss(real, fake):
    """The mean of both hinges' sum, with real pushed below -1 and fake above 1."""
    return (F.relu(1 + real) + F.relu(1 - fake)).mean()


def aux_matching_loss(real, fake):
    """ln(1 + exp(-r)) + ln(1 + exp(-f)); as the trainer writes it, exp overflows, so here it is logsigmoid."""
    return -(F.logsigmoid(real) + F.logsigmoid(fake)).mean()


def gradient_penalty(images, outputs, grad_output_weights=None, weight=10, center=0.0, scaler=None, eps=1e-4):
    """The weighted mean squared distance of each sample's norm from the center, over one or many outputs."""
    if not isinstance(outputs, (list, tuple)):
        outputs = [outputs]
    if scaler is not None:
        outputs = [scaler.scale(output) for output in outputs]
    if grad_output_weights is None:
        grad_output_weights = [1] * len(outputs)
    (gradient,) = torch.autograd.grad(
        list(outputs),
        images,
        grad_outputs=[torch.full_like(o, w) for o, w in zip(outputs, grad_output_weights, strict=True)],
        create_graph=True,
        retain_graph=True,
    )
    if scaler is not None:
        gradient = gradient * (1 / max(scaler.get_scale(), eps))
    return weight * ((gradient.reshape(gradient.shape[0], -1).norm(2, dim=1) - center) ** 2).mean()
