"""Penalties as data: what a row is, and what is made of its norm."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

KINDS = ("two_sided", "one_sided", "power")
OVER = ("sample", "channel", "batch")
MAX_POWER = 16


class PenaltySpec(NamedTuple):
    """A penalty: scale * reduce(weights * psi(norms)); `over` says what a row is."""

    kind: str
    target: float
    power: int
    scale: float
    over: str
    reduction: str


def rows_first(t: Tensor, over: str) -> Tensor:
    """`t` with the dimensions that count rows before those of a row's elements."""
    return t.movedim(1, -1) if over == "channel" else t


def rows_shape(t: Tensor, over: str) -> torch.Size:
    """The shape of the norms of `t`."""
    if over == "batch":
        return torch.Size(())
    return t.shape[:1] if over == "sample" else t.shape[:1] + t.shape[2:]
