"""Where the samples of a batch lie: what one norm of a gradient, and one eps of an interpolation, belong to.

The plain case, samples along dimension 0, is None wherever a `Samples` may stand.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import _checks as checks

Groups = Tensor | tuple[Tensor, int]


@dataclass(frozen=True, eq=False)
class Samples:
    """An arrangement of samples that is not the plain one; make it with `arranged`.

    Attributes:
        batch_dim: the dimension along which samples lie, in every tensor.
        pac: how many consecutive entries of that dimension make a sample.
        index: the number of the sample to which each entry belongs, or None.
        count: how many samples an index numbers.
        name: the argument's that has the index.
    """

    batch_dim: int = 0
    pac: int = 1
    index: Tensor | None = None
    count: int = 0
    name: str = "groups"

    def number(self, t: Tensor) -> int:
        """Return how many samples a tensor has."""
        return t.shape[self.batch_dim] // self.pac if self.index is None else self.count

    def first(self, t: Tensor) -> Tensor:
        """Return a view with samples along dimension 0; with an index, its entries."""
        t = t.movedim(self.batch_dim, 0) if self.batch_dim else t
        return t.unflatten(0, (-1, self.pac)) if self.pac > 1 else t

    def back(self, t: Tensor) -> Tensor:
        """Return what `first` was given."""
        t = t.flatten(0, 1) if self.pac > 1 else t
        return t.movedim(0, self.batch_dim) if self.batch_dim else t

    def per_entry(self, values: Tensor) -> Tensor:
        """Return one number for each entry along dimension 0 of `first`, of numbers for each sample."""
        return values if self.index is None else values[self.index]

    def check(self, name: str, tensors: Sequence[Tensor]) -> None:
        """Check that tensors have samples where they are said to lie, as many in each."""
        d, shapes = self.batch_dim, ", ".join(str(tuple(t.shape)) for t in tensors)
        if any(not -t.dim() <= d < t.dim() for t in tensors):
            raise ValueError(f"batch_dim: expected a dimension of {name}, got {d} for {shapes}")
        length = tensors[0].shape[d]
        if any(t.shape[d] != length for t in tensors):
            raise ValueError(f"{name}: expected as many samples along dimension {d} in each tensor, got {shapes}")
        if length % self.pac:
            raise ValueError(f"pac: expected a divisor of {length}, the length of {name}, got {self.pac}")
        if self.index is not None and len(self.index) != length:
            raise ValueError(
                f"{self.name}: expected one number for each of {length} entries, got {len(self.index)}"
            )
        if self.index is not None and self.index.device != tensors[0].device:
            raise ValueError(f"{self.name}: expected it on {tensors[0].device} as {name}, got {self.index.device}")


def arranged(batch_dim: Any, pac: Any, groups: Any, over: str = "sample", name: str = "groups") -> Samples | None:
    """Return how samples are arranged, or None for the plain case.

    Args:
        batch_dim: the dimension along which samples lie.
        pac: how many consecutive entries of that dimension make a sample.
        groups: a vector of integers, the number of each entry's sample, or (vector, number of samples); or None.
        over: what a norm covers; only "sample" can be arranged.
        name: the argument's that has the groups.
    """
    if isinstance(batch_dim, bool) or not isinstance(batch_dim, numbers.Integral):
        raise TypeError(f"batch_dim: expected an integer, got {type(batch_dim).__name__}")
    batch_dim = checks.integer("batch_dim", batch_dim, -64, 63)  # as many dimensions as a tensor can have
    pac = checks.integer("pac", pac, 1, 1 << 31)
    index, count = (None, 0) if groups is None else _checked_groups(name, groups)
    if index is not None and pac > 1:
        raise ValueError(f"pac: has no effect beside {name}, which tell the samples apart")
    if not batch_dim and pac == 1 and index is None:
        return None
    if over != "sample":
        raise ValueError(f"over: expected 'sample' beside batch_dim, pac or groups, got {over!r}")
    return Samples(batch_dim, pac, index, count, name)


def _checked_groups(name: str, groups: Any) -> tuple[Tensor, int]:
    """Return the index and the number of samples."""
    index, count = groups if isinstance(groups, (tuple, list)) and len(groups) == 2 else (groups, None)
    if not isinstance(index, Tensor) or index.dtype not in (torch.int64, torch.int32) or index.dim() != 1:
        got = f"{index.dtype} {tuple(index.shape)}" if isinstance(index, Tensor) else type(index).__name__
        raise TypeError(f"{name}: expected a vector of int64, one number per entry, or (vector, count), got {got}")
    if not len(index):
        raise ValueError(f"{name}: expected at least one number, got none")
    if count is not None:
        checks.integer(name, count, 1)
    elif torch.compiler.is_compiling():
        raise ValueError(f"{name}: expected (vector, count) under torch.compile, got a vector")
    if count is None or checks.is_readable(index):
        low, high = (v.item() for v in index.aminmax())
        count = int(high) + 1 if count is None else count
        if low < 0 or high >= count:
            raise ValueError(f"{name}: expected numbers from 0 to {count - 1}, got some from {low} to {high}")
    return index.long(), count
