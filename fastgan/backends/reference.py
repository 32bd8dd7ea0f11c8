"""The operations in plain PyTorch: the backend that serves everywhere, under any transform, to any order.

`evaluate` computes any loss term by term, `norm_penalty` any penalty on norms; their gradients are autograd's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._checks import SIXTEEN_BITS
from .base import (
    Backend,
    Gradients,
    LossBuffers,
    LossCall,
    Operands,
    PenaltyCall,
    Weights,
    groups_first,
    norms_shape,
    widest,
)
from .formulas import PHI, PSI
from .specs import FAKE, REAL, LossSpec, OperandTerm, PenaltySpec

# ---------------------------------------------------------------------------- losses


def double(t: Tensor) -> Tensor:
    """Return `t` in the widest dtype of its device."""
    return t.to(widest(t.device))


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in SIXTEEN_BITS else x


def _argument(bound: OperandTerm, tensors: Sequence[Tensor]) -> Tensor:
    x = _wide(tensors[bound.x])
    if bound.y >= 0:
        return x - _wide(tensors[bound.y])
    if bound.mean_operand >= 0:
        return x - _wide(tensors[bound.mean_operand]).mean()
    return x


def _values(bound: OperandTerm, tensors: Sequence[Tensor]) -> Tensor:
    phi, scale, shift, linear, _ = bound.term
    z = _argument(bound, tensors)
    value = PHI[phi](scale * z + shift)
    if linear and bound.label >= 0:
        value = value + linear * tensors[bound.label] * z
    elif linear:
        value = value + linear * z
    return value if bound.factor < 0 else tensors[bound.factor] * value


def evaluate(spec: LossSpec, tensors: Sequence[Tensor], weights: Weights | None, reduction: str) -> list[Tensor]:
    """Return each term's value, weighted and reduced ("mean" or "sum") or of x's shape ("none").

    16-bit operands are computed in float32. Adding the values up gives the loss.
    """
    reduce: dict[str, Callable[[Tensor], Tensor]] = {
        "mean": Tensor.mean,
        "sum": Tensor.sum,
        "none": lambda v: v,
    }
    weighted = isinstance(weights, Tensor) or bool(weights)
    result = []
    for bound in spec.terms:
        factor: Any = bound.term.weight * weights[bound.member] if weighted else bound.term.weight  # type: ignore[index]
        value = reduce[reduction](_values(bound, tensors))
        result.append(value if isinstance(factor, float) and factor == 1.0 else factor * value)
    return result


@torch.no_grad()
def statistics(spec: LossSpec, tensors: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """Return the numbers of `LossStats`, in its order, as one tensor of the widest dtype."""
    columns = []
    for role in (REAL, FAKE):
        none = [double(tensors[0].flatten()[:0])]
        loss, logits, right = list(none), list(none), list(none)
        for bound, value in zip(spec.terms, values, strict=True):
            if bound.role == role:
                loss.append(double(value).reshape(1))
            for operand in (bound.x, bound.y):
                if operand >= 0 and spec.roles[operand] == role:
                    logits.append(double(tensors[operand].flatten()))
                    if bound.side:
                        z = _argument(bound, tensors).flatten()
                        right.append(double(bound.side * (z - bound.threshold) > 0))
        x = torch.cat(logits)
        sign = double(x > 0) - double(x < 0)
        columns.append(torch.stack([torch.cat(loss).sum(), x.mean(), sign.mean(), torch.cat(right).mean()]))
    return torch.stack(columns, dim=1).flatten()


def loss(
    spec: LossSpec, tensors: Sequence[Tensor], weights: Weights | None, reduction: str, numbers: bool
) -> tuple[Tensor | Operands, Tensor | None]:
    """Return a loss, or each term's unreduced values.

    With `numbers` also return each term's value and the statistics, in the widest dtype.
    """
    values = evaluate(spec, tensors, weights, reduction)
    found = None
    if numbers:
        detached = torch.stack([double(v.detach()) for v in values])
        found = torch.cat([detached, statistics(spec, tensors, values)])
    return (tuple(values) if reduction == "none" else sum(values[1:], values[0])), found


# ---------------------------------------------------------------------------- penalties


def interpolate(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    """Return eps * real + (1 - eps) * fake, with one eps per sample; exact where the two are equal."""
    r, f = _wide(real), _wide(fake)
    e = eps.to(r.dtype).reshape(-1, *[1] * (real.dim() - 1))
    same = (r == f) & r.isfinite()  # there the second form is exact, with the same derivatives
    return torch.where(same, f + e * (r - f), e * r + (1 - e) * f).to(real.dtype)


def _groups(tensors: Sequence[Tensor], over: str, masks: Sequence[Tensor] | None) -> Tensor:
    """Return all elements of all tensors, in double and masked: (norms, elements of a norm)."""
    groups = []
    for i, t in enumerate(tensors):
        h = double(t) if masks is None else double(t) * double(masks[i])
        groups.append(groups_first(h, over).reshape(norms_shape(t, over).numel(), -1))
    return torch.cat(groups, 1)


def root(squares: Tensor) -> Tensor:
    """Return the square root, with derivatives of 0 at 0."""
    zero = squares == 0
    return torch.where(zero, 0.0, squares.masked_fill(zero, 1.0).sqrt())


def power_of_two(groups: Tensor) -> Tensor:
    """Return a power of two near each group's largest element, by which it is divided before it is squared."""
    most = groups.detach().abs().amax(1)
    exponent = (
        torch.log2(most).floor().clamp(-1000, 1000)
    )  # not frexp, whose code for a CPU does not always compile
    ordinary = (most > 0) & most.isfinite()
    return torch.where(ordinary, torch.ldexp(torch.ones_like(most), exponent), 1.0)


