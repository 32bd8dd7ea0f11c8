"""What trainers add to the adversarial loss: feature matching, LeCam, truncated relativistic, VQGAN's weight."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ._checks import (
    SIXTEEN_BITS,
    choice,
    is_readable,
    member_weights,
    number,
    operands,
    pair,
    per_element,
    sequence,
    tensor,
    together,
)
from .backends import nodes
from .backends.base import widest
from .backends.specs import Term
from .functional import Logits, reduce_terms
from .norms import Tensors, gradient_norm

# Tensors, or lists of them, or lists of lists: one list a discriminator, one entry a layer.
Features = Tensor | Sequence["Features"]


# A number for each member of the logits.
Average = Tensor | float | Sequence[float]

_PHIS = {"l1": "abs", "l2": "square"}


def _leaves(name: str, features: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the tensors of a nested list, in order, each with where it stands."""
    if isinstance(features, (list, tuple)):
        for k, entry in enumerate(features):
            yield from _leaves(name, entry, f"{path}[{k}]")
    elif isinstance(features, Tensor):
        yield path, features
    else:
        raise TypeError(f"{name}: expected tensors in sequences of sequences, got {type(features).__name__}")


@lru_cache(maxsize=256)
def _distances(phi: str, weights: tuple[float, ...]) -> tuple[Term, ...]:
    return tuple(Term(phi, weight=w) for w in weights)


def feature_matching_loss(
    real_features: Features,
    fake_features: Features,
    *,
    weights: float | Sequence[float] | Tensor = 1.0,
    loss: str = "l1",
    normalize: bool = False,
    detach_real: bool = True,
    mask: Tensor | Sequence[Tensor | None] | None = None,
) -> Tensor:
    """Return the sum over pairs of feature maps of weight * mean |fake - real|, or of its square.

        loss = fastgan.feature_matching_loss(real_maps, fake_maps, weights=2.0)  # lists, or lists of lists

    As in Larsen et al. 2016 (arXiv:1512.09300) and Wang et al. 2018 (arXiv:1711.11585).
    All maps go through one call forward and one backward: each is read once, and its gradient written once.

    Args:
        real_features: a discriminator's feature maps of real samples: a tensor, or sequences (of sequences)
            of tensors, of any shapes (float32, float64, float16 or bfloat16, any strides).
        fake_features: the same for generated samples, of the same nesting and shapes.
        weights: one factor for all, or one per pair, in the order of the (flattened) maps. Numbers, 0-dim tensors,
            or a 1-D tensor on the maps' device, for which nothing waits.
        loss: "l1", or "l2" for the square of the difference.
        normalize: divide each pair's mean by that of |real|, or of its square (Defossez et al. 2022,
            arXiv:2210.13438, eq. 2); the divisor gets no gradient. Costs a read of the real maps. A real
            map of zeros gives infinity or NaN.
        detach_real: the real maps get no gradient.
        mask: which elements count, or how much: of a pair's distances d the mean is then sum(w d) / sum(w). The
            mask w is a bool or floating tensor of non-negative constants, of as many dimensions as each map, to
            which it broadcasts. A sequence has a mask or None per pair, nested as the maps or flat. A
            mask of zeros raises on the CPU, and gives NaN elsewhere.

    Returns:
        A scalar (float32 for 16-bit maps, else of their dtype). The derivative of |z| at 0 is 0.

    Raises:
        TypeError, ValueError: bad input, with the argument's name, what came and what is needed.
    """
    choice("loss", loss, _PHIS)
    real, fake = list(_leaves("real_features", real_features)), list(_leaves("fake_features", fake_features))
    if len(real) != len(fake) or not real:
        raise ValueError(
            f"real_features and fake_features: expected as many maps, at least 1, got {len(real)} and {len(fake)}"
        )
    sound = not torch.compiler.is_compiling() and nodes.scan(tuple([t for _, t in (*real, *fake)])) >= 0
    for (at, r), (also_at, f) in zip(real, fake, strict=True):
        if not (sound and r.shape == f.shape):
            names = f"real_features{at}", f"fake_features{also_at}"
            tensor(names[0], r)
            tensor(names[1], f)
            pair(names[0], r, names[1], f, True)
    pairs = [(f, r.detach() if detach_real else r) for (_, r), (_, f) in zip(real, fake, strict=True)]
    factors = _factors(weights, pairs)
    masks = None if mask is None else _masks(mask, fake)
    plain = [Term(_PHIS[loss])] * len(pairs)
    if normalize:
        with torch.no_grad():
            _, sizes = reduce_terms(plain, [r for _, r in pairs], return_values=True, masks=masks)
        factors = torch.as_tensor(factors, device=sizes.device, dtype=sizes.dtype) / sizes
    if isinstance(factors, Tensor):
        return reduce_terms(plain, pairs, weights=factors, masks=masks)
    terms = _distances.__wrapped__ if torch.compiler.is_compiling() else _distances
    return reduce_terms(terms(_PHIS[loss], factors), pairs, masks=masks)


