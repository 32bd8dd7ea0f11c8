"""Losses as operations: any sum of terms, with statistics, and each term's value with a graph of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backends
from .._torch_internals import version
from ..backends import nodes, reference
from ..backends.base import Gradients, LossBuffers, Operands, Weights
from ..backends.specs import LossSpec
from . import autograd
from .autograd import Operation


class Loss(Operation):
    """A loss, and what a backend reads of it (`LossCall`).

    Attributes:
        unit_gradients: the gradients for an upstream of 1, which forward computed ahead.
        weights_version: how often weights in a tensor, maybe the caller's own, had been modified.
    """

    __slots__ = ("buffers", "reduction", "spec", "statistics", "unit_gradients", "weights", "weights_version")

    def __init__(
        self, spec: LossSpec, weights: Weights = (), reduction: str = "mean", statistics: bool = False
    ) -> None:
        self.spec = spec
        self.weights = weights
        self.reduction = reduction
        self.statistics = statistics
        self.buffers: LossBuffers | None = None
        self.unit_gradients: Gradients | None = None
        self.weights_version = 0

    def check_weights(self) -> None:
        """Raise if weights in a tensor were modified after forward."""
        if isinstance(self.weights, Tensor) and version(self.weights) != self.weights_version:
            raise RuntimeError("weights: modified by an inplace operation between forward and backward")

    def forward(self, tensors: Operands, need: Sequence[bool] | None) -> Any:
        """Return the loss; with `need`, also compute the gradients for an upstream of 1.

        float16 is left to backward: its upstream is a loss scale, and a gradient rounded before it is
        scaled has lost what the scale is for.
        """
        backend = self.backend
        if isinstance(self.weights, Tensor):
            self.weights = backend.prepare_weights(self.weights)
            self.weights_version = version(self.weights) if isinstance(self.weights, Tensor) else 0
        if not backend.differentiable:
            if self.buffers is None and (self.spec.subtracts_mean or self.statistics):
                self.buffers = LossBuffers.allocate(self.spec, tensors[0].device)
            if need is not None and self.reduction != "none" and backend.writes_unit_gradients(self.spec):
                self.unit_gradients = tuple(
                    [
                        torch.empty_like(t) if need[i] and t.dtype is not torch.float16 else None
                        for i, t in enumerate(tensors)
                    ]
                )
        return backend.loss_forward(self, tensors, self.unit_gradients, need is not None)

    def with_node(self, tensors: Operands) -> Any:
        """Return the loss with a C++ node behind it; weights in a tensor, labels and masks have none."""
        if self.reduction == "none" or isinstance(self.weights, Tensor) or self.spec.has_constants:
            return None
        plan = plan_of(self.spec, self.reduction, self.weights)
        wanted = self.buffers is not None or self.statistics
        found = nodes.module.loss(plan, tensors, self.statistics, wanted)
        if found is None or not wanted:
            return found
        value, memory = found
        self.buffers = LossBuffers(memory, len(self.spec.roles), len(self.spec.terms))
        return value

    def backward(self, tensors: Operands, upstream: Operands, need: Sequence[bool]) -> Gradients:
        """Return gradients of the operands that need one.

        Gradients that forward computed are handed out once, so that they have one owner, who may modify them. Every
        later backward over the same graph computes its own.
        """
        ahead, self.unit_gradients = self.unit_gradients, None
        if ahead is not None and not autograd.without_memory(upstream):
            for gradient, wanted in zip(ahead, need, strict=True):
                if gradient is None and wanted:
                    break
            else:
                if self.backend.rescale(self, tensors, ahead, upstream[0]):
                    return ahead
        return super().backward(tensors, upstream, need)

    def gradients(self, tensors: Operands, upstream: Operands, need: Sequence[bool]) -> Gradients:
        """Return gradients of the operands that need one, from the operands."""
        self.check_weights()
        return self.backend.loss_backward(self, tuple(tensors), tuple(upstream), need)

    def second(
        self, tensors: Operands, upstream: Operands, cotangents: Gradients, need: Sequence[bool]
    ) -> tuple[Operands, Gradients]:
        """Return gradients of <cotangents, gradients> with respect to the upstream and to the operands."""
        self.unit_gradients = None
        self.check_weights()
        return self.backend.loss_second(self, tuple(tensors), tuple(upstream), tuple(cotangents), need)

    def reference(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the results in plain PyTorch."""
        values = reference.evaluate(self.spec, tensors, self.weights, self.reduction)
        return values if self.reduction == "none" else (torch.stack(values).sum(),)


