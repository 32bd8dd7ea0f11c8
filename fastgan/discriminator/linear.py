"""Functions that to autograd depend on their tensors linearly, whatever they compute.

A function runs on tensors with a graph of their own, which the caller's graph does not see. The gradient is the
function's. The gradient's derivative by the upstream is the Jacobian, and by the tensors there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.graph import GradientEdge, get_gradient_edge

from .. import _torch_internals as internals
from .double_backward import walk


class Ends(Function):
    """Tensors on which a graph of their own ends; it holds none of their memory."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors, which require grad as the anchor does."""
        return tuple([t.detach() for t in tensors])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Return nothing; gradients are asked for above."""
        return (None,) * (1 + len(grads))


_ANCHOR = torch.zeros((), requires_grad=True)


@dataclass
class Run:
    """What a function returned for some tensors, and its graph.

    Attributes:
        results: without a graph.
        outs: where the graph begins, for each result; None for a constant.
        ins: where it ends, for each tensor.
        owners: what keeps these nodes alive.
        symmetric: the Jacobian is, and autograd does not see how the gradient depends on the upstream.
        used: holds whether PyTorch would have sent zeros to the tensors.
    """

    results: tuple[Tensor | None, ...]
    outs: list[GradientEdge | None]
    ins: list[GradientEdge]
    owners: list[Any]
    symmetric: bool = False
    used: list[bool] = field(default_factory=lambda: [False])

    def gradients(self, upstream: Sequence[Tensor | None], **options: bool) -> tuple[Tensor | None, ...]:
        """Return the gradients by the tensors."""
        sent = [(e, g) for e, g in zip(self.outs, upstream, strict=True) if e is not None and g is not None]
        if not sent:
            return (None,) * len(self.ins)
        outs, gs = zip(*sent, strict=True)
        return torch.autograd.grad(outs, self.ins, gs, allow_unused=True, **options)

    def transposed(self, upstream: Sequence[Tensor | None]) -> Run:
        """Return the run that computes the gradients, of the upstreams that there are."""
        if self.symmetric:
            grads = self.gradients(upstream, retain_graph=True)
            return Run(_detached(grads), self.outs, self.ins, self.owners, True)
        return run(lambda *gs: self.gradients(spread(upstream, gs), create_graph=True), given(upstream))

    def leads_to(self, nodes: Sequence[Any]) -> bool:
        """Return whether the graph leads to one of these nodes; that of what autograd does not see would."""
        seen: set[Any] = set()
        walk(self.starts(), seen)
        return self.symmetric or not seen.isdisjoint(nodes)

    def starts(self) -> list[Any]:
        """Return the nodes with which the graph begins."""
        return [e.node for e in self.outs if e is not None]


def run(function: Callable[..., Sequence[Tensor | None]], tensors: Sequence[Tensor]) -> Run:
    """Run a function on tensors with a graph of their own."""
    ends = Ends.apply(_ANCHOR, *[t.detach() for t in tensors])  # or the caller's graph would go on below
    returned = function(*ends)
    outs = [get_gradient_edge(r) if r is not None and r.requires_grad else None for r in returned]
    owners = [internals.owner(t) for t in (*ends, *given(returned))]
    return Run(_detached(returned), outs, [get_gradient_edge(e) for e in ends], owners)


def _detached(tensors: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    return tuple([None if t is None else t.detach() for t in tensors])


def given(tensors: Sequence[Tensor | None]) -> list[Tensor]:
    """Return the tensors that there are."""
    return [t for t in tensors if t is not None]


def spread(like: Sequence[Tensor | None], tensors: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the tensors at the places where there are some."""
    rest = iter(tensors)
    return [None if t is None else next(rest) for t in like]


class Linear(Function):
    """The results of a run, which to autograd depend on its tensors linearly."""

    @staticmethod
    def forward(ctx: Any, this: Run, *tensors: Tensor) -> Any:
        """Return the results."""
        ctx.set_materialize_grads(False)
        results, this.results = this.results, ()  # not held: nothing here needs their memory
        ctx.mark_non_differentiable(
            *[r for r, e in zip(results, this.outs, strict=True) if e is None and r is not None]
        )
        ctx.run = this
        return results

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Any:
        """Return the gradients; where they need a graph, they are results in turn."""
        this: Run = ctx.run
        if all([g is None for g in upstream]):
            return None, *[None] * len(this.ins)
        if not torch.is_grad_enabled():
            keep = this.symmetric or internals.keeps_graph()
            return None, *this.gradients(upstream, retain_graph=keep)
        gradients = this.transposed(upstream)
        this.used[0] = this.used[0] or gradients.leads_to([e.node for e in this.ins])
        return None, *Linear.apply(gradients, *given(upstream))
