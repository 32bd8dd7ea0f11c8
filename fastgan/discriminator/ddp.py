"""A penalty that goes backward without its loss leaves the ranks of DistributedDataParallel apart: warn of it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .._torch_internals import after_backward, current_backward


class _Watch:
    """See whether a penalty's backward also was that of the loss; live as long as the penalty's graph."""

    def __init__(self, reached: Tensor, unreached: Tensor) -> None:
        # The backward pass in which each of the two parameters last received a gradient.
        self.last = [-1, -1]
        self.handles = [_note(p, self.last, k) for k, p in enumerate((reached, unreached))]

    def __del__(self) -> None:
        for handle in self.handles:
            handle.remove()

    def __call__(self, _: Tensor) -> None:
        """Look at the parameters when the penalty's backward, which has begun, is over."""
        task, last = current_backward(), self.last

        def over() -> None:
            if last[0] == task != last[1]:
                warnings.warn(_ALONE, stacklevel=2)

        after_backward(over)


def _note(parameter: Tensor, last: list[int], k: int) -> Any:
    def received(_: Tensor) -> None:
        last[k] = current_backward()

    return parameter.register_post_accumulate_grad_hook(received)


_ALONE = (
    "a gradient penalty of a DistributedDataParallel discriminator went backward without its loss: not every"
    " parameter received a gradient, so that the ranks were not synchronised. Call backward once, on the sum of"
    " loss and penalty."
)


def watch(discriminator: Any, penalty: Tensor, reached: Sequence[Tensor], unreached: Sequence[Tensor]) -> None:
    """Make a separate backward of `penalty` warn, where it leaves DDP's ranks unsynchronised.

    DDP, which wraps the discriminator, averages over ranks once every parameter has received a gradient. Those in
    `reached` get one from the penalty; those in `unreached`, such as a bias behind the last weight, do not.
    """
    discriminator = getattr(discriminator, "_orig_mod", discriminator)  # of a compiled one
    if not discriminator.require_backward_grad_sync:
        return
    if reached and unreached and penalty.requires_grad:
        penalty.register_hook(_Watch(reached[0], unreached[0]))
