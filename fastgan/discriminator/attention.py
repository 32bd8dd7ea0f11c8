"""A discriminator's attention inside a penalty: with two derivatives, in memory linear in the number of tokens."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from types import NoneType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from .. import _torch_internals as internals
from ..ops.attention import Attend, AttentionSpec


class _Call(NamedTuple):
    """The arguments of scaled_dot_product_attention."""

    query: Tensor
    key: Tensor
    value: Tensor
    attn_mask: Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False


_torchs = F.scaled_dot_product_attention
ATTENTION = (_torchs, F.multi_head_attention_forward)


def attention(*args: Any, **kwargs: Any) -> Tensor:
    """Return scaled_dot_product_attention in linear memory, or PyTorch's own where that cannot serve, or need not.

    PyTorch's own keeps dropout's masks, knows subclasses and transforms, and words the errors.
    """
    found = _suited(args, kwargs)
    if found is not None:
        return _attend(*found)
    others = [enabled() for name, (enabled, _) in internals.ATTENTION_KERNELS.items() if name != "math"]
    if not any(others):
        return _torchs(*args, **kwargs)
    with sdpa_kernel(SDPBackend.MATH):  # a discriminator that chooses kernels by itself
        return _torchs(*args, **kwargs)


def _suited(args: Any, kwargs: Any) -> tuple[_Call, tuple[int, ...]] | None:
    """Return a call with its tensors as autocast has them, and the shape of its batch; None where it is unusual."""
    try:
        call = _Call(*args, **kwargs)
        given = [t for t in call[:4] if t is not None]
        if len(given) < 3 or not _PLAIN.issuperset(map(type, given)):
            return None
        call = _lowered(call)
        q, k, v, mask = call[:4]
        batch = _batch(call)
        fits = q.shape[-1] == k.shape[-1] and k.shape[-2] == v.shape[-2]
        scores = (*batch, q.shape[-2], k.shape[-2])
        if mask is not None:
            fits = fits and not call.is_causal and torch.broadcast_shapes(mask.shape, scores) == scores
    except (TypeError, IndexError, ZeroDivisionError, RuntimeError):  # of which PyTorch's own tells
        return None
    usual = q.dtype in _DTYPES and q.dtype == k.dtype == v.dtype and call.dropout_p == 0.0
    usual = usual and type(call.is_causal) is bool and isinstance(call.scale, (int, float, NoneType))
    usual = usual and len({(t.device, t.layout) for t in given}) == 1 and q.layout is torch.strided
    usual = (
        usual
        and (mask is None or mask.dtype in (torch.bool, torch.float32, q.dtype))
        and 0 not in (*q.shape, *v.shape)
    )
    return (call, batch) if fits and usual and prod(scores) > FEW and _is_recorded(given) else None


FEW = 1 << 20  # scores, up to which plain arithmetic keeps little, and it computes the probabilities once
_PLAIN = frozenset((Tensor, torch.nn.Parameter))
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _is_recorded(given: Any) -> bool:
    """Return whether autograd, and nobody else, looks at what is done with these tensors."""
    others = internals.is_transformed() or internals.forward_level() >= 0
    return torch.is_grad_enabled() and any([t.requires_grad for t in given]) and not others


def _lowered(call: _Call) -> _Call:
    """Return a call with its tensors in the type that autocast gives them."""
    device = call.query.device.type
    if not torch.is_autocast_enabled(device):
        return call
    dtype = torch.get_autocast_dtype(device)

    def lowered(t: Any) -> Any:
        return t if t is None or not t.is_floating_point() or t.dtype is torch.float64 else t.to(dtype)

    q, k, v, mask = (lowered(t) for t in call[:4])
    return call._replace(query=q, key=k, value=v, attn_mask=mask)


def _batch(call: _Call) -> tuple[int, ...]:
    """Return the shape of a call's batch, heads among it."""
    query, *others = [tuple(t.shape[:-2]) for t in (call.query, call.key, call.value)]
    if call.enable_gqa:  # heads of key and value stand for as many of query's
        others = [(*s[:-1], s[-1] * (query[-1] // s[-1])) for s in others]
    return tuple(torch.broadcast_shapes(query, *others))


def _attend(call: _Call, batch: tuple[int, ...]) -> Tensor:
    """Return attention for a call that suits it."""
    query, others = call.query, [call.key, call.value]
    if call.enable_gqa:
        others = [t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in others]
    flat = [t.expand(*batch, *t.shape[-2:]).reshape(-1, *t.shape[-2:]) for t in (query, *others)]
    bias, bias_of = (None, ()) if call.attn_mask is None else _bias(call.attn_mask, batch)
    scale = call.query.shape[-1] ** -0.5 if call.scale is None else call.scale
    out = Attend.apply(AttentionSpec(float(scale), call.is_causal, bias_of), *flat, bias)
    return out.view(*batch, *out.shape[-2:])


def _bias(mask: Tensor, batch: tuple[int, ...]) -> tuple[Tensor, tuple[int, ...]]:
    """Return a mask with one dimension for its batch, and each entry's place in that.

    A constant mask is returned without what it repeats; where it has a gradient, each element has one.
    """
    mask = mask.clone() if mask.is_inference() else mask
    mask = mask[(None,) * (len(batch) + 2 - mask.dim())]
    for d, (size, stride) in enumerate(zip(mask.shape, mask.stride(), strict=True)):
        if size > 1 and stride == 0 and not mask.requires_grad:  # expanded
            mask = mask.narrow(d, 0, 1)
    own = mask.shape[:-2]
    places = torch.arange(prod(own), device="cpu").view(own).expand(batch).flatten().tolist()
    return mask.reshape(-1, *mask.shape[-2:]), tuple(places)


class Attention(TorchFunctionMode):
    """A mode under which attention has two derivatives, in checkpoints too.

    A non-reentrant checkpoint recomputes in the caller's backward, and would find other tensors there than in the
    forward. Those in which attention is called are told to recompute under this mode and its settings.

    Attributes:
        around: calls a function under such a mode, and the settings that go with it.
        alone: whether no mode of somebody else's is active, who would see other functions than were called.
    """

    def __init__(self, around: Callable[[Callable[[], Any]], Any], alone: bool = True) -> None:
        super().__init__()
        self.around = around
        self.alone = alone

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function."""
        kwargs = kwargs or {}
        if func in ATTENTION and internals.in_checkpoint() and not internals.recompute_by(self.around):
            raise RuntimeError(_UNKNOWN)
        if func is _torchs:
            return attention(*args, **kwargs)
        own = F.scaled_dot_product_attention is _torchs  # and not somebody else's in its place
        if func is ATTENTION[1] and own and self.alone and _PLAIN.issuperset(types):
            func = internals.multi_head_attention_by(attention)
        return func(*args, **kwargs)


_UNKNOWN = (
    "discriminator: attention inside of a checkpoint that is not torch.utils.checkpoint.checkpoint would run again"
    " by another kernel in the backward; use torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
)
