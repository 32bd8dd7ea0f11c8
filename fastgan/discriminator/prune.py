"""Skip second derivatives that are exactly zero, inside a penalty.

The derivative of relu(x) by x is a mask, and the mask's derivative is zero. PyTorch's double backward all the
same makes a tensor of zeros for it and sends that back through the whole forward graph. Inside a penalty these
operations are replaced by ones whose gradient does not depend on x. Their kernels are the same, forward and
backward, and the gradients are bit-identical, without that walk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.graph import get_gradient_edge

from .. import _torch_internals as internals
from .attention import ATTENTION, Attention

_aten = torch.ops.aten


class Rule(NamedTuple):
    """An operation that is to be replaced.

    Attributes:
        run: the operation itself, of x.
        vjp: the gradient by x, of that by the result and of what is kept.
        keeps_result: what is kept is the result, else x. As PyTorch's own node keeps it, so that checkpointing,
            which runs the operation again without this module, finds what it saved.
        inplace: whether `run` changes x.
    """

    run: Callable[[Tensor], Tensor]
    vjp: Callable[[Tensor, Tensor], Tensor]
    keeps_result: bool = False
    inplace: bool = False


class PiecewiseLinear(Function):
    """A rule's operation, whose gradient depends on that by its result alone."""

    @staticmethod
    def forward(ctx: Any, rule: Rule, used: list[bool], x: Tensor) -> Tensor:
        """Run the operation; `used` is told whether a gradient with a graph went through it."""
        ctx.set_materialize_grads(False)
        ctx.vjp, ctx.used = rule.vjp, used
        y = rule.run(x)
        if rule.inplace:
            ctx.mark_dirty(x)
        ctx.save_for_backward(y if rule.keeps_result else x)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Any:
        """Return the gradient, which depends on `g` alone."""
        if g is None:
            return None, None, None
        if torch.is_grad_enabled():  # else it is a constant, of which there is no second derivative
            ctx.used[0] = True
        (kept,) = ctx.saved_tensors
        return None, None, ctx.vjp(g, kept.detach())


class Zeros(Function):
    """A tensor, and zeros for parameters on which it depends through masks alone, as PyTorch gives them."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, *parameters: Tensor) -> Tensor:
        """Return the tensor."""
        ctx.like = [p.detach() for p in parameters]  # not saved: they may be changed in place before the backward
        return t.clone()  # a view could not be changed in place

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        """Return zeros beside the tensor's own gradient."""
        return upstream, *[torch.zeros_like(p) for p in ctx.like]


def with_zeros(t: Tensor, parameters: list[Tensor]) -> Tensor:
    """Return a penalty or a gradient in a form whose backward also gives zeros to these parameters."""
    return Zeros.apply(t, *parameters) if parameters else t


# ---------------------------------------------------------------------------------- which operations

# Each function takes the arguments of the operation that it stands for, and returns a rule, or None where the
# operation is left as it is.


def _relu(x: Tensor, inplace: bool = False) -> Rule:
    return Rule(
        torch.relu_ if inplace else torch.relu, lambda g, y: _aten.threshold_backward(g, y, 0), True, inplace
    )


def _relu_(x: Tensor) -> Rule:
    return _relu(x, True)


