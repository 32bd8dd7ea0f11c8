"""Penalties on the norms of gradients as operations, with first and second derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import copysign
from typing import Any

import torch
from torch import Tensor

from .._torch_internals import version
from ..backends import nodes, reference
from ..backends.base import Gradients, Operands
from ..backends.specs import PenaltySpec
from . import autograd
from .autograd import Operation


class Penalty(Operation):
    """A penalty on the norms of groups of the operands' elements, and what a backend reads of it (`PenaltyCall`).

    Attributes:
        versions: how often each constant, maybe the caller's own memory, had been modified; None in a traced graph.
    """

    __slots__ = ("masks", "norms", "numbers", "spec", "statistics", "versions", "weights")

    def __init__(
        self,
        spec: PenaltySpec,
        weights: Tensor | None = None,
        masks: Operands | None = None,
        statistics: bool = False,
    ) -> None:
        self.spec = spec
        self.weights = weights
        self.masks = masks
        self.statistics = statistics
        self.norms: Any = None
        self.numbers: Tensor | None = None
        self.versions = None if torch.compiler.is_compiling() else [version(t) for t in self._constants()]

    def _constants(self) -> list[Tensor]:
        return [*(self.masks or ()), *(() if self.weights is None else (self.weights,))]

    def _check_constants(self) -> None:
        if self.versions is not None and [version(t) for t in self._constants()] != self.versions:
            raise RuntimeError("mask or weights: modified by an inplace operation between forward and backward")

    def forward(self, tensors: Operands, need: Sequence[bool] | None) -> Any:
        """Return the penalty; save the norms."""
        return self.backend.penalty_forward(self, tensors)

    def with_node(self, tensors: Operands) -> Any:
        """Return the penalty with a C++ node behind it; weights, masks and statistics have none."""
        if self.weights is not None or self.masks is not None or self.statistics:
            return None
        found = nodes.module.penalty(_plan_of(self.spec, copysign(1.0, self.spec.scale)), tensors)
        if found is None:
            return None
        value, self.norms = found
        return value

    def gradients(self, tensors: Operands, upstream: Operands, need: Sequence[bool]) -> Gradients:
        """Return gradients of the operands that need one."""
        self._check_constants()
        return self.backend.penalty_backward(self, tensors, upstream[0], need)

    def second(
        self, tensors: Operands, upstream: Operands, cotangents: Gradients, need: Sequence[bool]
    ) -> tuple[Operands, Gradients]:
        """Return gradients of <cotangents, gradients> with respect to the upstream and to the operands."""
        self._check_constants()
        up_grad, grads = self.backend.penalty_second(self, tensors, upstream[0], cotangents, need)
        return (up_grad,), grads

    def reference(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the penalty in plain PyTorch."""
        self._check_constants()
        return (reference.norm_penalty(tensors, self.spec, self.weights, self.masks)[0],)


@lru_cache(maxsize=256)
def _plan_of(spec: PenaltySpec, sign: float) -> Any:
    """Return a penalty as the C++ nodes take it. The sign of its scale keeps 0 and -0 apart, which are equal."""
    psi, target, power, scale, over, reduction = spec
    return nodes.module.penalty_plan(f"{psi} {float(target).hex()} {power} {float(scale).hex()} {over} {reduction}")


def evaluate(
    spec: PenaltySpec,
    tensors: Operands,
    weights: Tensor | None = None,
    masks: Operands | None = None,
    statistics: bool = False,
) -> tuple[Tensor, Penalty]:
    """Return the penalty, and the operation, which has the norms and the numbers of PenaltyStats where wanted."""
    op = Penalty(spec, weights, masks, statistics)
    return autograd.run(op, tensors), op
