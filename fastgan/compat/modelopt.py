"""NVIDIA's Model Optimizer (NVIDIA/Model-Optimizer, modelopt/torch/fastgen/losses.py).

    from modelopt.torch.fastgen.losses import gan_disc_loss, gan_gen_loss, r1_loss      # before
    from fastgan.compat.modelopt import gan_disc_loss, gan_gen_loss, r1_loss            # after

Or call `fastgan.compat.patch("modelopt")`. The losses of the diffusion model in the same module stay.

It is a library: your trainer decides whether the discriminator is frozen in the student's step. Call it there in
`with fastgan.frozen(discriminator):`. Logits are a few per sample, from heads on a teacher's features, so that the
losses are a small part of a step.

`r1_loss` compares logits with those of neighbours that you made, and is not divided by the noise's variance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ._origin import Origin
from ._shared import alike, mean_of, softplus, square
from .fastgen import check_2d

__all__ = ["gan_disc_loss", "gan_gen_loss", "r1_loss"]

ORIGIN = Origin(("modelopt.torch.fastgen.losses",))


def gan_gen_loss(fake_logits: Tensor) -> Tensor:
    """Return mean softplus(-f), of logits (batch, heads)."""
    check_2d(fake_logits=fake_logits)
    return mean_of((softplus(-1), fake_logits))


def gan_disc_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return mean softplus(f) + mean softplus(-r), of logits (batch, heads)."""
    check_2d(real_logits=real_logits, fake_logits=fake_logits)
    return mean_of((softplus(1), fake_logits), (softplus(-1), real_logits))


def r1_loss(real_logits: Tensor, perturbed_real_logits: Tensor) -> Tensor:
    """Return mean (r - r')^2, of logits of one shape; both get a gradient.

    Raises:
        AssertionError: the shapes differ.
    """
    if real_logits.shape != perturbed_real_logits.shape:
        shapes = f"{tuple(real_logits.shape)} and {tuple(perturbed_real_logits.shape)}"
        raise AssertionError(f"real_logits and perturbed_real_logits: expected one shape, got {shapes}")
    return mean_of((square(0.0), alike(real_logits, perturbed_real_logits)))


def samples(leaf: Callable[..., Tensor]) -> dict[str, Any]:
    """Return logits of three heads for the probe."""
    logits = {"real_logits": leaf(4, 3, seed=1), "fake_logits": leaf(4, 3, seed=2)}
    return logits | {"perturbed_real_logits": leaf(4, 3, seed=3)}
