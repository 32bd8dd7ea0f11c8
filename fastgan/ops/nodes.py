"""What the C++ nodes of autograd ask of Python: how they name operations, and what they leave to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backends
from .._torch_internals import current_stream
from ..backends import native, nodes
from ..backends.base import Gradients, LossBuffers, Operands
from ..backends.specs import PenaltySpec, decode
from . import autograd
from .autograd import Operation
from .interpolation import Interpolation
from .loss import Loss
from .norm import Penalty


def _loss(text: str, extra: Tensor | None) -> Loss:
    first, _, rest = text.partition(";")
    reduction, *weights = first.split()
    spec = decode(rest)
    op = Loss(spec, tuple(map(float.fromhex, weights)), reduction)
    if extra is not None:
        op.buffers = LossBuffers(extra, len(spec.roles), len(spec.terms))
    return op


def _penalty(text: str, extra: Tensor | None) -> Penalty:
    psi, target, power, scale, over, reduction = text.split()
    spec = PenaltySpec(psi, float.fromhex(target), int(power), float.fromhex(scale), over, reduction)
    op = Penalty(spec)
    op.norms = extra
    return op


_KINDS: dict[str, Any] = {"loss": _loss, "penalty": _penalty, "points": lambda text, extra: Interpolation()}


def _operation(kind: str, text: str, extra: Tensor | None, tensors: Operands) -> Operation:
    """Return the operation of a node, to be differentiated as Python does it."""
    op: Operation = _KINDS[kind](text, extra)
    op.backend = backends.named(tensors[0].device.type)
    return op


def backward(
    kind: str, text: str, extra: Tensor | None, tensors: Operands, upstream: Operands, need: Sequence[bool]
) -> Gradients:
    """Return a node's gradients, of a backward that is unusual."""
    op = _operation(kind, text, extra, tensors)
    if torch.is_grad_enabled():
        return autograd.ApplyGradient.apply(op, need, len(upstream), *upstream, *tensors)
    return op.backward(tensors, upstream, need)


def second(
    kind: str,
    text: str,
    extra: Tensor | None,
    tensors: Operands,
    upstream: Operands,
    need: Sequence[bool],
    cotangents: Gradients,
    wanted: Sequence[bool],
) -> Gradients:
    """Return second derivatives that the nodes have no closed form for, or that are themselves differentiated."""
    op = _operation(kind, text, extra, tensors)
    return tuple(autograd.second_of(op, (*upstream, *tensors), len(upstream), need, cotangents, wanted))


if nodes.module is not None:
    nodes.module.learn(native.native.interface, backward, second, current_stream)