def _masks(mask: Any, maps: Sequence[tuple[str, Any]]) -> list[Tensor | None]:
    """Return one mask per pair of maps, checked, or None."""
    single = isinstance(mask, Tensor)
    given = (mask,) * len(maps) if single else _flat(sequence("mask", mask, "a tensor or a sequence of them"))
    if len(given) != len(maps):
        raise ValueError(f"mask: expected one for each of {len(maps)} pairs of maps, got {len(given)}")
    found = []
    for k, (at, f) in enumerate(maps):
        one = given[k]
        name = "mask" if single else f"mask[{k}]"
        if one is not None:
            one = per_element(name, one, f, f"fake_features{at}", math.inf)
            if is_readable(one) and not one.any():
                raise ValueError(f"{name}: expected an element above 0, got none")
        found.append(one)
    return found


def _flat(masks: Sequence[Any]) -> tuple[Any, ...]:
    """Return masks that are nested as the maps are in their order."""
    return tuple([one for m in masks for one in (_flat(m) if isinstance(m, (list, tuple)) else (m,))])


def _factors(weights: Any, pairs: Sequence[Any]) -> tuple[float, ...] | Tensor:
    """Return one weight per pair: floats, or a vector on the maps' device."""
    scalar = isinstance(weights, Tensor) and weights.dim() == 0
    if scalar or isinstance(weights, numbers.Real):
        if not scalar or weights.device.type == "cpu":
            return (number("weights", weights),) * len(pairs)
        weights = weights.expand(len(pairs))
    found = member_weights(weights, len(pairs), pairs[0][0].device, "pairs of maps")
    assert found is not None
    return found


def lecam_penalty(
    real_logits: Logits, fake_logits: Logits, real_average: Average, fake_average: Average, *, weight: float = 1.0
) -> Tensor:
    """Return LeCam's regularisation, weight * (mean [r - fake_average]+^2 + mean [real_average - f]+^2).

        loss = loss + fastgan.lecam_penalty(real_logits, fake_logits, 0.4, -0.2, weight=0.3)

    Tseng et al. 2021 (arXiv:2104.03310), in the one-sided form of its code. `fastgan.nn.LeCam` keeps the averages.

    Args:
        real_logits: a tensor of any shape (float32, float64, float16 or bfloat16), or a sequence of them.
        fake_logits: the same for fake; shapes may differ.
        real_average: the moving average of the real logits: as many numbers as there are members (for a
            tensor: one). A tensor on the logits' device, where they stay, or floats. Gets no gradient.
        fake_average: the same for fake logits.
        weight: the factor in front.

    Returns:
        A scalar (float32 for 16-bit logits, else of their dtype), summed over members.

    Raises:
        TypeError, ValueError: bad input, with the argument's name, what came and what is needed.
    """
    real, fake = operands("real_logits", real_logits), operands("fake_logits", fake_logits)
    if len(real) != len(fake):
        raise ValueError(f"real_logits and fake_logits: expected as many members, got {len(real)} and {len(fake)}")
    weight = number("weight", weight)
    sides = [
        *_beside(real, "fake_average", fake_average, 1.0, weight),
        *_beside(fake, "real_average", real_average, -1.0, weight),
    ]
    return reduce_terms([term for term, _ in sides], [x for _, x in sides], centred=True)


