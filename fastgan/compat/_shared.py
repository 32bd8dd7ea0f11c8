"""Common parts of the adapters: terms by their usual names, means in the trainer's dtype, gradients by an input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, reduce
from typing import Any

import torch
from torch import Tensor

from ..auxiliary import feature_matching_loss, lecam_penalty
from ..backends.specs import Term
from ..discriminator.double_backward import check, gradients_of
from ..discriminator.forward import Forward, differentiable, prunable
from ..discriminator.outputs import outputs_of
from ..functional import quick_terms, reduce_terms
from ..interpolation import interpolate
from ..norms import gradient_norm, norm_penalty
from ..ops.losses import cross_entropy

__all__ = [
    "MINUS",
    "PLUS",
    "alike",
    "bce",
    "between",
    "differentiable",
    "distance",
    "elements",
    "feature_distance",
    "given",
    "gradient_by_input",
    "hinge",
    "lecam",
    "mean_and_each",
    "mean_of",
    "mean_with_values",
    "min_hinge",
    "path_lengths",
    "pruned_forward",
    "quiet_input",
    "result_dtype",
    "softplus",
    "square",
    "squared_norms",
]  # fmt: skip

_FLOAT32 = {torch.float32}
PLUS, MINUS = Term("identity"), Term("identity", scale=-1.0)  # x, -x


def given(name: str, value: Any, what: str) -> Any:
    """Return an argument that has no default, since the trainer's script holds it in a global or in its options.

    Raises:
        TypeError: it is None; the message says what to pass.
    """
    if value is None:
        raise TypeError(f"{name}: expected {what}, got None; there is no default, as scripts differ")
    return value


def bce(target: float, weight: float = 1.0) -> Term:
    """Return the cross-entropy on a logit with any number as its label: softplus(x) - target x."""
    return cross_entropy(float(target), weight)


@lru_cache(maxsize=64)
def softplus(sign: int, weight: float = 1.0) -> Term:
    """Return the softplus of sign x."""
    return Term("softplus", scale=float(sign), weight=weight)


def square(label: float, weight: float = 1.0) -> Term:
    """Return the term (x - label)^2."""
    return Term("square", shift=-float(label), weight=weight)


def distance(label: float, weight: float = 1.0) -> Term:
    """Return the term |x - label|."""
    return Term("abs", shift=-float(label), weight=weight)


@lru_cache(maxsize=64)
def hinge(sign: int, weight: float = 1.0) -> Term:
    """Return the term [1 + sign x]+, written with relu: its derivative at the kink is 0."""
    return Term("relu", scale=float(sign), shift=1.0, weight=weight)


@lru_cache(maxsize=64)
def min_hinge(sign: int, weight: float = 1.0) -> Term:
    """Return the term -min(-sign x - 1, 0): `hinge`, but at the kink the derivative is half of the slope."""
    return Term("relu_half", scale=float(sign), shift=1.0, weight=weight)


def mean_of(
    *entries: tuple[Term, Any], reduction: str = "mean", dtype: torch.dtype | None = None, centred: bool = False
) -> Tensor:
    """Return the sum of the terms' means (sums) over their tensors, or pairs, in one call.

    It is in `dtype`, or else in that of the tensors, as in trainers that never leave it. For "none" it is the
    elements of the only entry.
    """
    terms, tensors = zip(*entries, strict=True)
    result = None if centred else quick_terms(terms, tensors, reduction)
    if result is None:
        result = reduce_terms(terms, tensors, reduction=reduction, centred=centred)
    elif dtype is None and result.dtype is getattr(tensors[0], "dtype", None):
        return result  # the dtype of all of them: nodes take no mixed ones
    if reduction == "none":
        (result,) = result
    dtype = dtype or result_dtype(tensors)
    return result if result.dtype is dtype else result.to(dtype)


def elements(term: Term, x: Any, dtype: torch.dtype | None = None) -> Tensor:
    """Return a term's unreduced values."""
    return mean_of((term, x), reduction="none", dtype=dtype)


def result_dtype(tensors: Sequence[Any]) -> torch.dtype:
    """Return the dtype that all tensors promote to; under autocast float32, as for most of PyTorch's losses."""
    dtypes = {(x[0] if isinstance(x, tuple) else x).dtype for x in tensors}
    if dtypes == _FLOAT32:
        return torch.float32
    first = tensors[0][0] if isinstance(tensors[0], tuple) else tensors[0]
    if torch.is_autocast_enabled(first.device.type):
        dtypes.add(torch.float32)
    return reduce(torch.promote_types, dtypes)


def mean_and_each(*entries: tuple[Term, Any], dtype: torch.dtype | None = None) -> tuple[Tensor, list[Tensor]]:
    """Return `mean_of`, and each entry's own mean, all from one call and each with a graph of its own."""
    terms, tensors = [t for t, _ in entries], [x for _, x in entries]
    total, values = reduce_terms(terms, tensors, return_values=True, with_graph=True)
    dtype = dtype or result_dtype(tensors)
    return total.to(dtype), [v.to(dtype) for v in values]


