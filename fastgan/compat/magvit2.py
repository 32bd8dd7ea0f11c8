"""MAGVIT2 (lucidrains/magvit2-pytorch, magvit2_pytorch/magvit2_pytorch.py).

    from magvit2_pytorch.magvit2_pytorch import gradient_penalty, hinge_discr_loss, hinge_gen_loss   # before
    from fastgan.compat.magvit2 import gradient_penalty, hinge_discr_loss, hinge_gen_loss            # after

magvit2-pytorch's own trainer uses them in that module alone: call `fastgan.compat.patch("magvit2")` for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..norms import norm_penalty
from ._origin import Origin
from ._shared import MINUS, gradient_by_input, hinge, mean_of

__all__ = ["grad_layer_wrt_loss", "gradient_penalty", "hinge_discr_loss", "hinge_gen_loss"]

ORIGIN = Origin(("magvit2_pytorch.magvit2_pytorch",))


def hinge_discr_loss(fake: Tensor, real: Tensor) -> Tensor:
    """Return mean [1 + fake]+ + mean [1 - real]+; fake comes first."""
    return mean_of((hinge(1), fake), (hinge(-1), real))


def hinge_gen_loss(fake: Tensor) -> Tensor:
    """Return -mean fake."""
    return mean_of((MINUS, fake))


def gradient_penalty(images: Tensor, output: Tensor, center: float = 0.0) -> Tensor:
    """Return the mean over samples of (n - center)^2, without a weight; `images` (N, ...) must require grad."""
    grads = gradient_by_input(output, images)
    return norm_penalty(grads, target=float(center)).to(grads.dtype)


def grad_layer_wrt_loss(loss: Tensor, layer: Tensor) -> Tensor:
    """Return the gradient of a loss, or of the sum of several, by a layer's weight, detached; the graph is kept."""
    (g,) = torch.autograd.grad(loss, layer, torch.ones_like(loss), retain_graph=True)
    return g.detach()
