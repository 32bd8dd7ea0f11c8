"""UniTok (FoundationVision/UniTok, utils/loss.py).

    from utils.loss import hinge_loss, linear_loss, softplus_loss                # before, in trainer.py
    from fastgan.compat.unitok import hinge_loss, linear_loss, softplus_loss     # after

Or call `fastgan.compat.patch("unitok")`, before the Trainer is made. The trainer freezes the discriminator in the
generator's step itself, so that `fastgan.frozen` adds nothing. The losses are a small part of a step.

Each function is of real logits; the trainer calls it on real logits, and on fake ones with their sign turned.
Its bCR (mean squares of D(augmented x) - D(x)) is inline. In one call, with gradients for both as there, it is
`fastgan.feature_matching_loss(logits, augmented, weights=bcr, loss="l2", detach_real=False)`, with lists of real
and fake logits.
"""

from __future__ import annotations

from torch import Tensor

from ._origin import Origin
from ._shared import MINUS, hinge, mean_of, softplus

__all__ = ["hinge_loss", "linear_loss", "softplus_loss"]

ORIGIN = Origin(("utils.loss",))


def hinge_loss(logits: Tensor) -> Tensor:
    """Return mean [1 - x]+."""
    return mean_of((hinge(-1), logits))


def softplus_loss(logits: Tensor) -> Tensor:
    """Return mean softplus(-x)."""
    return mean_of((softplus(-1), logits))


def linear_loss(logits: Tensor) -> Tensor:
    """Return -mean x."""
    return mean_of((MINUS, logits))
