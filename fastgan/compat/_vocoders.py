"""Losses over lists of discriminators, as HiFi-GAN and its descendants return them: a sum, and its parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..backends.specs import Term
from ._shared import feature_distance, mean_and_each, mean_of, mean_with_values, square

__all__ = ["JudgedSounds", "Sound", "on_both", "on_fake", "on_maps"]


def on_both(
    terms: tuple[Term, Term], reals: Sequence[Tensor], fakes: Sequence[Tensor], dtype: torch.dtype | None = None
) -> tuple[Any, list[float], list[float]]:
    """Return the sum over discriminators of both terms' means, and the means on real and on fake as floats.

    Lists of unequal length are cut to the shorter; empty ones give the int 0. The loss is in `dtype`, or else in
    the logits' own. The floats wait for the device.
    """
    pairs = list(zip(reals, fakes, strict=False))
    if not pairs:
        return 0, [], []
    entries = [(term, x) for pair in pairs for term, x in zip(terms, pair, strict=True)]
    loss, values = mean_with_values(*entries, dtype=dtype)
    # Dynamo traces item() of each, as in the trainers, but not tolist(), which is one transfer.
    numbers = [v.item() for v in values] if torch.compiler.is_compiling() else values.tolist()
    return loss, numbers[::2], numbers[1::2]


def on_fake(term: Term, fakes: Sequence[Tensor], dtype: torch.dtype | None = None) -> tuple[Any, list[Tensor]]:
    """Return the sum over discriminators of the term's mean, and each mean, as a tensor with its graph."""
    if not fakes:
        return 0, []
    return mean_and_each(*[(term, f) for f in fakes], dtype=dtype)


def on_maps(
    fmap_r: Sequence[Sequence[Tensor]],
    fmap_g: Sequence[Sequence[Tensor]],
    weight: float,
    detach_real: bool = False,
    dtype: torch.dtype | None = None,
) -> Any:
    """Return `weight` times the sum over discriminators and layers of mean |r - g|; of none the int 0."""
    pairs = [p for r, g in zip(fmap_r, fmap_g, strict=False) for p in zip(r, g, strict=False)]
    if not pairs:
        return 0
    return feature_distance([r for r, _ in pairs], [g for _, g in pairs], weight, detach_real, dtype)


class JudgedSounds(nn.Module):
    """`loss(discriminator)`: DAC's losses, of sounds, which it gives to the discriminator.

    The discriminator returns a list per member, whose last entry is the logits and the others feature maps.
    """

    def __init__(self, discriminator: Any) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, fake: Any, real: Any) -> tuple[Any, Any]:
        """Return the discriminator's outputs of both, fake first."""
        return self.discriminator(fake), self.discriminator(real)

    def discriminator_loss(self, fake: Any, real: Any) -> Any:
        """Return the sum over members of mean f^2 + mean (1 - r)^2, with the fake sound detached."""
        d_fake, d_real = self.forward(fake.clone().detach(), real)
        pairs = list(zip(d_fake, d_real, strict=False))
        if not pairs:
            return 0
        entries = [e for f, r in pairs for e in ((square(0.0), f[-1]), (square(1.0), r[-1]))]
        return mean_of(*entries)

    def generator_loss(self, fake: Any, real: Any) -> tuple[Any, Any]:
        """Return the sum over members of mean (1 - f)^2, and that over other maps of mean |f - r|; r is detached."""
        d_fake, d_real = self.forward(fake, real)
        loss = mean_of(*[(square(1.0), f[-1]) for f in d_fake]) if d_fake else 0
        maps = [(d_real[i][j], f) for i, member in enumerate(d_fake) for j, f in enumerate(member[:-1])]
        if not maps:
            return loss, 0
        return loss, feature_distance([r for r, _ in maps], [f for _, f in maps], 1.0, detach_real=True)


class Sound(tuple):
    """An argument for the probe: a sound of one tensor, as audiotools' AudioSignal holds it."""

    audio_data = property(lambda self: self[0])

    def clone(self) -> Sound:
        """Return a copy with its graph."""
        return Sound((self[0].clone(),))

    def detach(self) -> Sound:
        """Return it without its graph."""
        return Sound((self[0].detach(),))
