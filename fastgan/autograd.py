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
    materialize = True  # an upstream that is not there is zeros

    def asked(self, upstream: tuple[Any, ...]) -> tuple[Operation, tuple[Tensor, ...]]:
        """The operation whose gradient a backward from these upstreams wants, and its upstreams; none: it is 0."""
        return self, upstream

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
    keeps_values = False

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
        if self.spec.centred or self.stats or self.keeps_values:
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


class Parts(Loss):
    """A loss, and the value of each of its terms, both with a graph; each term is a member of its own."""

    __slots__ = ()
    keeps_values = True
    materialize = False

    def asked(self, upstream: tuple[Any, ...]) -> tuple[Operation, tuple[Tensor, ...]]:
        total, *values = upstream
        there = [v for v in values if v is not None]
        if not there:
            return self, () if total is None else (total,)
        zero = torch.zeros_like(there[0]) if len(there) < len(values) else there[0]
        vector = torch.stack([zero if v is None else v for v in values])
        return Values(self), (vector if total is None else vector + total,)

    def forward(self, tensors: tuple[Tensor, ...], need: Sequence[bool] | None) -> Any:
        total = super().forward(tensors, need)
        assert self.aux is not None
        first = 2 * len(self.spec.roles)
        values = self.aux[first : first + len(self.spec.terms)]
        return total, *values.to(total.dtype, copy=True).unbind()


class Values(Operation):
    """The value of each term of a loss as one vector; its upstream takes the place of the members' weights."""

    __slots__ = ("loss",)
    second_in_closed_form = False

    def __init__(self, loss: Parts) -> None:
        self.loss = loss

    def forward(self, tensors: tuple[Tensor, ...], need: Sequence[bool] | None) -> Any:
        raise NotImplementedError

    def backward(self, tensors: Sequence[Tensor], upstream: Sequence[Tensor], need: Sequence[bool]) -> Any:
        loss, given = self.loss, upstream[0]
        if loss.units is not None and not _transformed(upstream):  # on a CPU, where reading does not wait
            first, *others = given.tolist()
            if others.count(first) == len(others):  # as where all are added up
                return loss.backward(tensors, (given[0],), need)
        return super().backward(tensors, upstream, need)

    def gradients(self, tensors: Sequence[Tensor], upstream: Sequence[Tensor], need: Sequence[bool]) -> Any:
        loss, given = self.loss, upstream[0].contiguous()
        one = torch.ones((), dtype=given.dtype, device=given.device)
        weights = loss.kernels.weights(given)
        return loss.kernels.backward(loss.spec, tuple(tensors), weights, loss.reduction, None, (one,), need)

    def reference(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return (torch.stack(reference.evaluate(self.loss.spec, tensors, None, self.loss.reduction)),)


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
        if not call.materialize:
            ctx.set_materialize_grads(False)
        return call.forward(tensors, ctx.needs_input_grad[1:])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        tensors = ctx.saved_tensors  # raises where one was changed in place
        need = ctx.needs_input_grad[1:]
        call, upstream = ctx.call.asked(upstream)
        if not upstream:
            return (None, *[None] * len(tensors))
        if torch.is_grad_enabled():
            return (None, *FusedGradient.apply(call, need, len(upstream), *upstream, *tensors))
        return (None, *call.backward(tensors, upstream, need))


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
) -> tuple[Any, Tensor | None]:
    """The loss, or a tuple of each term's unreduced values; and with `stats` a float64 tensor of each
    term's value followed by the eight numbers of LossStats. `scanned` is what `native.scan` said.
    """
    if torch.compiler.is_compiling():
        from . import operators

        return operators.evaluate(spec, tensors, weights, reduction, stats)
    kernels = backends.choose(tensors, scanned)
    if kernels is None:
        return by_reference(spec, tensors, weights, reduction, stats)
    if scanned < 0:
        tensors = tuple([kernels.plain(t) for t in tensors])
        scanned = any([t.requires_grad for t in tensors])
    if weights is None:
        weights = ()
    elif isinstance(weights, Tensor):
        weights = kernels.weights(weights)
    call = Loss(spec, weights, reduction, stats, kernels)
    if scanned & 1 and torch.is_grad_enabled():
        result = apply(call, *tensors)
    else:
        result = call.forward(tensors, None)
    return result, call.aux[2 * len(spec.roles) :] if stats and call.aux is not None else None


def evaluate_parts(spec: Spec, tensors: tuple[Tensor, ...], reduction: str) -> tuple[Tensor, ...]:
    """The loss and the value of each of its terms, all with a graph. The spec has no centres, and each of its
    terms is a member.
    """
    kernels = None if torch.compiler.is_compiling() else backends.choose(tensors)
    if kernels is None:
        values = reference.evaluate(spec, tensors, None, reduction)
        return sum(values[1:], values[0]), *values
    tensors = tuple([kernels.plain(t) for t in tensors])
    call = Parts(spec, (), reduction, False, kernels)
    if torch.is_grad_enabled() and any([t.requires_grad for t in tensors]):
        return apply(call, *tensors)
    return call.forward(tensors, None)


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
