"""StyleGAN3 and StyleGAN2-ADA (NVlabs/stylegan3, training/loss.py).

Their losses are inline in `StyleGAN2Loss.accumulate_gradients`; these helpers go in their place:

    loss_Gmain = torch.nn.functional.softplus(-gen_logits)     # before
    loss_Gmain = loss_gmain(gen_logits)                        # after

All return one value per element or sample, as the trainer reports them before `.mean().mul(gain).backward()`. The
trainer adds the loss on real (N, 1) to the penalty (N,), which broadcasts to (N, N). The sum of the two means is
the same number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._origin import Origin
from ._shared import elements, given, gradient_by_input, path_lengths, softplus, squared_norms

__all__ = ["loss_dgen", "loss_dreal", "loss_gmain", "path_length_penalty", "r1_penalty"]

ORIGIN = Origin()  # its losses are inline in a method


def loss_gmain(gen_logits: Tensor) -> Tensor:
    """Return softplus(-x), in the logits' shape and dtype."""
    return elements(softplus(-1), gen_logits)


def loss_dgen(gen_logits: Tensor) -> Tensor:
    """Return softplus(x)."""
    return elements(softplus(1), gen_logits)


def loss_dreal(real_logits: Tensor) -> Tensor:
    """Return softplus(-x)."""
    return elements(softplus(-1), real_logits)


def r1_penalty(real_logits: Any, real_img: Tensor) -> Tensor:
    """Return ||g||^2 of each sample, (N,): the trainer multiplies by r1_gamma / 2; `real_img` must require grad.

    The logits are there already, so that nothing is pruned. `fastgan.r1_penalty(D, real_img, weight=r1_gamma)` is
    the mean of the product, pruned.
    """
    return squared_norms(gradient_by_input(real_logits, real_img, name="real_img"), reduction="none")


def path_length_penalty(gen_img: Tensor, gen_ws: Tensor, pl_mean: Tensor, pl_decay: float | None = None) -> Tensor:
    """Return (length - moving average)^2 of each sample, (N,): the trainer multiplies by pl_weight.

    `gen_ws` is (N, L, d), `gen_img` (N, C, H, W). Draws torch.randn_like(gen_img). `pl_mean` (0-dim) is overwritten
    in place with the new average. `pl_decay` is the loss's attribute of that name; without it TypeError is raised.
    """
    decay = given("pl_decay", pl_decay, "self.pl_decay of the trainer's loss (0.01 unless it is given)")
    lengths = path_lengths(gen_img, gen_ws)
    mean = pl_mean.detach().clone().lerp(lengths.mean().to(pl_mean.dtype), decay)
    with torch.no_grad():
        pl_mean.copy_(mean)
    return (lengths - mean).square()
