"""The gradient of a discriminator with respect to its input, and whether it can be differentiated again.

A penalty trains through that gradient, so that autograd must know the derivative of a derivative. Where
it does not, PyTorch often says so only inside `.backward()`, and in some cases not at all: the parameters
then get no gradient, or one with a part missing. `check` finds these at the call.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction, once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map_only

from .checks import FLOATS
from .prune import Prune, with_zeros

_ONCE = once_differentiable(lambda ctx: None).__code__
# Kernels that PyTorch gives one derivative: how their nodes begin, and how to do without.
_ONCE_ONLY = {
    "ScaledDotProduct": "fused attention: call torch.nn.functional.scaled_dot_product_attention, which the"
    " penalty runs in plain arithmetic, rather than one of its kernels",
    "FlexAttention": "FlexAttention: use torch.nn.functional.scaled_dot_product_attention",
    "CudnnRnn": "a cuDNN recurrent network: call the penalty under torch.backends.cudnn.flags(enabled=False)",
    "MkldnnRnn": "a oneDNN recurrent network: call the penalty under torch.backends.mkldnn.flags(enabled=False)",
    "MiopenRnn": "a MIOpen recurrent network: call the penalty under torch.backends.cudnn.flags(enabled=False)",
}
_WAYS_OUT = "; else use kind='r1-approx' or 'r2-approx', which need no second derivative"


class _PlainArithmetic:
    """Compiled networks run as they were before they were compiled, attention in plain arithmetic.

    Both settings are the process's: the first of several threads makes them and the last takes them back.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.depth = 0
        self.stack = ExitStack()

    def __enter__(self) -> None:
        with self.lock:
            if self.depth == 0:
                with ExitStack() as settings:
                    settings.enter_context(sdpa_kernel(SDPBackend.MATH))
                    if "torch._dynamo" in sys.modules:  # else nothing has been compiled
                        settings.enter_context(torch.compiler.set_stance("force_eager"))
                    self.stack = settings.pop_all()
            self.depth += 1

    def __exit__(self, *exception: Any) -> None:
        with self.lock:
            self.depth -= 1
            if self.depth == 0:
                self.stack.close()


_plain_arithmetic = _PlainArithmetic()


@contextmanager
def differentiable() -> Iterator[None]:
    """The settings under which a discriminator can be differentiated twice, if it can be at all."""
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_plain_arithmetic)
        yield


def leaf(t: Tensor, attached: bool) -> Tensor:
    """`t` as something to differentiate by: itself if it has a graph to keep, else a leaf on its memory."""
    if attached and t.requires_grad:
        return t
    return (t.clone() if t.is_inference() else t.detach()).requires_grad_()


def _saveable(t: Tensor) -> Tensor:
    """`t`, or a copy of it that autograd may save."""
    return t.clone() if t.is_inference() else t


def modules_of(discriminator: Any, depth: int = 3) -> Iterator[nn.Module]:
    """The modules in a discriminator: its own, or those that a function, method or partial holds on to."""
    if isinstance(discriminator, nn.Module):
        yield from discriminator.modules()
    elif depth:
        held = [getattr(discriminator, name, None) for name in ("__self__", "func", "args", "keywords")]
        held += [cell.cell_contents for cell in getattr(discriminator, "__closure__", None) or () if _is_full(cell)]
        for value in tree_leaves(held):
            yield from modules_of(value, depth - 1)


