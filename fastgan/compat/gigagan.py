"""GigaGAN (lucidrains/gigagan-pytorch, gigagan_pytorch/gigagan_pytorch.py).

    from gigagan_pytorch.gigagan_pytorch import discriminator_hinge_loss, generator_hinge_loss   # before
    from fastgan.compat.gigagan import discriminator_hinge_loss, generator_hinge_loss            # after

Signs are turned round there: low logits are real, high ones fake. `aux_matching_loss` is finite where the
peer's, which takes the exponential first, is infinite with a gradient of NaN (logits below -88).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..norms import norm_penalty
from ._shared import PLUS, gradient_by_input, hinge, mean_of, softplus

__all__ = ["aux_matching_loss", "discriminator_hinge_loss", "generator_hinge_loss", "gradient_penalty"]


def generator_hinge_loss(fake: Tensor) -> Tensor:
    """mean fake."""
    return mean_of((PLUS, fake))


def discriminator_hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """mean [1 + real]+ + mean [1 - fake]+."""
    return mean_of((hinge(1), real), (hinge(-1), fake))


def aux_matching_loss(real: Tensor, fake: Tensor) -> Tensor:
    """mean softplus(-real) + mean softplus(-fake)."""
    return mean_of((softplus(-1), real), (softplus(-1), fake))


def gradient_penalty(
    images: Tensor,
    outputs: Tensor | Sequence[Tensor],
    grad_output_weights: Sequence[float] | None = None,
    weight: float = 10,
    center: float = 0.0,
    scaler: Any = None,
    eps: float = 1e-4,
) -> Tensor:
    """weight * mean over samples of (n - center)^2. `images` (N, ...) must require grad.

    g is the gradient of the sum over outputs of grad_output_weights (default all 1) times the output's sum; with a
    GradScaler it is taken of the scaled outputs and divided by max(scale, eps).
    """
    found = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    if scaler is not None:
        found = [scaler.scale(o) for o in found]
    grads = gradient_by_input(found, images, grad_output_weights)
    if scaler is not None:
        grads = grads * (1.0 / max(scaler.get_scale(), eps))
    return (weight * norm_penalty(grads, target=float(center))).to(grads.dtype)
