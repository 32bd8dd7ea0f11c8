"""Interpolation between real and generated samples as an operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..backends import nodes, reference
from ..backends.base import Gradients, Operands
from . import autograd
from .autograd import Operation


class Interpolation(Operation):
    """Operands are all of real, all of fake, and eps; results are as many as there are of real."""

    __slots__ = ()
    second_in_closed_form = False

    def forward(self, tensors: Operands, need: Sequence[bool] | None) -> Any:
        """Return the points."""
        half = len(tensors) // 2
        return self.backend.interpolate_forward(tensors[:half], tensors[half:-1], tensors[-1])

    def with_node(self, tensors: Operands) -> Any:
        """Return the points with a C++ node behind them."""
        return nodes.module.interpolate(tensors)

    def gradients(self, tensors: Operands, upstream: Operands, need: Sequence[bool]) -> Gradients:
        """Return gradients of the operands that need one."""
        half = len(tensors) // 2
        given = tuple([self.backend.prepare(u) for u in upstream])
        return self.backend.interpolate_backward(
            tuple(tensors[:half]), tuple(tensors[half:-1]), tensors[-1], given, need
        )

    def reference(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the points in plain PyTorch."""
        half = len(tensors) // 2
        return reference.BACKEND.interpolate_forward(tuple(tensors[:half]), tuple(tensors[half:-1]), tensors[-1])


def evaluate(real: Operands, fake: Operands, eps: Tensor) -> Operands:
    """Return the points between inputs that have been checked."""
    return autograd.run(Interpolation(), (*real, *fake, eps))
