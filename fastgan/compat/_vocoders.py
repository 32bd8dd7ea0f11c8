"""Losses over lists of discriminators, as HiFi-GAN and its descendants return them: a sum, and its parts.

The loss on one discriminator is given by terms, whose sum it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..auxiliary import truncated_relativistic_loss
from ..backends.specs import Term
from ._shared import feature_distance, hinge, mean_and_each, mean_with_values, min_hinge, result_dtype

__all__ = ["clamp_hinge", "on_both", "on_fake", "on_maps", "parts_on_both", "truncated", "truncated_samples"]

_Terms = tuple[Term, ...]


def clamp_hinge(sign: int) -> _Terms:
    """Return terms of clamp(1 + sign x, min=0), with its derivative at the kink: the whole slope, not half or 0."""
    return min_hinge(sign, 2.0), hinge(sign, -1.0)


def _entries(terms: tuple[_Terms, _Terms], pairs: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Term, Tensor]]:
    """Return each term beside its tensor, discriminator by discriminator, of real first."""
    return [(term, x) for pair in pairs for side, x in zip(terms, pair, strict=True) for term in side]


def _summed(values: Sequence[Any], width: int) -> list[Any]:
    """Return the sums of as many consecutive values as a loss has terms."""
    return [sum(values[i + 1 : i + width], values[i]) for i in range(0, len(values), width)]


def on_both(
    terms: tuple[_Terms, _Terms], reals: Sequence[Tensor], fakes: Sequence[Tensor], dtype: torch.dtype | None = None
) -> tuple[Any, list[float], list[float]]:
    """Return the sum over discriminators of the losses on real and fake, and those on each as floats.

    Lists of unequal length are cut to the shorter; empty ones give the int 0. The loss is in `dtype`, or else in
    the logits' own. The floats wait for the device.
    """
    pairs = list(zip(reals, fakes, strict=False))
    if not pairs:
        return 0, [], []
    loss, values = mean_with_values(*_entries(terms, pairs), dtype=dtype)
    # Dynamo traces item() of each, as in the trainers, but not tolist(), which is one transfer.
    numbers = [v.item() for v in values] if torch.compiler.is_compiling() else values.tolist()
    numbers = _summed(numbers, len(terms[0]))
    return loss, numbers[::2], numbers[1::2]


def parts_on_both(
    terms: tuple[_Terms, _Terms], reals: Sequence[Tensor], fakes: Sequence[Tensor], dtype: torch.dtype | None = None
) -> tuple[Any, list[Tensor], list[Tensor]]:
    """Return `on_both` with tensors in the place of floats, each with its graph."""
    pairs = list(zip(reals, fakes, strict=False))
    if not pairs:
        return 0, [], []
    loss, values = mean_and_each(*_entries(terms, pairs), dtype=dtype)
    parts = _summed(values, len(terms[0]))
    return loss, parts[::2], parts[1::2]


def on_fake(terms: _Terms, fakes: Sequence[Tensor], dtype: torch.dtype | None = None) -> tuple[Any, list[Tensor]]:
    """Return the sum over discriminators of the loss on fake, and each part, as a tensor with its graph."""
    fakes = list(fakes)
    if not fakes:
        return 0, []
    loss, values = mean_and_each(*[(term, f) for f in fakes for term in terms], dtype=dtype)
    return loss, _summed(values, len(terms))


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


def truncated(reals: Sequence[Tensor], fakes: Sequence[Tensor], tau: float) -> Any:
    """Return the truncated relativistic loss, summed over pairs, in the logits' dtype; of none the int 0."""
    pairs = list(zip(reals, fakes, strict=False))
    if not pairs:
        return 0
    loss = truncated_relativistic_loss([r for r, _ in pairs], [f for _, f in pairs], tau=tau)
    return loss.to(result_dtype(pairs))


def truncated_samples(leaf: Callable[..., Tensor]) -> dict[str, Any]:
    """Return logits for a probe of `truncated`: near each other and far, with differences that no dtype rounds.

    Rounding would decide in the trainers whether the median, whose square is 0, counts in the mean.
    """

    def logits(seed: int) -> Tensor:
        x = (leaf(7, seed=seed).detach() * 8).round() / (8 if seed % 3 else 128)
        return x.requires_grad_()

    real, fake = ([logits(k) for k in range(n, n + 6)] for n in (0, 9))
    return {"disc_real_outputs": real, "disc_generated_outputs": fake, "disc_outputs": fake}
