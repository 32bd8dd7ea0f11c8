"""Which modules a function, method, partial or callable object refers to."""

from __future__ import annotations

import dis
from collections.abc import Iterable, Iterator
from functools import lru_cache
from inspect import getattr_static
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from ._torch_internals import tree_leaves

_DEPTH = 3  # functions that call functions
_PLAIN = (bool, int, float, str, type(None))
_LARGE = 100  # entries of a global list or dict, which is then taken for data


def modules_in(value: Any, depth: int = _DEPTH) -> Iterator[nn.Module]:
    """Yield the modules that a callable refers to, in an order that does not change."""
    if isinstance(value, nn.Module):
        yield value
    elif depth and callable(value) and not isinstance(value, (type, torch.Tensor)):
        for held in tree_leaves(_held_by(value)):
            yield from modules_in(held, depth - 1)


def within(module: nn.Module) -> nn.Module:
    """Return the network that DistributedDataParallel, DataParallel and torch.compile were given."""
    while True:
        if isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            module = module.module
        elif "_orig_mod" in module._modules:
            module = module._orig_mod  # type: ignore[assignment]
        else:
            return module


def identity(function: Any) -> list[Any]:
    """Return what makes a callable without modules itself: its code, and objects and parameters that it holds."""
    inner = getattr(function, "func", function)
    code = getattr(getattr(inner, "__func__", inner), "__code__", None)
    if code is None:
        return [function]
    held = [value for value in tree_leaves(_held_by(function)) if _is_lasting(value)]
    return [code, *held]


def plain(values: Iterable[Any]) -> list[Any]:
    """Return the numbers, switches and names among values."""
    return [v for v in values if isinstance(v, _PLAIN)]


def settings(function: Any, depth: int = _DEPTH) -> list[Any]:
    """Return what else than modules and tensors says what a function computes: code, and the plain values it uses.

    Those of functions that it calls are among them, and those of modules not.
    """
    if isinstance(function, (nn.Module, type, torch.Tensor)):
        return []
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    held = tree_leaves(_held_by(function))
    inner = [v for v in held if callable(v)] if depth else []
    return [code, *plain(held), *[word for v in inner for word in settings(v, depth - 1)]]


def _is_lasting(value: Any) -> bool:
    """Return whether a value stays the same object from call to call: no tensor of a step, and no number."""
    if isinstance(value, torch.Tensor):
        return value.is_leaf and value.requires_grad
    return hasattr(value, "__weakref__") and not isinstance(value, (FunctionType, type, ModuleType))


def _held_by(function: Any) -> list[Any]:
    """Return what a callable holds, and what globals its code names."""
    names = ("__self__", "func", "args", "keywords", "__defaults__", "__kwdefaults__")
    held = [getattr(function, name, None) for name in names]
    held += [cell.cell_contents for cell in getattr(function, "__closure__", None) or () if _is_full(cell)]
    if torch.compiler.is_compiling():  # which traces no look into code
        return held
    code = getattr(function, "__code__", None)
    if code is not None:
        known = getattr(function, "__globals__", {})
        held += [known[name] for name in _names(code) if name in known and not _is_data(known[name])]
        held += [value for owner in held if _is_object(owner) for value in _attributes(owner, code)]
    elif not hasattr(function, "__self__") and hasattr(function, "__dict__"):
        held += [value for value in vars(function).values() if not _is_data(value)]
        held.append(vars(type(function)).get("__call__"))
    return held


def _is_object(value: Any) -> bool:
    """Return whether a value is an object such as a trainer, whose attributes may be modules."""
    return hasattr(value, "__dict__") and not callable(value) and not isinstance(value, (ModuleType, torch.Tensor))


def _attributes(owner: Any, code: CodeType) -> Iterator[Any]:
    """Yield the attributes and methods of an object that code names."""
    for name in _attribute_names(code):
        if name in vars(owner):
            if not _is_data(vars(owner)[name]):
                yield vars(owner)[name]
        elif isinstance(getattr_static(type(owner), name, None), FunctionType):
            yield getattr(owner, name)


@lru_cache(maxsize=256)
def _attribute_names(code: CodeType) -> tuple[str, ...]:
    """Return the names that code looks up anywhere, also in functions inside of it."""
    inner = [name for c in code.co_consts if isinstance(c, CodeType) for name in _attribute_names(c)]
    return tuple(dict.fromkeys([*code.co_names, *inner]))


@lru_cache(maxsize=256)
def _names(code: CodeType) -> tuple[str, ...]:
    """Return the globals that code looks up, also in functions inside of it."""
    found = [i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found += _names(constant)
    return tuple(dict.fromkeys(found))


def _is_data(value: Any) -> bool:
    """Return whether a value is no place to look for modules in."""
    if isinstance(value, (list, tuple, dict, set)):
        return len(value) > _LARGE
    return isinstance(value, (ModuleType, type, torch.Tensor))


def _is_full(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that has no value yet
        return False
