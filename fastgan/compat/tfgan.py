"""TF-GAN's vocabulary (tensorflow/gan, tensorflow_gan/python/losses/losses_impl.py) on torch tensors.

    import tensorflow_gan as tfgan; tfgan.losses.modified_generator_loss(fake)      # before
    from fastgan.compat import tfgan; tfgan.modified_generator_loss(fake)           # after

`weights` are numbers or tensors that broadcast to the logits. The default reduction divides the weighted sum by the
number of nonzero weights, so that a weight of 2.3 multiplies the loss by 2.3. The arguments `scope`,
`loss_collection` and `add_summaries` are accepted and ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import functional
from ..backends.specs import Term
from ._origin import Origin
from ._shared import (
    MINUS,
    PLUS,
    alike,
    bce,
    between,
    elements,
    mean_of,
    quiet_input,
    result_dtype,
    square,
    squared_norms,
)

__all__ = [
    "BY_NONZERO_WEIGHTS", "least_squares_discriminator_loss", "least_squares_generator_loss",
    "minimax_discriminator_loss", "minimax_generator_loss", "modified_discriminator_loss",
    "modified_generator_loss", "relativistic_discriminator_loss", "relativistic_generator_loss",
    "wasserstein_discriminator_loss", "wasserstein_generator_loss", "wasserstein_gradient_penalty",
    "wasserstein_hinge_discriminator_loss", "wasserstein_hinge_generator_loss",
]  # fmt: skip

ORIGIN = Origin()  # of another framework

BY_NONZERO_WEIGHTS = "weighted_sum_by_nonzero_weights"


def _reduced(values: Tensor, weights: Any, reduction: str) -> Tensor:
    """Return unreduced losses, weighted and reduced as TF-GAN does."""
    given = isinstance(weights, Tensor)
    w = weights.to(values) if given else values.new_full((), weights)  # a fill, where a copy would wait
    w = w.expand_as(values)
    weighted = values * w
    if reduction == BY_NONZERO_WEIGHTS:
        return weighted.sum() / torch.count_nonzero(w).clamp(min=1)
    if reduction == "none":
        return weighted
    if reduction == "weighted_sum":
        return weighted.sum()
    if reduction == "weighted_mean":
        return weighted.sum() / w.sum()
    if reduction == "weighted_sum_over_batch_size":
        return weighted.mean()
    raise ValueError(f"reduction: unknown name {reduction!r}")


def _loss(reduction: str, *entries: tuple[Term, Tensor, Any]) -> Tensor:
    """Return the sum of terms of tensors with weights; in one call where the weights are numbers."""
    dtype = result_dtype([x for _, x, _ in entries])
    if reduction == BY_NONZERO_WEIGHTS and not any(isinstance(w, Tensor) for _, _, w in entries):
        return mean_of(*[(t.weighted(t.weight * float(w)), x) for t, x, w in entries])
    wide = torch.promote_types(dtype, torch.float32)
    first, *others = [_reduced(elements(t, x, wide), w, reduction) for t, x, w in entries]
    return sum(others, first).to(dtype)


def wasserstein_generator_loss(
    discriminator_gen_outputs: Tensor,
    weights: Any = 1.0,
    scope: Any = None,
    loss_collection: Any = None,
    reduction: str = BY_NONZERO_WEIGHTS,
    add_summaries: bool = False,
) -> Tensor:
    """Return -f."""
    return _loss(reduction, (MINUS, discriminator_gen_outputs, weights))


def wasserstein_discriminator_loss(
    discriminator_real_outputs: Tensor,
    discriminator_gen_outputs: Tensor,
    real_weights: Any = 1.0,
    generated_weights: Any = 1.0,
    scope: Any = None,
    loss_collection: Any = None,
    reduction: str = BY_NONZERO_WEIGHTS,
    add_summaries: bool = False,
) -> Tensor:
    """Return f - r."""
    return _loss(
        reduction,
        (PLUS, discriminator_gen_outputs, generated_weights),
        (MINUS, discriminator_real_outputs, real_weights),
    )


wasserstein_hinge_generator_loss = wasserstein_generator_loss


def wasserstein_hinge_discriminator_loss(
    discriminator_real_outputs: Tensor,
    discriminator_gen_outputs: Tensor,
    real_weights: Any = 1.0,
    generated_weights: Any = 1.0,
    real_hinge: float = 1.0,
    generated_hinge: float = 1.0,
    scope: Any = None,
    loss_collection: Any = None,
    reduction: str = BY_NONZERO_WEIGHTS,
    add_summaries: bool = False,
) -> Tensor:
    """Return [real_hinge - r]+ + [generated_hinge + f]+."""
    on_real = Term("relu", scale=-1.0, shift=float(real_hinge))
    on_fake = Term("relu", shift=float(generated_hinge))
    return _loss(
        reduction,
        (on_fake, discriminator_gen_outputs, generated_weights),
        (on_real, discriminator_real_outputs, real_weights),
    )


def minimax_discriminator_loss(
    discriminator_real_outputs: Tensor,
    discriminator_gen_outputs: Tensor,
    label_smoothing: float = 0.25,
    real_weights: Any = 1.0,
    generated_weights: Any = 1.0,
    scope: Any = None,
    loss_collection: Any = None,
    reduction: str = BY_NONZERO_WEIGHTS,
    add_summaries: bool = False,
) -> Tensor:
    """Return the cross-entropy of r with the label 1 - label_smoothing / 2, plus that of f with 0.

    The default label is 0.875.
    """
    return _loss(
        reduction,
        (bce(1.0 - label_smoothing / 2), discriminator_real_outputs, real_weights),
        (bce(0.0), discriminator_gen_outputs, generated_weights),
    )


modified_discriminator_loss = minimax_discriminator_loss


def minimax_generator_loss(
    discriminator_gen_outputs: Tensor,
    label_smoothing: float = 0.0,
    weights: Any = 1.0,
    scope: Any = None,
    loss_collection: Any = None,
    reduction: str = BY_NONZERO_WEIGHTS,
    add_summaries: bool = False,
) -> Tensor:
    """Return minus the discriminator's loss with real outputs of 1.

    Up to a constant, that is minus the cross-entropy of f with 0.
    """
    ones = torch.ones_like(discriminator_gen_outputs)
    return -minimax_discriminator_loss(
        ones, discriminator_gen_outputs, label_smoothing, weights, weights, reduction=reduction
    )


def modified_generator_loss(
    discriminator_gen_outputs: Tensor,
    label_smoothing: float = 0.0,
    weights: Any = 1.0,
    scope: Any = None,
    loss_collection: Any = None,
    reduction: str = BY_NONZERO_WEIGHTS,
    add_summaries: bool = False,
) -> Tensor:
    """Return the cross-entropy of f with the label 1 - label_smoothing / 2."""
    return _loss(reduction, (bce(1.0 - label_smoothing / 2), discriminator_gen_outputs, weights))


def least_squares_generator_loss(
    discriminator_gen_outputs: Tensor,
    real_label: float = 1,
    weights: Any = 1.0,
    scope: Any = None,
    loss_collection: Any = None,
    reduction: str = BY_NONZERO_WEIGHTS,
    add_summaries: bool = False,
) -> Tensor:
    """Return (f - real_label)^2 / 2."""
    return _loss(reduction, (square(real_label, 0.5), discriminator_gen_outputs, weights))


def least_squares_discriminator_loss(
    discriminator_real_outputs: Tensor,
    discriminator_gen_outputs: Tensor,
    real_label: float = 1,
    fake_label: float = 0,
    real_weights: Any = 1.0,
    generated_weights: Any = 1.0,
    scope: Any = None,
    loss_collection: Any = None,
    reduction: str = BY_NONZERO_WEIGHTS,
    add_summaries: bool = False,
) -> Tensor:
    """Return (r - real_label)^2 / 2 + (f - fake_label)^2 / 2."""
    return _loss(
        reduction,
        (square(real_label, 0.5), discriminator_real_outputs, real_weights),
        (square(fake_label, 0.5), discriminator_gen_outputs, generated_weights),
    )


def _relativistic(first: Tensor, other: Tensor, weights: Any, other_weights: Any, reduction: str) -> Tensor:
    """Return the cross-entropy of first - mean(other) with 1 plus that of other - mean(first) with 0."""
    first, other = alike(first, other)
    plain = not (isinstance(weights, Tensor) or isinstance(other_weights, Tensor))
    if plain and reduction == BY_NONZERO_WEIGHTS and weights == other_weights == 1:
        loss = functional.discriminator_loss(first, other, "nonsaturating", relativistic="average")
        return loss.to(result_dtype([first, other]))
    a, b = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (first, other))
    loss = _loss(reduction, (bce(1.0), a - b.mean(), weights), (bce(0.0), b - a.mean(), other_weights))
    return loss.to(result_dtype([first, other]))


def relativistic_discriminator_loss(
    discriminator_real_outputs: Tensor,
    discriminator_gen_outputs: Tensor,
    real_weights: Any = 1.0,
    generated_weights: Any = 1.0,
    scope: Any = None,
    loss_collection: Any = None,
    reduction: str = BY_NONZERO_WEIGHTS,
    add_summaries: bool = False,
) -> Tensor:
    """Return the relativistic average loss, not halved.

    It is the cross-entropy of r - mean(f) with 1 plus that of f - mean(r) with 0.
    """
    real, fake = discriminator_real_outputs, discriminator_gen_outputs
    return _relativistic(real, fake, real_weights, generated_weights, reduction)


def relativistic_generator_loss(
    discriminator_real_outputs: Tensor,
    discriminator_gen_outputs: Tensor,
    real_weights: Any = 1.0,
    generated_weights: Any = 1.0,
    scope: Any = None,
    loss_collection: Any = None,
    reduction: str = BY_NONZERO_WEIGHTS,
    add_summaries: bool = False,
) -> Tensor:
    """Return `relativistic_discriminator_loss` with the labels swapped; real comes first here too."""
    real, fake = discriminator_real_outputs, discriminator_gen_outputs
    return _relativistic(fake, real, generated_weights, real_weights, reduction)


def wasserstein_gradient_penalty(
    real_data: Tensor,
    generated_data: Tensor,
    generator_inputs: Any,
    discriminator_fn: Callable[..., Any],
    discriminator_scope: Any,
    epsilon: float = 1e-10,
    target: float = 1.0,
    one_sided: bool = False,
    weights: Any = 1.0,
    scope: Any = None,
    loss_collection: Any = None,
    reduction: str = BY_NONZERO_WEIGHTS,
    add_summaries: bool = False,
) -> Tensor:
    """Return (n / target - 1)^2, or [n / target - 1]+^2, with n = sqrt(||g||^2 + epsilon), at points between.

    The discriminator is called as (points, generator_inputs) and may return a tuple, whose first entry counts.
    Draws torch.rand(N, 1, ..., 1) like real_data; it weights the generated data.
    """
    shape = (len(real_data), *[1] * (real_data.dim() - 1))
    a = torch.rand(shape, dtype=real_data.dtype, device=real_data.device)
    points = between(generated_data, real_data, a)

    def first(result: Any) -> Any:
        return result[0] if isinstance(result, tuple) else result

    squares = squared_norms(quiet_input(discriminator_fn, points, generator_inputs, pick=first), reduction="none")
    distance = (squares + epsilon).sqrt() / target - 1.0
    return _reduced((torch.relu(distance) if one_sided else distance).square(), weights, reduction)
