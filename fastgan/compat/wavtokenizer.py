"""WavTokenizer (jishengpeng/WavTokenizer, decoder/loss.py): Vocos's losses as they were, and DAC's.

    from decoder.loss import DiscriminatorLoss, ..., DACGANLoss                         # before, in experiment.py
    from decoder.loss import MelSpecReconstructionLoss                                  # after
    from fastgan.compat.wavtokenizer import (
        DACGANLoss, DiscriminatorLoss, FeatureMatchingLoss, GeneratorLoss)

The mel loss is imported in the same statement, and stays. The first three are also those of old commits of Vocos.

Lightning 1 freezes the first two discriminators in the generator's step. No optimizer has the parameters of the
third, `self.dac`, so that nothing freezes it, nor trains it: wrap that step's call of
`self.dacdiscriminator.generator_loss` in `with fastgan.frozen(self.dac):`.

All discriminators of a call go through one call forward and one backward, and so do all feature maps. Each logit of
a hinge is read twice, for a derivative of the trainer's own; the feature maps are the larger part by far.

As in WavTokenizer, losses are scalars, and the int 0 for empty lists; lists of unequal length are cut to the
shorter. At the hinge's kink the derivative is the whole slope, as that of torch.clamp. `FeatureMatchingLoss` does
not detach real maps; `DACGANLoss` does. Unlike there, tensors of different shapes in a pair raise, and a logit that
is infinite on the hinge's slope gives NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from . import dac
from ._origin import Origin
from ._vocoders import clamp_hinge, on_both, on_fake, on_maps

__all__ = ["DACGANLoss", "DiscriminatorLoss", "FeatureMatchingLoss", "GeneratorLoss"]

ORIGIN = Origin(("decoder.loss",))


class GeneratorLoss(nn.Module):
    """`loss(disc_outputs)`: the sum over discriminators of mean [1 - f]+, and each mean as a tensor."""

    def forward(self, disc_outputs: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
        """Return a scalar of the logits' dtype, and scalars with a graph each."""
        return on_fake(clamp_hinge(-1), disc_outputs)


class DiscriminatorLoss(nn.Module):
    """`loss(disc_real_outputs, disc_generated_outputs)`: the sum over discriminators, and its parts as floats.

    Of each discriminator mean [1 - r]+ and mean [1 + f]+.
    """

    def forward(
        self, disc_real_outputs: Sequence[Tensor], disc_generated_outputs: Sequence[Tensor]
    ) -> tuple[Any, list[float], list[float]]:
        """Return a scalar of the logits' dtype, and floats of real and of generated, which wait for the device."""
        return on_both((clamp_hinge(-1), clamp_hinge(1)), disc_real_outputs, disc_generated_outputs)


class FeatureMatchingLoss(nn.Module):
    """`loss(fmap_r, fmap_g)`: the sum over discriminators and layers of mean |r - g|."""

    def forward(self, fmap_r: Sequence[Sequence[Tensor]], fmap_g: Sequence[Sequence[Tensor]]) -> Any:
        """Return a scalar of the maps' dtype."""
        return on_maps(fmap_r, fmap_g, 1.0)


class DACGANLoss(dac.GANLoss):
    """`loss(discriminator)`: DAC's GANLoss, of tensors in the place of AudioSignals."""

    def forward(self, fake: Tensor, real: Tensor) -> tuple[Any, Any]:
        """Return the discriminator's outputs of both, fake first."""
        return self.discriminator(fake), self.discriminator(real)

    discriminator_loss = dac.GANLoss.discriminator_loss  # its own, for the probe
    generator_loss = dac.GANLoss.generator_loss


def samples(leaf: Callable[..., Tensor]) -> dict[str, Any]:
    """Return arguments for the probe: sounds, and a discriminator of two members."""
    return {"discriminator": dac.judge, "fake": leaf(2, 1, 5, seed=1), "real": leaf(2, 1, 5, seed=2)}