def _beside(
    logits: tuple[Tensor, ...], name: str, average: Any, scale: float, weight: float
) -> list[tuple[Term, Any]]:
    """Return the terms [scale (x - average)]+^2, each with its logits, and the average where that is a tensor."""
    if isinstance(average, Tensor):
        term = Term("relu_square", scale=scale, weight=weight)
        return [(term, pair) for pair in zip(logits, _averages(name, average, logits), strict=True)]
    given = average if isinstance(average, (list, tuple)) else [average]
    found = [number(name, a) for a in given]
    if len(found) != len(logits):
        raise ValueError(f"{name}: expected {len(logits)} numbers, one per member, got {len(found)}")
    return [
        (Term("relu_square", scale=scale, shift=-scale * a, weight=weight), x)
        for a, x in zip(found, logits, strict=True)
    ]


def _averages(name: str, average: Tensor, logits: tuple[Tensor, ...]) -> list[Tensor]:
    """Return a one-element tensor for each member, of a dtype that may stand beside its logits."""
    tensor(name, average)
    if average.device != logits[0].device:
        raise ValueError(f"{name}: expected it on {logits[0].device} as the logits are, got {average.device}")
    if average.numel() != len(logits):
        raise ValueError(
            f"{name}: expected {len(logits)} numbers, one per member, got shape {tuple(average.shape)}"
        )
    wide = logits[0].dtype == torch.float64
    # A copy: the average moves on before the penalty's backward, which reads it.
    vector = average.detach().reshape(-1).to(torch.float64 if wide else torch.float32, copy=True)
    return list(vector.split(1))


def centering_penalty(
    real_logits: Logits, fake_logits: Logits, *, form: str = "sum", weight: float = 1.0
) -> Tensor:
    """Return a penalty that keeps logits near 0, which relativistic losses leave free to drift.

        loss = fastgan.discriminator_loss(real_logits, fake_logits, relativistic="paired")
        loss = loss + fastgan.centering_penalty(real_logits, fake_logits, weight=0.001)

    "sum": weight * mean (r + f)^2, as in adversarial flow models. "each": weight * (mean r^2 + mean f^2), the drift
    penalty of Karras et al. 2018 (arXiv:1710.10196) on both.

    Args:
        real_logits: a tensor of any shape (float32, float64, float16 or bfloat16), or a sequence of them.
        fake_logits: the same for fake; for "sum" of the same shapes.
        form: "sum" or "each".
        weight: the factor in front.

    Returns:
        A scalar (float32 for 16-bit logits, else of their dtype), summed over members.

    Raises:
        TypeError, ValueError: bad input, with the argument's name, what came and what is needed.
    """
    choice("form", form, ("sum", "each"))
    real, fake = operands("real_logits", real_logits), operands("fake_logits", fake_logits)
    if len(real) != len(fake):
        raise ValueError(f"real_logits and fake_logits: expected as many members, got {len(real)} and {len(fake)}")
    square, added = Term("square", weight=number("weight", weight)), form == "sum"
    pairs = [pair("real_logits", r, "fake_logits", f, added) for r, f in zip(real, fake, strict=True)]
    if not added:  # each is read in its own dtype
        return reduce_terms([square] * (2 * len(real)), [*real, *fake])
    return reduce_terms([square] * len(pairs), [(r, -f) for r, f in pairs])


