"""RAE (bytetriper/RAE, src/disc/ and src/train_stage1.py; RAEv2, src/stage1/disc/), and RQ-VAE's losses.

    from disc import DiffAug, ..., hinge_d_loss, vanilla_d_loss, vanilla_g_loss       # before, in train_stage1.py
    from disc import DiffAug, ...                                                     # after
    from fastgan.compat.rae import calculate_adaptive_weight, hinge_d_loss, vanilla_d_loss, vanilla_g_loss

`calculate_adaptive_weight` is a function of the script: put the line below it, or call there
`fastgan.compat.patch("rae")`. RAE has these losses from RQ-VAE (rqvae/losses/vqgan/gan_loss.py); the same call
patches those.

The loop leaves the discriminator's heads trainable in the generator's step. Wrap the call that makes `logits_fake`
in `with fastgan.frozen(discriminator):`. The losses are a small part of a step, as logits are few. The adaptive
weight needs two backwards, which the sum's backward repeats: see `fastgan.nn.AdaptiveWeight`.

`vanilla_g_loss` is -mean f, the hinge's. The weight's eps is 1e-6, and its ceiling an argument. RAEv2 also sets
torch's `donated_buffer` to False there, for a decoder that is compiled: set it once at the top of the script.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..auxiliary import adaptive_weight
from ._origin import SCRIPT, Origin
from ._shared import MINUS, hinge, mean_of, softplus

__all__ = ["calculate_adaptive_weight", "hinge_d_loss", "vanilla_d_loss", "vanilla_g_loss"]

ORIGIN = Origin(
    (
        "disc", "disc.gan_loss", "train_stage1", *SCRIPT[1:],  # RAE
        "stage1.disc.gan_loss",  # RAEv2
        "rqvae.losses.vqgan.gan_loss",
    )
)  # fmt: skip


def _reduced(reduction: str) -> str:
    """Return the reduction: the sum for every other word, as there."""
    return "mean" if reduction == "mean" else "sum"


def hinge_d_loss(logits_real: Tensor, logits_fake: Tensor, reduction: str = "mean") -> Tensor:
    """Return (mean [1 - r]+ + mean [1 + f]+) / 2, or of sums for any reduction but "mean"."""
    return mean_of((hinge(-1, 0.5), logits_real), (hinge(1, 0.5), logits_fake), reduction=_reduced(reduction))


def vanilla_d_loss(logits_real: Tensor, logits_fake: Tensor, reduction: str = "mean") -> Tensor:
    """Return (mean softplus(-r) + mean softplus(f)) / 2, or of sums for any reduction but "mean"."""
    return mean_of((softplus(-1, 0.5), logits_real), (softplus(1, 0.5), logits_fake), reduction=_reduced(reduction))


def vanilla_g_loss(logits_fake: Tensor, reduction: str = "mean") -> Tensor:
    """Return -mean f, or -sum f for "sum".

    Raises:
        ValueError: another reduction, as in RAEv2; RAE returns None.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction: expected 'mean' or 'sum', got {reduction!r}")
    return mean_of((MINUS, logits_fake), reduction=reduction)


def calculate_adaptive_weight(
    recon_loss: Tensor, gan_loss: Tensor, layer: Tensor, max_d_weight: float = 1e4
) -> Tensor:
    """Return min(||grad of recon_loss|| / (||grad of gan_loss|| + 1e-6), max_d_weight), a detached scalar.

    The gradients are with respect to `layer`, and both keep their graphs. It is in the layer's dtype.
    """
    (recon,) = torch.autograd.grad(recon_loss, layer, retain_graph=True)
    (adversarial,) = torch.autograd.grad(gan_loss, layer, retain_graph=True)
    return adaptive_weight(recon, adversarial, eps=1e-6, limit=max_d_weight).to(recon.dtype)


def samples(leaf: Callable[..., Tensor]) -> dict[str, Any]:
    """Return a layer and two losses for the probe."""
    layer = torch.nn.Parameter(leaf(3, 2, seed=15).detach())
    return {"layer": layer, "recon_loss": layer.square().sum(), "gan_loss": (layer * 2).sum()}
