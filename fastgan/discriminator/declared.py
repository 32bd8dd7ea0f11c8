"""Functions that their user declares to be piecewise linear: inside a penalty they are linear to autograd.

PyTorch sends zeros to an autograd.Function even where its second derivative is None, and on through all that is
below it. And a fused kernel often has no second derivative at all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.graph import get_gradient_edge

from .. import _torch_internals as internals
from .._callables import plain, settings
from .._checks import is_readable
from .._torch_internals import tree_leaves
from .double_backward import random_like, walk
from .linear import Linear, given, run, spread
from .prune import Prune

T = TypeVar("T", bound=Callable[..., Any])
_MARK = "_fastgan_declared"
_MANY = 256

# ---------------------------------------------------------------------------------- calls of what is declared


class Call:
    """A call of what is declared, which has run on tensors with a graph of their own.

    Attributes:
        name: of what is declared.
        function: itself.
        tensors: those on which the results depend linearly: arguments, and parameters that the function uses.
        run: its run.
    """

    def __init__(self, name: str, function: Callable[..., Any], leaves: list[Any], spec: Any, mode: Prune) -> None:
        self.name, self.function, self.leaves, self.spec, self.mode = name, function, leaves, spec, mode
        self.places = [k for k, t in enumerate(leaves) if isinstance(t, Tensor) and t.requires_grad]
        self.tensors = [leaves[k] for k in self.places]
        versions = [internals.version(t) for t in self.tensors]
        self.run = run(self.compute, self.tensors)
        if versions != [internals.version(t) for t in self.tensors]:
            raise RuntimeError(f"{name}: expected a function that changes no argument, got one that works in place")
        self._find_parameters()

    def compute(self, *ends: Tensor) -> list[Tensor | None]:
        """Compute the results, and keep in what they came. Nothing is pruned inside of it."""
        leaves = list(self.leaves)
        for k, t in zip(self.places, ends, strict=True):
            leaves[k] = t
        args, kwargs = internals.tree_unflatten(leaves, self.spec)
        self.mode.paused, cached = True, torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)  # a cast of a weight that is older has a graph from outside
        try:
            returned, self.form = internals.tree_flatten(self.function(*args, **kwargs))
        finally:
            torch.set_autocast_cache_enabled(cached)
            self.mode.paused = False
        self.returned = [None if isinstance(r, Tensor) else r for r in returned]
        for r in self.returned:
            if not isinstance(r, (int, float, str, type(None))):  # which may hold a tensor with a graph
                raise TypeError(f"{self.name}: expected tensors as its results, got {type(r).__name__}")
        return [r if isinstance(r, Tensor) else None for r in returned]

    def _find_parameters(self) -> None:
        """Add the leaves that the function used without having them as arguments."""
        end = self.run.ins[0].node
        parameters, _ = walk(self.run.starts(), seen := {end})
        if any([internals.is_older(n, end) for n in seen]):
            raise RuntimeError(
                f"{self.name}: expected all tensors that have a graph as its arguments, got another one (in a"
                " closure, or a weight that a hook computes)"
            )
        self.tensors += parameters
        self.run.ins += [get_gradient_edge(p) for p in parameters]
        self.has_functions = any([internals.is_python_node(n) for n in seen if n is not end])

    def is_alias(self) -> bool:
        """Return whether a result lies in the memory of a tensor, of which it is then a view, or the same."""
        own = {t.untyped_storage().data_ptr() for t in self.tensors}
        return any([r.untyped_storage().data_ptr() in own for r in given(self.run.results)])

    def key(self) -> Any:
        """Return what tells this call from others that may compute something else."""
        words = [word for k, a in enumerate(self.leaves) if k not in self.places for word in _words(a)]
        dtypes = tuple([t.dtype for t in self.tensors])
        return (tuple(self.places), dtypes, *words, *settings(self.function))

    def is_telling(self) -> bool:
        """Return whether a bend would show: at zero many functions have none, as tanh."""
        return all([bool(t.any()) for t in self.tensors])

    def linear(self) -> Any:
        """Return the results as they were returned, linear in the tensors."""
        results = Linear.apply(self.run, *self.tensors)
        node = next((r.grad_fn for r in results if r is not None and r.requires_grad), None)
        for t in self.tensors:  # PyTorch calls a Function with zeros as soon as a walk meets it
            self.mode.add(self.run.used, t, node if self.has_functions else None)
        both = [other if r is None else r for r, other in zip(results, self.returned, strict=True)]
        return internals.tree_unflatten(both, self.form)


def _words(value: Any) -> list[Any]:
    """Return what an argument says about which function it is that is computed: its value, or else its type."""
    if isinstance(value, nn.Module):
        return [word for m in value.modules() for word in _words_of_module(m)]
    if isinstance(value, Tensor) and value.numel() == 1 and is_readable(value):
        return [value.item()]
    return plain([value]) or [getattr(value, "__qualname__", type(value)), *settings(value)]


def _words_of_module(m: nn.Module) -> list[Any]:
    """Return the same for one module, without those inside of it."""
    held = tree_leaves([v for v in vars(m).values() if not isinstance(v, dict)])
    own = [v for v in held if not isinstance(v, nn.Module)]  # such as its parent, which would go round
    trained = [p is not None and p.requires_grad for p in m._parameters.values()]
    return [type(m), *trained, *[word for v in (*own, *m._buffers.values()) for word in _words(v)]]


def call_declared(name: str, known: dict[Any, bool], function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call what is declared, by a run of its own where a penalty prunes.

    `known` holds which calls were seen to fit, and whether their Jacobians are used as symmetric ones.
    """
    mode = _pruning()
    if mode is None:
        return function(*args, **kwargs)
    leaves, spec = internals.tree_flatten((args, kwargs))
    if not _suit(leaves):
        return function(*args, **kwargs)
    call = Call(name, function, leaves, spec, mode)
    if call.is_alias():
        return function(*args, **kwargs)
    key = call.key()
    symmetric = known.get(key)
    if symmetric is None:
        symmetric = examine(call)
        if len(known) == _MANY:  # as with a number that changes at each step
            known.clear()
        if call.is_telling():
            known[key] = symmetric
    call.run.symmetric = symmetric
    return call.linear()


