"""HiFi-GAN (jik876/hifi-gan, models.py).

    from models import Generator, ..., feature_loss, generator_loss, discriminator_loss  # before, in train.py
    from models import Generator, ...                                                    # after
    from fastgan.compat.hifigan import discriminator_loss, feature_loss, generator_loss

train.py imports its networks in the same statement, and they stay. Matcha-TTS has the same functions in
matcha/hifigan/models.py, from where CosyVoice imports them. VITS has functions of these names in losses.py, which
compute in float32 and detach the real maps: they are others, those of `vits`, and `patch` refuses them.

train.py leaves its discriminators trainable in the generator's step, whose backward then computes weight gradients
that the next zero_grad throws away. Wrap that step's calls, `mpd(y, y_g_hat)` and `msd(y, y_g_hat)`, in
`with fastgan.frozen(mpd, msd):`, and leave the backward outside.

All discriminators go through one call forward and one backward, and so do all feature maps. The floats that
`discriminator_loss` returns come over in one transfer.

As in HiFi-GAN, lists of unequal length are cut to the shorter, and empty ones give the int 0. Nothing is divided by
the number of discriminators, and real feature maps are not detached. Unlike there, tensors of different shapes in a
pair raise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ._origin import Origin
from ._shared import square
from ._vocoders import on_both, on_fake, on_maps

__all__ = ["discriminator_loss", "feature_loss", "generator_loss"]

ORIGIN = Origin(("models", "matcha.hifigan.models"))  # the second is Matcha-TTS's


def discriminator_loss(
    disc_real_outputs: Sequence[Tensor], disc_generated_outputs: Sequence[Tensor]
) -> tuple[Any, list[float], list[float]]:
    """Return the sum over discriminators of mean (1 - r)^2 + mean f^2, and the two means of each as floats.

    The loss is in the logits' dtype. The floats wait for the device, as the trainer's do. Under torch.compile they
    are traced, as the trainer's are.
    """
    return on_both(((square(1.0),), (square(0.0),)), disc_real_outputs, disc_generated_outputs)


def generator_loss(disc_outputs: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
    """Return the sum over discriminators of mean (1 - f)^2, and each mean, as a tensor with its graph."""
    return on_fake((square(1.0),), disc_outputs)


def feature_loss(fmap_r: Sequence[Sequence[Tensor]], fmap_g: Sequence[Sequence[Tensor]]) -> Any:
    """Return twice the sum over discriminators and layers of mean |r - g|."""
    return on_maps(fmap_r, fmap_g, 2.0)
