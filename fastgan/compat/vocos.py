"""Vocos (gemelo-ai/vocos, vocos/loss.py).

    from vocos.loss import DiscriminatorLoss, GeneratorLoss, FeatureMatchingLoss, ...   # before, in experiment.py
    from vocos.loss import MelSpecReconstructionLoss                                    # after
    from fastgan.compat.vocos import DiscriminatorLoss, FeatureMatchingLoss, GeneratorLoss

The mel loss is imported in the same statement, and stays. Commits before losses of shape (1,) return floats and
scalars: those are `wavtokenizer`'s, and `patch("wavtokenizer", "vocos.loss")` takes them.

Lightning 1, which Vocos needs, freezes the discriminators in the generator's step itself. In a loop of your own
wrap their calls of that step in `with fastgan.frozen(mpd, mrd):`.

All discriminators of a call go through one call forward and one backward, and so do all feature maps. Each logit is
read twice, for a derivative of the trainer's own; the feature maps are the larger part by far.

As in Vocos, a loss is of shape (1,) and of the first logits' dtype, lists of unequal length are cut to the shorter,
and an empty list raises IndexError. At the hinge's kink the derivative is the whole slope, as that of torch.clamp.
Real feature maps are not detached. Unlike there, tensors of different shapes in a pair raise, and a logit that is
infinite on the hinge's slope gives NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ._origin import Origin
from ._vocoders import clamp_hinge, on_fake, on_maps, parts_on_both

__all__ = ["DiscriminatorLoss", "FeatureMatchingLoss", "GeneratorLoss"]

ORIGIN = Origin(("vocos.loss",))


def _vector(loss: Any, first: Tensor) -> Tensor:
    """Return a loss in shape (1,); zero without a graph where there was nothing to sum."""
    return loss.reshape(1) if isinstance(loss, Tensor) else first.new_zeros(1)


class GeneratorLoss(nn.Module):
    """`loss(disc_outputs)`: the sum over discriminators of mean [1 - f]+, and each mean as a tensor."""

    def forward(self, disc_outputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return a loss of shape (1,), and scalars with a graph each."""
        first = disc_outputs[0]
        loss, parts = on_fake(clamp_hinge(-1), disc_outputs, dtype=first.dtype)
        return _vector(loss, first), parts


class DiscriminatorLoss(nn.Module):
    """`loss(disc_real_outputs, disc_generated_outputs)`: the sum over discriminators, and its parts as tensors.

    Of each discriminator mean [1 - r]+ and mean [1 + f]+.
    """

    def forward(
        self, disc_real_outputs: Sequence[Tensor], disc_generated_outputs: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Return a loss of shape (1,), and scalars with a graph each, of real and of generated."""
        first = disc_real_outputs[0]
        terms = clamp_hinge(-1), clamp_hinge(1)
        loss, reals, fakes = parts_on_both(terms, disc_real_outputs, disc_generated_outputs, dtype=first.dtype)
        return _vector(loss, first), reals, fakes


class FeatureMatchingLoss(nn.Module):
    """`loss(fmap_r, fmap_g)`: the sum over discriminators and layers of mean |r - g|."""

    def forward(self, fmap_r: Sequence[Sequence[Tensor]], fmap_g: Sequence[Sequence[Tensor]]) -> Tensor:
        """Return a loss of shape (1,) in the first map's dtype."""
        first = fmap_r[0][0]
        return _vector(on_maps(fmap_r, fmap_g, 1.0, dtype=first.dtype), first)