def plan_of(spec: LossSpec, reduction: str, weights: tuple[float, ...] = ()) -> Any:
    """Return a loss as the C++ nodes take it, made once."""
    # As text, in which 0 and -0 are two.
    words = " ".join([reduction, *[float(w).hex() for w in weights]]) if weights else reduction
    plan = spec.plans.get(words)
    if plan is None:
        if len(spec.plans) >= 16:  # weights that change at each call
            spec.plans.clear()
        plan = spec.plans[words] = nodes.module.loss_plan(f"{words};{spec.encode()}")
    return plan


class SingleTerm(Loss):
    """A term of a loss as a loss of its own, whose value is there already."""

    __slots__ = ("value",)

    def __init__(self, spec: LossSpec, reduction: str, value: Tensor) -> None:
        super().__init__(spec, (), reduction)
        self.value: Tensor | None = value

    def forward(self, tensors: Operands, need: Sequence[bool] | None) -> Any:
        """Return the value."""
        value, self.value = self.value, None
        return value

    def with_node(self, tensors: Operands) -> Any:
        """Return None: the node would compute the value again."""
        return None


def evaluate(
    spec: LossSpec,
    tensors: Operands,
    weights: Weights | None = None,
    reduction: str = "mean",
    values: bool = False,
    scanned: int = -1,
) -> tuple[Any, LossBuffers | None]:
    """Return a loss, or each term's unreduced values, and the buffers where there are any.

    Args:
        spec: the loss.
        tensors: its operands.
        weights: one per term, or None.
        reduction: "mean", "sum" or "none".
        values: whether the buffers' values are wanted; their statistics need not be there.
        scanned: what `backends.nodes.scan` returned for the operands, or -1.
    """
    op = Loss(spec, () if weights is None else weights, reduction)
    if values:
        op.buffers = LossBuffers.allocate(spec, tensors[0].device)
    return autograd.run(op, tensors, scanned), op.buffers


def evaluate_terms(
    spec: LossSpec, tensors: Operands, reduction: str, scanned: int = -1
) -> tuple[Tensor, list[Tensor]]:
    """Return the loss and the value of each of its terms, each with a graph of its own, all from one call.

    A backward from one value leaves the graphs behind the others alone, as it must where each is differentiated by
    itself. A backward from the loss is one call for all. No term subtracts a mean.
    """
    backend = reference.BACKEND if torch.compiler.is_compiling() else backends.get(tensors, scanned)
    if backend.differentiable:
        found = reference.evaluate(spec, tensors, None, reduction)
        return sum(found[1:], found[0]), found
    if scanned < 0:
        tensors = tuple([backend.prepare(t) for t in tensors])
    op = Loss(spec, (), reduction)
    op.buffers = LossBuffers.allocate(spec, tensors[0].device)
    total = autograd.run(op, tensors, scanned)
    vector = op.buffers.values.to(total.dtype)
    values = [_element(vector, k) for k in range(len(spec.terms))]
    if torch.is_grad_enabled() and any([t.requires_grad for t in tensors]):
        for k, (single, operands) in enumerate(spec.single_terms()):
            op = SingleTerm(single, reduction, values[k])
            op.backend = backend
            values[k] = autograd.apply(op, *[tensors[i] for i in operands])
    return total, values


def _element(vector: Tensor, k: int) -> Tensor:
    """Return a scalar on the memory of vector[k] that is no view of it: with a graph it may be changed in place."""
    scalar = torch.empty(0, dtype=vector.dtype, device=vector.device)
    return scalar.set_(vector.untyped_storage(), vector.storage_offset() + k, (), ())
