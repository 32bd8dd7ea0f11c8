"""The loss kernels as registered operators, which torch.compile traces as they are.

Each operator runs the rules of `Loss`; it has a fake version, which tells shapes, and a derivative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backends
from .._torch_internals import has_static_value
from ..backends import reference
from ..backends.base import LossBuffers, Operands, Weights
from ..backends.specs import LossSpec, decode
from .loss import Loss

_library = torch.library.Library("fastgan", "DEF")
_library.define(
    "loss(Tensor[] tensors, str spec, Tensor? numbers, str reduction, bool stats, str backend) -> (Tensor, Tensor)"
)
_library.define(
    "loss_backward(Tensor upstream, Tensor buffers, Tensor[] tensors, str spec, Tensor? numbers, str reduction,"
    " bool[] need, str backend) -> Tensor[]"
)
_library.define(
    "loss_second(Tensor upstream, Tensor buffers, Tensor[] tensors, Tensor[] cotangents, str spec, Tensor? numbers,"
    " str reduction, bool[] need, str backend) -> (Tensor, Tensor[])"
)


def _chosen(tensors: Sequence[Tensor], need: Sequence[bool]) -> list[Tensor]:
    return [t for t, n in zip(tensors, need, strict=True) if n]


def _prepared(
    tensors: list[Tensor],
    spec: str,
    numbers: Tensor | None,
    reduction: str,
    backend: str,
    buffers: Tensor | None = None,
) -> tuple[Loss, Operands]:
    """Return the operation and its operands; `numbers`, on the host, are those of the spec where they vary."""
    found = decode(spec) if numbers is None else decode(spec).with_numbers(numbers.tolist())
    op = Loss(found, (), reduction)
    op.backend = backends.named(backend)
    if buffers is not None:
        op.buffers = LossBuffers(buffers, len(op.spec.roles), len(op.spec.terms))
    return op, tuple([op.backend.prepare(t) for t in tensors])


def _loss(
    tensors: list[Tensor], spec: str, numbers: Tensor | None, reduction: str, stats: bool, backend: str
) -> tuple[Tensor, Tensor]:
    op, plain = _prepared(tensors, spec, numbers, reduction, backend)
    op.statistics = stats
    op.buffers = LossBuffers.allocate(op.spec, tensors[0].device)
    # A backward may follow, but no unit gradients: the graph decides where memory for gradients comes from.
    loss = op.backend.loss_forward(op, plain, None, True)
    return loss, op.buffers.memory


def _promised(t: Tensor) -> tuple[int, ...]:
    """Return the strides that the fake versions below give a gradient."""
    return t.stride() if t.is_contiguous() else torch.empty_like(t, device="meta").stride()


def _as_promised(tensors: Sequence[Tensor], grads: Sequence[Tensor | None]) -> list[Tensor]:
    """Return gradients in the strides of their tensors, which those of a copy for the kernels need not have."""
    pairs = [(t, g) for t, g in zip(tensors, grads, strict=True) if g is not None]
    return [g if _promised(t) == g.stride() else torch.empty_like(t).copy_(g) for t, g in pairs]


def _loss_backward(
    upstream: Tensor,
    buffers: Tensor,
    tensors: list[Tensor],
    spec: str,
    numbers: Tensor | None,
    reduction: str,
    need: list[bool],
    backend: str,
) -> list[Tensor]:
    op, plain = _prepared(tensors, spec, numbers, reduction, backend, buffers)
    return _as_promised(tensors, op.gradients(plain, (upstream,), need))


def _loss_second(
    upstream: Tensor,
    buffers: Tensor,
    tensors: list[Tensor],
    cotangents: list[Tensor],
    spec: str,
    numbers: Tensor | None,
    reduction: str,
    need: list[bool],
    backend: str,
) -> tuple[Tensor, list[Tensor]]:
    given = iter(cotangents)
    vs = tuple([next(given) if n else None for n in need])
    op, plain = _prepared(tensors, spec, numbers, reduction, backend, buffers)
    up, grads = op.second(plain, (upstream,), vs, need)
    return up[0], _as_promised(tensors, grads)


def _fake_loss(
    tensors: list[Tensor], spec: str, numbers: Tensor | None, reduction: str, stats: bool, backend: str
) -> tuple[Tensor, Tensor]:
    s = decode(spec)
    dtype = torch.float64 if tensors[0].dtype is torch.float64 else torch.float32
    memory = tensors[0].new_empty(LossBuffers.size(s), dtype=torch.float64)
    return tensors[0].new_empty((), dtype=dtype), memory


def _fake_backward(
    upstream: Tensor,
    buffers: Tensor,
    tensors: list[Tensor],
    spec: str,
    numbers: Tensor | None,
    reduction: str,
    need: list[bool],
    backend: str,
) -> list[Tensor]:
    return [torch.empty_like(t) for t in _chosen(tensors, need)]


def _fake_second(
    upstream: Tensor,
    buffers: Tensor,
    tensors: list[Tensor],
    cotangents: list[Tensor],
    spec: str,
    numbers: Tensor | None,
    reduction: str,
    need: list[bool],
    backend: str,
) -> tuple[Tensor, list[Tensor]]:
    return torch.empty_like(upstream), [torch.empty_like(t) for t in _chosen(tensors, need)]


def _setup_loss(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    tensors, ctx.spec, ctx.numbers, ctx.reduction, _, ctx.backend = inputs
    ctx.need = [t.requires_grad for t in tensors]
    ctx.save_for_backward(output[1], *tensors)
    ctx.mark_non_differentiable(output[1])


def _differentiate_loss(ctx: Any, upstream: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    buffers, *tensors = ctx.saved_tensors
    grads = iter(
        torch.ops.fastgan.loss_backward(
            upstream, buffers, tensors, ctx.spec, ctx.numbers, ctx.reduction, ctx.need, ctx.backend
        )
    )
    return [next(grads) if n else None for n in ctx.need], None, None, None, None, None


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    upstream, buffers, tensors, ctx.spec, ctx.numbers, ctx.reduction, ctx.need, ctx.backend = inputs
    ctx.save_for_backward(upstream, buffers, *tensors)


def _differentiate_backward(ctx: Any, cotangents: list[Tensor | None]) -> tuple[Any, ...]:
    upstream, buffers, *tensors = ctx.saved_tensors
    vs = [
        torch.zeros_like(t) if v is None else v for t, v in zip(_chosen(tensors, ctx.need), cotangents, strict=True)
    ]
    up, grads = torch.ops.fastgan.loss_second(
        upstream, buffers, tensors, vs, ctx.spec, ctx.numbers, ctx.reduction, ctx.need, ctx.backend
    )
    given = iter(grads)
    found = [next(given) if n else None for n in ctx.need]
    return up, None, found, None, None, None, None, None


for _name, _run, _fake in (
    ("loss", _loss, _fake_loss),
    ("loss_backward", _loss_backward, _fake_backward),
    ("loss_second", _loss_second, _fake_second),
):
    _library.impl(_name, _run, "CPU")
    _library.impl(_name, _run, "CUDA")
    _library.impl(_name, _run, "XPU")
    torch.library.register_fake(f"fastgan::{_name}", _fake, lib=_library)
torch.library.register_autograd("fastgan::loss", _differentiate_loss, setup_context=_setup_loss, lib=_library)
torch.library.register_autograd(
    "fastgan::loss_backward", _differentiate_backward, setup_context=_setup_backward, lib=_library
)


def evaluate(
    spec: LossSpec, tensors: Operands, weights: Weights | None, reduction: str, numbers: bool
) -> tuple[Any, LossBuffers | None]:
    """Return a loss, or each term's unreduced values, and the buffers where wanted, while a graph is traced.

    What no operator covers (unreduced values, weights in a tensor, other devices) is traced through the
    reference, which the compiler fuses. Numbers that vary, as one that is annealed, travel in a tensor on the
    host: in the text they would make a graph for each value.
    """
    device = tensors[0].device
    same = all(t.device == device for t in tensors)
    backend = backends.traced(device.type, device.index or 0) if same else None
    if backend is None or reduction == "none" or isinstance(weights, Tensor):
        result, found = reference.loss(spec, tensors, weights, reduction, numbers)
        return result, None if found is None else LossBuffers(found, 0, len(spec.terms))
    values, varying = spec.numbers(weights), None
    if not all([has_static_value(v) for v in values]):
        varying, values = torch.tensor(values, dtype=torch.float64), [0.0] * len(values)
    loss, memory = torch.ops.fastgan.loss(list(tensors), spec.encode(values), varying, reduction, numbers, backend)
    return loss, LossBuffers(memory, len(spec.roles), len(spec.terms)) if numbers else None
