"""VQGAN (CompVis/taming-transformers, taming/modules/losses/vqperceptual.py).

    from taming.modules.losses.vqperceptual import adopt_weight, hinge_d_loss, vanilla_d_loss  # before
    from fastgan.compat.taming import adopt_weight, hinge_d_loss, vanilla_d_loss               # after

VQGAN itself uses these in that module alone, so that no import line can be changed there: call
`fastgan.compat.patch("taming")`. It also replaces `calculate_adaptive_weight`, a method of
VQLPIPSWithDiscriminator, whose norms here do not overflow; nothing waits for the device.

taming freezes the discriminator in the generator's step by Lightning; LlamaGen's loop does not: call it there in
`with fastgan.frozen(self.discriminator):`. The adaptive weight needs two backwards, and the sum's backward repeats
both. With `fastgan.generator_step(balance=fastgan.nn.AdaptiveWeight(last_layer))` each loss is differentiated once.

The same call patches the descendants, each with its class's method:

- latent-diffusion and Stable Diffusion (ldm/modules/losses/): LPIPSWithDiscriminator, VQLPIPSWithDiscriminator;
- generative-models (sgm/modules/autoencoding/): GeneralLPIPSWithDiscriminator;
- LlamaGen (tokenizer/tokenizer_image/vq_loss.py): VQLoss, whose method has no factor. Its `non_saturating_*` pass
  logits and targets to the cross-entropy in swapped order, and are left alone.

SEED-Voken, TiTok, RAE and UniTok have losses of their own beside these, and modules of their own here.
`hinge_d_loss_with_exemplar_weights` of latent-diffusion is called nowhere there, and is left out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..auxiliary import adaptive_weight
from ._origin import Origin
from ._shared import MINUS, given, hinge, mean_of, softplus

__all__ = ["adopt_weight", "calculate_adaptive_weight", "hinge_d_loss", "hinge_gen_loss", "vanilla_d_loss"]

METHODS = (("calculate_adaptive_weight", ("_method", "_method_without_factor")),)
ORIGIN = Origin(
    (
        "taming.modules.losses.vqperceptual",
        "ldm.modules.losses.contperceptual",  # latent-diffusion, Stable Diffusion
        "ldm.modules.losses.vqperceptual",
        "sgm.modules.autoencoding.lpips.vqperceptual",  # generative-models
        "sgm.modules.autoencoding.losses.discriminator_loss",
        "tokenizer.tokenizer_image.vq_loss",  # LlamaGen
    ),
    methods=METHODS,
)


def adopt_weight(weight: Any, global_step: int, threshold: int = 0, value: Any = 0.0) -> Any:
    """Return `value` while global_step < threshold, else `weight`."""
    return value if global_step < threshold else weight


def hinge_d_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """Return (mean [1 - r]+ + mean [1 + f]+) / 2, of logits of any shapes."""
    return mean_of((hinge(-1, 0.5), logits_real), (hinge(1, 0.5), logits_fake))


def vanilla_d_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """Return (mean softplus(-r) + mean softplus(f)) / 2, of logits of any shapes."""
    return mean_of((softplus(-1, 0.5), logits_real), (softplus(1, 0.5), logits_fake))


def hinge_gen_loss(logit_fake: Tensor) -> Tensor:
    """Return -mean f, which is inline in VQGAN and has this name in LlamaGen."""
    return mean_of((MINUS, logit_fake))


def calculate_adaptive_weight(
    nll_loss: Tensor, g_loss: Tensor, last_layer: Tensor, discriminator_weight: float | None = None
) -> Tensor:
    """Return discriminator_weight * min(||grad of nll_loss|| / (||grad of g_loss|| + 1e-4), 1e4).

    The gradients are with respect to `last_layer`, and both keep their graphs. The result is a detached scalar of
    the layer's dtype. `discriminator_weight` is the attribute of that name in VQGAN's loss, and has no default:
    without it a TypeError is raised. LlamaGen multiplies by its disc_weight elsewhere: pass 1.0 there.
    """
    weight = given(
        "discriminator_weight", discriminator_weight, "self.discriminator_weight, the loss's disc_weight"
    )
    (nll,) = torch.autograd.grad(nll_loss, last_layer, retain_graph=True)
    (adversarial,) = torch.autograd.grad(g_loss, last_layer, retain_graph=True)
    return (adaptive_weight(nll, adversarial) * weight).to(nll.dtype)


def _method(self: Any, nll_loss: Tensor, g_loss: Tensor, last_layer: Tensor | None = None) -> Tensor:
    """Return `calculate_adaptive_weight`, called as the trainer's method."""
    layer = self.last_layer[0] if last_layer is None else last_layer
    return calculate_adaptive_weight(nll_loss, g_loss, layer, self.discriminator_weight)


def _method_without_factor(self: Any, nll_loss: Tensor, g_loss: Tensor, last_layer: Tensor | None = None) -> Tensor:
    """Return `calculate_adaptive_weight`, called as LlamaGen's method, which has no factor."""
    layer = self.last_layer[0] if last_layer is None else last_layer
    return calculate_adaptive_weight(nll_loss, g_loss, layer, 1.0)
