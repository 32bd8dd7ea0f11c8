"""Penalties on norms over ragged groups of rows: batches of graphs, packed sequences.

The squares of a row are summed by the kernels, in double. What is left are vectors, of a number per row or group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..backends import reference
from ..backends.base import Operands
from ..backends.formulas import PSI
from ..backends.specs import PenaltySpec
from . import norm

_SQUARES = PenaltySpec("power", 1.0, 2, 1.0, "sample", "none")


def evaluate(
    spec: PenaltySpec, tensors: Operands, index: Tensor, count: int, weights: Tensor | None, masks: Operands | None
) -> tuple[Tensor, Tensor]:
    """Return the penalty, reduced or one for each of `count` groups, and the groups' norms in double.

    Args:
        spec: the penalty, over samples.
        tensors: (N, ...) each; a norm is over the group's rows in all of them.
        index: (N,), each row's group.
        count: how many groups there are; one without rows has norm 0.
        weights: (count,), or None.
        masks: factors of the tensors' shapes, or None.
    """
    rows = [reference.double(t) for t in tensors]
    if masks is not None:
        rows = [t * m for t, m in zip(rows, masks, strict=True)]
    unit = rows[0].new_ones(count)
    if rows[0].dtype == tensors[0].dtype:  # else no square overflows
        unit = _units(rows, index, count)
        rows = [t / unit[index].reshape(-1, *[1] * (t.dim() - 1)) for t in rows]
    of_rows = norm.evaluate(_SQUARES, tuple(rows))[0]
    squares = of_rows.new_zeros(count).index_add(0, index, of_rows)
    n = reference.root(squares) * unit
    # Of the square without a root, for the second derivative at 0.
    if (spec.psi, spec.power) == ("power", 2):
        values = squares * unit.square()
    else:
        values = PSI[spec.psi](n, spec.target, spec.power)
    if weights is not None:
        values = values * weights
    scale = spec.scale / count if spec.reduction == "mean" else spec.scale
    values = scale * (values if spec.reduction == "none" else values.sum())
    dtype = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    return values.to(dtype), n.detach()


def _units(tensors: list[Tensor], index: Tensor, count: int) -> Tensor:
    """Return a power of two near each group's largest element, by which it is divided before it is squared."""
    most = torch.stack([t.detach().abs().reshape(len(t), -1).amax(1) for t in tensors]).amax(0)
    largest = most.new_zeros(count).scatter_reduce(0, index, most, "amax")
    return reference.power_of_two(largest[:, None])
