"""What a step depends on beside its tensors' values, in a form that can be compared: the key of a compiled graph.

Everything counts that a discriminator's modules hold as attributes, and functions as closures. What cannot be
compared is not passed over: an object whose state cannot be seen, and what is too much or too deep, raises, so that
the step runs eagerly.
"""

from __future__ import annotations

import collections
import enum
import functools
import logging
import random
import types
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._pytree import tree_flatten, tree_unflatten

DEPTH, MOST = 12, 20_000  # of values within values, and of values in all
VALUES = {int, float, complex, str, bytes, bool, type(None), range, type(...)}
VALUES |= {torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size}
_NAMED = (type, types.ModuleType, logging.Logger, torch._ops.OpOverload, torch._ops.OpOverloadPacket)
# Of nn.Module: what is looked at by itself, and what no forward reads.
_OWN = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}
_OWN |= {
    "_compiled_call_impl",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
}
_CONTAINERS = (dict, types.MappingProxyType, list, tuple, collections.deque, set, frozenset)
_OF_RECURRENT = ("_flat_weights", "_flat_weight_refs")  # the parameters once more
# Hooks that set an attribute before each forward, which is thus no input of it.
_SETTERS = (WeightNorm, SpectralNorm)


class UnfitError(Exception):
    """A step cannot be compiled; the message says why."""


class Reader:
    """Puts values into a form that can be compared.

    Attributes:
        known: the place among a discriminator's modules and tensors, by identity.
        held: what counts by its identity, and must live for as long as that is remembered.
    """

    def __init__(self) -> None:
        self.known: dict[int, tuple[str, int]] = {}
        self.held: list[Any] = []
        self._around: list[int] = []
        self._count = 0

    def plain(self, value: Any) -> Any:
        """Return the value, or its contents, or which one it is, in a form that can be compared."""
        kind = type(value)
        if kind in VALUES:
            return kind, value
        if id(value) in self.known:
            return self.known[id(value)]
        if isinstance(value, Tensor):
            return self._itself(value), 0 if value.is_inference() else value._version
        if isinstance(value, _NAMED):
            return self._itself(value)
        if isinstance(value, (random.Random, torch.Generator)) or kind.__module__.startswith("numpy.random"):
            raise UnfitError(f"it has random numbers of its own (a {kind.__name__})")
        if id(value) in self._around:
            return "around", self._around.index(id(value))
        self._count += 1
        if len(self._around) == DEPTH or self._count > MOST:
            raise UnfitError(f"its attributes hold more than can be compared, down to a {kind.__name__}")
        self._around.append(id(value))
        found = self._contents(value)
        self._around.pop()
        return kind, found

    def _itself(self, value: Any) -> int:
        self.held.append(value)
        return id(value)

    def _contents(self, value: Any) -> Any:  # noqa: PLR0911 (one for each type)
        """Return the contents of a value."""
        if isinstance(value, types.FunctionType):
            cells = [c.cell_contents for c in value.__closure__ or () if c != types.CellType()]
            return value.__code__, self._all(cells, value.__defaults__, value.__kwdefaults__, vars(value))
        if isinstance(value, (types.MethodType, types.BuiltinFunctionType)):
            return value.__name__, self._all(value.__self__, getattr(value, "__func__", None))
        if isinstance(value, functools.partial):
            return self._all(value.func, value.args, value.keywords)
        if isinstance(value, weakref.ref):
            return self.plain(value())
        if isinstance(value, enum.Enum):
            return value.name
        if isinstance(value, slice):
            return self._all(value.start, value.stop, value.step)
        return self._items(value), self._attributes(value)

    def _all(self, *values: Any) -> Any:
        return tuple([self.plain(v) for v in values])

    def _items(self, value: Any) -> Any:
        """Return the contents of a container, an array or a number."""
        if isinstance(value, (dict, types.MappingProxyType)):
            return tuple([(self.plain(k), self.plain(v)) for k, v in value.items()])
        if isinstance(value, (list, tuple, collections.deque)):
            return tuple([self.plain(v) for v in value])
        if isinstance(value, (set, frozenset)):
            return frozenset([self.plain(v) for v in value])
        if hasattr(value, "tobytes"):  # NumPy's
            return getattr(value, "shape", None), str(getattr(value, "dtype", None)), value.tobytes()
        kinds: tuple[Any, ...] = (int, float, complex, str, bytes)
        return next((kind(value) for kind in kinds if isinstance(value, kind)), None)

    def _attributes(self, value: Any) -> Any:
        slots = [name for c in type(value).__mro__ for name in _listed(getattr(c, "__slots__", ()))]
        state = {name: getattr(value, name) for name in slots if name[:2] != "__" and hasattr(value, name)}
        state |= getattr(value, "__dict__", {})
        if state:
            return self._items(state)
        visible = slots or hasattr(value, "__dict__") or isinstance(value, _CONTAINERS) or hasattr(value, "tobytes")
        if visible:
            return None
        if type(value).__eq__ is object.__eq__ or type(value).__hash__ is None:
            raise UnfitError(f"it holds a {type(value).__name__}, whose state cannot be seen")
        return value  # something like a date


