"""The CPU kernels: tensors in, tensors out, no autograd."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .rows import KINDS, PenaltySpec, rows_first, rows_shape
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


# ---------------------------------------------------------------------------------- norms and penalties


def _norm_call(
    spec: PenaltySpec, tensors: Sequence[Tensor], masks: Operands | None
) -> tuple[tuple[Any, ...], Operands, Operands | None]:
    """The penalty as the extension takes it, and the operands with rows first."""
    over = spec.over
    native = (KINDS.index(spec.kind), spec.target, spec.power, spec.scale)
    outer = {"sample": 1, "batch": 0, "channel": tensors[0].dim() - 1}[over]
    arranged = tuple([rows_first(t, over) for t in tensors])
    covers = None if masks is None else tuple([rows_first(m, over) for m in masks])
    return (*native, outer, over == "channel" and outer > 1), arranged, covers


def _result(spec: PenaltySpec, tensors: Sequence[Tensor]) -> Tensor:
    dtype = torch.float64 if tensors[0].dtype is torch.float64 else torch.float32
    return torch.empty(rows_shape(tensors[0], spec.over) if spec.reduction == "none" else (), dtype=dtype)


def penalty_forward(
    spec: PenaltySpec, tensors: Operands, masks: Operands | None, weights: Tensor | None, stats: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The penalty, the norms in float64 and, if asked for, the five numbers of PenaltyStats."""
    native, arranged, covers = _norm_call(spec, tensors, masks)
    result = _result(spec, tensors)
    kept = torch.empty(rows_shape(tensors[0], spec.over), dtype=torch.float64)
    numbers = torch.empty(_native.norm_stat_count, dtype=torch.float64) if stats else None
    _native.penalty_forward(
        native, arranged, covers, weights, kept, result, spec.reduction == "none", numbers, torch.get_num_threads()
    )
    return result, kept, numbers


def penalty_backward(
    spec: PenaltySpec,
    tensors: Sequence[Tensor],
    masks: Operands | None,
    weights: Tensor | None,
    kept: Tensor,
    upstream: Tensor,
    need: Sequence[bool],
) -> Gradients:
    """Gradients of the operands that need one."""
    native, arranged, covers = _norm_call(spec, tensors, masks)
    grads, places = _places(spec, tensors, need)
    _native.penalty_backward(
        native, arranged, covers, weights, kept, plain(upstream).contiguous(), spec.reduction == "none", places,
        torch.get_num_threads(),
    )  # fmt: skip
    return grads


def _places(spec: PenaltySpec, tensors: Sequence[Tensor], need: Sequence[bool]) -> tuple[Gradients, Gradients]:
    """Memory for gradients, as they are and with rows first."""
    grads = tuple([torch.empty_like(t) if wanted else None for t, wanted in zip(tensors, need, strict=True)])
    return grads, tuple([None if g is None else rows_first(g, spec.over) for g in grads])


def penalty_second(
    spec: PenaltySpec,
    tensors: Sequence[Tensor],
    masks: Operands | None,
    weights: Tensor | None,
    kept: Tensor,
    upstream: Tensor,
    cotangents: Sequence[Tensor | None],
    need: Sequence[bool],
) -> tuple[Tensor, Gradients]:
    """Gradients of <cotangents, gradients> with respect to the upstream and to the operands."""
    native, arranged, covers = _norm_call(spec, tensors, masks)
    vs = [
        torch.zeros_like(t) if v is None else plain(v).to(t.dtype) for t, v in zip(tensors, cotangents, strict=True)
    ]
    grads, places = _places(spec, tensors, need)
    up_grad = torch.empty_like(upstream, memory_format=torch.contiguous_format)
    _native.penalty_second(
        native, arranged, covers, weights, kept, plain(upstream).contiguous(), spec.reduction == "none",
        tuple([rows_first(v, spec.over) for v in vs]), places, up_grad, torch.get_num_threads(),
    )  # fmt: skip
    return up_grad, grads


def interpolate_forward(real: Operands, fake: Operands, eps: Tensor) -> Operands:
    """Eps * real + (1 - eps) * fake, with one eps a sample."""
    out = tuple([torch.empty_like(r) for r in real])
    _native.interpolate_forward(real, fake, eps.contiguous(), out, torch.get_num_threads())
    return out


def interpolate_backward(
    real: Operands, fake: Operands, eps: Tensor, upstream: Operands, need: Sequence[bool]
) -> Gradients:
    """Gradients of real, of fake and of eps, where they need one."""
    both = (*real, *fake)
    grads = tuple([torch.empty_like(t) if n else None for t, n in zip(both, need[:-1], strict=True)])
    eps_grad = torch.empty(eps.shape, dtype=eps.dtype) if need[-1] else None
    _native.interpolate_backward(
        real, fake, eps.contiguous(), upstream, grads[: len(real)], grads[len(real) :], eps_grad,
        torch.get_num_threads(),
    )  # fmt: skip
    return (*grads, eps_grad)
