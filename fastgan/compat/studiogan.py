"""StudioGAN (POSTECH-CVLab/PyTorch-StudioGAN, src/utils/losses.py).

    import utils.losses as losses                    # before, in src/worker.py
    from fastgan.compat import studiogan as losses   # after

The configuration looks functions up in `utils.losses` by itself, once, at its start: only
`fastgan.compat.patch("studiogan")`, called before, reaches those. What else the worker takes from that module (its
classes of contrastive losses, latent_optimise, adjust_k and others) is StudioGAN's own, also by the second line.

StudioGAN adds 0 * (mean of a pixel) to the penalties for DistributedDataParallel, which turns infinite
pixels into NaN. The penalties here do not.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ..auxiliary import feature_matching_loss as matching
from ..norms import norm_penalty
from ._origin import Origin
from ._probe import critic
from ._shared import (
    MINUS,
    PLUS,
    between,
    gradient_by_input,
    hinge,
    lecam,
    mean_of,
    path_lengths,
    quiet_input,
    result_dtype,
    softplus,
    square,
    squared_norms,
)

__all__ = [
    "PathLengthRegularizer", "cal_deriv", "cal_dra_penalty", "cal_grad_penalty", "cal_maxgrad_penalty",
    "cal_r1_reg", "crammer_singer_loss", "d_hinge", "d_logistic", "d_ls", "d_vanilla", "d_wasserstein",
    "feature_matching_loss", "g_hinge", "g_logistic", "g_ls", "g_vanilla", "g_wasserstein", "lecam_reg",
    "stylegan_cal_r1_reg",
]  # fmt: skip

ORIGIN = Origin(("utils.losses",))


def __getattr__(name: str) -> Any:
    """Return StudioGAN's own for a name that holds no loss of fastgan's, as `import utils.losses` would."""
    if not name.startswith("_"):
        try:
            return getattr(import_module("utils.losses"), name)
        except (ImportError, AttributeError):
            pass
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}, and neither has StudioGAN's utils.losses")


def d_vanilla(d_logit_real: Tensor, d_logit_fake: Tensor, DDP: Any) -> Tensor:
    """Return mean softplus(-r) + mean softplus(f); here and below, DDP is not used."""
    return mean_of((softplus(-1), d_logit_real), (softplus(1), d_logit_fake))


def g_vanilla(d_logit_fake: Tensor, DDP: Any) -> Tensor:
    """Return mean softplus(-f)."""
    return mean_of((softplus(-1), d_logit_fake))


def d_logistic(d_logit_real: Tensor, d_logit_fake: Tensor, DDP: Any) -> Tensor:
    """Return mean softplus(-r) + mean softplus(f)."""
    return d_vanilla(d_logit_real, d_logit_fake, DDP)


def g_logistic(d_logit_fake: Tensor, DDP: Any) -> Tensor:
    """Return mean softplus(-f)."""
    return g_vanilla(d_logit_fake, DDP)


def d_ls(d_logit_real: Tensor, d_logit_fake: Tensor, DDP: Any) -> Tensor:
    """Return (mean (r - 1)^2 + mean f^2) / 2."""
    return mean_of((square(1.0, 0.5), d_logit_real), (square(0.0, 0.5), d_logit_fake))


def g_ls(d_logit_fake: Tensor, DDP: Any) -> Tensor:
    """Return mean (f - 1)^2 / 2."""
    return mean_of((square(1.0, 0.5), d_logit_fake))


def d_hinge(d_logit_real: Tensor, d_logit_fake: Tensor, DDP: Any) -> Tensor:
    """Return mean [1 - r]+ + mean [1 + f]+."""
    return mean_of((hinge(-1), d_logit_real), (hinge(1), d_logit_fake))


def g_hinge(d_logit_fake: Tensor, DDP: Any) -> Tensor:
    """Return -mean f."""
    return mean_of((MINUS, d_logit_fake))


def d_wasserstein(d_logit_real: Tensor, d_logit_fake: Tensor, DDP: Any) -> Tensor:
    """Return mean f - mean r."""
    return mean_of((MINUS, d_logit_real), (PLUS, d_logit_fake))


def g_wasserstein(d_logit_fake: Tensor, DDP: Any) -> Tensor:
    """Return -mean f."""
    return mean_of((MINUS, d_logit_fake))


def crammer_singer_loss(adv_output: Tensor, label: Tensor, DDP: Any, **_: Any) -> Tensor:
    """Return the mean over samples of [1 + max over other classes - x_label]+, of scores (N, C) and labels (N,)."""
    right = adv_output.gather(1, label[:, None]).squeeze(1)
    wrong = adv_output.scatter(1, label[:, None], -torch.inf).max(1).values  # which gives a tie to one
    return torch.relu(1 + wrong - right).mean()


def feature_matching_loss(real_embed: Tensor, fake_embed: Tensor) -> Tensor:
    """Return mean |mean over the batch of fake - mean over the batch of real|, of embeddings (N, ...)."""
    loss = matching(real_embed.mean(0), fake_embed.mean(0), detach_real=False)
    return loss.to(result_dtype([fake_embed]))


def lecam_reg(d_logit_real: Tensor, d_logit_fake: Tensor, ema: Any) -> Tensor:
    """Return mean [r - ema.D_fake]+^2 + mean [ema.D_real - f]+^2, with averages as numbers or tensors."""
    return lecam(d_logit_real, d_logit_fake, ema.D_real, ema.D_fake)


# ---------------------------------------------------------------------------------- penalties


def cal_deriv(inputs: Tensor, outputs: Tensor, device: Any) -> Tensor:
    """Return the gradient of the summed outputs with respect to the inputs, with a graph."""
    return gradient_by_input(outputs, inputs, name="inputs")


def _gradient(discriminator: Callable[..., Any], points: Tensor, labels: Any) -> Tensor:
    return quiet_input(discriminator, points, labels, eval=False, pick=lambda result: result["adv_output"])


def _between(real: Tensor, fake: Tensor) -> Tensor:
    """Return points between, detached, with one draw per sample on the CPU."""
    alpha = torch.rand(len(real), 1).to(real.device)
    return between(real.detach(), fake.detach(), alpha)


def cal_grad_penalty(
    real_images: Tensor, real_labels: Any, fake_images: Tensor, discriminator: Callable[..., Any], device: Any
) -> Tensor:
    """Return mean (n - 1)^2 at points between, with n the norm of each sample's gradient, without lambda.

    The discriminator is called as (images, labels, eval=False) and its "adv_output" counts. Images get no gradient;
    draws torch.rand(N, 1) on the CPU.
    """
    grads = _gradient(discriminator, _between(real_images, fake_images), real_labels)
    return norm_penalty(grads).to(grads.dtype)


def cal_dra_penalty(
    real_images: Tensor, real_labels: Any, discriminator: Callable[..., Any], device: Any
) -> Tensor:
    """Return `cal_grad_penalty` evaluated at real + alpha * std(real) / 2 * noise.

    Draws torch.rand of (N, 1, 1, 1), then of real's shape, on the CPU.
    """
    real = real_images.detach()
    alpha = torch.rand(len(real), 1, 1, 1).to(real.device)
    noise = torch.rand(real.shape).to(real.device)
    points = (real + alpha * 0.5 * real.std() * noise).to(real.dtype)
    grads = _gradient(discriminator, points, real_labels)
    return norm_penalty(grads).to(grads.dtype)


def cal_maxgrad_penalty(
    real_images: Tensor, real_labels: Any, fake_images: Tensor, discriminator: Callable[..., Any], device: Any
) -> Tensor:
    """Return the largest n^2 of any sample, at the points of `cal_grad_penalty`."""
    grads = _gradient(discriminator, _between(real_images, fake_images), real_labels)
    return squared_norms(grads, reduction="none").max()


def cal_r1_reg(adv_output: Tensor, images: Tensor, device: Any) -> Tensor:
    """Return the mean over samples of ||g||^2 / 2; `images` must require grad."""
    return _half(gradient_by_input(adv_output, images))


def stylegan_cal_r1_reg(adv_output: Tensor, images: Tensor) -> Tensor:
    """Return the mean over samples of ||g||^2 / 2; `images` must require grad."""
    return _half(gradient_by_input(adv_output, images))


def _half(grads: Tensor) -> Tensor:
    """Return half the mean of the squared norms."""
    return squared_norms(grads) * 0.5


class PathLengthRegularizer:
    """StyleGAN2's path length regularization with its moving average `pl_mean`, 0-dim.

    Args:
        device: where the average lies.
        pl_decay: of the average.
        pl_weight: a factor on the result.
        pl_no_weight_grad: not used here: it skips work of StudioGAN's own convolutions, and changes no value.
    """

    def __init__(
        self, device: Any, pl_decay: float = 0.01, pl_weight: float = 2, pl_no_weight_grad: bool = False
    ) -> None:
        self.pl_decay = pl_decay
        self.pl_weight = pl_weight
        self.pl_no_weight_grad = pl_no_weight_grad
        self.pl_mean = torch.zeros([], device=device)

    def cal_pl_reg(self, fake_images: Tensor, ws: Tensor) -> Tensor:
        """Move the average, and return pl_weight * mean (length - average)^2.

        Images are (N, C, H, W), latents (N, L, d).
        """
        lengths = path_lengths(fake_images, ws)
        mean = self.pl_mean.detach().clone().lerp(lengths.mean().to(self.pl_mean.dtype), self.pl_decay)
        self.pl_mean.copy_(mean.detach())
        return (lengths - mean).square().mean() * self.pl_weight


def samples(leaf: Callable[..., Tensor]) -> dict[str, Any]:
    """Return arguments for the probe: a discriminator that returns a dict."""
    return {"discriminator": lambda *args, **kwargs: {"adv_output": critic(*args, **kwargs)}}
