"""Checks of arguments: one clear error at the call, before anything is launched.

Every error names the argument, what came, and what is needed.
"""

from __future__ import annotations

import difflib
import math
import numbers
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ._torch_internals import is_tracing, is_transformed

FLOATS = frozenset((torch.float32, torch.float64, torch.float16, torch.bfloat16))
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
SIXTEEN_BITS = (torch.float16, torch.bfloat16)


def tensor(name: str, t: Any) -> None:
    """Check that `t` is a dense, non-empty floating-point tensor."""
    if not isinstance(t, Tensor):
        nested = " within one (a step's output= says which of the results are logits)"
        hint = nested if isinstance(t, (list, tuple)) else ""
        raise TypeError(f"{name}: expected a torch.Tensor or a sequence of them, got {type(t).__name__}{hint}")
    if t.dtype not in FLOATS:
        raise TypeError(f"{name}: expected float32, float64, float16 or bfloat16, got {t.dtype}")
    dense(name, t)
    if t.numel() == 0:
        raise ValueError(f"{name}: expected at least one element, got shape {tuple(t.shape)}")


def dense(name: str, t: Tensor) -> None:
    """Check that `t` is a plain tensor with strides."""
    if t.layout is not torch.strided or t.is_nested:
        kind = "nested" if t.is_nested else str(t.layout).removeprefix("torch.")
        raise TypeError(f"{name}: expected a dense tensor, got a {kind} one")
    if type(t).__name__ == "DTensor":
        raise TypeError(f"{name}: expected a plain tensor, got a DTensor (pass its .to_local())")


def members(name: str, value: Any) -> tuple[Any, ...]:
    """Return a tensor, or a non-empty sequence, as a tuple."""
    if isinstance(value, Tensor):
        return (value,)
    if not isinstance(value, (list, tuple)) or isinstance(value, PackedSequence):
        hint = "; pad it by torch.nn.utils.rnn.pad_packed_sequence" if isinstance(value, PackedSequence) else ""
        raise TypeError(f"{name}: expected a torch.Tensor or a sequence of them, got {type(value).__name__}{hint}")
    if not value:
        raise ValueError(f"{name}: expected at least one tensor, got an empty {type(value).__name__}")
    return tuple(value)


def operands(name: str, value: Any) -> tuple[Tensor, ...]:
    """Return a tensor or a sequence of them as a tuple of checked tensors on one device."""
    tensors = members(name, value)
    for t in tensors:
        tensor(name, t)
    together(name, tensors)
    return tensors


def together(name: str, tensors: Sequence[Tensor]) -> None:
    """Check that tensors share a device, and that float64 is not mixed with other dtypes."""
    first = tensors[0]
    for t in tensors:
        if t.device != first.device:
            raise ValueError(f"{name}: expected all on one device, got {first.device} and {t.device}")
        if (t.dtype == torch.float64) != (first.dtype == torch.float64):
            raise TypeError(
                f"{name}: expected no mix of float64 with others, got {first.dtype} and {t.dtype}; convert one,"
                " say by .double() or .float()"
            )


def pair(a_name: str, a: Tensor, b_name: str, b: Tensor, same_shape: bool) -> tuple[Tensor, Tensor]:
    """Return two tensors of one dtype: 16-bit numbers beside others become float32, as in PyTorch's arithmetic.

    Check that they agree in device, and in shape where that is needed. A mix with float64 is refused: it is more
    often a mistake than a wish.
    """
    if a.device != b.device:
        raise ValueError(f"{a_name} and {b_name}: expected one device, got {a.device} and {b.device}")
    if a.dtype != b.dtype and torch.float64 in (a.dtype, b.dtype):
        raise TypeError(
            f"{a_name} and {b_name}: expected one dtype, got {a.dtype} and {b.dtype}; convert one of them, say by"
            " .double() or .float()"
        )
    if same_shape and a.shape != b.shape:
        raise ValueError(
            f"{a_name} and {b_name}: expected one shape, got {tuple(a.shape)} and {tuple(b.shape)}"
            " (a paired loss never broadcasts)"
        )
    return (a, b) if a.dtype == b.dtype else (a.float(), b.float())