def truncated_relativistic_loss(real_logits: Logits, fake_logits: Logits, *, tau: float = 0.04) -> Tensor:
    """Return the truncated pointwise relativistic least-squares loss, of the discriminator.

        loss = fastgan.discriminator_loss(real_logits, fake_logits, "least_squares")
        loss = loss + fastgan.truncated_relativistic_loss(real_logits, fake_logits)

    Li et al. 2023 (StyleTTS 2, arXiv:2306.07691; HiFTNet, arXiv:2309.09493). With m the median of r - f and L the
    mean of (r - f - m)^2 over the elements where r < f + m, it is tau - relu(tau - L). It goes beside another loss.
    The generator's is the same with real and fake swapped. The gradient goes through the median as PyTorch's
    does, and nothing waits for the device.

    Args:
        real_logits: a tensor of any shape (float32, float64, float16 or bfloat16), or a sequence of them.
        fake_logits: the same for fake, of the same shapes.
        tau: the most that the loss of a member can be, 0 or more.

    Returns:
        A scalar (float32 for 16-bit logits, else of their dtype), summed over members. As in the formula it is NaN
        where no element has r < f + m, as of one or two elements. In float64 the rounding of f + m may let one in.

    Raises:
        TypeError, ValueError: bad input, with the argument's name, what came and what is needed.
    """
    real, fake = operands("real_logits", real_logits), operands("fake_logits", fake_logits)
    if len(real) != len(fake):
        raise ValueError(f"real_logits and fake_logits: expected as many members, got {len(real)} and {len(fake)}")
    together("real_logits and fake_logits", (*real, *fake))
    tau = number("tau", tau, 0.0)
    pairs = [pair("real_logits", r, "fake_logits", f, True) for r, f in zip(real, fake, strict=True)]
    return torch.stack([_truncated(r, f, tau) for r, f in pairs]).sum()


def _truncated(r: Tensor, f: Tensor, tau: float) -> Tensor:
    # In float64, where r - f is exact: else a rounding lets the median itself, whose square is 0, in or not.
    result = torch.float32 if r.dtype in SIXTEEN_BITS else r.dtype
    r, f = r.to(widest(r.device)), f.to(widest(f.device))
    difference = r - f
    median = difference.median()
    counted = r < f + median  # a weight per element: an index by it would wait for how many there are
    squares = torch.where(counted, (difference - median).square(), 0.0)
    mean = squares.sum() / counted.sum()
    return torch.where(mean >= tau, tau, mean).to(result)  # tau - relu(tau - mean) without its rounding; NaN stays


def adaptive_weight(
    reconstruction_gradient: Tensors,
    adversarial_gradient: Tensors,
    *,
    weight: float = 1.0,
    eps: float = 1e-4,
    limit: float = 1e4,
) -> Tensor:
    """Return VQGAN's weight of the adversarial loss: weight * min(||g_rec|| / (||g_adv|| + eps), limit).

        by_nll, by_loss = (torch.autograd.grad(x, last_layer, retain_graph=True)[0] for x in (nll, loss))
        total = nll + fastgan.adaptive_weight(by_nll, by_loss, weight=0.8) * loss

    Esser et al. 2021 (arXiv:2012.09841), eq. 7; the gradients are those by the decoder's last layer, from
    `torch.autograd.grad(loss, last_layer, retain_graph=True)`. Nothing waits for the device.

    Args:
        reconstruction_gradient: a tensor of any shape (float32, float64, float16 or bfloat16), or a sequence of
            them, whose norm is over all together.
        adversarial_gradient: the same for the adversarial loss.
        weight: the factor in front.
        eps: what is added to the adversarial norm, 0 or more. At 0, two gradients of zeros give NaN.
        limit: the largest ratio, 0 or more.

    Returns:
        A detached 0-dim tensor (float32 for 16-bit gradients, else of their dtype).

    Raises:
        TypeError, ValueError: bad input, with the argument's name, what came and what is needed.
    """
    weight, eps, limit = number("weight", weight), number("eps", eps, 0.0), number("limit", limit, 0.0)
    with torch.no_grad():
        above = gradient_norm(operands("reconstruction_gradient", reconstruction_gradient), over="batch")
        below = gradient_norm(operands("adversarial_gradient", adversarial_gradient), over="batch")
        return (above / (below + eps)).clamp(0.0, limit) * weight