def mean_with_values(*entries: tuple[Term, Any], dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Return `mean_of`, and a detached vector of each entry's own mean."""
    terms, tensors = [t for t, _ in entries], [x for _, x in entries]
    total, values = reduce_terms(terms, tensors, return_values=True)
    dtype = dtype or result_dtype(tensors)
    return total.to(dtype), values.to(dtype)


def feature_distance(
    real: Sequence[Tensor],
    fake: Sequence[Tensor],
    weights: float | Sequence[float],
    detach_real: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return the weighted sum of mean |fake - real| over pairs of maps, in `dtype`, or else in that of all maps."""
    pairs = [alike(r, f) for r, f in zip(real, fake, strict=True)]
    reals, fakes = [r for r, _ in pairs], [f for _, f in pairs]
    loss = feature_matching_loss(reals, fakes, weights=weights, detach_real=detach_real)
    dtype = dtype or result_dtype(fakes)
    return loss if loss.dtype is dtype else loss.to(dtype)


def lecam(real: Tensor, fake: Tensor, real_average: Any, fake_average: Any) -> Tensor:
    """Return mean [r - fake_average]+^2 + mean [real_average - f]+^2, with averages as numbers or tensors."""
    return lecam_penalty(real, fake, real_average, fake_average).to(result_dtype([real]))


# ---------------------------------------------------------------------------------- penalties


def gradient_by_input(
    outputs: Any, inputs: Tensor, weights: Sequence[Any] | None = None, name: str = "images"
) -> Tensor:
    """Return the gradient of the sum of the outputs with respect to an input, with a graph.

    The outputs are a tensor, or a sequence or dict of tensors.

    Raises:
        ValueError: the input does not require grad, or the outputs do not depend on it.
        RuntimeError: the gradient cannot be differentiated.
    """
    if not (isinstance(inputs, Tensor) and inputs.requires_grad):
        raise ValueError(f"{name}: expected a tensor that requires grad before the discriminator sees it")
    found = outputs_of(outputs)
    if not any(o.requires_grad for o in found):
        raise RuntimeError(f"outputs: no graph back to {name} (computed under no_grad, or detached?)")
    ones = [torch.ones_like(o) if w is None else torch.ones_like(o) * w for o, w in _weighed(found, weights)]
    with torch.enable_grad():
        (g,) = gradients_of(found, [inputs], True, lambda p: None, ones)
    check(found, [g], [inputs])
    return g


def _weighed(outputs: Sequence[Tensor], weights: Sequence[Any] | None) -> list[tuple[Tensor, Any]]:
    if weights is None:
        return [(o, None) for o in outputs]
    if len(weights) != len(outputs):
        raise ValueError(f"weights: expected one for each of {len(outputs)} outputs, got {len(weights)}")
    return list(zip(outputs, weights, strict=True))


def quiet_input(
    discriminator: Callable[..., Any], points: Tensor, *args: Any, pick: Callable[[Any], Any] | None = None,
    **kwargs: Any,
) -> Tensor:  # fmt: skip
    """Return the gradient of a discriminator with respect to its input, evaluated at `points`, with a graph.

    Points without a graph are made a leaf. `pick` selects the part of the discriminator's result that counts.
    """
    with differentiable():
        forward = pruned_forward(discriminator, points, *args, after=pick, **kwargs)
        (g,) = forward.gradients()
    return forward.with_zeros(g)


def pruned_forward(
    discriminator: Callable[..., Any], points: Tensor, *args: Any, before: Callable[[Any], Any] | None = None,
    after: Callable[[Any], Any] | None = None, **kwargs: Any,
) -> Forward:  # fmt: skip
    """Return a call of a discriminator, pruned where that can be, with functions before and after it.

    To be made, and asked for gradients, under `differentiable`.
    """

    def run(x: Tensor, *a: Any, **k: Any) -> Any:
        result = discriminator(before(x) if before else x, *a, **k)
        return after(result) if after else result

    return Forward(run, points, args, kwargs, create_graph=True, prune=prunable(discriminator))


def squared_norms(grads: Tensor, over: str = "sample", reduction: str = "mean", **options: Any) -> Tensor:
    """Return squared norms, without a root, in the gradient's dtype."""
    return norm_penalty(grads, "power", over=over, reduction=reduction, **options).to(grads.dtype)


def alike(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in the dtype that they promote to: under autocast, data and a network's outputs differ."""
    if a.dtype is b.dtype:
        return a, b
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a.to(dtype), b.to(dtype)


def between(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    """Return eps * real + (1 - eps) * fake, in the dtype that the two promote to."""
    return interpolate(*alike(real, fake), eps)


def path_lengths(images: Tensor, latents: Tensor) -> Tensor:
    """Return StyleGAN2's path lengths (arXiv:1912.04958, eq. 4): (N,), in float32 or wider, with a graph.

    Noise is drawn like the images, and divided by the root of their number of pixels; latents are (N, L, d). The
    length is the root of the mean over L of the squared norms over d. At a latent without a gradient it is 0, and
    so is its derivative.
    """
    noise = torch.randn_like(images) / (images.shape[2] * images.shape[3]) ** 0.5
    with torch.enable_grad():
        (g,) = torch.autograd.grad((images * noise).sum(), latents, create_graph=True)
    return gradient_norm(g) / g.shape[1] ** 0.5