def _pruning() -> Prune | None:
    """Return the mode of the penalty that prunes here, unless what is declared is to run as it is.

    Checkpointing would recompute its whole part for each gradient that is asked for inside of a backward.
    """
    if not internals.function_mode_depth() or not torch.is_grad_enabled():
        return None
    mode = next((m for m in reversed(internals.function_modes()) if isinstance(m, Prune)), None)
    other = internals.is_transformed() or internals.forward_level() >= 0 or internals.in_checkpoint()
    return None if mode is None or mode.paused or other else mode


def _suit(leaves: list[Any]) -> bool:
    """Return whether these arguments have a gradient, and all that have one are plain tensors of real numbers."""
    own = [t for t in leaves if isinstance(t, Tensor) and t.requires_grad]
    plain = all([type(t) in (Tensor, nn.Parameter) and t.is_floating_point() for t in own])
    return bool(own) and plain


# ---------------------------------------------------------------------------------- whether it is what was declared


def examine(call: Call) -> bool:
    """Return whether a call's Jacobian is to be used as a symmetric one, since autograd does not see it.

    Random numbers are sent back, and the gradient is differentiated as PyTorch does it.

    Raises:
        RuntimeError: it is not piecewise linear, or its gradient's derivative cannot be known.
    """
    results = zip(call.run.results, call.run.outs, strict=True)
    up = [None if e is None or r is None else random_like(r, 1) for r, e in results]
    for u in given(up):
        u.requires_grad_()
    grads = call.run.gradients(up, create_graph=True)
    down = [None if g is None else random_like(g, 1, 2) for g in grads]
    by_up, by_tensors = _second_derivatives(call, up, grads, down)
    if any([bool(t.nan_to_num(0.0, 0.0, 0.0).any()) for t in given(by_tensors)]):
        raise RuntimeError(_BENT.format(call.name))
    if _agree(zip(up, by_up, strict=True), zip(down, grads, strict=True)):
        return False
    _examine_symmetry(call, up, grads, down)
    return True


_BENT = (
    "{}: expected a function that is piecewise linear in all of its arguments and parameters together, got one"
    " whose gradient depends on them; do not declare it"
)
_UNSEEN = (
    "{}: expected a function whose gradient can be differentiated by the upstream, or an elementwise one of one"
    " tensor, got neither; write its backward in differentiable operations, or add its bias outside of it"
)


def _second_derivatives(call: Call, up: Any, grads: Any, down: Any) -> tuple[Any, Any]:
    """Return the derivatives of the gradients by the upstream and by the tensors, as far as autograd sees them."""
    by: Any = [*given(up), *call.run.ins]
    pairs = [(g, d) for g, d in zip(grads, down, strict=True) if g is not None and g.requires_grad]
    found: Any = [None] * len(by)
    if pairs:
        outs, sent = zip(*pairs, strict=True)
        with suppress(RuntimeError):  # as of one that is marked once_differentiable
            found = torch.autograd.grad(outs, by, sent, allow_unused=True, retain_graph=True)
    return spread(up, found), found[len(given(up)) :]


