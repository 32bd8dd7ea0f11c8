"""Losses over lists of discriminators, as HiFi-GAN and its descendants return them: a sum, and its parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..backends.specs import Term
from ._shared import feature_distance, mean_and_each, mean_with_values

__all__ = ["on_both", "on_fake", "on_maps"]


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
