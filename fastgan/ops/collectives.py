"""Means over the ranks of a process group, with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from ..backends.reference import double


class AllReduceSum(Function):
    """The sum over ranks. Its gradient is the sum of the ranks' gradients: the same operation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        """Return the sum of x over the ranks of a group."""
        ctx.group = group
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        """Return the sum of the ranks' gradients."""
        return AllReduceSum.apply(upstream.contiguous(), ctx.group), None


def global_means(tensors: Sequence[Tensor], group: Any) -> list[Tensor]:
    """Return the mean of each tensor over all its elements on all ranks, 0-dim, float32 or float64.

    Two collectives in all, and one in backward; every rank must take part in each.
    """
    sums = AllReduceSum.apply(torch.stack([double(t).sum() for t in tensors]), group)
    counts = torch.stack([sums.new_full((), t.numel()) for t in tensors])  # of a list: a copy that waits
    dist.all_reduce(counts, group=group)
    means = (sums / counts).unbind()
    return [m if t.dtype == torch.float64 else m.float() for m, t in zip(means, tensors, strict=True)]
