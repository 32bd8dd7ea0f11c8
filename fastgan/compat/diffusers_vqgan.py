"""diffusers' VQGAN example (huggingface/diffusers, examples/vqgan/train_vqgan.py).

    def gradient_penalty(images, output, weight=10): ...                              # before: in the script
    from fastgan.compat.diffusers_vqgan import grad_layer_wrt_loss, gradient_penalty  # after

Put the line below the script's own functions, or call `fastgan.compat.patch("diffusers_vqgan")` there. The hinge
losses are inline, and stay. In fastgan they are `fastgan.discriminator_loss(real, fake, "hinge")` and
`fastgan.generator_loss(fake, loss="hinge")`.

The script leaves the discriminator trainable in the generator's step. Put its line `gen_loss = ...` into
`with fastgan.frozen(discriminator):`. The penalty's time is the discriminator's double backward. It gets logits
that are there already, so that nothing is pruned.
"""

from __future__ import annotations

from torch import Tensor

from ..norms import norm_penalty
from ._origin import SCRIPT, Origin
from ._shared import gradient_by_input
from .magvit2 import grad_layer_wrt_loss

__all__ = ["grad_layer_wrt_loss", "gradient_penalty"]

ORIGIN = Origin(("train_vqgan", *SCRIPT[1:]))


def gradient_penalty(images: Tensor, output: Tensor, weight: float = 10) -> Tensor:
    """Return weight * mean over samples of (n - 1)^2; `images` (N, ...) must require grad."""
    grads = gradient_by_input(output, images)
    return (weight * norm_penalty(grads)).to(grads.dtype)
