"""First and second derivatives of a call, in closed form, and the way a call takes.

`evaluate` decides: the reference (any transform), a registered operator (under torch.compile), or one
of the autograd Functions here around the kernels (eager).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from . import backends, native, reference
from .native import Kernels, Weights
from .terms import Spec


class Operation(ABC):
    """One call of a kernel family: what it computes, and what its forward leaves for its backward."""

    __slots__ = ()
    second_in_closed_form = True

    @abstractmethod
    def forward(self, tensors: tuple[Tensor, ...], need: Sequence[bool] | None) -> Any:
        """The result, a tensor or a tuple of them; `need` says which operands want a gradient later."""

    @abstractmethod
    def gradients(self, tensors: Sequence[Tensor], upstream: Sequence[Tensor], need: Sequence[bool]) -> Any:
        """Gradients of the operands that need one, in memory that nobody else has."""

    def second(
        self,
        tensors: Sequence[Tensor],
        upstream: Sequence[Tensor],
        cotangents: Sequence[Tensor | None],
        need: Sequence[bool],
    ) -> tuple[Sequence[Tensor], Sequence[Tensor | None]]:
        """Gradients of <cotangents, gradients> with respect to the upstream and to the operands."""
        raise NotImplementedError

    @abstractmethod
    def reference(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """The results in plain PyTorch, differentiable to any order."""

    def backward(self, tensors: Sequence[Tensor], upstream: Sequence[Tensor], need: Sequence[bool]) -> Any:
        """`gradients`, also under vmap over the upstream (is_grads_batched), in which they are linear."""
        if not _transformed(upstream):
            return self.gradients(tensors, upstream, need)
        if len(upstream) > 1 or upstream[0].dim():
            raise RuntimeError("a batched backward of an unreduced result needs fastgan.backend('reference')")
        one = torch.ones((), dtype=upstream[0].dtype, device=upstream[0].device)
        grads = self.gradients(tensors, (one,), need)
        return [None if g is None else (upstream[0] * g).to(g.dtype) for g in grads]


class Loss(Operation):
    """A loss."""

    __slots__ = ("aux", "kernels", "reduction", "spec", "stats", "units", "version", "weights")

    def __init__(self, spec: Spec, weights: Weights, reduction: str, stats: bool, kernels: Kernels) -> None:
        self.spec = spec
        self.weights = weights
        self.version = self._version()
        self.reduction = reduction
        self.stats = stats
        self.kernels = kernels
        self.aux: Tensor | None = None
        self.units: tuple[Tensor | None, ...] | None = None

    def _version(self) -> int:
        """How often weights in a tensor have been changed in place: they may be the caller's own memory."""
        return self.weights._version if isinstance(self.weights, Tensor) and not self.weights.is_inference() else 0

    def _check_weights(self) -> None:
        if self._version() != self.version:
            raise RuntimeError("weights: modified by an inplace operation between forward and backward")

    def forward(self, tensors: tuple[Tensor, ...], need: Sequence[bool] | None) -> Any:
        """The loss; with `need`, also the gradients that a backward from an upstream of 1 will want.

        float16 is left to backward: its upstream is a loss scale, and a gradient rounded before it is
        scaled has lost what the scale is for.
        """
        if self.aux is None and (self.spec.centred or self.stats):
            self.aux = native.aux_for(self.spec, tensors[0].device)
        if need is not None and self.reduction != "none" and self.kernels.units:
            self.units = tuple(
                [
                    torch.empty_like(t) if need[i] and t.dtype is not torch.float16 else None
                    for i, t in enumerate(tensors)
                ]
            )
        return self.kernels.forward(
            self.spec,
            tensors,
            self.weights,
            self.reduction,
            self.aux,
            self.units,
            self.stats,
            need is not None,
        )

    def backward(self, tensors: Sequence[Tensor], upstream: Sequence[Tensor], need: Sequence[bool]) -> Any:
        """Gradients of the operands that need one.

        What forward computed is handed out once, and so has one owner, who may do with it what he
        likes; every later backward over the same graph computes anew.
        """
        units, self.units = self.units, None
        if units is not None and not _transformed(upstream) and self._serve(units, upstream[0], need):
            return units
        return super().backward(tensors, upstream, need)

    def gradients(self, tensors: Sequence[Tensor], upstream: Sequence[Tensor], need: Sequence[bool]) -> Any:
        self._check_weights()
        given = tuple(tensors)
        return self.kernels.backward(
            self.spec, given, self.weights, self.reduction, self.aux, tuple(upstream), need
        )

    def _serve(self, units: tuple[Tensor | None, ...], upstream: Tensor, need: Sequence[bool]) -> bool:
        """Whether forward's gradients are, or were made, the ones wanted."""
        for i, unit in enumerate(units):
            if unit is None and need[i]:
                return False
        return self.kernels.finish(self.spec, units, upstream, self.aux)

    def second(
        self,
        tensors: Sequence[Tensor],
        upstream: Sequence[Tensor],
        cotangents: Sequence[Tensor | None],
        need: Sequence[bool],
    ) -> tuple[Sequence[Tensor], Sequence[Tensor | None]]:
        self.units = None
        self._check_weights()
        return self.kernels.second(
            self.spec, tuple(tensors), self.weights, self.reduction, self.aux, tuple(upstream), tuple(cotangents),
            need,
        )  # fmt: skip

    def reference(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        values = reference.evaluate(self.spec, tensors, self.weights or None, self.reduction)
        return values if self.reduction == "none" else (torch.stack(values).sum(),)


class Part(Loss):
    """A term of a loss as a loss of its own, whose value is there already."""

    __slots__ = ("value",)

    def __init__(self, spec: Spec, reduction: str, kernels: Kernels, value: Tensor) -> None:
        super().__init__(spec, (), reduction, False, kernels)
        self.value = value

    def forward(self, tensors: tuple[Tensor, ...], need: Sequence[bool] | None) -> Any:
        value, self.value = self.value, None  # type: ignore[assignment]
        return value


def _transformed(tensors: Sequence[Tensor | None]) -> bool:
    """Whether these have no memory to read: under a transform, or batched by is_grads_batched."""
    if torch._C._are_functorch_transforms_active():
        return True
    for t in tensors:
        if t is not None and torch._C._functorch.is_legacy_batchedtensor(t):
            return True
    return False


class Fused(Function):
    """The result of an operation."""

    @staticmethod
    def forward(ctx: Any, call: Operation, *tensors: Tensor) -> Any:
        ctx.call = call
        ctx.save_for_backward(*tensors)
        return call.forward(tensors, ctx.needs_input_grad[1:])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        tensors = ctx.saved_tensors  # raises where one was changed in place
        need = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            return (None, *FusedGradient.apply(ctx.call, need, len(upstream), *upstream, *tensors))
        return (None, *ctx.call.backward(tensors, upstream, need))


# Function.apply less its Python part, which only prepares for torch.func transforms: a call under one
# never comes here (backends.choose). Saves a third of the cost of an empty Function.
apply = super(Function, Fused).apply


class FusedGradient(Function):
    """The gradient of an operation, itself differentiable."""

    @staticmethod
    def forward(ctx: Any, call: Operation, need: Sequence[bool], count: int, *arguments: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        ctx.call, ctx.need, ctx.count = call, need, count
        ctx.save_for_backward(*arguments)
        upstream, tensors = arguments[:count], arguments[count:]
        return tuple(Operation.backward(call, tensors, upstream, need))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        arguments = ctx.saved_tensors
        call: Operation = ctx.call
        wanted = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled() or _transformed(cotangents) or not call.second_in_closed_form:
            return (None, None, None, *_by_autograd(call, arguments, ctx.count, ctx.need, cotangents, wanted))
        upstream, tensors = arguments[: ctx.count], arguments[ctx.count :]
        up_grads, grads = call.second(tensors, upstream, cotangents, wanted[ctx.count :])
        return (None, None, None, *up_grads, *grads)


def _by_autograd(
    call: Operation,
    arguments: Sequence[Tensor],
    count: int,
    need: Sequence[bool],
    cotangents: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """The second derivative through the reference: for a third, fourth, ... one to follow."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        upstream = [u.view_as(u) if u.requires_grad else u.detach().requires_grad_() for u in arguments[:count]]
        # Fresh views, so that the graph ends here and not at the call's own operands.
        tensors = [t.view_as(t) if t.requires_grad else t.detach().requires_grad_() for t in arguments[count:]]
        values = call.reference(tensors)
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


def evaluate(
    spec: Spec,
    tensors: tuple[Tensor, ...],
    weights: tuple[float, ...] | Tensor | None,
    reduction: str,
    stats: bool,
    scanned: int = -1,
    values: bool = False,
) -> tuple[Any, Tensor | None]:
    """The loss, or a tuple of each term's unreduced values; and with `stats` a float64 tensor of each
    term's value followed by the eight numbers of LossStats, which with `values` alone need not be there.
    `scanned` is what `native.scan` said.
    """
    if torch.compiler.is_compiling():
        from . import operators

        return operators.evaluate(spec, tensors, weights, reduction, stats or values)
    kernels = backends.choose(tensors, scanned)
    if kernels is None:
        return by_reference(spec, tensors, weights, reduction, stats or values)
    if scanned < 0:
        tensors = tuple([kernels.plain(t) for t in tensors])
        scanned = any([t.requires_grad for t in tensors])
    if weights is None:
        weights = ()
    elif isinstance(weights, Tensor):
        weights = kernels.weights(weights)
    call = Loss(spec, weights, reduction, stats, kernels)
    if values:
        call.aux = native.aux_for(spec, tensors[0].device)
    if scanned & 1 and torch.is_grad_enabled():
        result = apply(call, *tensors)
    else:
        result = call.forward(tensors, None)
    return result, call.aux[2 * len(spec.roles) :] if (stats or values) and call.aux is not None else None


def _element(vector: Tensor, k: int) -> Tensor:
    """A scalar on the memory of vector[k], and no view of it: it may be changed in place where that has a graph."""
    scalar = torch.empty(0, dtype=vector.dtype, device=vector.device)
    return scalar.set_(vector.untyped_storage(), vector.storage_offset() + k, (), ())


def evaluate_parts(
    spec: Spec, tensors: tuple[Tensor, ...], reduction: str, scanned: int = -1
) -> tuple[Tensor, list[Tensor]]:
    """The loss and the value of each of its terms, every one with a graph of its own, all from one call.

    A backward from one value leaves the graphs behind the others alone, as it must where each is differentiated by
    itself; a backward from the loss is one call for all. The spec has no centres.
    """
    kernels = None if torch.compiler.is_compiling() else backends.choose(tensors, scanned)
    if kernels is None:
        found = reference.evaluate(spec, tensors, None, reduction)
        return sum(found[1:], found[0]), found
    if scanned < 0:
        tensors = tuple([kernels.plain(t) for t in tensors])
    call = Loss(spec, (), reduction, False, kernels)
    call.aux = native.aux_for(spec, tensors[0].device)
    graph = torch.is_grad_enabled() and any([t.requires_grad for t in tensors])
    total = apply(call, *tensors) if graph else call.forward(tensors, None)
    first = 2 * len(spec.roles)
    vector = call.aux[first : first + len(spec.terms)].to(total.dtype)
    values = [_element(vector, k) for k in range(len(spec.terms))]
    if graph:
        for k, (part, operands) in enumerate(spec.parts()):
            values[k] = apply(Part(part, reduction, kernels, values[k]), *[tensors[i] for i in operands])
    return total, values


def by_reference(
    spec: Spec,
    tensors: Sequence[Tensor],
    weights: Sequence[float] | Tensor | None,
    reduction: str,
    stats: bool,
) -> tuple[Any, Tensor | None]:
    """`evaluate` on the reference backend."""
    values = reference.evaluate(spec, tensors, weights, reduction)
    numbers = None
    if stats:
        detached = torch.stack([v.detach().double() for v in values])
        numbers = torch.cat([detached, reference.statistics(spec, tensors, values)])
    return (tuple(values) if reduction == "none" else sum(values[1:], values[0])), numbers
