"""VITS (jaywalnut310/vits, losses.py) and its family: HiFi-GAN's losses in float32, with real maps detached.

    from losses import generator_loss, discriminator_loss, feature_loss, kl_loss        # before, in train.py
    from losses import kl_loss                                                          # after
    from fastgan.compat.vits import discriminator_loss, feature_loss, generator_loss

`kl_loss` comes from the same statement, and stays. The same functions are in GPT-SoVITS (`module.losses`),
so-vits-svc (`modules.losses`), RVC (`infer.lib.train.losses`), Piper (`piper_train.vits.losses`) and MeloTTS
(`losses`): import from here, or call `fastgan.compat.patch("vits")`, which knows these modules.

Applio had the same in old commits. In newer ones its discriminator's loss returns empty lists, and its feature loss
is HiFi-GAN's, which does not detach: `patch` refuses them.

The trainers leave the discriminator trainable in the generator's step, whose backward then computes weight
gradients that the next zero_grad throws away. Wrap that step's call, `net_d(y, y_hat)`, in
`with fastgan.frozen(net_d):`, and leave the backward outside. Real audio then has no graph in that step.

All discriminators go through one call forward and one backward, and so do all feature maps. The loss is about one
per cent of a step (docs/benchmarks.md); `frozen` is the larger gain.

As in VITS, the result is float32 for every dtype, also for float64; lists of unequal length are cut to the shorter,
and empty ones give the int 0. Unlike there, tensors of different shapes in a pair raise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._origin import Origin
from ._shared import square
from ._vocoders import on_both, on_fake, on_maps

__all__ = ["discriminator_loss", "feature_loss", "generator_loss"]

ORIGIN = Origin(
    (
        "losses",  # VITS's, MeloTTS's
        "module.losses",  # GPT-SoVITS's
        "modules.losses",  # so-vits-svc's
        "infer.lib.train.losses",  # RVC's
        "piper_train.vits.losses",
        "piper.train.vits.losses",  # Piper's newer package
        "melo.losses",
    )
)


def discriminator_loss(
    disc_real_outputs: Sequence[Tensor], disc_generated_outputs: Sequence[Tensor]
) -> tuple[Any, list[float], list[float]]:
    """Return the sum over discriminators of mean (1 - r)^2 + mean f^2 in float32, and the means of each as floats.

    The floats wait for the device, as the trainer's do.
    """
    terms = (square(1.0),), (square(0.0),)
    return on_both(terms, disc_real_outputs, disc_generated_outputs, dtype=torch.float32)


def generator_loss(disc_outputs: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
    """Return the sum over discriminators of mean (1 - f)^2 in float32, and each mean as a tensor with its graph."""
    return on_fake((square(1.0),), disc_outputs, dtype=torch.float32)


def feature_loss(fmap_r: Sequence[Sequence[Tensor]], fmap_g: Sequence[Sequence[Tensor]]) -> Any:
    """Return twice the sum over discriminators and layers of mean |r - g| in float32, with r detached."""
    return on_maps(fmap_r, fmap_g, 2.0, detach_real=True, dtype=torch.float32)
