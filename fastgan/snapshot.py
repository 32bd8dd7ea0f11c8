"""What the forward of a discriminator depends on, in a form that can be compared: the key of a compiled graph."""

from __future__ import annotations

import functools
import types
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

_VALUES = {int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device, torch.Size}
_OWN = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}  # of nn.Module


def plain(value: Any, depth: int = 4) -> Any:
    """What can be compared of a value: numbers and strings, also within containers and objects; of a function its
    code and what it holds on to.

    Of a tensor nothing: where a graph has read one, it is kept with the graph.
    """
    kind = type(value)
    if kind in _VALUES:
        return kind, value
    if isinstance(value, Tensor):
        return None
    if isinstance(value, (type, types.BuiltinFunctionType, nn.Module)):
        return id(value)
    if depth == 0:
        return kind
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
        return value.__code__, plain((cells, value.__defaults__, value.__kwdefaults__), depth - 1)
    if isinstance(value, types.MethodType):
        return plain((value.__func__, value.__self__), depth - 1)
    if isinstance(value, functools.partial):
        return kind, plain((value.func, value.args, value.keywords), depth - 1)
    if isinstance(value, dict):
        return kind, tuple([(plain(k, depth - 1), plain(v, depth - 1)) for k, v in value.items()])
    if hasattr(value, "tobytes"):  # NumPy's
        return kind, getattr(value, "shape", None), value.tobytes()
    if isinstance(value, (list, tuple, set, frozenset)):
        return kind, tuple([plain(v, depth - 1) for v in value])
    return kind, plain(vars(value), depth - 1) if hasattr(value, "__dict__") else None


def _signature(tensors: Sequence[Tensor]) -> tuple[Any, ...]:
    return tuple([(t.shape, t.stride(), t.dtype, t.device, t.requires_grad) for t in tensors])


class State(NamedTuple):
    """A discriminator's tensors, each once, and what else its forward may read.

    Attributes:
        names: of the parameters, then of the buffers.
        params, buffers: themselves.
        facts: its structure, modes, hooks and plain attributes.
    """

    names: list[str]
    params: list[Tensor]
    buffers: list[Tensor]
    facts: tuple[Any, ...]

    @classmethod
    def of(cls, discriminator: nn.Module) -> State:
        params: dict[int, tuple[int, str, Tensor]] = {}  # by identity, so that tied ones are found
        buffers: dict[int, tuple[int, str, Tensor]] = {}
        facts: list[Any] = []
        for prefix, module in discriminator.named_modules():
            own = vars(module)
            facts.append((type(module), tuple([id(m) for m in module._modules.values()])))
            for kind, found in (("_parameters", params), ("_buffers", buffers)):
                for name, t in own[kind].items():
                    if t is None:
                        facts.append(None)
                        continue
                    if id(t) not in found:
                        found[id(t)] = (len(found), f"{prefix}.{name}" if prefix else name, t)
                    facts.append(found[id(t)][0])
            for name, value in own.items():
                if type(value) in _VALUES:  # the common case, without a call
                    facts += (name, value)
                elif name not in _OWN and not (
                    isinstance(value, dict) and not value
                ):  # most are empty dicts of hooks
                    facts += (name, plain(value))
        both = [*params.values(), *buffers.values()]
        names, tensors = [n for _, n, _ in both], [t for _, _, t in both]
        return cls(names, tensors[: len(params)], tensors[len(params) :], tuple(facts))

    def signature(self) -> tuple[Any, ...]:
        return _signature(self.params), _signature(self.buffers)


class Parts(NamedTuple):
    """A nest of containers, taken apart: its tensors, and everything else."""

    tensors: list[Tensor]
    others: tuple[Any, ...]  # None where a tensor was
    is_tensor: tuple[bool, ...]
    structure: Any

    @classmethod
    def of(cls, nest: Any) -> Parts:
        flat, structure = tree_flatten(nest)
        flat = [v.clone() if isinstance(v, Tensor) and v.is_inference() else v for v in flat]
        is_tensor = tuple([isinstance(v, Tensor) for v in flat])
        others = tuple([None if t else v for v, t in zip(flat, is_tensor, strict=True)])
        return cls([v for v in flat if isinstance(v, Tensor)], others, is_tensor, structure)

    def filled(self, tensors: Sequence[Tensor]) -> Any:
        """The nest with these tensors."""
        given = iter(tensors)
        flat = [next(given) if t else v for v, t in zip(self.others, self.is_tensor, strict=True)]
        return tree_unflatten(flat, self.structure)

    def signature(self) -> tuple[Any, ...]:
        return _signature(self.tensors), plain(self.others), self.structure


def surroundings(device: torch.device) -> tuple[Any, ...]:
    """The settings that decide which operations a forward runs."""
    kind = device.type
    return (
        torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None,
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
    )
