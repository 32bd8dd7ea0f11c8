"""A penalty's second backward through parameters that fully_shard (FSDP2) has sharded.

FSDP gathers a module's parameters when a gradient comes to its outputs, and gives them back when one comes to its
inputs. The second backward of a penalty takes another way: from the gradient by the input towards the outputs, and
back. There parameters would be missing, and gradients would arrive after FSDP has reduced a module's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from .._torch_internals import (
    after_backward,
    finish_sharded_backward,
    gather_for_backward,
    gathered_parameters,
    groups_above,
    parameter_groups,
    sharding,
)
from .double_backward import walk


class _Gathered:
    """Parameters that stay gathered while one backward pass runs; what holds this is its callback.

    Attributes:
        states: FSDP's, of the sharded modules.
        groups: those of their parameters that FSDP would give back in the midst of the pass.
    """

    def __init__(self, states: Sequence[Any], grad: Tensor) -> None:
        self.states = states
        self.groups: list[Any] = []
        for state in states:
            gather_for_backward(state, grad)
        self.groups = [g for s in states for g in parameter_groups(s) if g.reshard_after_backward]
        for group in self.groups:
            group.reshard_after_backward = False

    def __del__(self) -> None:
        self.release()  # a pass that failed calls nothing back

    def release(self) -> None:
        """Let FSDP give the parameters back again."""
        for group in self.groups:
            group.reshard_after_backward = True
        self.groups = []

    def over(self) -> None:
        """Reduce gradients that arrived after FSDP had reduced a module's, and give the parameters back."""
        self.release()
        finish_sharded_backward(self.states)


def _on_gradient(states: Sequence[Any]) -> Callable[[Tensor], None]:
    """Return a hook on a gradient by the input, by which a penalty's own backward begins."""

    def begin(grad: Tensor) -> None:
        after_backward(_Gathered(states, grad).over)  # after FSDP's own callback, which stands before this one

    return begin


def _states_below(modules: Iterable[nn.Module], outputs: Sequence[Tensor]) -> list[Any]:
    """Return FSDP's states of the modules, among these and others, through which the outputs were computed."""
    seen: set[Any] = set()
    leaves, _ = walk([o.grad_fn for o in outputs], seen)
    known = {id(t) for t in leaves}
    groups = groups_above(seen)
    used = []
    for state in sharding([*modules, *[m for g in groups for m in g.modules]]):
        own = parameter_groups(state)
        if any(g in groups for g in own) or any(id(p) in known for g in own for p in gathered_parameters(g)):
            used.append(state)
    return used


def gather_in_backward(modules: Iterable[nn.Module], outputs: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
    """Have the backward through the gradients of a discriminator's outputs find the parameters gathered.

    Args:
        modules: of the discriminator, as far as they are known.
        outputs: of the discriminator.
        grads: their gradients by the input.
    """
    states = _states_below(modules, outputs)
    if states:
        begin = _on_gradient(states)
        for g in grads:
            if g.requires_grad:
                g.register_hook(begin)
