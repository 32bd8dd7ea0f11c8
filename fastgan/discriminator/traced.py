"""A discriminator's forward and gradient inside a graph of torch.compile.

Dynamo traces the discriminator, so that its guards cover all that the discriminator reads. It does not look into
the functions marked `in_graph` below: they become nodes, which AOTAutograd runs as Python, with autograd, while it
records operations. There the gradient is taken, pruned, and looked at, by the code of the eager engine.

Imported only while a graph is traced, as it brings in the compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.autograd.graph import get_gradient_edge
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from .._torch_internals import is_python_node, python_function, tree_leaves
from . import forward, prune
from .double_backward import check, gradients_of, is_stand_in, walk
from .forward import modules_of, tells_no_zeros, tensors_of
from .outputs import chosen, outputs_of

in_graph = torch.compiler.allow_in_graph
differentiated = forward.differentiated
_KINDS = (Tensor, nn.Parameter, FakeTensor, FunctionalTensor)
_NAMES = {function: k for k, function in enumerate(prune.RULES)}  # a function is no argument of a graph's node
_FUNCTIONS = list(prune.RULES)


def differentiably(call: Callable[[], Any]) -> Any:
    """Call a function under settings in which a discriminator can be differentiated twice."""
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        return call()


def check_callable(caller: str, discriminator: Any) -> None:
    """Check that there is a discriminator."""
    if not callable(discriminator):
        raise TypeError(f"discriminator: expected a module or function, got {type(discriminator).__name__}")


def prunable(discriminator: Any, twice: bool = True) -> bool:
    """Return whether zero second derivatives may be skipped in this discriminator."""
    try:
        return tells_no_zeros(list(modules_of(discriminator)))
    except AttributeError:  # what a function holds that is made inside of the graph cannot be seen
        return False


class Forward(forward.Forward):
    """One call of a discriminator in a graph, and its gradient by the input."""

    def _call(self, args: Any, kwargs: Any, prune: bool) -> Any:
        self._pruning = _Prune() if prune else None
        with self._pruning or nullcontext():
            return self.discriminator(self.x, *args, **kwargs)

    def _leaf(self, t: Tensor) -> Tensor:
        return new_leaf(t)

    def _arguments(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return args, kwargs

    def _differentiate(self, output: Any, outputs: list[Tensor]) -> tuple[Tensor, ...]:
        return gradients(outputs, list(tensors_of(self.x)), self.create_graph)

    def with_zeros(self, t: Tensor, output: Any = None) -> Tensor:
        """Return what was made of the gradients, so that its backward sends zeros where PyTorch does."""
        if self._pruning is None:
            return t
        inputs = [x for x in tensors_of(self.x) if not any([x is c for c in self.created])]
        parameters = [p for m in modules_of(self.discriminator) for p in m.parameters(False) if p.requires_grad]
        others = [a for a in tree_leaves((self.args, self.kwargs)) if isinstance(a, Tensor) and a.requires_grad]
        outputs = [o for o in outputs_of(chosen(self.result, output)) if o.requires_grad]
        return with_zeros(t, outputs, [*parameters, *inputs, *others], self.created)


def can_replace_parameters(discriminator: Any) -> bool:
    """Return whether a discriminator can be called with other parameters than its own."""
    return isinstance(discriminator, nn.Module) and not forward.is_parallel(discriminator)


def called_frozen(discriminator: nn.Module, real: Any, fake: Any) -> tuple[Any, Any]:
    """Return what a discriminator returns on real and on fake, with constants in place of its parameters."""
    constants = {name: p.detach() for name, p in discriminator.named_parameters()}

    def call(given: Any) -> Any:
        x, args, kwargs = given
        return functional_call(discriminator, constants, (x, *args), kwargs)

    on_real = None
    if real is not None:
        with torch.no_grad():
            on_real = call(real)
    return on_real, call(fake)


class _Prune(TorchFunctionMode):
    """Replaces piecewise linear operations while it is active."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace an operation that may have a rule."""
        kwargs = kwargs or {}
        if func in _NAMES:
            return piecewise_linear(_NAMES[func], *args, **kwargs)
        if func is Tensor.unflatten:  # as a function it calls super(), which Dynamo cannot trace
            return args[0].unflatten(*args[1:], **kwargs)
        return func(*args, **kwargs)


# ---------------------------------------------------------------------------------- nodes of the graph


def _is_dynamos(t: Tensor) -> bool:
    """Return whether it is Dynamo that runs a node, on tensors whose graph is the discriminator's own.

    AOTAutograd runs it later, on a graph whose ends are stand-ins.
    """
    return type(t) is not FunctionalTensor


