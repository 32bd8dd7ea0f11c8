"""Whether a discriminator's gradient by its input can be differentiated again.

A penalty trains through that gradient, so that autograd must know the derivative of a derivative. Where
it does not, PyTorch often says so only inside `.backward()`. In some cases it says nothing: the parameters then get
no gradient, or one with a part missing. `check` finds these at the call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from .._torch_internals import is_once_differentiable, is_python_node, python_function

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


# Types of PyTorch's own nodes that are sound; a walk meets the same ones at every call. A Function's type is not
# kept: it would keep what its code refers to.
_HARMLESS: set[type] = set()


def _is_suspect(node: Any) -> bool:
    """Return whether a node, by itself, cannot be differentiated."""
    if is_python_node(node):
        compiled = node.name().startswith("CompiledFunctionBackward")
        return compiled or is_once_differentiable(python_function(node))
    if node.name() in ("torch::autograd::NotImplemented", "torch::autograd::Error"):
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


def _refusal(suspects: Sequence[Any], names: Sequence[str]) -> str:
    """Return why a graph with these suspects, and nodes of these names, cannot be differentiated."""
    for node in suspects:
        if is_python_node(node):
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
                " in differentiable operations"
            )
    known = [way for start, way in _ONCE_ONLY.items() if any(n.startswith(start) for n in names)]
    return "; ".join(known) or "it uses an operator of which PyTorch knows no second derivative"


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
    pruned: Sequence[Any] = (),
    lost: Callable[[Any], bool] | None = None,
) -> ReachedParameters:
    """Return the parameters below the gradients `grads` of `outputs` by `inputs`.

    The graph that made `inputs` is not looked at: it is differentiated once, as by any loss. Below the nodes
    `pruned` PyTorch would have sent zeros. `lost` tells which Functions have lost their second derivative.

    Raises:
        RuntimeError: the gradients cannot be differentiated, or lead to no parameter.
    """
    # What is seen is kept alive, or the same node would come back as another object.
    ends = {t.grad_fn for t in inputs if t.grad_fn is not None}
    seen: set[Any] = set(ends)
    reached, suspects = walk([g.grad_fn for g in grads], seen)
    unreached, more = walk([o.grad_fn for o in outputs], seen)
    if lost is not None:
        suspects, more = ([n for n in found if not is_stand_in(n)] for found in (suspects, more))
        more += [n for n in seen if is_python_node(n) and lost(n)]
    suspects = [n for n in [*suspects, *more] if not is_python_node(n) or _leads_to(n, inputs)]
    if suspects:
        why = _refusal(suspects, [n.name() for n in seen])
        raise RuntimeError(
            "discriminator: a gradient penalty needs its second derivative, which it does not have:"
            f" {why}{_WAYS_OUT}"
        )
    zero_gradient = _below_pruned(pruned, inputs, ends)
    created, by_zeros = {id(t) for t in inputs}, {id(t) for t in zero_gradient}
    reached, unreached = ([t for t in leaves if id(t) not in created] for leaves in (reached, unreached))
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
