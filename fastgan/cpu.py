"""The CPU kernels: tensors in, tensors out, no autograd."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .terms import PHIS, Spec

try:
    from . import _native

    _import_error = None
except ImportError as error:
    _native = None  # type: ignore
    _import_error = str(error)
else:
    _native.learn(
        Tensor,
        torch.nn.Parameter,
        torch.strided,
        (torch.float32, torch.float64, torch.float16, torch.bfloat16),
    )
_REDUCTIONS = {"none": 0, "sum": 1, "mean": 2}
Weights = tuple[float, ...]
Operands = tuple[Tensor, ...]
Gradients = tuple[Tensor | None, ...]


def missing() -> str | None:
    """Why there are no CPU kernels, or None where there are."""
    if _native is None:
        return f"the compiled extension is not there ({_import_error})"
    return None


# Whether the CPU kernels beat the reference: on x86-64 they need AVX2 and FMA.
PREFERRED = _native is not None and (
    _native.isas()[0] != "generic" or platform.machine().lower() not in ("x86_64", "amd64")
)


def _native_spec(spec: Spec) -> Any:
    if spec.native is None:
        rows = [
            (PHIS.index(b.term.phi), b.x, b.y, b.centre, *b.term[1:], b.threshold, b.side, b.member, b.role)
            for b in spec.terms
        ]
        spec.native = _native.Spec(rows, spec.roles)
    return spec.native


def _cannot_scan(tensors: Operands) -> int:
    return -1


# scan(tensors): -1 unless these are plain, dense, non-empty CPU tensors of one supported dtype; else
# whether one requires grad. A quick yes before the checks that know what to say.
scan = _cannot_scan if _native is None else _native.scan


def plain(t: Tensor) -> Tensor:
    """`t`, with a pending negation (as x.conj().imag has one) carried out: kernels read memory."""
    return t.resolve_neg() if t.is_neg() else t


def aux_for(spec: Spec) -> Tensor:
    """Memory for what a forward keeps: means and constants of centres, terms' values, statistics."""
    return torch.zeros(2 * len(spec.roles) + len(spec.terms) + _native.stat_count, dtype=torch.float64)


def forward(
    spec: Spec,
    tensors: Operands,
    weights: Weights,
    reduction: str,
    aux: Tensor | None,
    units: Gradients | None,
    stats: bool = False,
    keep: bool = True,
) -> Any:
    """The reduced loss, or each term's unreduced values.

    Writes each operand's gradient for an upstream of 1 into `units` where there is a tensor, and what
    `aux_for` lists into aux.
    """
    dtype = torch.float64 if tensors[0].dtype is torch.float64 else torch.float32
    result: Any
    if reduction == "none":
        result = tuple([torch.empty(tensors[b.x].shape, dtype=dtype) for b in spec.terms])
    else:
        result = torch.empty((), dtype=dtype)
    _native.forward(
        spec.native or _native_spec(spec), tensors, units, result, weights, _REDUCTIONS[reduction], aux, stats,
        keep, torch.get_num_threads(),
    )  # fmt: skip
    return result


def finish(spec: Spec, units: Gradients, upstream: Tensor, aux: Tensor | None) -> bool:
    """Turns gradients for an upstream of 1 into gradients, in place; False if they cannot serve."""
    return _native.finish(_native_spec(spec), units, (upstream,), aux, torch.get_num_threads())


def backward(
    spec: Spec,
    tensors: Operands,
    weights: Weights,
    reduction: str,
    aux: Tensor | None,
    upstream: Operands,
    need: Sequence[bool],
) -> Gradients:
    """Gradients of the operands that need one."""
    grads = tuple([torch.empty_like(t) if wanted else None for t, wanted in zip(tensors, need, strict=True)])
    _native.backward(
        _native_spec(spec), tensors, grads, tuple([plain(u) for u in upstream]), weights, _REDUCTIONS[reduction],
        aux, torch.get_num_threads(),
    )  # fmt: skip
    return grads


def second(
    spec: Spec,
    tensors: Operands,
    weights: Weights,
    reduction: str,
    aux: Tensor | None,
    upstream: Operands,
    cotangents: Gradients,
    need: Sequence[bool],
) -> tuple[Operands, Gradients]:
    """Gradients of <cotangents, gradients> with respect to the upstream and to the operands."""
    grads = tuple([torch.empty_like(t) if wanted else None for t, wanted in zip(tensors, need, strict=True)])
    up_grads = tuple([torch.empty(u.shape, dtype=u.dtype) for u in upstream])
    _native.second(
        _native_spec(spec), tensors, grads, tuple([None if v is None else plain(v) for v in cotangents]),
        tuple([plain(u) for u in upstream]), up_grads if reduction == "none" else up_grads[0], weights,
        _REDUCTIONS[reduction], aux, torch.get_num_threads(),
    )  # fmt: skip
    return up_grads, grads
