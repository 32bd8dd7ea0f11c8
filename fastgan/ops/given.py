"""A value whose gradients are known already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class _Given(Function):
    """A value whose gradients are known."""

    @staticmethod
    def forward(ctx: Any, why: str, value: Tensor, grads: list[Tensor], *tensors: Tensor) -> Tensor:
        ctx.why = why
        ctx.save_for_backward(*grads)
        return value.clone()  # no view, so that it may be changed in place

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(ctx.why)
        return None, None, None, *[_scaled(g, upstream) for g in ctx.saved_tensors]


def _scaled(g: Tensor, upstream: Tensor) -> Tensor:
    """Return a gradient times what comes from above, which need not be finite in 16 bits."""
    if g.dtype in (torch.float16, torch.bfloat16):
        return (g.float() * upstream.float()).to(g.dtype)
    return g * upstream.to(g.dtype)


def with_gradients(value: Tensor, tensors: Sequence[Tensor], grads: Sequence[Tensor], why: str) -> Tensor:
    """Return a scalar whose backward sends `grads`, times what comes from above, to `tensors`.

    Args:
        value: the scalar, detached.
        tensors: what gets gradients.
        grads: one for each of them.
        why: what is raised where somebody wants their derivative, which there is not.
    """
    return _Given.apply(why, value, list(grads), *tensors)
