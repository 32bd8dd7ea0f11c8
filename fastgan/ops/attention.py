"""Attention with two derivatives, without a tensor of queries times keys.

    out = softmax(scale * q k^T + bias) v

PyTorch's fused kernels have one derivative, and its plain arithmetic keeps several tensors of queries times keys
for the second one. Rows of the softmax are independent of each other. So the three passes here (forward, backward,
and the derivative of the backward) go over blocks of queries. They compute each block's probabilities again, and
keep nothing but their inputs. What is summed over queries, for keys and values, is added up from block to block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from .._torch_internals import softmax_backward

# Elements of a block's matrices: on the CPU, few enough to stay in a core's cache.
BLOCK = {"cpu": 1 << 19}
BLOCK_ELSEWHERE = 1 << 24


class AttentionSpec(NamedTuple):
    """What attention takes beside its tensors.

    Attributes:
        scale: the factor on q k^T.
        causal: whether query i sees keys up to i only.
        bias_of: for each entry of the batch, the number of its bias; empty where there is none.
    """

    scale: float
    causal: bool
    bias_of: tuple[int, ...] = ()


class Attend(Function):
    """Attention of q (B, L, E), k (B, S, E) and v (B, S, V): (B, L, V).

    `bias` is (b, L or 1, S or 1), added to the scores, or of bools, which tell what a query sees; or None.
    """

    @staticmethod
    def forward(ctx: Any, spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """Return the values' means."""
        ctx.spec = spec
        ctx.save_for_backward(q, k, v, bias)
        return forward(spec, q, k, v, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        """Return the gradients, which can be differentiated in turn."""
        q, k, v, bias = ctx.saved_tensors
        wants_bias = bias is not None and ctx.needs_input_grad[4]
        dq, dk, dv, dbias = AttendGradients.apply(ctx.spec, wants_bias, q, k, v, bias, g)
        return None, dq, dk, dv, dbias if wants_bias else None


class AttendGradients(Function):
    """The gradients by q, k, v and bias, of that by the result."""

    @staticmethod
    def forward(ctx: Any, spec: AttentionSpec, wants_bias: bool, q: Any, k: Any, v: Any, bias: Any, g: Any) -> Any:
        """Return the gradients; for a bias that wants none, None."""
        ctx.spec, ctx.wants_bias = spec, wants_bias
        ctx.save_for_backward(q, k, v, bias, g)
        return backward(spec, wants_bias, q, k, v, bias, g)

    @staticmethod
    def backward(ctx: Any, a: Tensor, b: Tensor, c: Tensor, d: Tensor | None) -> Any:
        """Return the gradients of <a, dq> + <b, dk> + <c, dv> + <d, dbias>."""
        q, k, v, bias, g = ctx.saved_tensors
        if torch.is_grad_enabled():
            found = _of_higher_order(ctx.spec, (q, k, v, bias, g), (a, b, c, d))
        else:
            found = double_backward(ctx.spec, ctx.wants_bias, (q, k, v, bias, g), (a, b, c, d))
        return None, None, *found


# ---------------------------------------------------------------------------------- the three passes


class _Block(NamedTuple):
    """A block of queries: slices of the batch, of the queries, and of the keys that they see."""

    batch: slice
    rows: slice
    keys: slice

    def of_rows(self, t: Tensor) -> Tensor:
        """Return a tensor's part for these queries."""
        return t[self.batch, self.rows]

    def of_keys(self, t: Tensor) -> Tensor:
        """Return a tensor's part for these keys."""
        return t[self.batch, self.keys]


def blocks(q: Tensor, k: Tensor, causal: bool) -> Iterator[_Block]:
    """Yield the blocks."""
    batch, rows, keys = *q.shape[:2], k.shape[1]
    most = BLOCK.get(q.device.type, BLOCK_ELSEWHERE)
    height = max(1, min(rows, most // keys))
    depth = max(1, min(batch, most // (keys * height))) if height == rows else 1
    for b in range(0, batch, depth):
        for r in range(0, rows, height):
            seen = min(keys, r + height) if causal else keys
            yield _Block(slice(b, min(b + depth, batch)), slice(r, min(r + height, rows)), slice(0, seen))


def _with_bias(spec: AttentionSpec, bias: Tensor, scores: Tensor, at: _Block) -> list[tuple[Tensor, Tensor]]:
    """Return views of a block's scores, each with the part of a bias that belongs to it."""
    rows = at.rows if bias.shape[1] > 1 else slice(None)
    keys = at.keys if bias.shape[2] > 1 else slice(None)
    if len(bias) in (1, len(spec.bias_of)):
        return [(scores, bias[at.batch if len(bias) > 1 else slice(None), rows, keys])]
    return [(own, bias[n, rows, keys]) for own, n in zip(scores, spec.bias_of[at.batch], strict=True)]


def _probabilities(spec: AttentionSpec, q: Tensor, k: Tensor, bias: Tensor | None, at: _Block) -> Tensor:
    """Return a block's probabilities; a row that sees no key has zeros, as in PyTorch."""
    scores = torch.bmm(at.of_rows(q) * spec.scale, at.of_keys(k).mT)
    if spec.causal:
        rows, keys = (torch.arange(s.start, s.stop, device=q.device) for s in (at.rows, at.keys))
        late = slice(at.rows.start, None)  # what comes before is seen by all rows
        scores[:, :, late].masked_fill_(keys[late] > rows[:, None], -torch.inf)
    if bias is None:
        return torch.softmax(scores, -1)
    for own, part in _with_bias(spec, bias, scores, at):
        own.masked_fill_(~part, -torch.inf) if bias.dtype is torch.bool else own.add_(part)
    sees_nothing = scores.amax(-1, keepdim=True).isneginf()
    return torch.softmax(scores, -1).masked_fill_(sees_nothing, 0.0)


def _computed(*tensors: Tensor | None) -> list[Any]:
    """Return tensors in the type that is computed with; 16 bits are computed with as float32, as PyTorch does."""
    return [t.float() if t is not None and t.dtype in (torch.float16, torch.bfloat16) else t for t in tensors]


def _rounded(tensors: tuple[Any, ...], dtypes: list[Any]) -> tuple[Any, ...]:
    """Return tensors in these types."""
    return tuple([None if t is None else t.to(dtype) for t, dtype in zip(tensors, dtypes, strict=True)])


def _without_autocast(t: Tensor) -> Any:
    return torch.autocast(t.device.type, enabled=False)


def forward(spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Return attention."""
    dtype = q.dtype
    with _without_autocast(q):
        q, k, v, bias = _computed(q, k, v, bias)
        out = q.new_empty(*q.shape[:2], v.shape[2])
        for at in blocks(q, k, spec.causal):
            at.of_rows(out).copy_(torch.bmm(_probabilities(spec, q, k, bias, at), at.of_keys(v)))
        return out.to(dtype)


def backward(
    spec: AttentionSpec, wants_bias: bool, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, g: Tensor
) -> tuple[Any, ...]:
    """Return the gradients by q, k, v and bias.

    With P the probabilities, and softmax' the derivative of softmax at P, which is symmetric:

        dS = softmax'(g v^T),    dq = scale dS k,    dk = scale dS^T q,    dv = P^T g,    dbias = dS
    """
    dtypes = [None if t is None else t.dtype for t in (q, k, v, bias)]
    with _without_autocast(q):
        q, k, v, bias, g = _computed(q, k, v, bias, g)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        dbias = torch.zeros_like(bias) if wants_bias and bias is not None else None
        for at in blocks(q, k, spec.causal):
            p = _probabilities(spec, q, k, bias, at)
            ds = softmax_backward(torch.bmm(at.of_rows(g), at.of_keys(v).mT), p)
            at.of_rows(dq).copy_(torch.bmm(ds, at.of_keys(k)))
            at.of_keys(dk).baddbmm_(ds.mT, at.of_rows(q))
            at.of_keys(dv).baddbmm_(p.mT, at.of_rows(g))
            _add_to(spec, dbias, ds, at)
        found = dq.mul_(spec.scale), dk.mul_(spec.scale), dv, dbias
        return _rounded(found, dtypes)


def double_backward(
    spec: AttentionSpec, wants_bias: bool, inputs: tuple[Any, ...], cotangents: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Return the gradients of f = <a, dq> + <b, dk> + <c, dv> + <d, dbias> by q, k, v, bias and g.

    With T = scale (a k^T + q b^T) + d, which stands beside dS in f, centred rows X' = X - sum(P X), and dP = g v^T:

        f = <T, dS> + <P, g c^T>,      G = df/d(dP) = P T'
        df/dS = softmax'(dP' T' + g c^T)
        df/dg = G v + P c,    df/dv = G^T g,    df/dbias = df/dS
        df/dq = scale (dS b + df/dS k),    df/dk = scale (dS^T a + df/dS^T q)
    """
    dtypes = [None if t is None else t.dtype for t in inputs]
    with _without_autocast(inputs[0]):
        q, k, v, bias, g, a, b, c, d = _computed(*inputs, *cotangents)
        aq, kb = torch.cat([a, q], -1), torch.cat([k, b], -1)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        dbias = torch.zeros_like(bias) if wants_bias else None
        dg = torch.empty_like(g)
        for at in blocks(q, k, spec.causal):
            p = _probabilities(spec, q, k, bias, at)
            t = torch.bmm(at.of_rows(aq) * spec.scale, at.of_keys(kb).mT)
            if d is not None:
                for own, part in _with_bias(spec, d, t, at):
                    own.add_(part)
            ds, gs, to_dp = _second(p, t, torch.bmm(at.of_rows(g), at.of_keys(v).mT), at.of_rows(g), at.of_keys(c))
            at.of_rows(dq).copy_(torch.bmm(ds, at.of_keys(b)).baddbmm_(gs, at.of_keys(k)))
            at.of_keys(dk).baddbmm_(ds.mT, at.of_rows(a)).baddbmm_(gs.mT, at.of_rows(q))
            at.of_keys(dv).baddbmm_(to_dp.mT, at.of_rows(g))
            at.of_rows(dg).copy_(torch.bmm(to_dp, at.of_keys(v)).baddbmm_(p, at.of_keys(c)))
            _add_to(spec, dbias, gs, at)
        return _rounded((dq.mul_(spec.scale), dk.mul_(spec.scale), dv, dbias, dg), dtypes)


def _second(p: Tensor, t: Tensor, dp: Tensor, g: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a block's dS, df/dS and df/d(dP); t and dp are used up."""
    dp.sub_((p * dp).sum(-1, keepdim=True))
    t.sub_((p * t).sum(-1, keepdim=True))
    ds, to_dp = p * dp, p * t
    inner = dp.mul_(t).baddbmm_(g, c.mT)
    return ds, softmax_backward(inner, p), to_dp


def _add_to(spec: AttentionSpec, total: Tensor | None, scores: Tensor, at: _Block) -> None:
    """Add a block's gradient by the scores to that by the bias."""
    if total is not None:
        for own, part in _with_bias(spec, total, scores, at):
            part.add_(own.sum_to_size(part.shape))


# ---------------------------------------------------------------------------------- higher orders


def _of_higher_order(spec: AttentionSpec, inputs: Any, cotangents: Any) -> tuple[Any, ...]:
    """Return the same as `double_backward`, in operations that can be differentiated again.

    They keep tensors of queries times keys; third derivatives are rare.
    """
    # Views, as g may depend on q by itself.
    inputs = [t if t is None else t.view_as(t) for t in inputs]
    q, k, v, bias, g = inputs
    wanted = [t if t is not None and t.requires_grad else None for t in inputs]
    with _without_autocast(q):
        known = [t for t in (q, k, v, bias) if t is not None and t.requires_grad]
        first = torch.autograd.grad(plain(spec, q, k, v, bias), known, g, create_graph=True)
        given = [c for t, c in zip(inputs, cotangents, strict=False) if t is not None and t.requires_grad]
        pairs = [(x, y) for x, y in zip(first, given, strict=True) if y is not None and x.requires_grad]
        ends = [t for t in wanted if t is not None]
        if not pairs:  # the gradients depend on nothing
            return (None,) * len(inputs)
        f, y = zip(*pairs, strict=True)
        found = iter(torch.autograd.grad(f, ends, y, create_graph=True, allow_unused=True))
    return tuple([None if t is None else next(found) for t in wanted])


def plain(spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Return attention in differentiable operations."""
    dtype = q.dtype
    q, k, v, bias = _computed(q, k, v, bias)
    scores = torch.bmm(q * spec.scale, k.mT)
    if spec.causal:
        unseen = torch.ones(scores.shape[1:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(unseen, -torch.inf)
    if bias is not None:
        own = bias[torch.tensor(spec.bias_of, device=q.device)]
        scores = scores.masked_fill(~own, -torch.inf) if bias.dtype is torch.bool else scores + own
    sees_nothing = scores.detach().amax(-1, keepdim=True).isneginf()
    p = torch.softmax(scores.masked_fill(sees_nothing, 0.0), -1).masked_fill(sees_nothing, 0.0)
    return torch.bmm(p, v).to(dtype)
