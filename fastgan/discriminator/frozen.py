"""A discriminator whose parameters need no gradient, as in the generator's step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .. import requirements
from .._checks import warn_once
from .._torch_internals import (
    caches_parametrized,
    compiler_is_loaded,
    function_mode_depth,
    in_checkpoint,
    is_python_node,
    pop_function_mode,
    runs_in_checkpoint,
    tree_leaves,
)
from . import wrappers
from .double_backward import walk
from .forward import check_callable, modules_of

__all__ = ["called_frozen", "check_callable", "frozen"]

_lock = threading.RLock()
# The parameters that blocks hold frozen, by id: each with a key for every block and place that hold it.
_held: dict[int, tuple[nn.Parameter, set[tuple[int, int]]]] = {}


class _Slot(NamedTuple):
    """A parameter that a block holds frozen, and where it is registered.

    Attributes:
        module, name: where it is registered; FSDP registers another there while it has gathered the shards.
        parameter: what was registered there when the block began.
    """

    module: nn.Module
    name: str
    parameter: nn.Parameter


@contextmanager
def frozen(*discriminators: Callable[..., Any]) -> Iterator[None]:
    """Hold the parameters of discriminators frozen in a block: no gradient of theirs is computed in it.

        with fastgan.frozen(D):
            loss = fastgan.generator_loss(D(fake))
        loss.backward()  # to the generator alone

    A generator's step needs D's gradient by its input, and throws away those by D's weights, which are a third of
    the step's work and more. The generator's gradients stay the same. What needs no gradient at all, as D(real),
    makes no graph in the block. What counts is that the forward runs in the block; its backward may run after it. A
    backward that runs in the block leaves no gradients in the parameters, even if its forward ran before.

    Afterwards each `requires_grad` is as it was, after an exception too. Blocks may be nested, and those of several
    threads may overlap. Parameters that were frozen already stay so. DistributedDataParallel does not communicate
    for what was computed in the block. FullyShardedDataParallel (FSDP1) needs the backward in the block too. A
    compiled discriminator gets a second graph, for its frozen form. Where the discriminator checkpoints
    activations, run the backward in the block as well: the recomputation there would see parameters that are not
    frozen. Copies that are made in the block stay frozen.

    Args:
        *discriminators: modules, wrapped and parametrized ones too, or functions. Of a function the modules count
            that it refers to. A module of which it uses a part, or is a method, counts as a whole: if the generator
            is in that module too, give the discriminator itself.

    Raises:
        TypeError, ValueError: an argument is not callable, or a function in which no module is found.
        RuntimeError: the block lies within `torch.nn.utils.parametrize.cached()`, whose weights outlive it, or a
            discriminator is wrapped by DistributedDataParallel(static_graph=True).
    """
    for d in discriminators:
        if not callable(d):
            raise TypeError(f"discriminators: expected modules or functions, got {type(d).__name__}")
    found = [list(modules_of(d)) for d in discriminators]
    for d, modules in zip(discriminators, found, strict=True):
        if not modules:
            raise ValueError(
                f"discriminators: expected a function that refers to a module, got {d!r}; give the module"
            )
    with _frozen([m for modules in found for m in modules]):
        yield


def called_frozen(discriminator: Callable[..., Any], real: Any, fake: Any) -> tuple[Any, Any]:
    """Return what a discriminator returns on real, under no_grad, and on fake, while it is frozen.

    Parameters that fake or its arguments depend on are the generator's, and stay as they are.

    Args:
        discriminator: a module or a function.
        real: (input, arguments, keyword arguments), or None: it is not called.
        fake: the same.
    """
    modules = list(modules_of(discriminator))
    but: frozenset[int] = frozenset()
    if any([p.requires_grad for m in modules for p in m.parameters(False)]):
        but = _generators([t.grad_fn for t in tree_leaves(fake) if isinstance(t, Tensor)])
    if not modules:
        warn_once("frozen", _NOTHING)
    with _frozen(modules, but) as fresh:
        on_real = None
        if real is not None:
            with torch.no_grad():
                on_real = _call(discriminator, real)
        if fresh and torch.is_grad_enabled() and not _may_be_compiled(discriminator, modules):
            return on_real, _call_without_checkpoints(discriminator, fake)
        return on_real, _call(discriminator, fake)


def _generators(roots: list[Any]) -> frozenset[int]:
    """Return the ids of the parameters on which tensors with these nodes depend.

    What a Function of Python has kept may hold modules that it calls in its backward: a reentrant checkpoint does.
    """
    seen: set[Any] = set()
    leaves, _ = walk(roots, seen)
    kept = tree_leaves([list(vars(n).values()) for n in seen if is_python_node(n)])
    modules = [m for value in kept if callable(value) for m in modules_of(value)]
    return frozenset(map(id, [*leaves, *[p for m in modules for p in m.parameters(False)]]))


def _may_be_compiled(discriminator: Any, modules: list[nn.Module]) -> bool:
    """Return whether a part may be compiled: with a mode that sees functions it would be recompiled."""
    if not compiler_is_loaded():
        return False
    return not isinstance(discriminator, nn.Module) or any(
        ["_orig_mod" in m._modules or getattr(m, "_compiled_call_impl", None) is not None for m in modules]
    )


def _call_without_checkpoints(discriminator: Callable[..., Any], given: Any) -> Any:
    """Call a discriminator, and raise where a part of it is checkpointed.

    The mode is taken off by hand: PyTorch's context manager fails where Ctrl-C came while it was put aside.
    """
    depth = function_mode_depth()
    try:
        _SeesCheckpoints().__enter__()
        return _call(discriminator, given)
    finally:
        while function_mode_depth() > depth:
            pop_function_mode()


# Before torch 2.13 a graph that was compiled for frozen parameters also runs when they are not frozen any more, and
# gives them no gradients. A graph knows, however, under which modes it was compiled.
_FORGETS = requirements.parsed(torch.__version__) < (2, 13)


class _Apart(TorchFunctionMode):
    """Keeps the graphs of frozen discriminators apart from those of others."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function."""
        return func(*args, **(kwargs or {}))


