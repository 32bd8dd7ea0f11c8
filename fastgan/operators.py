"""The kernels as registered operators, for torch.compile: traced as they are, with fake versions and
autograd of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import autograd, backends
from .native import aux_for
from .terms import Spec, decode

_library = torch.library.Library("fastgan", "DEF")
_library.define("loss(Tensor[] tensors, str spec, str reduction, bool stats, str backend) -> (Tensor, Tensor)")
_library.define(
    "loss_backward(Tensor upstream, Tensor aux, Tensor[] tensors, str spec, str reduction, bool[] need,"
    " str backend) -> Tensor[]"
)
_library.define(
    "loss_second(Tensor upstream, Tensor aux, Tensor[] tensors, Tensor[] cotangents, str spec,"
    " str reduction, bool[] need, str backend) -> (Tensor, Tensor[])"
)


def _chosen(tensors: Sequence[Tensor], need: Sequence[bool]) -> list[Tensor]:
    return [t for t, n in zip(tensors, need, strict=True) if n]


def _loss(tensors: list[Tensor], spec: str, reduction: str, stats: bool, backend: str) -> tuple[Tensor, Tensor]:
    s, kernels = decode(spec), backends.named(backend)
    aux = aux_for(s, tensors[0].device)
    loss = kernels.forward(s, tuple([kernels.plain(t) for t in tensors]), (), reduction, aux, None, stats)
    return loss, aux


def _promised(t: Tensor) -> tuple[int, ...]:
    """The strides that the fake versions below give a gradient."""
    return t.stride() if t.is_contiguous() else torch.empty_like(t, device="meta").stride()


def _as_promised(tensors: Sequence[Tensor], grads: Sequence[Tensor | None]) -> list[Tensor]:
    """The gradients in the strides of their tensors, which those of a copy made for the kernels need not have."""
    pairs = [(t, g) for t, g in zip(tensors, grads, strict=True) if g is not None]
    return [g if _promised(t) == g.stride() else torch.empty_like(t).copy_(g) for t, g in pairs]


def _loss_backward(
    upstream: Tensor,
    aux: Tensor,
    tensors: list[Tensor],
    spec: str,
    reduction: str,
    need: list[bool],
    backend: str,
) -> list[Tensor]:
    kernels = backends.named(backend)
    plain = tuple([kernels.plain(t) for t in tensors])
    grads = kernels.backward(decode(spec), plain, (), reduction, aux, (upstream,), need)
    return _as_promised(tensors, grads)


def _loss_second(
    upstream: Tensor,
    aux: Tensor,
    tensors: list[Tensor],
    cotangents: list[Tensor],
    spec: str,
    reduction: str,
    need: list[bool],
    backend: str,
) -> tuple[Tensor, list[Tensor]]:
    given, kernels = iter(cotangents), backends.named(backend)
    vs = tuple([next(given) if n else None for n in need])
    plain = tuple([kernels.plain(t) for t in tensors])
    up, grads = kernels.second(decode(spec), plain, (), reduction, aux, (upstream,), vs, need)
    return up[0], _as_promised(tensors, grads)


def _fake_loss(
    tensors: list[Tensor], spec: str, reduction: str, stats: bool, backend: str
) -> tuple[Tensor, Tensor]:
    s = decode(spec)
    dtype = torch.float64 if tensors[0].dtype is torch.float64 else torch.float32
    size = 2 * len(s.roles) + len(s.terms) + 8
    return tensors[0].new_empty((), dtype=dtype), tensors[0].new_empty(size, dtype=torch.float64)


def _fake_backward(
    upstream: Tensor,
    aux: Tensor,
    tensors: list[Tensor],
    spec: str,
    reduction: str,
    need: list[bool],
    backend: str,
) -> list[Tensor]:
    return [torch.empty_like(t) for t in _chosen(tensors, need)]


def _fake_second(
    upstream: Tensor,
    aux: Tensor,
    tensors: list[Tensor],
    cotangents: list[Tensor],
    spec: str,
    reduction: str,
    need: list[bool],
    backend: str,
) -> tuple[Tensor, list[Tensor]]:
    return torch.empty_like(upstream), [torch.empty_like(t) for t in _chosen(tensors, need)]


def _setup_loss(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    tensors, ctx.spec, ctx.reduction, _, ctx.backend = inputs
    ctx.need = [t.requires_grad for t in tensors]
    ctx.save_for_backward(output[1], *tensors)
    ctx.mark_non_differentiable(output[1])


def _differentiate_loss(ctx: Any, upstream: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    aux, *tensors = ctx.saved_tensors
    grads = iter(
        torch.ops.fastgan.loss_backward(upstream, aux, tensors, ctx.spec, ctx.reduction, ctx.need, ctx.backend)
    )
    return [next(grads) if n else None for n in ctx.need], None, None, None, None


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    upstream, aux, tensors, ctx.spec, ctx.reduction, ctx.need, ctx.backend = inputs
    ctx.save_for_backward(upstream, aux, *tensors)


def _differentiate_backward(ctx: Any, cotangents: list[Tensor | None]) -> tuple[Any, ...]:
    upstream, aux, *tensors = ctx.saved_tensors
    vs = [
        torch.zeros_like(t) if v is None else v for t, v in zip(_chosen(tensors, ctx.need), cotangents, strict=True)
    ]
    up, grads = torch.ops.fastgan.loss_second(
        upstream, aux, tensors, vs, ctx.spec, ctx.reduction, ctx.need, ctx.backend
    )
    given = iter(grads)
    found = [next(given) if n else None for n in ctx.need]
    return up, None, found, None, None, None, None


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
    spec: Spec,
    tensors: Sequence[Tensor],
    weights: tuple[float, ...] | Tensor | None,
    reduction: str,
    stats: bool,
) -> tuple[Any, Tensor | None]:
    """`autograd.evaluate` while a graph is traced.

    What no operator covers (unreduced values, weights in a tensor, other devices) is traced through the
    reference, which the compiler fuses.
    """
    device = tensors[0].device
    same = all(t.device == device for t in tensors)
    backend = backends.traced(device.type, device.index or 0) if same else None
    if backend is None or reduction == "none" or isinstance(weights, Tensor):
        return autograd.by_reference(spec, tensors, weights, reduction, stats)
    loss, aux = torch.ops.fastgan.loss(list(tensors), spec.encode(weights), reduction, stats, backend)
    return loss, aux[2 * len(spec.roles) :] if stats else None
