"""The penalties of WGAN-GP's scripts: eriklindernoren/PyTorch-GAN (wgan_gp, dragan, wgan_div) and caogang/wgan-gp.

    def compute_gradient_penalty(D, real_samples, fake_samples): ...        # before: in the script
    from fastgan.compat.wgan_gp import compute_gradient_penalty             # after

Numbers that the scripts keep in globals (LAMBDA, lambda_gp, k, p) are arguments without a default here. Copies of
these functions differ in four things: where the weight is, which dimensions a norm covers, which generator draws,
and whether the data are detached. Compare yours with the docstrings.

| script | its function | here |
| --- | --- | --- |
| PyTorch-GAN wgan_gp.py | `compute_gradient_penalty(D, real_samples, fake_samples)` | the same call |
| PyTorch-GAN dragan.py | `compute_gradient_penalty(D, X)` | `compute_gradient_penalty_dragan(D, X, lambda_gp)` |
| PyTorch-GAN wgan_div.py | inline: div_gp | `compute_gradient_penalty_div(real_validity, real_imgs, ...)` |
| caogang/wgan-gp | `calc_gradient_penalty(netD, real_data, fake_data)` | the same, and its LAMBDA |

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
from ._origin import Origin
from ._shared import alike, given, gradient_by_input, quiet_input

__all__ = [
    "calc_gradient_penalty",
    "compute_gradient_penalty",
    "compute_gradient_penalty_div",
    "compute_gradient_penalty_dragan",
]

ORIGIN = Origin()  # functions that read globals of their script


def _numpy_uniform(*shape: int) -> Tensor:
    """Return numbers from NumPy's global generator, rounded to float32 as the recipes' torch.Tensor does."""
    import numpy as np

    return torch.from_numpy(np.random.random(shape)).float()


def compute_gradient_penalty(D: Callable[[Tensor], Any], real_samples: Tensor, fake_samples: Tensor) -> Tensor:
    """Return mean (n - 1)^2 at points between, with n the norm of each sample's gradient.

    The weight (10) is outside. Draws numpy.random.random((N, 1, 1, 1)) from NumPy's global generator. The penalty
    also reaches samples that require grad. The result is a scalar of the samples' dtype.

    PyTorch-GAN's first version of the script differs: its weight is inside, it draws one number per element, and
    its norms are over dimension 1 alone.
    """
    alpha = _numpy_uniform(len(real_samples), 1, 1, 1).to(real_samples.device)
    real, fake = alike(real_samples, fake_samples)
    return gradient_penalty(D, real, fake, weight=1.0, eps=alpha).to(real.dtype)


def compute_gradient_penalty_dragan(
    D: Callable[[Tensor], Any], X: Tensor, lambda_gp: float | None = None
) -> Tensor:
    """Return lambda_gp * mean (n - 1)^2 around the data, with n the norm over dimension 1 alone.

    For images that is one norm per pixel, as in the script; `fastgan.gradient_penalty(kind="dragan")` takes one per
    sample, as the paper does. Draws numpy.random.random(X.shape), then torch.rand on the CPU. X gets no gradient.

    The script's D ends in a Sigmoid, and its losses are BCELoss: pass those probabilities to none of fastgan's
    losses, which take logits. The script calls backward on this penalty alone, not on its d_loss.

    Args:
        D: the discriminator.
        X: real samples, (N, ...).
        lambda_gp: the global of that name (10 in the script); there is no default.

    Raises:
        TypeError: no lambda_gp.
    """
    weight = given("lambda_gp", lambda_gp, "the script's global of that name (10 in dragan.py)")
    data = X.detach()
    alpha = _numpy_uniform(*data.shape).to(data.device)
    noise = torch.rand(data.shape).to(data.device)
    points = alpha * data + (1 - alpha) * (data + 0.5 * data.std() * noise)
    grads = quiet_input(D, points.to(data.dtype))
    return (weight * norm_penalty(grads, over="channel")).to(data.dtype)


def compute_gradient_penalty_div(
    real_validity: Any, real_imgs: Tensor, fake_validity: Any, fake_imgs: Tensor,
    k: float | None = None, p: int | None = None,
) -> Tensor:  # fmt: skip
    """Return wgan_div.py's div_gp: k / 2 * (mean n_r^p + mean n_f^p), n the norms of each sample's gradient.

    The gradients are at the real and at the fake images themselves. `fastgan.gradient_penalty(kind="wgan-div")`
    takes them at points between, as the paper does. Nothing is drawn. As in the script the fake images may have
    the generator's graph, which the discriminator's backward then walks.

    Args:
        real_validity: the discriminator's outputs for real images.
        real_imgs: (N, ...), which require grad before the discriminator sees them.
        fake_validity: the discriminator's outputs for fake images.
        fake_imgs: (N, ...), which require grad too.
        k: the global of that name (2 in the script); there is no default.
        p: the global of that name, an integer from 1 to 16 (6 in the script); there is no default.

    Returns:
        A scalar of the images' dtype.

    Raises:
        TypeError: no k or p.
        ValueError: images that do not require grad, or do not enter.
    """
    weight = given("k", k, "the script's global of that name (2 in wgan_div.py)")
    power = given("p", p, "the script's global of that name (6 in wgan_div.py)")
    at_real = gradient_by_input(real_validity, real_imgs, name="real_imgs")
    at_fake = gradient_by_input(fake_validity, fake_imgs, name="fake_imgs")
    total = norm_penalty(at_real, "power", power=power) + norm_penalty(at_fake, "power", power=power)
    return (total * (weight / 2)).to(real_imgs.dtype)


def calc_gradient_penalty(
    netD: Callable[[Tensor], Any],
    real_data: Tensor,
    fake_data: Tensor,
    LAMBDA: float | None = None,
    *,
    over: str | None = None,
) -> Tensor:
    """Return LAMBDA * mean (n - 1)^2 at points between, with n the norm of each sample's gradient.

    Draws torch.rand(N, 1) on the CPU. The data get no gradient.

    Args:
        netD: the critic.
        real_data: (N, ...).
        fake_data: the same shape.
        LAMBDA: the script's global (10; 0.1 in gan_toy.py); there is no default.
        over: "sample", one norm per sample, or "dim1", norms over dimension 1 alone. gan_language.py, on data (N,
            length, symbols), has the second, the others the first. Data of three dimensions need it said.

    Raises:
        TypeError: no LAMBDA.
        ValueError: another `over`, or none for data of three dimensions.
    """
    weight = given("LAMBDA", LAMBDA, "the script's global of that name (10, but 0.1 in gan_toy.py)")
    if over is None and real_data.dim() == 3:
        raise ValueError(
            "over: expected 'dim1' or 'sample' for data of 3 dimensions, got None; gan_language.py's norm(2, dim=1)"
            " is 'dim1', one norm for all of a sample is 'sample'"
        )
    if over not in (None, "sample", "dim1"):
        raise ValueError(f"over: expected 'sample' or 'dim1', got {over!r}")
    alpha = torch.rand(len(real_data), 1).to(real_data.device)
    real, fake = alike(real_data.detach(), fake_data.detach())
    penalty = gradient_penalty(
        netD, real, fake, weight=float(weight), eps=alpha,
        over="channel" if over == "dim1" else "sample",
    )  # fmt: skip
    return penalty.to(real.dtype)