def number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """Return `value` as a finite float in [low, high]; NumPy's numbers and 0-dim tensors on the CPU are numbers."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        value = _unwrapped(name, value)
    if type(value) is int and not torch.compiler.is_compiling() and abs(value) > 1 << 1023:
        raise ValueError(f"{name}: expected a number that a float can hold, got one of {value.bit_length()} bits")
    if not (low <= value <= high and abs(value) < math.inf):  # NaN fails too; torch.compile traces this
        bounds = "a finite number" if low == -math.inf else f"a number in [{low:g}, {high:g}]"
        raise ValueError(f"{name}: expected {bounds}, got {value}")
    return float(value)


def _unwrapped(name: str, value: Any) -> float:
    """Return a number of another type as a float."""
    if isinstance(value, Tensor) and value.dim() == 0 and (value.dtype in FLOATS or value.dtype in INTEGERS):
        if value.requires_grad:
            raise TypeError(f"{name}: expected a constant, got a tensor that requires grad (pass its .item())")
        if value.device.type != "cpu":
            raise TypeError(
                f"{name}: expected a number, got a tensor on {value.device}, which the host would wait for (pass"
                " its .item())"
            )
        return value.item()
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    hint = f" {value!r} (YAML reads 1e-2 as text, 1.0e-2 as a number)" if isinstance(value, str) else ""
    raise TypeError(f"{name}: expected a number, got {type(value).__name__}{hint}")


def sequence(name: str, value: Any, of: str) -> tuple[Any, ...]:
    """Return a list, tuple, array, or config's list as a tuple."""
    if isinstance(value, (list, tuple)):
        return tuple(value)
    ordered = isinstance(value, Sequence) or (hasattr(value, "__array__") and getattr(value, "ndim", 0) == 1)
    if not ordered or isinstance(value, (str, bytes)):
        raise TypeError(f"{name}: expected {of}, got {type(value).__name__}")
    return tuple(value)


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return `value`, an integer of at least `low` and at most `high`; NumPy's are integers."""
    if isinstance(value, numbers.Integral) and not isinstance(value, (bool, int)):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
        large = type(value) is int and value.bit_length() > 64
        got = f"one of {value.bit_length()} bits" if large else repr(value)
        raise ValueError(f"{name}: expected an integer {bounds}, got {got}")
    return value


def choice(name: str, value: Any, names: Iterable[str], elsewhere: Mapping[str, str] | None = None) -> None:
    """Check that `value` is one of `names`; the error suggests what it is here, or the nearest.

    Args:
        name: the argument's name.
        value: what came.
        names: what is known.
        elsewhere: what is meant by names that other projects use, in lower case.
    """
    names = list(names)
    if not isinstance(value, str) or value not in names:
        given = value.lower() if isinstance(value, str) else ""
        near = [repr(n) for n in difflib.get_close_matches(given, names, n=1, cutoff=0.5)]
        meant = (elsewhere or {}).get(given) or next(iter(near), None)
        hint = f"; did you mean {meant}?" if meant else ""
        raise ValueError(f"{name}: unknown name {value!r}{hint} (known: {', '.join(map(repr, names))})")


def explain_options(error: TypeError, function: str, options: Iterable[str], hint: str = "") -> None:
    """Say in a discriminator's error that an option which it does not know was given to a function of fastgan's."""
    unknown = next((o for o in options if f"unexpected keyword argument '{o}'" in str(error)), None)
    if unknown is not None:
        error.args = (f"{error}; {function} has no option {unknown!r}, and so it goes to the discriminator{hint}",)


def reduction(value: Any) -> None:
    """Check that `value` names a reduction."""
    if value not in ("mean", "sum", "none"):
        raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {value!r}")


def constant_vector(name: str, value: Any, device: torch.device, hint: str = "") -> None:
    """Check that `value` is a vector of constants on `device`."""
    if not isinstance(value, Tensor) or value.dtype not in FLOATS:
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name}: expected a floating-point tensor, got {kind}")
    if value.dim() != 1 or value.device != device:
        raise ValueError(
            f"{name}: expected a 1-D tensor on {device}, got shape {tuple(value.shape)} on {value.device}"
        )
    if value.requires_grad:
        raise ValueError(f"{name}: expected constants, got a tensor that requires grad{hint}")


def factors(name: str, value: Any, device: torch.device) -> None:
    """Check that `value` is a vector of constants on `device`, finite and 0 or more where that can be read."""
    constant_vector(name, value, device)
    if len(value) and is_readable(value):
        least, most = (v.item() for v in value.aminmax())
        if not 0.0 <= least <= most < math.inf:
            raise ValueError(f"{name}: expected finite numbers of 0 or more, got some from {least:g} to {most:g}")


