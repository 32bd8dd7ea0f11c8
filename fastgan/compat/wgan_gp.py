"""The common WGAN-GP recipes: eriklindernoren/PyTorch-GAN (wgan_gp.py, dragan.py) and caogang/wgan-gp.

    def compute_gradient_penalty(D, real_samples, fake_samples): ...        # before: in the script
    from fastgan.compat.wgan_gp import compute_gradient_penalty             # after

The discriminator may return any shape, where the recipes need (N, 1), and data may have any number of
dimensions. At a sample without gradient the derivative is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..norms import norm_penalty
from ..penalties import gradient_penalty
from ._shared import alike, quiet_input

__all__ = ["calc_gradient_penalty", "compute_gradient_penalty", "compute_gradient_penalty_dragan"]


def _numpy_uniform(*shape: int) -> Tensor:
    """Return numbers from NumPy's global generator, rounded to float32 as the recipes' torch.Tensor does."""
    import numpy as np

    return torch.from_numpy(np.random.random(shape)).float()


def compute_gradient_penalty(D: Callable[[Tensor], Any], real_samples: Tensor, fake_samples: Tensor) -> Tensor:
    """Return mean (n - 1)^2 at points between, with n the norm of each sample's gradient.

    The weight (10) is outside. Draws numpy.random.random((N, 1, 1, 1)) from NumPy's global generator. The penalty
    also reaches samples that require grad. The result is a scalar of the samples' dtype.
    """
    alpha = _numpy_uniform(len(real_samples), 1, 1, 1).to(real_samples.device)
    real, fake = alike(real_samples, fake_samples)
    return gradient_penalty(D, real, fake, weight=1.0, eps=alpha).to(real.dtype)


def compute_gradient_penalty_dragan(D: Callable[[Tensor], Any], X: Tensor, lambda_gp: float = 10) -> Tensor:
    """Return lambda_gp * mean (n - 1)^2 around the data, with n the norm over dimension 1 alone.

    For images that is one norm per pixel, as in the recipe; `fastgan.gradient_penalty(kind="dragan")` takes one per
    sample, as the paper does. Draws numpy.random.random(X.shape), then torch.rand on the CPU. X gets no gradient.
    """
    data = X.detach()
    alpha = _numpy_uniform(*data.shape).to(data.device)
    noise = torch.rand(data.shape).to(data.device)
    points = alpha * data + (1 - alpha) * (data + 0.5 * data.std() * noise)
    grads = quiet_input(D, points.to(data.dtype))
    return (lambda_gp * norm_penalty(grads, over="channel")).to(data.dtype)


def calc_gradient_penalty(
    netD: Callable[[Tensor], Any], real_data: Tensor, fake_data: Tensor, LAMBDA: float = 10, *, over: str = "sample"
) -> Tensor:
    """Return LAMBDA * mean (n - 1)^2 at points between, with n the norm of each sample's gradient.

    LAMBDA is a global of the recipe (0.1 in its toy model). Draws torch.rand(N, 1) on the CPU. The data get no
    gradient. For the recipe's text model, on data (N, length, symbols), pass over="dim1": its norms are over
    dimension 1 alone.
    """
    if over not in ("sample", "dim1"):
        raise ValueError(f"over: expected 'sample' or 'dim1', got {over!r}")
    alpha = torch.rand(len(real_data), 1).to(real_data.device)
    real, fake = alike(real_data.detach(), fake_data.detach())
    penalty = gradient_penalty(
        netD, real, fake, weight=float(LAMBDA), eps=alpha,
        over="channel" if over == "dim1" else "sample",
    )  # fmt: skip
    return penalty.to(real.dtype)
