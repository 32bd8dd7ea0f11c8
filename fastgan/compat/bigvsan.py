"""BigVSAN (sony/bigvsan, models.py): BigVGAN with SAN's losses, of two outputs per discriminator.

    from models import BigVSAN, ..., feature_loss, generator_loss, discriminator_loss   # before, in train.py
    from models import BigVSAN, ...                                                     # after
    from fastgan.compat.bigvsan import discriminator_loss, feature_loss, generator_loss

train.py imports its networks in the same statement, and they stay.

train.py leaves its discriminators trainable in the generator's step, whose backward then computes weight gradients
that the next zero_grad throws away. Wrap that step's calls, `mpd(y, y_g_hat)` and `mrd(y, y_g_hat)`, in
`with fastgan.frozen(mpd):` and `with fastgan.frozen(mrd):`, and leave the backward outside.

All discriminators go through one call forward and one backward, and so do all feature maps. The floats that
`discriminator_loss` returns come over in one transfer.

As in BigVSAN, the fake direction has a minus sign, so that the loss has no lower bound. Lists of unequal length are
cut to the shorter, empty ones give the int 0, and real feature maps are not detached. Unlike there, feature maps of
different shapes in a pair raise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..backends.specs import Term
from ._origin import Origin
from ._shared import mean_with_values
from ._vocoders import on_fake
from .hifigan import feature_loss

__all__ = ["discriminator_loss", "feature_loss", "generator_loss"]

ORIGIN = Origin(("models",))
_UP, _DOWN = Term("softplus_square", scale=-1.0, shift=1.0), Term("softplus_square")  # s(1 - x)^2, s(x)^2


def discriminator_loss(
    disc_real_outputs: Sequence[Sequence[Tensor]], disc_generated_outputs: Sequence[Sequence[Tensor]]
) -> tuple[Any, list[float], list[float]]:
    """Return a sum over discriminators, and its parts on real and on generated as floats.

    Each has two outputs, function and direction. With s the softplus, the part on real is mean s(1 - r)^2 of both.
    That on generated is mean s(f)^2 of the function, less mean s(1 - f)^2 of the direction.
    """
    pairs = list(zip(disc_real_outputs, disc_generated_outputs, strict=False))
    if not pairs:
        return 0, [], []
    entries = []
    for (real, real_direction), (fake, fake_direction) in pairs:
        entries += [(_UP, real), (_UP, real_direction), (_DOWN, fake), (_UP.weighted(-1.0), fake_direction)]
    loss, values = mean_with_values(*entries)
    values = values.view(-1, 2).sum(1)  # of function and direction
    numbers = [v.item() for v in values] if torch.compiler.is_compiling() else values.tolist()
    return loss, numbers[::2], numbers[1::2]


def generator_loss(disc_outputs: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
    """Return the sum over discriminators of mean softplus(1 - f)^2, and each mean as a tensor with its graph."""
    return on_fake((_UP,), disc_outputs)


def samples(leaf: Any) -> dict[str, Any]:
    """Return arguments for the probe: function and direction of two discriminators."""
    real, fake = ([[leaf(2, 3, seed=k), leaf(5, seed=k + 1)], [leaf(4, seed=k + 2)] * 2] for k in (1, 7))
    return {"disc_real_outputs": real, "disc_generated_outputs": fake}
