"""Checks of what callers pass: one clear error at the call, before anything is launched."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

FLOATS = frozenset((torch.float32, torch.float64, torch.float16, torch.bfloat16))


def logits(name: str, t: Any) -> None:
    """Raises unless `t` is a dense, non-empty floating-point tensor."""
    if not isinstance(t, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor or a sequence of them, got {type(t).__name__}")
    if t.dtype not in FLOATS:
        raise TypeError(f"{name}: expected float32, float64, float16 or bfloat16, got {t.dtype}")
    if t.layout is not torch.strided or t.is_nested:
        kind = "nested" if t.is_nested else str(t.layout).removeprefix("torch.")
        raise TypeError(f"{name}: expected a dense tensor, got a {kind} one")
    if type(t).__name__ == "DTensor":
        raise TypeError(f"{name}: expected a plain tensor, got a DTensor (pass its .to_local())")
    if t.numel() == 0:
        raise ValueError(f"{name}: expected at least one element, got shape {tuple(t.shape)}")


def pair(a_name: str, a: Tensor, b_name: str, b: Tensor, same_shape: bool) -> None:
    """Raises unless two tensors agree in device and dtype, and in shape where that is needed."""
    if a.device != b.device:
        raise ValueError(f"{a_name} and {b_name}: expected one device, got {a.device} and {b.device}")
    if a.dtype != b.dtype:
        raise TypeError(f"{a_name} and {b_name}: expected one dtype, got {a.dtype} and {b.dtype}")
    if same_shape and a.shape != b.shape:
        raise ValueError(
            f"{a_name} and {b_name}: expected one shape, got {tuple(a.shape)} and {tuple(b.shape)}"
            " (a paired loss never broadcasts)"
        )


def together(tensors: Sequence[Tensor]) -> None:
    """Raises unless all operands of a call share a device, and float64 is not mixed with other dtypes."""
    first = tensors[0]
    for t in tensors:
        if t.device != first.device:
            raise ValueError(f"logits: expected all on one device, got {first.device} and {t.device}")
        if (t.dtype == torch.float64) != (first.dtype == torch.float64):
            raise TypeError(f"logits: expected no mix of float64 with others, got {first.dtype} and {t.dtype}")


def weights(value: Any, members: int, device: torch.device) -> tuple[float, ...] | Tensor | None:
    """`value` as one weight a member: a tuple of floats, or the 1-D tensor that it is."""
    if value is None:
        return None
    if isinstance(value, Tensor):
        if value.dim() != 1 or value.dtype not in FLOATS or value.device != device:
            raise ValueError(
                f"weights: expected a 1-D floating-point tensor on {device}, got shape {tuple(value.shape)},"
                f" {value.dtype} on {value.device}"
            )
        if value.requires_grad:
            raise ValueError(
                "weights: expected constants, got a tensor that requires grad (weigh the losses yourself)"
            )
        result: Any = value
    elif not isinstance(value, (list, tuple)):
        raise TypeError(f"weights: expected a sequence of numbers or a 1-D tensor, got {type(value).__name__}")
    else:
        from .terms import number

        result = tuple(number("weights", w) for w in value)
    if len(result) != members:
        raise ValueError(f"weights: expected one for each of {members} members, got {len(result)}")
    return result


def reduction(value: Any) -> None:
    """Raises unless `value` names a reduction."""
    if value not in ("mean", "sum", "none"):
        raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {value!r}")


def readable(t: Tensor) -> bool:
    """Whether a number may be read: without waiting for a device, in no traced graph, under no transform."""
    return t.is_cpu and not torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active()


def known(name: str, value: Any, names: Iterable[str]) -> None:
    """Raises, with the nearest of `names`, unless `value` is one of them."""
    names = list(names)
    if not isinstance(value, str) or value not in names:
        near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.3)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name}: unknown name {value!r}{hint} (known: {', '.join(map(repr, names))})")
