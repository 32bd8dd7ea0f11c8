"""NeMo's HiFi-GAN (NVIDIA/NeMo, nemo/collections/tts/losses/hifigan_losses.py): HiFi-GAN's losses as modules.

    from nemo.collections.tts.losses.hifigan_losses import DiscriminatorLoss, ...       # before, in hifigan.py
    from fastgan.compat.nemo_hifigan import DiscriminatorLoss, ...                      # after

Or call `fastgan.compat.patch("nemo_hifigan")` after the import of NeMo's models. The codecs' losses are in `nemo`,
where `FeatureMatchingLoss` is another.

The model leaves both discriminators trainable in the generator's step. Wrap that step's calls of `self.mpd` and
`self.msd` in `with fastgan.frozen(self.mpd, self.msd):`, and leave the backward outside.

Gains and habits are those of `hifigan`: a factor 2 in the feature loss, real maps with gradients, floats that wait
for the device, in one transfer. NeMo's check of types is not made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from . import hifigan
from ._origin import Origin

__all__ = ["DiscriminatorLoss", "FeatureMatchingLoss", "GeneratorLoss"]

ORIGIN = Origin(("nemo.collections.tts.losses.hifigan_losses",))


class FeatureMatchingLoss(nn.Module):
    """`loss(fmap_r, fmap_g)`: `hifigan.feature_loss`."""

    def forward(self, fmap_r: Sequence[Sequence[Tensor]], fmap_g: Sequence[Sequence[Tensor]]) -> Any:
        """Return twice the sum over discriminators and layers of mean |r - g|."""
        return hifigan.feature_loss(fmap_r, fmap_g)


class DiscriminatorLoss(nn.Module):
    """`loss(disc_real_outputs, disc_generated_outputs)`: `hifigan.discriminator_loss`."""

    def forward(
        self, disc_real_outputs: Sequence[Tensor], disc_generated_outputs: Sequence[Tensor]
    ) -> tuple[Any, list[float], list[float]]:
        """Return the sum over discriminators of mean (1 - r)^2 + mean f^2, and the two means of each as floats."""
        return hifigan.discriminator_loss(disc_real_outputs, disc_generated_outputs)


class GeneratorLoss(nn.Module):
    """`loss(disc_outputs)`: `hifigan.generator_loss`."""

    def forward(self, disc_outputs: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
        """Return the sum over discriminators of mean (1 - f)^2, and each mean, as a tensor with its graph."""
        return hifigan.generator_loss(disc_outputs)