def _psi(spec: PenaltySpec, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return psi of each group's norm, and the norms."""
    unit = power_of_two(groups)
    n = root((groups / unit[:, None]).square().sum(1)) * unit
    if spec.psi == "power" and spec.power == 2:  # without a root, for the second derivative at 0
        return groups.square().sum(1), n
    return PSI[spec.psi](n, spec.target, spec.power), n


def norm_penalty(
    tensors: Sequence[Tensor],
    spec: PenaltySpec,
    weights: Tensor | None = None,
    masks: Sequence[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return a penalty, reduced or one for each norm, and the norms in double."""
    shape = norms_shape(tensors[0], spec.over)
    values, n = _psi(spec, _groups(tensors, spec.over, masks))
    if weights is not None:
        values = values.reshape(len(weights), -1) * double(weights)[:, None]
    scale = spec.scale / shape.numel() if spec.reduction == "mean" else spec.scale
    values = scale * (values.reshape(shape) if spec.reduction == "none" else values.sum())
    return values.to(_wide(tensors[0]).dtype), n.reshape(shape)


@torch.no_grad()
def norm_statistics(n: Tensor, target: float) -> Tensor:
    """Return the numbers of PenaltyStats."""
    mean = n.mean()
    return torch.stack(
        [mean, (n - mean).square().mean().sqrt(), n.amin(), n.amax(), (n > target).to(n.dtype).mean()]
    )


# ---------------------------------------------------------------------------- the backend


class Reference(Backend):
    """The functions above as a backend."""

    name = "reference"
    differentiable = True

    def missing(self) -> str | None:
        """Return None: it is always there."""
        return None

    def unusable(self, kind: str, index: int) -> str | None:
        """Return None: it serves every device."""
        return None

    def loss_forward(
        self, call: LossCall, tensors: Operands, unit_gradients: Gradients | None, keep: bool
    ) -> Tensor | Operands:
        """Return the reduced loss, or each term's unreduced values, with autograd's graph."""
        wanted = call.statistics or call.buffers is not None
        result, numbers = loss(call.spec, tensors, call.weights, call.reduction, wanted)
        if numbers is not None:
            call.buffers = LossBuffers(numbers, 0, len(call.spec.terms))
        return result

    def penalty_forward(self, call: PenaltyCall, tensors: Operands) -> Tensor:
        """Return the penalty, with autograd's graph; fill the call's norms and numbers."""
        result, norms = norm_penalty(tensors, call.spec, call.weights, call.masks)
        call.norms = norms.detach()
        if call.statistics:
            call.numbers = norm_statistics(norms, call.spec.target)
        return result

    def interpolate_forward(self, real: Operands, fake: Operands, eps: Tensor) -> Operands:
        """Return eps * real + (1 - eps) * fake, with autograd's graph."""
        return tuple([interpolate(r, f, eps) for r, f in zip(real, fake, strict=True)])


BACKEND = Reference()
