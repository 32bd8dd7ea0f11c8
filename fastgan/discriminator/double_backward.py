"""Whether a discriminator's gradient by its input can be differentiated again.

A penalty trains through that gradient, so that autograd must know the derivative of a derivative. Where
it does not, PyTorch often says so only inside `.backward()`. In some cases it says nothing: the parameters then get
no gradient, or one with a part missing. `check` finds these at the call.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from .._torch_internals import (
    PythonNode,
    is_once_differentiable,
    is_python_node,
    lacks_formula,
    python_function,
)

# Kernels that PyTorch gives one derivative: how their nodes begin, and how to do without.
_ONCE_ONLY = {
    "ScaledDotProduct": "fused attention: call torch.nn.functional.scaled_dot_product_attention, which the"
    " penalty runs in plain arithmetic, rather than one of its kernels",
    "FlexAttention": "FlexAttention: use torch.nn.functional.scaled_dot_product_attention",
    "CudnnRnn": "a cuDNN recurrent network: call the penalty under torch.backends.cudnn.flags(enabled=False)",
    "MkldnnRnn": "a oneDNN recurrent network: call the penalty under torch.backends.mkldnn.flags(enabled=False)",
    "MiopenRnn": "a MIOpen recurrent network: call the penalty under torch.backends.cudnn.flags(enabled=False)",
    "CdistBackwardBackward": "torch.cdist: write (a[:, None] - b[None]).norm(dim=-1), or its square",
    "PdistBackwardBackward": "F.pdist: write (a[:, None] - a[None]).norm(dim=-1), or its square",
}
# PyTorch's nodes that raise in the backward, of operators whose second derivative has not been written.
_RAISE_LATE = (
    "CdistBackwardBackward0", "PdistBackwardBackward0", "EmbeddingBagBackwardBackward0",
    "EmbeddingBagDenseBackwardBackward0", "StandardGammaGradBackward0", "torch::autograd::NotImplemented",
    "torch::autograd::Error", "WarnNotImplemented", "torch::autograd::WarnNotImplemented",
)  # fmt: skip
_WAYS_OUT = "; else use kind='r1-approx' or 'r2-approx', which need no second derivative"


# Types of PyTorch's nodes, and of this package's, that are sound; a walk meets the same ones at every call. Another
# Function's type is not kept: it would keep what its code refers to.
_HARMLESS: set[type] = set()


# Functions of this package, and those by which PyTorch calls modules' hooks, and FSDP gives parameters back.
_OWN = ("fastgan.", "torch.nn.modules.", "torch.distributed.fsdp.")


def _is_suspect(node: Any) -> bool:
    """Return whether a node, by itself, cannot be differentiated."""
    if is_python_node(node):
        function = python_function(node)
        if function.__module__.startswith(_OWN):
            _HARMLESS.add(type(node))
            return False
        compiled = node.name().startswith("CompiledFunctionBackward")
        return compiled or is_once_differentiable(function) or lacks_formula(function)
    if node.name() in _RAISE_LATE:
        return True
    if type(node).__name__ != "CppFunction":  # the type of all nodes that have none of their own
        _HARMLESS.add(type(node))
    return False


def walk(roots: Sequence[Any], seen: set[Any]) -> tuple[list[Tensor], list[Any]]:
    """Return the leaves of the graph below `roots` and its suspect nodes, where they were not seen before."""
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


def is_stand_in(node: Any) -> bool:
    """Return whether a node stands for the graph of a tensor from outside, while a graph is traced."""
    return not is_python_node(node) and node.name() == "torch::autograd::Error"


def leaves_below(t: Tensor) -> list[Tensor]:
    """Return the leaves that get a gradient of `t`."""
    return walk([t.grad_fn], set())[0]


_OPAQUE = (
    "its function {} computes its gradient out of autograd's sight, so that the parameters would silently get wrong"
    " gradients; write its backward in differentiable operations, mark it once_differentiable, or, if it is"
    " piecewise linear, declare it by fastgan.declare_piecewise_linear"
)


def _refusal(suspects: Sequence[Any], names: Sequence[str]) -> str:
    """Return why a graph with these suspects, and nodes of these names, cannot be differentiated."""
    for node in suspects:
        if is_python_node(node):
            if lacks_formula(python_function(node)):
                operator = node.name().removeprefix("GeneratedBackwardFor_").removesuffix("Backward")
                return f"its operator {operator} has no derivative; give it one by torch.library.register_autograd"
            if node.name().startswith("CompiledFunctionBackward"):
                return (
                    "it ran as a compiled graph, of which PyTorch computes no second derivative; pass the network"
                    " from before compilation"
                )
            if python_function(node).__name__ == "ApplyTemplate":
                return (
                    "it applies a torch.autograd.Function, whose second derivative torch.compile loses; call the"
                    " penalty outside of the graph, or write the function in plain operations"
                )
            return (
                f"its function {python_function(node).__name__} is marked once_differentiable; write its backward"
                " in differentiable operations, or, if it is piecewise linear, declare it by"
                " fastgan.declare_piecewise_linear"
            )
    known = [way for start, way in _ONCE_ONLY.items() if any(n.startswith(start) for n in names)]
    operators = ", ".join(dict.fromkeys(map(_operator, suspects)))
    none = f"it uses an operator of which PyTorch knows no second derivative: there is none of {operators}"
    return "; ".join(known) or none


def _operator(node: Any) -> str:
    """Return the name of the operator whose derivative is missing: the node tells when it is asked to run."""
    count = 1
    for _ in range(2):
        try:
            node(*[None] * count)
        except Exception as error:
            if found := re.search(r"derivative for '?([\w:.]+)'? is not implemented", str(error)):
                return found[1]
            if found := re.search(r"expected (\d+) arguments", str(error)):
                count = int(found[1])
    return node.name()


def _place(suspects: Sequence[Any], name_of: Callable[[Tensor], str | None]) -> str:
    """Return near which parameter the first suspect stands, as far as it can be found."""
    queue, seen = list(suspects[:1]), set(suspects[:1])
    for node in queue:  # which grows: the nearest parameter comes first
        if type(node).__name__ == "AccumulateGrad" and (name := name_of(node.variable)):
            return f" (it works on what {name!r} computes)"
        for below, _ in node.next_functions:
            if below is not None and below not in seen:
                seen.add(below)
                queue.append(below)
    return ""


def _leads_to(node: Any, inputs: Sequence[Tensor]) -> bool:
    """Return whether a node lies between the outputs and an input, so that it was differentiated once already.

    One that only computed an argument (an embedding, say) was not, and its first derivative is enough.
    """
    ends = {t.grad_fn for t in inputs if t.grad_fn is not None}
    seen: set[Any] = set()
    leaves, _ = walk([node], seen)
    return bool(ends & seen) or any(t is leaf for t in inputs for leaf in leaves)


class ReachedParameters(NamedTuple):
    """The parameters below a discriminator's outputs.

    Attributes:
        reached: those on which the gradients depend.
        unreached: the others, as a last bias.
        zero_gradient: those, and inputs, to which PyTorch would have sent zeros (fastgan/discriminator/prune.py).
    """

    reached: list[Tensor]
    unreached: list[Tensor]
    zero_gradient: list[Tensor]


def _touches(nodes: set[Any], end: Any) -> bool:
    """Return whether one of these nodes hands its gradient to `end`."""
    return any(below is end for node in nodes for below, _ in node.next_functions)


def check(
    outputs: Sequence[Tensor],
    grads: Sequence[Tensor],
    inputs: Sequence[Tensor],
    pruned: Sequence[tuple[list[bool], Any, Any]] = (),
    name_of: Callable[[Tensor], str | None] = lambda p: None,
    lost: Callable[[Any], bool] | None = None,
) -> ReachedParameters:
    """Return the parameters below the gradients `grads` of `outputs` by `inputs`.

    The graph that made `inputs` is not looked at: it is differentiated once, as by any loss.

    Args:
        outputs: of the discriminator.
        grads: their gradients by the inputs.
        inputs: of the discriminator.
        pruned: what was replaced, as `Prune` has it: whether a gradient went through, the node below, its own.
        name_of: tells a parameter's name.
        lost: tells which Functions have lost their second derivative.

    Raises:
        RuntimeError: the gradients cannot be differentiated, or lead to no parameter.
    """
    # What is seen is kept alive, or the same node would come back as another object.
    ends = {t.grad_fn for t in inputs if t.grad_fn is not None}
    seen: set[Any] = set(ends)
    reached, suspects = walk([g.grad_fn for g in grads], seen)
    zeros = [below for used, below, own in pruned if used[0] or own in seen]
    unreached, more = walk([o.grad_fn for o in outputs], seen)
    if lost is not None:
        suspects, more = ([n for n in found if not is_stand_in(n)] for found in (suspects, more))
        more += [n for n in seen if is_python_node(n) and lost(n)]
    suspects = [n for n in [*suspects, *more] if not is_python_node(n) or _leads_to(n, inputs)]
    if suspects:
        why = _refusal(suspects, [n.name() for n in seen])
        raise RuntimeError(
            "discriminator: a gradient penalty needs its second derivative, which it does not have:"
            f" {why}{_place(suspects, name_of)}{_WAYS_OUT}"
        )
    zero_gradient = _below_pruned(zeros, inputs, ends)
    own, by_zeros = {id(t) for t in inputs}, {id(t) for t in zero_gradient}
    reached, unreached = ([t for t in leaves if id(t) not in own] for leaves in (reached, unreached))
    reached += [t for t in unreached if id(t) in by_zeros]
    unreached = [t for t in unreached if id(t) not in by_zeros]
    if unreached and not reached:
        raise RuntimeError(
            "discriminator: no parameter can be reached from its gradient by the input, so that the penalty would"
            " train nothing (is a part of it detached, or only a bias trainable?)"
        )
    return ReachedParameters(reached, unreached, zero_gradient)


def _below_pruned(pruned: Sequence[Any], inputs: Sequence[Tensor], ends: set[Any]) -> list[Tensor]:
    """Return the leaves and inputs to which PyTorch would have sent zeros."""
    found, _ = walk(pruned, below := set(ends))
    direct = ends & set(pruned)
    return found + [t for t in inputs if t.grad_fn in direct or (t.grad_fn and _touches(below - ends, t.grad_fn))]


# ---------------------------------------------------------------------------- gradients, and who computes them


def third_party_functions(outputs: Sequence[Tensor]) -> list[Any]:
    """Return the nodes below the outputs that belong to Functions of others, written in Python."""
    found: list[Any] = []
    seen: set[Any] = set()
    stack = [o.grad_fn for o in outputs]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        foreign = isinstance(node, PythonNode) and type(node) not in _HARMLESS
        if foreign and not python_function(node).__module__.startswith(_OWN):
            found.append(node)
        for below, _ in node.next_functions:
            stack.append(below)
    return found


class _Watch:
    """A hook on a Function's node: sees in a backward with a graph which of its gradients have one.

    Attributes:
        constant: the gradients without a graph, each with its position.
        differentiable: whether any gradient has one.
        pattern: the Function, and which of the gradients that came have a graph.
    """

    def __init__(self, node: Any) -> None:
        self.node = node
        self.constant: dict[int, Tensor] = {}
        self.differentiable = False
        self.pattern: Any = None

    def __call__(self, grads: Sequence[Tensor | None], upstream: Sequence[Tensor | None]) -> None:
        """Note what goes, and what came."""
        own = {k: g for k, g in enumerate(grads) if g is not None and (g.is_floating_point() or g.is_complex())}
        self.constant = {k: g.detach() for k, g in own.items() if not g.requires_grad}
        self.differentiable = len(self.constant) < len(own)
        self.pattern = (python_function(self.node), *[None if u is None else u.requires_grad for u in upstream])


# Functions, and patterns, that were seen to compute differentiable gradients; a Function is kept weakly.
_SOUND: WeakKeyDictionary[type, set[Any]] = WeakKeyDictionary()


def _watched(
    nodes: Sequence[Any],
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    ones: Sequence[Tensor],
    name_of: Callable[[Tensor], str | None],
) -> tuple[Any, ...]:
    """Return the gradients by the inputs with a graph; raise where a Function computes its own without one.

    A gradient without a graph may well be a constant: that of a constant, or of what does not depend on the result.
    Such a Function is asked again, in a backward that ends there, with twice the cotangent, which requires grad. A
    gradient that then changes, and has no graph, is a function that autograd does not see.
    """
    watches = [_Watch(n) for n in nodes]
    grads = _with_hooks(watches, outputs, inputs, ones)
    doubtful = [w for w in watches if w.constant and w.pattern[1:] not in _SOUND.get(w.pattern[0], ())]
    if doubtful:
        again = [_Watch(w.node) for w in doubtful]
        below = [GradientEdge(n, k) for w in doubtful for n, k in w.node.next_functions if n is not None]
        _with_hooks(again, outputs, below, [(2 * t.detach()).requires_grad_() for t in ones])
        for before, after in zip(doubtful, again, strict=True):
            changed = [
                k for k, g in after.constant.items() if k in before.constant and _differ(g, before.constant[k])
            ]
            if changed:
                why = _OPAQUE.format(before.pattern[0].__name__)
                raise RuntimeError(
                    "discriminator: a gradient penalty needs its second derivative, which it does not have:"
                    f" {why}{_place([before.node], name_of)}{_WAYS_OUT}"
                )
            if after.differentiable and not after.constant:  # zeros prove nothing
                _SOUND.setdefault(before.pattern[0], set()).add(before.pattern[1:])
    return grads


def _differ(a: Tensor, b: Tensor) -> bool:
    return a.shape != b.shape or not torch.equal(a.nan_to_num(), b.nan_to_num())


def _with_hooks(
    watches: Sequence[_Watch], outputs: Sequence[Tensor], inputs: Sequence[Any], ones: Sequence[Tensor]
) -> tuple[Any, ...]:
    handles = [w.node.register_hook(w) for w in watches]
    try:
        return torch.autograd.grad(outputs, inputs, ones, create_graph=True, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()


def random_like(t: Tensor, *seeds: int) -> Tensor:
    """Return sums of random numbers in a tensor's shape, to be sent back; no generator of torch moves."""
    found = torch.zeros_like(t)
    for seed in seeds:
        own = torch.Generator(t.device).manual_seed(seed)
        found += torch.rand(t.shape, dtype=t.dtype, device=t.device, generator=own) - 0.5
    return found