def _listed(slots: Any) -> Sequence[str]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _signature(tensors: Sequence[Tensor]) -> tuple[Any, ...]:
    return tuple([(t.shape, t.stride(), t.dtype, t.device, t.requires_grad) for t in tensors])


class State(NamedTuple):
    """A discriminator's tensors, each once, and what else its forward may read.

    Attributes:
        names: of the parameters, then of the buffers.
        params, buffers: themselves.
        facts: its structure, modes, hooks and attributes.
    """

    names: list[str]
    params: list[Tensor]
    buffers: list[Tensor]
    facts: tuple[Any, ...]

    @classmethod
    def of(cls, discriminator: nn.Module, reader: Reader) -> State:  # noqa: PLR0912
        """Read a discriminator by `reader`, which then knows its modules and tensors.

        Raises:
            UnfitError: it holds what cannot be compared.
        """
        known = reader.known
        modules = list(discriminator.named_modules())
        found: dict[str, list[Any]] = {"_parameters": [], "_buffers": []}
        for prefix, module in modules:
            known[id(module)] = ("module", len(known))
            for kind, tensors in found.items():
                for name, t in vars(module)[kind].items():
                    if t is not None and id(t) not in known:
                        known[id(t)] = (kind, len(known))
                        tensors.append((f"{prefix}.{name}" if prefix else name, t))
        facts: list[Any] = []
        classes: dict[type, list[Any]] = {}
        for _, module in modules:
            own = vars(module)
            facts.append(type(module))
            for c in type(module).__mro__:
                if c is nn.Module or c in classes:
                    break
                own_code = () if c.__module__.startswith("torch.") else vars(c).items()
                classes[c] = [(n, getattr(v, "__code__", v)) for n, v in own_code if _is_fixed(v)]
            for kind in ("_modules", "_parameters", "_buffers"):
                facts += [(name, None if v is None else known[id(v)]) for name, v in own[kind].items()]
            if "_orig_mod" in own["_modules"]:  # of torch.compile, which runs its network as it is
                continue
            hooks = own["_forward_pre_hooks"]
            left_out = [h.name for h in hooks.values() if isinstance(h, _SETTERS)] if hooks else []
            left_out += _OF_RECURRENT if isinstance(module, nn.RNNBase) else ()
            for name, value in own.items():
                if type(value) in VALUES:  # the common case, without a call
                    facts += (name, type(value), value)
                elif name in _OWN or name in left_out or (isinstance(value, dict) and not value):
                    continue  # most are empty dicts of hooks
                else:
                    facts += (name, reader.plain(value))
        facts += [tuple(attributes) for attributes in classes.values()]
        params, buffers = found.values()
        names = [name for name, _ in (*params, *buffers)]
        return cls(names, [t for _, t in params], [t for _, t in buffers], tuple(facts))


def _is_fixed(value: Any) -> bool:
    """Return whether it is a class's number, string or method."""
    return type(value) in VALUES or isinstance(value, types.FunctionType)


class Parts(NamedTuple):
    """A nest of containers, taken apart: its tensors, and everything else."""

    tensors: list[Tensor]
    others: tuple[Any, ...]  # None where a tensor was
    is_tensor: tuple[bool, ...]
    structure: Any

    @classmethod
    def of(cls, nest: Any) -> Parts:
        """Take a nest apart."""
        flat, structure = tree_flatten(nest)
        flat = [v.clone() if isinstance(v, Tensor) and v.is_inference() else v for v in flat]
        is_tensor = tuple([isinstance(v, Tensor) for v in flat])
        others = tuple([None if t else v for v, t in zip(flat, is_tensor, strict=True)])
        return cls([v for v in flat if isinstance(v, Tensor)], others, is_tensor, structure)

    def filled(self, tensors: Sequence[Tensor]) -> Any:
        """Return the nest with these tensors."""
        given = iter(tensors)
        flat = [next(given) if t else v for v, t in zip(self.others, self.is_tensor, strict=True)]
        return tree_unflatten(flat, self.structure)


def signature(state: State, inputs: Parts) -> tuple[Any, ...]:
    """Shapes, strides and so on of all tensors, and which of them are the same."""
    tensors = [*state.params, *state.buffers, *inputs.tensors]
    first: dict[int, int] = {}
    same = tuple([first.setdefault(id(t), k) for k, t in enumerate(tensors)])
    return _signature(tensors), len(state.params), len(state.buffers), same, inputs.structure


def surroundings(device: torch.device) -> tuple[Any, ...]:
    """Return the settings that decide which operations a forward runs."""
    kind = device.type
    return (
        torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None,
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        nn.utils.parametrize._cache_enabled,
        bool(nn.modules.module._global_forward_hooks or nn.modules.module._global_forward_pre_hooks),
    )
