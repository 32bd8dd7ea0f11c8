"""StyleGAN2 (rosinality/stylegan2-pytorch, train.py, where the losses are functions of the script).

    def d_logistic_loss(real_pred, fake_pred): ...                                          # before
    from fastgan.compat.stylegan2 import d_logistic_loss, d_r1_loss, g_nonsaturating_loss   # after

Or, in the script, call `fastgan.compat.patch("stylegan2")` after its definitions.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ._origin import SCRIPT, Origin
from ._shared import gradient_by_input, mean_of, path_lengths, softplus, squared_norms

__all__ = ["d_logistic_loss", "d_r1_loss", "g_nonsaturating_loss", "g_path_regularize"]

ORIGIN = Origin(SCRIPT)


def d_logistic_loss(real_pred: Tensor, fake_pred: Tensor) -> Tensor:
    """Return mean softplus(-real) + mean softplus(fake)."""
    return mean_of((softplus(-1), real_pred), (softplus(1), fake_pred))


def g_nonsaturating_loss(fake_pred: Tensor) -> Tensor:
    """Return mean softplus(-fake)."""
    return mean_of((softplus(-1), fake_pred))


def d_r1_loss(real_pred: Any, real_img: Tensor) -> Tensor:
    """Return the mean over samples of ||g||^2, without 1/2: the trainer multiplies by r1 / 2 * interval.

    `real_img` (N, ...), of any memory layout, must require grad before the discriminator sees it. Its logits are
    there already, so that nothing is pruned. `fastgan.r1_penalty(D, real_img, weight=2.0)` is the same, pruned.
    """
    return squared_norms(gradient_by_input(real_pred, real_img, name="real_img"))


def g_path_regularize(
    fake_img: Tensor, latents: Tensor, mean_path_length: Any, decay: float = 0.01
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the path length penalty, the new moving average detached, and the lengths (N,) with their graph.

    The formula and draws are those of `fastgan.compat.basicsr.g_path_regularize`, with the results in another
    order.
    """
    lengths = path_lengths(fake_img, latents)
    mean = mean_path_length + decay * (lengths.mean() - mean_path_length)
    return (lengths - mean).square().mean(), mean.detach(), lengths