@contextmanager
def refusing_reentrant(name: str) -> Iterator[None]:
    """Say what to do where PyTorch finds a reentrant checkpoint while it differentiates by some tensors only."""
    try:
        yield
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        raise RuntimeError(
            f"{name}: reentrant checkpointing cannot be differentiated by an input; use"
            " torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
        ) from error


def gradients_of(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    create_graph: bool,
    name_of: Callable[[Tensor], str | None] | None = None,
    cotangents: Sequence[Tensor] | None = None,
) -> tuple[Tensor, ...]:
    """Return the gradient of the outputs, each summed or times its cotangent, by each input.

    Raises:
        RuntimeError: a reentrant checkpoint; a Function whose gradient is a constant to autograd, where `name_of`,
            which tells a parameter's name, is given.
        ValueError: an input on which no output depends.
    """
    ones = [torch.ones_like(o) for o in outputs] if cotangents is None else list(cotangents)
    functions = third_party_functions(outputs) if name_of else []
    with refusing_reentrant("discriminator"):
        if name_of and functions:
            grads = _watched(functions, outputs, inputs, ones, name_of)
        else:
            grads = torch.autograd.grad(outputs, inputs, ones, create_graph=create_graph, allow_unused=True)
    for k, g in enumerate(grads):
        if g is None:
            which = "its input" if len(inputs) == 1 else f"tensor {k} of its input"
            raise ValueError(f"discriminator: its output does not depend on {which}")
    return grads
