"""Norms of gradients that the caller has, and penalties on them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from . import _checks as checks
from .backends import nodes, reference
from .backends.base import norms_shape
from .backends.specs import MAX_POWER, OVER, PSIS, PenaltySpec, Term
from .functional import cached, reduce_terms
from .ops import groups as ragged
from .ops import norm as ops
from .samples import Groups, Samples, arranged

Tensors = Tensor | Sequence[Tensor]


class PenaltyStats(NamedTuple):
    """Statistics of norms from the pass over the gradients; detached, and float32 for 16-bit gradients.

    Attributes:
        norms: the norms, in the shape of `gradient_norm`.
        norm_mean, norm_std, norm_min, norm_max: of the norms, 0-dim; the deviation is that of a
            population (without Bessel's correction).
        above: the share of norms above the target.
        engine: how the discriminator's gradient was computed; None where the caller did it.
    """

    norms: Tensor
    norm_mean: Tensor
    norm_std: Tensor
    norm_min: Tensor
    norm_max: Tensor
    above: Tensor
    engine: str | None


# ---------------------------------------------------------------------------- checks


def checked_grads(grads: Any, over: str, samples: Samples | None = None) -> tuple[Tensor, ...]:
    """Return gradients as a tuple of checked tensors, samples first, whose norms have one shape."""
    if over not in OVER:
        checks.choice("over", over, OVER)
    tensors = (grads,) if isinstance(grads, Tensor) else grads
    quick = isinstance(tensors, tuple) and len(tensors) > 0 and not torch.compiler.is_compiling()
    if not quick or nodes.scan(tensors) < 0:
        tensors = checks.operands("grads", grads)
    if samples is not None:
        samples.check("grads", tensors)
        tensors = tuple([samples.first(t) for t in tensors])
    least = {"sample": 1, "channel": 2, "batch": 0}[over]
    for t in tensors:
        if t.dim() < least:
            raise ValueError(f"grads: expected at least {least} dimensions for over={over!r}, got {t.dim()}")
        if t is not tensors[0] and norms_shape(t, over) != norms_shape(tensors[0], over):
            raise ValueError(
                f"grads: expected norms of one shape over each {over}, got tensors of shapes"
                f" {tuple(tensors[0].shape)} and {tuple(t.shape)}"
            )
    return tensors


def _checked_masks(mask: Any, grads: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return the masks in the shapes of the gradients, and their mean over all elements, in the widest dtype."""
    masks = checks.members("mask", mask)
    if len(masks) != len(grads):
        raise ValueError(f"mask: expected one for each of {len(grads)} tensors, got {len(masks)}")
    dtype = torch.float64 if grads[0].dtype == torch.float64 else torch.float32
    expanded, terms, count = [], [], 0
    for m, g in zip(masks, grads, strict=True):
        if not isinstance(m, Tensor):
            raise TypeError(f"mask: expected a torch.Tensor, got {type(m).__name__}")
        if m.device != g.device:
            raise ValueError(f"mask: expected it on {g.device} as the gradients are, got {m.device}")
        if m.requires_grad:
            raise ValueError("mask: expected a constant, got a tensor that requires grad")
        if m.dtype != torch.bool and m.dtype not in checks.FLOATS:
            raise TypeError(f"mask: expected a bool or floating-point tensor, got {m.dtype}")
        checks.dense("mask", m)
        try:
            wide = m.to(dtype).expand(g.shape)
        except RuntimeError:
            raise ValueError(
                f"mask: expected a shape that broadcasts to {tuple(g.shape)}, got {tuple(m.shape)}"
            ) from None
        expanded.append(wide)
        terms.append(Term("identity", weight=float(g.numel() // m.numel())))
        count += g.numel()
    # Over the fixed tree, as all sums are.
    mean = reduce_terms(terms, [reference.double(m) for m in masks], reduction="sum") / count
    if checks.is_readable(mean) and not mean > 0:
        raise ValueError(f"mask: expected a positive mean, by which the penalty is divided, got {mean.item():g}")
    return tuple(expanded), mean


def checked_weights(
    name: str, weights: Any, grads: tuple[Tensor, ...], over: str, samples: Samples | None
) -> Tensor:
    """Return a factor per sample, checked, in the widest dtype."""
    if over == "batch":
        raise ValueError(f"{name}: has no effect over='batch', which has one norm")
    checks.constant_vector(name, weights, grads[0].device)
    count = samples.count if samples is not None and samples.index is not None else len(grads[0])
    if len(weights) != count:
        raise ValueError(f"{name}: expected shape ({count},), one per sample, got {tuple(weights.shape)}")
    return reference.double(weights).resolve_neg().contiguous()


@lru_cache(maxsize=256, typed=True)
def _spec(psi: str, target: float, power: int, over: str, reduction: str) -> PenaltySpec:
    """Check a penalty's options, and that its numbers have an effect."""
    checks.choice("over", over, OVER)
    checks.choice("kind", psi, PSIS)
    target = checks.number("target", target)
    power = checks.integer("power", power, 1, MAX_POWER)
    checks.reduction(reduction)
    if psi == "power" and target != 1.0:
        raise ValueError(f"target: has no effect on kind 'power', got {target}")
    if psi != "power" and power != 2:
        raise ValueError(f"power: expected 2 for kind {psi!r}, got {power}")
    return PenaltySpec(psi, target, power, 1.0, over, reduction)


# ---------------------------------------------------------------------------- public


def gradient_norm(
    grads: Tensors, *, over: str = "sample", batch_dim: int = 0, pac: int = 1, groups: Groups | None = None
) -> Tensor:
    """Return the Euclidean norm of each sample's gradient, ||g_i||; differentiable, to any order.

        x = real.clone().requires_grad_()
        norms = fastgan.gradient_norm(torch.autograd.grad(D(x).sum(), x))  # (N,)

    The square is summed in float64 over a fixed tree. No finite input whose norm can be represented overflows or
    underflows, and the norm is within 1 ulp in float32 (in float64 within 1.4, measured). The derivative at a
    gradient of zeros is 0.

    Args:
        grads: a tensor (N, ...) of float32, float64, float16 or bfloat16 and any strides, or a sequence
            of them: each norm is then over all of them together.
        over: what a norm covers. "sample": all but dimension 0; "channel": dimension 1, which gives a
            norm for each sample and pixel; "batch": everything.
        batch_dim: the dimension along which samples lie, 1 for recurrent networks in PyTorch's layout.
        pac: how many consecutive entries make one sample, as in PacGAN; there are then N / pac norms.
        groups: for ragged batches and graphs, the number of the sample that each entry belongs to: (N,) of int64,
            or a pair of it and the number of samples, with which nothing waits for the device.

    Returns:
        Norms of shape (N,), (N, *spatial) or (); float32 for 16-bit gradients, else of their dtype.

    Raises:
        TypeError, ValueError: bad input, with the argument's name, what came and what is needed.
    """
    samples = _arranged(batch_dim, pac, groups, over)
    spec = PenaltySpec("power", 1.0, 1, 1.0, over, "none")
    return of_gradients(spec, checked_grads(grads, over, samples), samples)[0]


def _arranged(batch_dim: int, pac: int, groups: Any, over: str) -> Samples | None:
    """Return how samples are arranged; the plain case needs no look."""
    plain = groups is None and type(batch_dim) is type(pac) is int and batch_dim == 0 and pac == 1
    return None if plain else arranged(batch_dim, pac, groups, over)


# fmt: off
@overload
def norm_penalty(
    grads: Tensors, kind: str = ..., *, return_stats: Literal[True], target: float = ..., power: int = ...,
    over: str = ..., reduction: str = ..., mask: Tensors | None = ..., weights: Tensor | None = ...,
    batch_dim: int = ..., pac: int = ..., groups: Groups | None = ...,
) -> tuple[Tensor, PenaltyStats]: ...
@overload
def norm_penalty(
    grads: Tensors, kind: str = ..., *, return_stats: Literal[False] = ..., target: float = ..., power: int = ...,
    over: str = ..., reduction: str = ..., mask: Tensors | None = ..., weights: Tensor | None = ...,
    batch_dim: int = ..., pac: int = ..., groups: Groups | None = ...,
) -> Tensor: ...
# fmt: on
def norm_penalty(
    grads: Tensors,
    kind: str = "two_sided",
    *,
    target: float = 1.0,
    power: int = 2,
    over: str = "sample",
    reduction: str = "mean",
    mask: Tensors | None = None,
    weights: Tensor | None = None,
    batch_dim: int = 0,
    pac: int = 1,
    groups: Groups | None = None,
    return_stats: bool = False,
) -> Tensor | tuple[Tensor, PenaltyStats]:
    """Return a penalty on the norms n_i of gradients that you have: reduce_i psi(n_i).

        x = fastgan.interpolate(real, fake.detach()).requires_grad_()
        (gradient,) = torch.autograd.grad(D(x).sum(), x, create_graph=True)
        penalty = 10.0 * fastgan.norm_penalty(gradient)

    "two_sided" psi = (n - k)^2 (WGAN-GP, Gulrajani et al. 2017), "one_sided" max(n - k, 0)^2 (WGAN-LP,
    Petzka et al. 2018), "power" n^p: p = 2 is that of R1 and R2 (Mescheder et al. 2018) and takes no
    square root, p = 6 that of WGAN-div (Wu et al. 2018). One read of the gradients gives penalty, norms
    and statistics; differentiable to any order (first and second in closed form). The derivative at a
    gradient of zeros is 0 (of n^2: the true one).

    Args:
        grads: as for `gradient_norm`. For a penalty that trains a discriminator they come from
            `torch.autograd.grad(..., create_graph=True)`; `gradient_penalty` does all of it.
        kind: "two_sided", "one_sided" or "power".
        target: k, for the first two.
        power: p, an integer from 1 to 16, for "power".
        over: "sample", "channel" (one norm per pixel) or "batch".
        reduction: "mean" or "sum" over the norms, or "none".
        mask: a factor on the gradients (bool or floating point) that broadcasts to their shape, or one per
            tensor. The result is divided by the mask's mean, as image restorers do (BasicSR, mmagic). A mean
            that is not positive raises; where that cannot be seen (on a device, under torch.compile) the result is
            not finite.
        weights: (N,), a factor on psi for each sample. "mean" still divides by the number of norms.
        batch_dim: the dimension along which samples lie, as for `gradient_norm`; and so are the next two.
        pac: how many consecutive entries make one sample.
        groups: the number of the sample that each entry belongs to.
        return_stats: return (penalty, PenaltyStats).

    Returns:
        A scalar, or the shape of the norms for "none"; float32 for 16-bit gradients, else their dtype.

    Raises:
        TypeError, ValueError: bad input, with the argument's name, what came and what is needed.
    """
    spec = cached(_spec, kind, target, power, over, reduction)
    samples = _arranged(batch_dim, pac, groups, over)
    tensors = checked_grads(grads, over, samples)
    masks, average = None, None
    if mask is not None:
        # Against the shapes as they came, which the mask broadcasts to.
        masks, average = _checked_masks(mask, (grads,) if isinstance(grads, Tensor) else grads)
        masks = masks if samples is None else tuple([samples.first(m) for m in masks])
        if checks.is_readable(average):
            spec, average = spec._replace(scale=1.0 / average.item()), None
    if weights is not None:
        weights = checked_weights("weights", weights, tensors, over, samples)
    result, stats = of_gradients(spec, tensors, samples, weights=weights, masks=masks, return_stats=return_stats)
    if average is not None:
        result = (result / average).to(result.dtype)
    return result if stats is None else (result, stats)


def of_gradients(
    spec: PenaltySpec,
    tensors: tuple[Tensor, ...],
    samples: Samples | None = None,
    *,
    weights: Tensor | None = None,
    masks: tuple[Tensor, ...] | None = None,
    return_stats: bool = False,
    engine: str | None = None,
) -> tuple[Tensor, PenaltyStats | None]:
    """Return a penalty on checked gradients, and its statistics where wanted."""
    norms: Any
    numbers: Any
    if samples is not None and samples.index is not None:
        result, norms = ragged.evaluate(spec, tensors, samples.index, samples.count, weights, masks)
        numbers = reference.norm_statistics(norms, spec.target) if return_stats else None
    else:
        result, op = ops.evaluate(spec, tensors, weights, masks, return_stats)
        norms, numbers = op.norms, op.numbers
    if not return_stats:
        return result, None
    mean, std, least, most, above = numbers.to(result.dtype).unbind()
    return result, PenaltyStats(norms.to(result.dtype, copy=True), mean, std, least, most, above, engine)
