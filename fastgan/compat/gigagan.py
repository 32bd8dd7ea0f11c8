"""GigaGAN (lucidrains/gigagan-pytorch, gigagan_pytorch/gigagan_pytorch.py).

    from gigagan_pytorch.gigagan_pytorch import discriminator_hinge_loss, generator_hinge_loss   # before
    from fastgan.compat.gigagan import discriminator_hinge_loss, generator_hinge_loss            # after

gigagan-pytorch's own trainer uses them in that module alone: call `fastgan.compat.patch("gigagan")` for it.

Signs are reversed there: low logits are real, high ones fake. The trainer's `aux_matching_loss` takes the
exponential first, and is infinite with a gradient of NaN for logits below -88. This one is finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..norms import norm_penalty
from ._origin import Origin
from ._shared import PLUS, gradient_by_input, hinge, mean_of, softplus

__all__ = ["aux_matching_loss", "discriminator_hinge_loss", "generator_hinge_loss", "gradient_penalty"]

ORIGIN = Origin(("gigagan_pytorch.gigagan_pytorch",))


def generator_hinge_loss(fake: Tensor) -> Tensor:
    """Return mean fake."""
    return mean_of((PLUS, fake))


def discriminator_hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return mean [1 + real]+ + mean [1 - fake]+."""
    return mean_of((hinge(1), real), (hinge(-1), fake))


def aux_matching_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return mean softplus(-real) + mean softplus(-fake)."""
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
    """Return weight * mean over samples of (n - center)^2; `images` (N, ...) must require grad.

    n is the norm of the gradient of the weighted sum of all outputs; grad_output_weights has one weight per output,
    default 1. With a GradScaler, the gradient is taken of the scaled outputs and divided by max(scale, eps).
    """
    found = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    if scaler is not None:
        found = [scaler.scale(o) for o in found]
    grads = gradient_by_input(found, images, grad_output_weights)
    if scaler is not None:
        grads = grads * (1.0 / max(scaler.get_scale(), eps))
    return (weight * norm_penalty(grads, target=float(center))).to(grads.dtype)