class _SeesCheckpoints(TorchFunctionMode):
    """Refuses checkpointed parts, which run again in the backward, when parameters are not frozen any more."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function."""
        if in_checkpoint() or (not torch.is_grad_enabled() and runs_in_checkpoint()):
            raise RuntimeError(_CHECKPOINT)
        return func(*args, **(kwargs or {}))


_CHECKPOINT = (
    "discriminator: a part of it is checkpointed, and would run again in the backward, with parameters that are not"
    " frozen any more; run step and backward in one block: with fastgan.frozen(D): generator_step(...)."
    "total.backward()"
)
_NOTHING = (
    "generator_step: the discriminator is a function in which no module is found, so that nothing is frozen; give"
    " the module itself, or call the step in a block of fastgan.frozen(module)"
)


def _call(discriminator: Callable[..., Any], given: Any) -> Any:
    x, args, kwargs = given
    return discriminator(x, *args, **kwargs)


@contextmanager
def _frozen(modules: list[nn.Module], but: frozenset[int] = frozenset()) -> Iterator[bool]:
    """Hold the parameters of modules frozen in a block, but for those of these ids; tell if any was not yet."""
    mine: list[_Slot] = []
    try:
        try:
            fresh = any([p.requires_grad for m in modules for p in m._parameters.values() if p is not None])
            _hold(modules, mine, but)
            with _Apart() if _FORGETS and compiler_is_loaded() else nullcontext():
                yield fresh
        finally:
            _release(mine)
    finally:
        _release(mine)  # Ctrl-C may have cut the first short; what is released already is not in the list


def _hold(modules: list[nn.Module], mine: list[_Slot], but: frozenset[int]) -> None:
    """Freeze the parameters of modules, and list them."""
    wrappers.refuse_freezing(modules)
    if caches_parametrized(modules):
        raise RuntimeError(
            "frozen: inside of torch.nn.utils.parametrize.cached() the discriminator's weights would be kept beyond"
            " the block; leave cached() before it"
        )
    with _lock:
        for module in dict.fromkeys(modules):
            for name, p in module._parameters.items():
                if p is not None and id(p) not in but and (id(p) in _held or p.requires_grad):
                    mine.append(_Slot(module, name, p))
                    _held.setdefault(id(p), (p, set()))[1].add((id(mine), len(mine)))
                    p.requires_grad_(False)


def _release(mine: list[_Slot]) -> None:
    """Take parameters from the list, and let those need a gradient again that no other block holds.

    Each step may be done twice, as Ctrl-C may come after any of them.
    """
    with _lock:
        while mine:
            module, name, p = mine[-1]
            _, blocks = _held.get(id(p), (p, None))
            if blocks is not None:
                blocks.discard((id(mine), len(mine)))
                if not blocks:
                    now = module._parameters.get(name)
                    for each in (p,) if now is None else (p, now):
                        each.requires_grad_(True)
                    del _held[id(p)]
            mine.pop()
