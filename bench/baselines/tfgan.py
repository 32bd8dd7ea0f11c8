"""TensorFlow's tfgan on torch tensors: a weighted sum is divided by the count of nonzero weights."""

import torch
import torch.nn.functional as F

BY_NONZERO_WEIGHTS = "weighted_sum_by_nonzero_weights"


def _reduced(losses, weights, reduction):
    weights = torch.as_tensor(weights, dtype=losses.dtype, device=losses.device).expand_as(losses)
    weighted = losses * weights
    if reduction == "none":
        return weighted
    if reduction == "weighted_sum":
        return weighted.sum()
    if reduction == "weighted_mean":
        return weighted.sum() / weights.sum()
    if reduction == "weighted_sum_over_batch_size":
        return weighted.mean()
    return weighted.sum() / torch.count_nonzero(weights).clamp(min=1)


def _bce(logits, target):
    # TensorFlow's own is exact everywhere, in its derivative too, and so is this.
    return -target * F.logsigmoid(logits) - (1 - target) * F.logsigmoid(-logits)


def wasserstein_generator_loss(
    discriminator_gen_outputs,
    weights=1.0,
    scope=None,
    loss_collection=None,
    reduction=BY_NONZERO_WEIGHTS,
    add_summaries=False,
):
    """The negated logits."""
    return _reduced(-discriminator_gen_outputs, weights, reduction)


def wasserstein_discriminator_loss(
    discriminator_real_outputs,
    discriminator_gen_outputs,
    real_weights=1.0,
    generated_weights=1.0,
    scope=None,
    loss_collection=None,
    reduction=BY_NONZERO_WEIGHTS,
    add_summaries=False,
):
    """Fake less real."""
    fake = _reduced(discriminator_gen_outputs, generated_weights, reduction)
    return fake - _reduced(discriminator_real_outputs, real_weights, reduction)


wasserstein_hinge_generator_loss = wasserstein_generator_loss


def wasserstein_hinge_discriminator_loss(
    discriminator_real_outputs,
    discriminator_gen_outputs,
    real_weights=1.0,
    generated_weights=1.0,
    real_hinge=1.0,
    generated_hinge=1.0,
    scope=None,
    loss_collection=None,
    reduction=BY_NONZERO_WEIGHTS,
    add_summaries=False,
):
    """The hinge on both sides, each with a margin of its own."""
    real = _reduced(F.relu(real_hinge - discriminator_real_outputs), real_weights, reduction)
    return _reduced(F.relu(generated_hinge + discriminator_gen_outputs), generated_weights, reduction) + real


def minimax_discriminator_loss(
    discriminator_real_outputs,
    discriminator_gen_outputs,
    label_smoothing=0.25,
    real_weights=1.0,
    generated_weights=1.0,
    scope=None,
    loss_collection=None,
    reduction=BY_NONZERO_WEIGHTS,
    add_summaries=False,
):
    """BCE with targets 1 - s/2 and 0."""
    real = _reduced(_bce(discriminator_real_outputs, 1 - label_smoothing / 2), real_weights, reduction)
    return real + _reduced(_bce(discriminator_gen_outputs, 0.0), generated_weights, reduction)


modified_discriminator_loss = minimax_discriminator_loss


def minimax_generator_loss(
    discriminator_gen_outputs,
    label_smoothing=0.0,
    weights=1.0,
    scope=None,
    loss_collection=None,
    reduction=BY_NONZERO_WEIGHTS,
    add_summaries=False,
):
    """Minus the discriminator's loss, with ones in the place of real outputs."""
    ones = torch.ones_like(discriminator_gen_outputs)
    return -minimax_discriminator_loss(
        ones, discriminator_gen_outputs, label_smoothing, weights, weights, reduction=reduction
    )


def modified_generator_loss(
    discriminator_gen_outputs,
    label_smoothing=0.0,
    weights=1.0,
    scope=None,
    loss_collection=None,
    reduction=BY_NONZERO_WEIGHTS,
    add_summaries=False,
):
    """BCE with target 1 - s/2."""
    return _reduced(_bce(discriminator_gen_outputs, 1 - label_smoothing / 2), weights, reduction)


def least_squares_generator_loss(
    discriminator_gen_outputs,
    real_label=1,
    weights=1.0,
    scope=None,
    loss_collection=None,
    reduction=BY_NONZERO_WEIGHTS,
    add_summaries=False,
):
    """Half the squared distance from the real label."""
    return _reduced((discriminator_gen_outputs - real_label) ** 2 / 2, weights, reduction)


def least_squares_discriminator_loss(
    discriminator_real_outputs,
    discriminator_gen_outputs,
    real_label=1,
    fake_label=0,
    real_weights=1.0,
    generated_weights=1.0,
    scope=None,
    loss_collection=None,
    reduction=BY_NONZERO_WEIGHTS,
    add_summaries=False,
):
    """Half the squared distances from both labels."""
    real = _reduced((discriminator_real_outputs - real_label) ** 2 / 2, real_weights, reduction)
    return real + _reduced((discriminator_gen_outputs - fake_label) ** 2 / 2, generated_weights, reduction)


def relativistic_discriminator_loss(
    discriminator_real_outputs,
    discriminator_gen_outputs,
    real_weights=1.0,
    generated_weights=1.0,
    scope=None,
    loss_collection=None,
    reduction=BY_NONZERO_WEIGHTS,
    add_summaries=False,
):
    """The relativistic average BCE, not halved."""
    real, fake = discriminator_real_outputs, discriminator_gen_outputs
    on_real = _reduced(_bce(real - fake.mean(), 1.0), real_weights, reduction)
    return on_real + _reduced(_bce(fake - real.mean(), 0.0), generated_weights, reduction)


def relativistic_generator_loss(
    discriminator_real_outputs,
    discriminator_gen_outputs,
    real_weights=1.0,
    generated_weights=1.0,
    scope=None,
    loss_collection=None,
    reduction=BY_NONZERO_WEIGHTS,
    add_summaries=False,
):
    """The same with the targets swapped."""
    real, fake = discriminator_real_outputs, discriminator_gen_outputs
    on_fake = _reduced(_bce(fake - real.mean(), 1.0), generated_weights, reduction)
    return on_fake + _reduced(_bce(real - fake.mean(), 0.0), real_weights, reduction)


def wasserstein_gradient_penalty(
    real_data,
    generated_data,
    generator_inputs,
    discriminator_fn,
    discriminator_scope,
    epsilon=1e-10,
    target=1.0,
    one_sided=False,
    weights=1.0,
    scope=None,
    loss_collection=None,
    reduction=BY_NONZERO_WEIGHTS,
    add_summaries=False,
):
    """The squared relative distance of each sample's norm from the target."""
    n = real_data.shape[0]
    alpha = torch.rand(n, *[1] * (real_data.dim() - 1), dtype=real_data.dtype, device=real_data.device)
    points = real_data + alpha * (generated_data - real_data)
    if not points.requires_grad:
        points.requires_grad_(True)
    output = discriminator_fn(points, generator_inputs)
    if isinstance(output, tuple):
        output = output[0]
    (gradient,) = torch.autograd.grad(output.sum(), points, create_graph=True)
    slopes = torch.sqrt(gradient.square().reshape(n, -1).sum(1) + epsilon)
    distance = slopes / target - 1.0
    if one_sided:
        distance = F.relu(distance)
    return _reduced(distance.square(), weights, reduction)