def _leaky_relu(x: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Rule | None:
    if inplace and negative_slope < 0:
        return None  # the sign of the result does not tell that of x
    run = internals.leaky_relu_ if inplace else internals.leaky_relu
    return Rule(
        lambda x: run(x, negative_slope),
        lambda g, kept: _aten.leaky_relu_backward(g, kept, negative_slope, inplace),
        inplace,
        inplace,
    )


def _leaky_relu_(x: Tensor, negative_slope: float = 0.01) -> Rule | None:
    return _leaky_relu(x, negative_slope, True)


def _hardtanh(x: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Rule | None:
    if inplace or min_val > max_val:
        return None  # in place, what was cut off and what lay at the edge look alike afterwards
    return Rule(
        lambda x: internals.hardtanh(x, min_val, max_val),
        lambda g, x: _aten.hardtanh_backward(g, x, min_val, max_val),
    )


def _relu6(x: Tensor, inplace: bool = False) -> Rule | None:
    return _hardtanh(x, 0.0, 6.0, inplace)


def _threshold(x: Tensor, threshold: float, value: float, inplace: bool = False) -> Rule | None:
    if inplace:
        return None
    return Rule(
        lambda x: torch.threshold(x, threshold, value), lambda g, x: _aten.threshold_backward(g, x, threshold)
    )


def _abs(x: Tensor) -> Rule:
    return Rule(torch.abs, lambda g, x: g * x.sgn())


def _hardshrink(x: Tensor, lambd: float = 0.5) -> Rule:
    return Rule(lambda x: torch.hardshrink(x, lambd), lambda g, x: _aten.hardshrink_backward(g, x, lambd))


def _softshrink(x: Tensor, lambd: float = 0.5) -> Rule:
    return Rule(lambda x: internals.softshrink(x, lambd), lambda g, x: _aten.softshrink_backward(g, x, lambd))


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _avg_pool2d(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Rule:
    size, pad = _pair(kernel_size), _pair(padding)
    step = size if stride is None or stride == [] else _pair(stride)
    rest = (size, step, pad, ceil_mode, count_include_pad, divisor_override)
    return Rule(lambda x: internals.avg_pool2d(x, *rest), lambda g, x: _aten.avg_pool2d_backward(g, x, *rest))


RULES: dict[Any, Callable[..., Rule | None]] = {
    F.relu: _relu,
    torch.relu: _relu,
    Tensor.relu: _relu,
    torch.relu_: _relu_,
    Tensor.relu_: _relu_,
    F.leaky_relu: _leaky_relu,
    F.leaky_relu_: _leaky_relu_,
    F.hardtanh: _hardtanh,
    F.relu6: _relu6,
    F.threshold: _threshold,
    torch.threshold: _threshold,
    torch.abs: _abs,
    Tensor.abs: _abs,
    torch.hardshrink: _hardshrink,
    Tensor.hardshrink: _hardshrink,
    F.softshrink: _softshrink,
    F.avg_pool2d: _avg_pool2d,
}


class Prune(Attention):
    """Replaces piecewise linear operations, and attention, while it is active."""

    def __init__(self, around: Callable[[Callable[[], Any]], Any]) -> None:
        super().__init__(around)
        self.replaced: list[tuple[list[bool], Any, Any]] = []
        self.paused = False

    def add(self, used: list[bool], x: Tensor, own: Any = None) -> None:
        """Note an operation on x, to which PyTorch would have sent zeros where a gradient went through it.

        Where its node, if that is given, is met by a walk down from the gradients, it would have done so as well.
        """
        self.replaced.append((used, get_gradient_edge(x).node, own))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace an operation that has a rule."""
        kwargs = kwargs or {}
        if self.paused:
            return super().__torch_function__(func, types, args, kwargs)
        if func is Tensor.register_hook:  # where it would be called with zeros there may be nothing
            hook = args[1] if len(args) > 1 else kwargs["hook"]
            return func(args[0], lambda g: None if g is None else hook(g))
        rule = rule_for(func, args, kwargs)
        if rule is None and func in ATTENTION:
            return super().__torch_function__(func, types, args, kwargs)
        if rule is None:
            return func(*args, **kwargs)
        used = [False]  # and no reference to the graph, which would be one in a circle
        self.add(used, args[0])
        return PiecewiseLinear.apply(rule, used, args[0])


def rule_for(func: Any, args: Any, kwargs: Any, kinds: Any = (Tensor, torch.nn.Parameter)) -> Rule | None:
    """Return the rule for a call of a function on a tensor of one of these types, or None where there is none."""
    make = RULES.get(func)
    if make is None or not args or not _suits(args[0], kinds):
        return None
    if "out" in kwargs or not all(map(_is_plain, (*args[1:], *kwargs.values()))):
        return None
    rule = make(*args, **kwargs)
    return None if rule and rule.inplace and (args[0].is_leaf or internals.is_view(args[0])) else rule


def _suits(x: Any, kinds: Any) -> bool:
    """Return whether an operation on x may be replaced. The absolute value of complex numbers is linear nowhere."""
    if type(x) not in kinds or not x.dtype.is_floating_point:
        return False
    other = internals.is_transformed() or internals.forward_level() >= 0
    return x.requires_grad and torch.is_grad_enabled() and not other


def _is_plain(value: Any) -> bool:
    """Return whether an argument is as the operators' schemas have it; NumPy's numbers and tensors are not."""
    if isinstance(value, (tuple, list)):
        return all(type(v) is int for v in value)
    return type(value) in (int, float, bool, type(None))