def member_weights(
    value: Any, count: int | None, device: torch.device | None, of: str = "members"
) -> tuple[float, ...] | Tensor | None:
    """Return one weight for each member: a tuple of floats, or the 1-D tensor that `value` is.

    A count or device of None is not known yet.
    """
    if value is None:
        return None
    result: Any = value
    if isinstance(value, Tensor):
        constant_vector("weights", value, device or value.device, " (weigh the losses yourself)")
    else:
        given = sequence("weights", value, "a sequence of numbers or a 1-D tensor")
        on_device = [w.device for w in given if isinstance(w, Tensor) and w.device.type != "cpu"]
        if on_device:
            device = device or on_device[0]
            given = tuple([w if isinstance(w, Tensor) else torch.tensor(float(w), device=device) for w in given])
            result = torch.stack([w.float() for w in given])
            constant_vector("weights", result, device, " (weigh the losses yourself)")
        else:
            result = tuple([number("weights", w) for w in given])
    if count is not None and len(result) != count:
        raise ValueError(f"weights: expected one for each of {count} {of}, got {len(result)}")
    return result


def is_readable(t: Tensor) -> bool:
    """Return whether a number may be read: of no fake tensor, in no graph or transform, waiting for no device."""
    known = t.is_cpu and not torch.compiler.is_compiling() and not is_transformed() and not is_tracing()
    return known and type(t).__name__ != "FakeTensor"


def process_group(group: Any) -> None:
    """Check that this rank can take part in collectives of a group."""
    import torch.distributed as dist

    if not dist.is_available() or not isinstance(group, dist.ProcessGroup):
        outside = dist.is_available() and group is dist.GroupMember.NON_GROUP_MEMBER
        got = "that of a group to which this rank does not belong" if outside else type(group).__name__
        raise TypeError(
            f"process_group: expected a torch.distributed.ProcessGroup, as dist.group.WORLD after"
            f" init_process_group, got {got}"
        )


_said: set[str] = set()


def warn_once(kind: str, text: str, category: type[Warning] = UserWarning) -> None:
    """Warn of each kind of thing once in a process."""
    if kind not in _said and not torch.compiler.is_compiling():
        _said.add(kind)
        warnings.warn(text, category, stacklevel=depth_of_caller())


def has_warned(kind: str) -> bool:
    """Return whether `warn_once` did so of a kind of thing."""
    return kind in _said


_BETWEEN = ("fastgan.", "torch.nn.modules.module")


def depth_of_caller() -> int:
    """Return how many calls up, from the function that asks, the caller of this package stands."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_BETWEEN):
        depth, frame = depth + 1, frame.f_back
    return depth


def per_element(name: str, value: Any, like: Tensor, of: str, high: float | None = None) -> Tensor:
    """Return constants that broadcast to a tensor, in float32, beside float64 in float64; not expanded.

    Args:
        name: the argument's name.
        value: a bool or floating tensor of as many dimensions as `like`, of finite numbers.
        like: the tensor that they stand beside.
        of: its name.
        high: they must be in [0, high]; math.inf: of 0 or more; None: any number.
    """
    if not isinstance(value, Tensor) or (value.dtype not in FLOATS and value.dtype is not torch.bool):
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name}: expected a bool or floating-point tensor, got {kind}")
    dense(name, value)
    if value.device != like.device:
        raise ValueError(f"{name}: expected a tensor on {like.device}, as {of}, got one on {value.device}")
    if value.requires_grad:
        raise ValueError(f"{name}: expected constants, got a tensor that requires grad")
    shape, fits = tuple(value.shape), value.dim() == like.dim()
    if not fits or any([s not in (1, n) for s, n in zip(shape, like.shape, strict=True)]):
        raise ValueError(
            f"{name}: expected {like.dim()} dimensions that broadcast to those of {of}, {tuple(like.shape)}, got"
            f" {shape}"
        )
    if value.dtype is not torch.bool and is_readable(value):
        low, top = (-math.inf, math.inf) if high is None else (0.0, high)
        least, most = (v.item() for v in value.aminmax())
        if not (low <= least and most <= top and math.inf > max(abs(least), abs(most))):
            bounds = "finite numbers" if high is None else f"finite numbers in [0, {high:g}]"
            raise ValueError(f"{name}: expected {bounds}, got some from {least:g} to {most:g}")
    return value.detach().to(torch.float64 if like.dtype == torch.float64 else torch.float32)