@in_graph
def new_leaf(t: Tensor) -> Tensor:
    """Return a leaf on the memory of `t`."""
    return t.detach().requires_grad_()


@in_graph
def piecewise_linear(number: int, *args: Any, **kwargs: Any) -> Tensor:
    """Run an operation of `prune.RULES`, by its rule where it may be replaced."""
    function = _FUNCTIONS[number]
    rule = prune.rule_for(function, args, kwargs, _KINDS)
    return function(*args, **kwargs) if rule is None else prune.PiecewiseLinear.apply(rule, [False], args[0])


@in_graph
def gradients(outputs: list[Tensor], inputs: list[Tensor], create_graph: bool) -> tuple[Tensor, ...]:
    """Return the gradient of the sum of all outputs by each input, which can be differentiated."""
    broken = _is_dynamos(outputs[0]) and any([is_stand_in(o.grad_fn) for o in outputs])
    if broken or not all([t.requires_grad for t in inputs]):  # as results of a part of a graph
        raise RuntimeError(
            "discriminator: torch.compile broke the graph inside of it; fullgraph=True says why. Call the penalty"
            " outside of fastgan.compiling(), where it runs between the parts of the graph"
        )
    grads = gradients_of(outputs, inputs, create_graph)
    if create_graph and _is_dynamos(outputs[0]):
        check(outputs, grads, inputs, lost=_loses_its_second_derivative)
    return grads


def _loses_its_second_derivative(node: Any) -> bool:
    """Return whether a node is a Function that Dynamo has traced: to autograd its gradient is a constant."""
    own = python_function(node) in (prune.PiecewiseLinear, prune.Zeros)
    return not own and not node.name().startswith("GeneratedBackwardFor_")  # of a registered operator


@in_graph
def with_zeros(t: Tensor, outputs: list[Tensor], candidates: list[Tensor], created: list[Tensor]) -> Tensor:
    """Return `t` in a form whose backward gives zeros to those candidates to which PyTorch would have sent them."""
    ends = {get_gradient_edge(c).node: c for c in candidates}
    seen: set[Any] = set(ends)
    walk([o.grad_fn for o in outputs], seen)
    pruned = [n for n in seen if is_python_node(n) and python_function(n) is prune.PiecewiseLinear and n.used[0]]
    found = {below for n in pruned for below, _ in n.next_functions if below is not None}
    between = {*ends, *[get_gradient_edge(c).node for c in created]}
    leaves, _ = walk([n for n in found if n not in ends], between)
    if leaves and _is_dynamos(t):
        raise RuntimeError(
            "discriminator: it uses parameters that no module holds which can be found; pass the module itself, or"
            " prune=False"
        )
    found.update([below for n in between - set(ends) for below, _ in n.next_functions])
    return prune.with_zeros(t, [c for node, c in ends.items() if node in found])


@in_graph
def own_gradients(value: Tensor, needed: list[Tensor], created: list[Tensor]) -> tuple[Tensor | None, ...]:
    """Return the gradients of a step's value, as far as there are any.

    Raises:
        RuntimeError: the value depends on what is not needed, and would get no gradient.
    """
    if _is_dynamos(value):
        known = {id(t) for t in (*needed, *created)}
        leaves, suspects = walk([value.grad_fn], set())
        if any(id(t) not in known for t in leaves) or any(map(is_stand_in, suspects)):
            raise RuntimeError("it uses a parameter that is not its own")
    # A forward may leave tensors with a graph in attributes, which become results of the graph.
    return torch.autograd.grad(value, needed, allow_unused=True, retain_graph=True)


def detach_normed_weights(discriminator: nn.Module) -> None:
    """Leave no graph in the attributes in which hooks for weight and spectral norm leave the weight of a call."""
    for module in discriminator.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, (WeightNorm, SpectralNorm)):
                setattr(module, hook.name, getattr(module, hook.name).detach())


def whole_step(
    calls: Any, body: Callable[..., Any], discriminator: nn.Module, inputs: Any, leaves: list[Tensor], options: Any
) -> tuple[Tensor, Any, tuple[Tensor | None, ...]]:
    """Return a step's value, its further results, and all its gradients: what engine "compiled" compiles.

    `calls` is the module that calls discriminators: this one, or to compare with the eager one.
    """
    value, extras, created = body(calls, discriminator, inputs, *options)
    detach_normed_weights(discriminator)
    needed = [*[p for p in discriminator.parameters() if p.requires_grad], *leaves]
    return value.detach(), extras, own_gradients(value, needed, created)
