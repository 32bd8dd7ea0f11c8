"""The one path of every operation: choose a backend, prepare the operands, run, and differentiate.

First and second derivatives are closed forms of the backend's kernels; higher ones go through the reference.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .. import backends
from .._torch_internals import bare_apply, is_batched, is_transformed
from ..backends import nodes, reference
from ..backends.base import Gradients, Operands


class Operation(ABC):
    """One call of an operation: its constants, its backend, and what its forward leaves for its backward.

    Attributes:
        backend: where the call runs; `run` chooses it.
    """

    __slots__ = ("backend",)
    second_in_closed_form = True
    backend: Any

    @abstractmethod
    def forward(self, tensors: Operands, need: Sequence[bool] | None) -> Any:
        """Return the result, a tensor or a tuple of them; `need` says which operands want a gradient later."""

    @abstractmethod
    def gradients(self, tensors: Operands, upstream: Operands, need: Sequence[bool]) -> Gradients:
        """Return gradients of the operands that need one, in memory that nobody else has."""

    def second(
        self, tensors: Operands, upstream: Operands, cotangents: Gradients, need: Sequence[bool]
    ) -> tuple[Operands, Gradients]:
        """Return gradients of <cotangents, gradients> with respect to the upstream and to the operands."""
        raise NotImplementedError

    @abstractmethod
    def reference(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the results in plain PyTorch, differentiable to any order."""

    def with_node(self, tensors: Operands) -> Any:
        """Return the result with a C++ node behind it, or None where there is no node for the call."""
        return None

    def backward(self, tensors: Operands, upstream: Operands, need: Sequence[bool]) -> Gradients:
        """Return `gradients`, also under vmap over the upstream (is_grads_batched), in which they are linear."""
        if not without_memory(upstream):
            return self.gradients(tensors, upstream, need)
        if len(upstream) > 1 or upstream[0].dim():
            raise RuntimeError("a batched backward of an unreduced result needs fastgan.backend('reference')")
        one = torch.ones((), dtype=upstream[0].dtype, device=upstream[0].device)
        grads = self.gradients(tensors, (one,), need)
        return tuple([None if g is None else (upstream[0] * g).to(g.dtype) for g in grads])


def run(op: Operation, tensors: Operands, scanned: int = -1) -> Any:
    """Run an operation on the backend in force, with its derivatives.

    Args:
        op: the operation.
        tensors: its operands.
        scanned: what `backends.nodes.scan` returned for them, or -1.
    """
    if scanned < 0:
        if torch.compiler.is_compiling():
            op.backend = reference.BACKEND
            return op.forward(tensors, None)
        scanned = nodes.scan(tensors)
    op.backend = backend = backends.get(tensors, scanned)
    if backend.differentiable:
        return op.forward(tensors, None)
    if nodes.module is not None and tensors[0].device.type == backend.name:
        if scanned >= 2:
            nodes.module.serve(tensors[0].get_device())
        found = op.with_node(tensors)
        if found is not None:
            return found
    if scanned < 0:
        tensors = tuple([backend.prepare(t) for t in tensors])
        scanned = any([t.requires_grad for t in tensors])
    if scanned & 1 and torch.is_grad_enabled():
        for t in tensors:
            if not t.requires_grad and t.is_inference():  # which autograd does not save
                return apply(op, *[t.clone() if t.is_inference() else t for t in tensors])
        return apply(op, *tensors)
    return op.forward(tensors, None)


class Apply(Function):
    """The result of an operation."""

    @staticmethod
    def forward(ctx: Any, op: Operation, *tensors: Tensor) -> Any:
        """Run the operation."""
        ctx.op = op
        ctx.save_for_backward(*tensors)
        return op.forward(tensors, ctx.needs_input_grad[1:])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        """Return the operation's gradients, with a graph if one is asked for."""
        tensors = ctx.saved_tensors  # raises where one was changed in place
        need = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            return (None, *ApplyGradient.apply(ctx.op, need, len(upstream), *upstream, *tensors))
        return (None, *ctx.op.backward(tensors, upstream, need))


apply = bare_apply(Apply)


class ApplyGradient(Function):
    """The gradient of an operation, itself differentiable."""

    @staticmethod
    def forward(ctx: Any, op: Operation, need: Sequence[bool], count: int, *arguments: Tensor) -> Any:
        """Run the operation's backward."""
        ctx.set_materialize_grads(False)
        ctx.op, ctx.need, ctx.count = op, need, count
        ctx.save_for_backward(*arguments)
        # Not the operation's own backward: what forward computed ahead has one owner, and this has a graph.
        return tuple(Operation.backward(op, arguments[count:], arguments[:count], need))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        """Return the second derivative."""
        arguments, op = ctx.saved_tensors, ctx.op
        wanted = ctx.needs_input_grad[3:]
        return (None, None, None, *second_of(op, arguments, ctx.count, ctx.need, cotangents, wanted))


def second_of(
    op: Operation,
    arguments: Sequence[Tensor],
    count: int,
    need: Sequence[bool],
    cotangents: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> Sequence[Tensor | None]:
    """Return the second derivative by the arguments: `count` tensors of the upstream, and the operands."""
    if torch.is_grad_enabled() or without_memory(cotangents) or not op.second_in_closed_form:
        return _second_by_autograd(op, arguments, count, need, cotangents, wanted)
    upstream, tensors = tuple(arguments[:count]), tuple(arguments[count:])
    up_grads, grads = op.second(tensors, upstream, tuple(cotangents), wanted[count:])
    return (*up_grads, *grads)


def without_memory(tensors: Sequence[Tensor | None]) -> bool:
    """Return whether these have no memory to read: under a transform, or batched by is_grads_batched."""
    if is_transformed():
        return True
    for t in tensors:  # noqa: SIM110 (at every backward: a loop is faster)
        if t is not None and is_batched(t):
            return True
    return False


def _second_by_autograd(
    op: Operation,
    arguments: Sequence[Tensor],
    count: int,
    need: Sequence[bool],
    cotangents: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Return the second derivative by the reference: for a third, fourth, ... one to follow."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        upstream = [u.view_as(u) if u.requires_grad else u.detach().requires_grad_() for u in arguments[:count]]
        # Fresh views, so that the graph ends here and not at the call's own operands.
        tensors = [t.view_as(t) if t.requires_grad else t.detach().requires_grad_() for t in arguments[count:]]
        values = op.reference(tensors)
        total = torch.stack([(u * v).sum() for u, v in zip(upstream, values, strict=True)]).sum()
        asked = [t for t, n in zip(tensors, need, strict=True) if n]
        first = torch.autograd.grad(total, asked, create_graph=True, materialize_grads=True)
        chosen = [v for v, n in zip(cotangents, need, strict=True) if n]
        pairs = [(g, v) for g, v in zip(first, chosen, strict=True) if v is not None and g.requires_grad]
        targets = [*upstream, *tensors]
        inputs = [t for t, w in zip(targets, wanted, strict=True) if w]
        if not pairs:
            return [None] * len(targets)
        grads = iter(
            torch.autograd.grad(
                [g for g, _ in pairs], inputs, [v for _, v in pairs], create_graph=create_graph, allow_unused=True
            )
        )
        return [next(grads) if w else None for w in wanted]