def _is_full(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that has no value yet
        return False


def has_backward_hooks(discriminator: Any) -> bool:
    """Whether modules want to be called in the backward, which of a changed graph runs otherwise or not at all."""
    of_all = nn.modules.module
    return bool(of_all._global_backward_hooks or of_all._global_backward_pre_hooks) or any(
        m._backward_hooks or m._backward_pre_hooks for m in modules_of(discriminator)
    )


def prunable(discriminator: Any) -> bool:
    """Whether a discriminator's zeros may be left out: where nothing in it could tell zeros from nothing, as
    backward hooks and sparse gradients do, and nobody else replaces functions.
    """
    sparse = any(vars(m).get("sparse") is True for m in modules_of(discriminator))
    return Prune.possible() and not sparse and not has_backward_hooks(discriminator)


def outputs_of(result: Any) -> list[Tensor]:
    """The tensors in what a discriminator returned: one, or a sequence or dict of them."""
    if isinstance(result, Tensor):
        named: list[tuple[Any, Any]] = [("its output", result)]
    elif isinstance(result, Mapping):
        named = [(f"output {k!r}", v) for k, v in result.items()]
    elif isinstance(result, (list, tuple)):
        named = [(f"output {i}", v) for i, v in enumerate(result)]
    else:
        raise TypeError(
            "discriminator: expected it to return a tensor, or a sequence or dict of tensors, got"
            f" {type(result).__name__}"
        )
    for name, value in named:
        if value is not None and not (isinstance(value, Tensor) and value.dtype in FLOATS):
            what = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(
                f"discriminator: expected floating-point tensors, got {what} as {name}; pass a function that"
                " returns the logits alone"
            )
    outputs = [v for _, v in named if v is not None]
    if not outputs:
        raise ValueError("discriminator: expected it to return at least one tensor, got none")
    return outputs


def input_gradients(
    discriminator: Callable[..., Any],
    points: Tensor | Sequence[Tensor],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    create_graph: bool,
    prune: bool = False,
) -> tuple[tuple[Tensor, ...], Leaves]:
    """`forward` and then `gradients`. To be called under `differentiable`."""
    result, pruning = forward(discriminator, points, args, kwargs, prune and create_graph)
    return gradients(result, points, create_graph, pruning)


def forward(
    discriminator: Callable[..., Any],
    points: Tensor | Sequence[Tensor],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    prune: bool,
) -> tuple[Any, Prune | None]:
    """What the discriminator returns, and what was pruned (fastgan/prune.py) if that was wished and possible."""
    if any(isinstance(t, Tensor) and t.is_inference() for t in tree_leaves((args, kwargs))):
        args, kwargs = tree_map_only(Tensor, _saveable, (args, kwargs))
    pruning = Prune() if prune and Prune.possible() else None
    with pruning or nullcontext():
        return discriminator(points, *args, **kwargs), pruning


def gradients(
    result: Any, points: Tensor | Sequence[Tensor], create_graph: bool, pruning: Prune | None = None
) -> tuple[tuple[Tensor, ...], Leaves]:
    """The gradient of the sum of all outputs with respect to each of `points`, which are leaves or have a
    graph; and, where `create_graph`, what `check` returns.
    """
    inputs = [points] if isinstance(points, Tensor) else list(points)
    outputs = [o for o in outputs_of(result) if o.requires_grad]
    if not outputs:
        raise RuntimeError(
            "discriminator: its output has no graph back to its input (was it computed under no_grad, or detached?)"
        )
    try:
        grads = torch.autograd.grad(
            outputs, inputs, [torch.ones_like(o) for o in outputs], create_graph=create_graph, allow_unused=True
        )
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        raise RuntimeError(
            "discriminator: reentrant checkpointing cannot be differentiated by an input; use"
            " torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
        ) from error
    for k, g in enumerate(grads):
        if g is None:
            which = "its input" if isinstance(points, Tensor) else f"tensor {k} of its input"
            raise ValueError(f"discriminator: its output does not depend on {which}")
    if not create_graph:
        return grads, Leaves([], [], [])
    return grads, check(outputs, grads, inputs, pruning.inputs() if pruning else ())


# Types of nodes of which there is nothing to say; a walk meets the same ones at every call.
_HARMLESS: set[type] = set()


def _in_python(node: Any) -> bool:
    """Whether a node is of a Function written in Python."""
    return isinstance(node, BackwardCFunction)


def _is_once_differentiable(function: Any) -> bool:
    """Whether a Function's backward is marked so, be it under further decorators."""
    for name in ("backward", "vjp"):
        step = getattr(function, name, None)
        while step is not None:
            if getattr(step, "__code__", None) is _ONCE:
                return True
            step = getattr(step, "__wrapped__", None)
    return False


def _is_suspect(node: Any) -> bool:
    """Whether a node, by itself, cannot be differentiated."""
    if _in_python(node):
        compiled = node.name().startswith("CompiledFunctionBackward")
        return compiled or _is_once_differentiable(type(node)._forward_cls)
    if node.name() in ("torch::autograd::NotImplemented", "torch::autograd::Error"):
        return True
    if type(node).__name__ != "CppFunction":  # the type of all nodes that have none of their own
        _HARMLESS.add(type(node))
    return False


def _walk(roots: Sequence[Any], seen: set[Any]) -> tuple[list[Tensor], list[Any]]:
    """The leaves of the graph below `roots`, and its suspect nodes, where they have not been seen."""
    leaves, suspects = [], []
    stack = [r for r in roots if r is not None]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if type(node).__name__ == "AccumulateGrad":
            leaves.append(node.variable)
            continue
        if type(node) not in _HARMLESS and _is_suspect(node):
            suspects.append(node)
        for below, _ in node.next_functions:
            if below is not None:
                stack.append(below)
    return leaves, suspects


def leaves_below(t: Tensor) -> list[Tensor]:
    """The leaves that get a gradient of `t`."""
    return _walk([t.grad_fn], set())[0]


def _refusal(suspects: Sequence[Any], names: Sequence[str]) -> str:
    """Why a graph with these suspects, and nodes of these names, cannot be differentiated."""
    for node in suspects:
        if _in_python(node):
            if node.name().startswith("CompiledFunctionBackward"):
                return (
                    "it ran as a compiled graph, of which PyTorch computes no second derivative; pass the network"
                    " from before compilation"
                )
            return (
                f"its function {type(node)._forward_cls.__name__} is marked once_differentiable; write its backward"
                " in differentiable operations"
            )
    known = [way for start, way in _ONCE_ONLY.items() if any(n.startswith(start) for n in names)]
    return "; ".join(known) or "it uses an operator of which PyTorch knows no second derivative"


def _leads_to(node: Any, inputs: Sequence[Tensor]) -> bool:
    """Whether a node lies between the outputs and an input, so that it was differentiated once already.

    One that only computed an argument (an embedding, say) was not, and its first derivative is enough.
    """
    ends = {t.grad_fn for t in inputs if t.grad_fn is not None}
    seen: set[Any] = set()
    leaves, _ = _walk([node], seen)
    return bool(ends & seen) or any(t is leaf for t in inputs for leaf in leaves)


class Leaves(NamedTuple):
    """The parameters below a discriminator's outputs.

    Attributes:
        reached: those on which the gradients depend.
        missed: the others, as a last bias.
        masked: those, and inputs, to which PyTorch would have sent zeros (fastgan/prune.py).
    """

    reached: list[Tensor]
    missed: list[Tensor]
    masked: list[Tensor]

    def with_zeros(self, t: Tensor, own: Sequence[Tensor]) -> Tensor:
        """What was made of the gradients, in a form that sends these zeros; to the points that were made for it
        (`own`) only where there is nothing else, so that there is a graph, as PyTorch has one.
        """
        made_here = {id(p) for p in own} if t.requires_grad else set()
        return with_zeros(t, [p for p in self.masked if id(p) not in made_here])


def _touches(nodes: set[Any], end: Any) -> bool:
    """Whether one of these nodes hands its gradient to `end`."""
    return any(below is end for node in nodes for below, _ in node.next_functions)


def check(
    outputs: Sequence[Tensor], grads: Sequence[Tensor], inputs: Sequence[Tensor], pruned: Sequence[Any] = ()
) -> Leaves:
    """Raises where the gradients `grads` of `outputs` cannot be differentiated, or lead to no parameter.

    The graph that made `inputs` is not looked at: it is differentiated once, as by any loss.

    `pruned` are nodes below which PyTorch would have sent zeros (fastgan/prune.py).
    """
    # What is seen is kept alive, or the same node would come back as another object.
    seen: set[Any] = {t.grad_fn for t in inputs if t.grad_fn is not None}
    reached, suspects = _walk([g.grad_fn for g in grads], seen)
    missed, more = _walk([o.grad_fn for o in outputs], seen)
    suspects = [n for n in [*suspects, *more] if not _in_python(n) or _leads_to(n, inputs)]
    if suspects:
        why = _refusal(suspects, [n.name() for n in seen])
        raise RuntimeError(
            "discriminator: a gradient penalty needs its second derivative, which it does not have:"
            f" {why}{_WAYS_OUT}"
        )
    ends = {t.grad_fn for t in inputs if t.grad_fn is not None}
    masked, _ = _walk(pruned, below := set(ends))
    direct = ends & set(pruned)
    masked += [t for t in inputs if t.grad_fn in direct or (t.grad_fn and _touches(below - ends, t.grad_fn))]
    own, by_masks = {id(t) for t in inputs}, {id(t) for t in masked}
    reached, missed = ([t for t in leaves if id(t) not in own] for leaves in (reached, missed))
    reached += [t for t in missed if id(t) in by_masks]
    missed = [t for t in missed if id(t) not in by_masks]
    if missed and not reached:
        raise RuntimeError(
            "discriminator: no parameter can be reached from its gradient by the input, so that the penalty would"
            " train nothing (is a part of it detached, or only a bias trainable?)"
        )
    return Leaves(reached, missed, masked)
