"""Means over the ranks of a process group, with gradients."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function


class AllReduceSum(Function):
    """The sum over ranks. Its gradient is the sum of the ranks' gradients: the same operation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return AllReduceSum.apply(upstream.contiguous(), ctx.group), None


def global_means(tensors: Sequence[Tensor], group: Any) -> list[Tensor]:
    """The mean of each tensor over all its elements on all ranks, 0-dim, float32 or float64.

    Two collectives in all, and one in backward; every rank must take part in each.
    """
    sums = AllReduceSum.apply(torch.stack([t.double().sum() for t in tensors]), group)
    counts = torch.stack([sums.new_full((), t.numel()) for t in tensors])  # of a list: a copy that waits
    dist.all_reduce(counts, group=group)
    means = (sums / counts).unbind()
    return [m if t.dtype == torch.float64 else m.float() for m, t in zip(means, tensors, strict=True)]


class _Watch:
    """Sees whether a penalty's backward also was that of the loss; lives as long as the penalty's graph."""

    def __init__(self, reached: Tensor, missed: Tensor) -> None:
        # The backward pass in which each of the two parameters last received a gradient.
        self.last = [-1, -1]
        self.handles = [_note(p, self.last, k) for k, p in enumerate((reached, missed))]

    def __del__(self) -> None:
        for handle in self.handles:
            handle.remove()

    def __call__(self, _: Tensor) -> None:
        """The penalty's backward has begun: look when it is over."""
        task, last = torch._C._current_graph_task_id(), self.last

        def over() -> None:
            if last[0] == task != last[1]:
                warnings.warn(_ALONE, stacklevel=2)

        torch.autograd.Variable._execution_engine.queue_callback(over)


def _note(parameter: Tensor, last: list[int], k: int) -> Any:
    def received(_: Tensor) -> None:
        last[k] = torch._C._current_graph_task_id()

    return parameter.register_post_accumulate_grad_hook(received)


_ALONE = (
    "a gradient penalty of a DistributedDataParallel discriminator went backward without its loss: not every"
    " parameter received a gradient, so that the ranks were not synchronised. Call backward once, on the sum of"
    " loss and penalty."
)


def watch(discriminator: Any, penalty: Tensor, reached: Sequence[Tensor], missed: Sequence[Tensor]) -> None:
    """Makes a separate backward of `penalty` warn, where it leaves DDP's ranks unsynchronised.

    DDP averages over ranks once every parameter has received a gradient; `missed` are those that get
    none from the penalty, such as a bias behind the last weight, and `reached` those that do.
    """
    ddp = torch.nn.parallel.DistributedDataParallel
    discriminator = getattr(discriminator, "_orig_mod", discriminator)  # of a compiled one
    if not isinstance(discriminator, ddp) or not discriminator.require_backward_grad_sync:
        return
    if reached and missed and penalty.requires_grad:
        penalty.register_hook(_Watch(reached[0], missed[0]))
