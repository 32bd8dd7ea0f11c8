"""Norms of rows of gradients, and penalties on them, with first and second derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import autograd, backends, checks, reference
from .functional import reduce_terms
from .native import Kernels
from .rows import KINDS, MAX_POWER, OVER, PenaltySpec, rows_shape
from .terms import number, term

Tensors = Tensor | Sequence[Tensor]


class PenaltyStats(NamedTuple):
    """What the pass over the gradients also tells; detached, and float32 for 16-bit gradients.

    Attributes:
        norms: the norms, in the shape of `gradient_norm`.
        norm_mean, norm_std, norm_min, norm_max: of the norms, 0-dim; the deviation is that of a
            population (without Bessel's correction).
        above: the share of norms above the target.
        engine: what computed the discriminator's gradient; None where the caller did.
    """

    norms: Tensor
    norm_mean: Tensor
    norm_std: Tensor
    norm_min: Tensor
    norm_max: Tensor
    above: Tensor
    engine: str | None


class Norm(autograd.Operation):
    """A penalty on the norms of rows of the operands."""

    __slots__ = ("kernels", "masks", "norms", "spec", "stats", "versions", "weights")

    def __init__(
        self,
        spec: PenaltySpec,
        weights: Tensor | None,
        masks: tuple[Tensor, ...] | None,
        stats: bool,
        kernels: Kernels,
    ) -> None:
        self.spec = spec
        self.weights = weights
        self.masks = masks
        self.stats: Any = stats  # first whether they are wanted, then what they are
        self.kernels = kernels
        self.norms: Any = None
        self.versions = self._versions()

    def _versions(self) -> list[int]:
        """How often each constant has been changed in place: they may be the caller's own memory."""
        constants = [*(self.masks or ()), *(() if self.weights is None else (self.weights,))]
        return [0 if t.is_inference() else t._version for t in constants]

    def _check_constants(self) -> None:
        if self._versions() != self.versions:
            raise RuntimeError("mask or weights: modified by an inplace operation between forward and backward")

    def forward(self, tensors: tuple[Tensor, ...], need: Sequence[bool] | None) -> Any:
        result, self.norms, self.stats = self.kernels.penalty_forward(
            self.spec, tensors, self.masks, self.weights, self.stats
        )
        return result

    def gradients(self, tensors: Sequence[Tensor], upstream: Sequence[Tensor], need: Sequence[bool]) -> Any:
        self._check_constants()
        return self.kernels.penalty_backward(
            self.spec, tensors, self.masks, self.weights, self.norms, upstream[0], need
        )

    def second(
        self,
        tensors: Sequence[Tensor],
        upstream: Sequence[Tensor],
        cotangents: Sequence[Tensor | None],
        need: Sequence[bool],
    ) -> tuple[Sequence[Tensor], Sequence[Tensor | None]]:
        self._check_constants()
        up_grad, grads = self.kernels.penalty_second(
            self.spec, tensors, self.masks, self.weights, self.norms, upstream[0], cotangents, need
        )
        return (up_grad,), grads

    def reference(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        self._check_constants()
        return (reference.norm_penalty(tensors, self.spec, self.weights, self.masks)[0],)


def evaluate(
    spec: PenaltySpec,
    tensors: tuple[Tensor, ...],
    weights: Tensor | None = None,
    masks: tuple[Tensor, ...] | None = None,
    stats: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The penalty; with `stats` also the norms and the five numbers of PenaltyStats, in float64."""
    kernels = None
    if not torch.compiler.is_compiling():
        kernels = backends.choose(tensors)
    if kernels is None:
        result, norms = reference.norm_penalty(tensors, spec, weights, masks)
        return result, norms.detach(), reference.norm_statistics(norms, spec.target) if stats else None
    tensors = tuple([kernels.plain(t) for t in tensors])
    call = Norm(spec, weights, masks, stats, kernels)
    if torch.is_grad_enabled() and any([t.requires_grad for t in tensors]):
        result = autograd.apply(call, *tensors)
    else:
        result = call.forward(tensors, None)
    return result, call.norms, call.stats if isinstance(call.stats, Tensor) else None


# ---------------------------------------------------------------------------------- what callers pass


def _checked_grads(grads: Any, over: str) -> tuple[Tensor, ...]:
    checks.known("over", over, OVER)
    tensors = (grads,) if isinstance(grads, Tensor) else grads
    if not isinstance(tensors, (list, tuple)):
        raise TypeError(f"grads: expected a tensor or a sequence of them, got {type(grads).__name__}")
    if not tensors:
        raise ValueError("grads: expected at least one tensor, got an empty sequence")
    least = {"sample": 1, "channel": 2, "batch": 0}[over]
    for t in tensors:
        checks.logits("grads", t)
        if t.dim() < least:
            raise ValueError(f"grads: expected at least {least} dimensions for over={over!r}, got {t.dim()}")
        if t.device != tensors[0].device:
            raise ValueError(f"grads: expected all on one device, got {tensors[0].device} and {t.device}")
        if (t.dtype == torch.float64) != (tensors[0].dtype == torch.float64):
            raise TypeError(f"grads: expected no mix of float64 with others, got {tensors[0].dtype} and {t.dtype}")
        if rows_shape(t, over) != rows_shape(tensors[0], over):
            raise ValueError(
                f"grads: expected norms of one shape over each {over}, got tensors of shapes"
                f" {tuple(tensors[0].shape)} and {tuple(t.shape)}"
            )
    return tuple(tensors)


def _checked_masks(mask: Any, grads: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor]:
    """The masks in the shapes of the gradients, and their mean over all elements, in float64."""
    masks = (mask,) if isinstance(mask, Tensor) else mask
    if not isinstance(masks, (list, tuple)):
        raise TypeError(
            f"mask: expected a torch.Tensor or one for each of {len(grads)} tensors, got {type(mask).__name__}"
        )
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
        if not (m.dtype == torch.bool or m.dtype in checks.FLOATS) or m.layout is not torch.strided:
            raise TypeError(f"mask: expected a dense bool or floating-point tensor, got {m.dtype}, {m.layout}")
        try:
            wide = m.to(dtype).expand(g.shape)
        except RuntimeError:
            raise ValueError(
                f"mask: expected a shape that broadcasts to {tuple(g.shape)}, got {tuple(m.shape)}"
            ) from None
        expanded.append(wide)
        terms.append(term("identity", weight=float(g.numel() // m.numel())))
        count += g.numel()
    # Over the fixed tree, as all sums are.
    mean = reduce_terms(terms, [m.double() for m in masks], reduction="sum") / count
    if checks.readable(mean) and not mean > 0:
        raise ValueError(f"mask: expected a positive mean, by which the penalty is divided, got {mean.item():g}")
    return tuple(expanded), mean


def _checked_weights(weights: Any, grads: tuple[Tensor, ...], over: str) -> Tensor:
    g = grads[0]
    if over == "batch":
        raise ValueError("weights: has no effect over='batch', which has one norm")
    if not isinstance(weights, Tensor) or weights.dtype not in checks.FLOATS:
        kind = weights.dtype if isinstance(weights, Tensor) else type(weights).__name__
        raise TypeError(f"weights: expected a floating-point tensor, got {kind}")
    if weights.shape != g.shape[:1] or weights.device != g.device:
        raise ValueError(
            f"weights: expected shape {tuple(g.shape[:1])} on {g.device}, one a sample, got"
            f" {tuple(weights.shape)} on {weights.device}"
        )
    if weights.requires_grad:
        raise ValueError("weights: expected constants, got a tensor that requires grad")
    return weights.double().resolve_neg().contiguous()


def check_power(power: Any) -> None:
    """Raises unless `power` is an exponent that the kernels know."""
    if isinstance(power, bool) or not isinstance(power, int) or not 1 <= power <= MAX_POWER:
        raise ValueError(f"power: expected an integer from 1 to {MAX_POWER}, got {power!r}")


def penalty(
    grads: Any,
    kind: str,
    *,
    target: float,
    power: int,
    over: str,
    reduction: str,
    scale: float = 1.0,
    mask: Any = None,
    weights: Any = None,
    return_stats: bool = False,
    engine: str | None = None,
) -> Any:
    """`norm_penalty` times `scale`."""
    tensors = _checked_grads(grads, over)
    checks.known("kind", kind, KINDS)
    checks.reduction(reduction)
    target = number("target", target)
    check_power(power)
    if kind == "power" and target != 1.0:
        raise ValueError(f"target: has no effect on kind 'power', got {target}")
    if kind != "power" and power != 2:
        raise ValueError(f"power: expected 2 for kind {kind!r}, got {power}")
    masks, average = None, None
    if mask is not None:
        masks, average = _checked_masks(mask, tensors)
        if checks.readable(average):
            scale, average = scale / average.item(), None
    if weights is not None:
        weights = _checked_weights(weights, tensors, over)
    if reduction == "mean":
        scale = scale / rows_shape(tensors[0], over).numel()
    spec = PenaltySpec(kind, target, power, scale, over, reduction)
    result, norms, numbers = evaluate(spec, tensors, weights, masks, return_stats)
    if average is not None:
        result = (result / average).to(result.dtype)
    if not return_stats:
        return result
    assert norms is not None
    assert numbers is not None
    mean, std, least, most, over_target = numbers.to(result.dtype).unbind()
    return result, PenaltyStats(norms.to(result.dtype, copy=True), mean, std, least, most, over_target, engine)


# ---------------------------------------------------------------------------------- public


def gradient_norm(grads: Tensors, *, over: str = "sample") -> Tensor:
    """The Euclidean norm of each sample's gradient, ||g_i||; differentiable, to any order.

    The square is summed in float64 over a fixed tree: no overflow and no underflow for any finite input
    whose norm can be represented, within 1 ulp in float32 (and float64 accordingly). The derivative at a
    row of zeros is 0.

    Args:
        grads: a tensor (N, ...) of float32, float64, float16 or bfloat16 and any strides, or a sequence
            of them: each norm is then over all of them together.
        over: what a norm covers. "sample": all but dimension 0; "channel": dimension 1, which gives a
            norm for each sample and pixel; "batch": everything.

    Returns:
        Norms of shape (N,), (N, *spatial) or (); float32 for 16-bit gradients, else of their dtype.

    Raises:
        TypeError, ValueError: bad input, with the argument's name, what came and what is needed.
    """
    return penalty(grads, "power", target=1.0, power=1, over=over, reduction="none")


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
    return_stats: bool = False,
) -> Any:
    """A penalty on the norms n_i of gradients that you have: reduce_i psi(n_i).

    "two_sided" psi = (n - k)^2 (WGAN-GP, Gulrajani et al. 2017), "one_sided" max(n - k, 0)^2 (WGAN-LP,
    Petzka et al. 2018), "power" n^p: p = 2 is that of R1 and R2 (Mescheder et al. 2018) and takes no
    square root, p = 6 that of WGAN-div (Wu et al. 2018). One read of the gradients gives penalty, norms
    and statistics; differentiable to any order (first and second in closed form). The derivative at a row
    of zeros is 0 (of n^2: the true one).

    Args:
        grads: as for `gradient_norm`. For a penalty that trains a discriminator they come from
            `torch.autograd.grad(..., create_graph=True)`; `gradient_penalty` does all of it.
        kind: "two_sided", "one_sided" or "power".
        target: k, for the first two.
        power: p, an integer from 1 to 16, for "power".
        over: "sample", "channel" (a norm a pixel) or "batch".
        reduction: "mean" or "sum" over the norms, or "none".
        mask: a factor on the gradients (bool or floating point) that broadcasts to their shape, or one a
            tensor; the result is divided by the mask's mean, as image restorers do (BasicSR, mmagic). A mean
            that is not positive raises; where that cannot be seen (on a device, under torch.compile) the result is
            not finite.
        weights: (N,), a factor on psi for each sample. "mean" still divides by the number of norms.
        return_stats: return (penalty, PenaltyStats).

    Returns:
        A scalar, or the shape of the norms for "none"; float32 for 16-bit gradients, else their dtype.

    Raises:
        TypeError, ValueError: bad input, with the argument's name, what came and what is needed.
    """
    return penalty(
        grads, kind, target=target, power=power, over=over, reduction=reduction, mask=mask, weights=weights,
        return_stats=return_stats,
    )  # fmt: skip