def _examine_symmetry(call: Call, up: Any, grads: Any, down: Any) -> None:
    """Check that a Jacobian is symmetric, as of an elementwise function, and the same at a point nearby.

    Raises:
        RuntimeError: it is not.
    """
    if len(call.tensors) == len(up) == 1 and grads[0] is not None and grads[0].shape == up[0].shape:
        turned = call.run.gradients(down, retain_graph=True)
        if _agree([(up[0], turned[0])], [(down[0], grads[0])]):
            x = call.tensors[0].detach()
            nearby = run(call.compute, [x * (1 + 1 / 16)])
            if _is_elsewhere(nearby.gradients(up)[0], grads[0], x != 0):
                raise RuntimeError(_BENT.format(call.name))
            return
    raise RuntimeError(_UNSEEN.format(call.name))


def _is_elsewhere(nearby: Tensor | None, gradient: Tensor, moved: Tensor) -> bool:
    """Return whether more than a tenth of a gradient is another one at what moved; at some points are the kinks."""
    if nearby is None:
        return True
    far = (nearby - gradient).abs() > 8 * torch.finfo(gradient.dtype).eps * gradient.abs()
    return bool((far & moved).sum() > 0.1 * moved.sum())


_PART = 0.01  # above the roundings of bfloat16, which are as random


def _product(x: Tensor, y: Tensor) -> Tensor:
    """Return the products of the elements, in float32 or wider."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return x.detach().to(wide) * y.detach().to(wide)


def _agree(some: Iterable[Any], others: Iterable[Any]) -> bool:
    """Return whether two sums of products are the same, within a small part of what chance would give them."""
    a, b = ([_product(x, y) for x, y in pairs if x is not None and y is not None] for pairs in (some, others))
    ours, theirs = (sum([float(t.sum()) for t in terms]) for terms in (a, b))
    chance = sum([float(t.square().sum()) for t in (*a, *b)]) ** 0.5
    return not abs(ours - theirs) > _PART * chance


# ---------------------------------------------------------------------------------- the declaration


def declare_piecewise_linear(target: T) -> T:
    """Declare that a function is piecewise linear in all of its tensors together: f(x + b), where f is as relu is.

        fastgan.declare_piecewise_linear(fused_act.FusedLeakyReLUFunction)  # of stylegan2-pytorch

    Inside a penalty its derivative is then taken for independent of its arguments, so that PyTorch's zeros are not
    sent through the discriminator. The gradients are the same. A Function that has no second derivative
    can be used in a penalty, if it works on each element of one tensor by itself. Elsewhere nothing changes.

    At its first use with other options the declaration is examined, as far as autograd knows the second derivative.

    Args:
        target: a class of torch.autograd.Function or nn.Module, which is changed itself, or a function. It may use
            parameters that are not among its arguments, and is to leave no tensors but its results.

    Returns:
        It, or for a function a wrapper of it. Usable as a decorator; to declare twice does no harm.

    Raises:
        TypeError: it is none of these.
    """
    if target is Function or target is nn.Module:
        raise TypeError(f"target: expected a class derived from {target.__name__}, got {target.__name__} itself")
    if isinstance(target, type) and issubclass(target, Function):
        return _with_entry(target, "apply")
    if isinstance(target, type) and issubclass(target, nn.Module):
        return _with_entry(target, "forward")
    if isinstance(target, (type, nn.Module)) or not callable(target):
        what = target.__name__ if isinstance(target, type) else type(target).__name__
        raise TypeError(f"target: expected a class of Function or Module, or a function, got {what}")
    return target if hasattr(target, _MARK) else _wrapped(target, target)


def _wrapped(function: Any, named: Any) -> Any:
    """Return a function that calls another one as what is declared."""
    name = f"declare_piecewise_linear({getattr(named, '__qualname__', type(named).__name__)})"
    known: dict[Any, bool] = {}

    @functools.wraps(function)
    def entry(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        return call_declared(name, known, function, args, kwargs)

    setattr(entry, _MARK, True)
    return entry


def _with_entry(cls: Any, entry: str) -> Any:
    """Return a class of which the calls go through a wrapper."""
    own = vars(cls).get(entry)
    if not hasattr(getattr(own, "__func__", own), _MARK):
        setattr(cls, entry, _own_apply(cls) if entry == "apply" else _wrapped(getattr(cls, entry), cls))
    return cls


def _own_apply(cls: Any) -> Any:
    """Return a class method in the place of a Function's `apply`; classes derived from it keep theirs."""
    declared = _wrapped(cls.apply, cls)

    def apply(this: Any, *args: Any, **kwargs: Any) -> Any:
        return (declared if this is cls else super(cls, this).apply)(*args, **kwargs)

    setattr(apply, _MARK, True)
    return classmethod(apply)
