"""A warning where a discriminator seems to end in a sigmoid: cross-entropy of logits then sees probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from . import _checks as checks
from ._torch_internals import proxy_mode

LOSSES = ("nonsaturating", "saturating", "logistic", "bce", "minimax")  # no set, which a list as a name would break
_ENOUGH = 512  # logits of which not one is outside of [0, 1]
_TEXT = (
    "logits: all of the first {} lie in [0, 1], as probabilities do; this loss takes logits. If the discriminator"
    " ends in a sigmoid, remove it: else the loss is silently another one"
)


class Watch:
    """Looks at a process's first logits, until one is no probability or there are enough.

    Attributes:
        undecided: whether it still looks.
    """

    def __init__(self) -> None:
        self.undecided = True
        self.seen = 0

    def look(self, tensors: Sequence[Tensor]) -> None:
        """Take logits into account. On a device this waits, once in most runs: for the first logits."""
        if not all([_can_wait(t) for t in tensors]):
            return
        low, high = torch.stack([torch.stack(t.detach().float().aminmax()) for t in tensors]).unbind(1)
        if bool((low < high).any()):  # a head that begins at zero says nothing
            self.seen += sum([t.numel() for t in tensors])
        if not (low.amin() >= 0 and high.amax() <= 1):  # also where one is NaN
            self.undecided = False
        elif self.seen >= _ENOUGH:
            self.undecided = False
            checks.warn_once("probabilities", _TEXT.format(self.seen))


def _can_wait(t: Tensor) -> bool:
    """Return whether numbers may be read here, where a device is worth one wait: of a tensor that has them."""
    if type(t) not in (Tensor, nn.Parameter) or proxy_mode() is not None:
        return False
    if t.is_cuda:
        return not torch.cuda.is_current_stream_capturing() and not checks.is_transformed()
    return checks.is_readable(t)


watch = Watch()
