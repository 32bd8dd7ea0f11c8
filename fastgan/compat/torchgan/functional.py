"""The losses as functions: fx, dx are the discriminator's outputs (logits) for real, fgz, dgz those for fake.

`reduction` is "mean" or "sum"; any other string leaves the elements unreduced. The minimax and auxiliary losses are
the exception: there only "none" does, and others raise ValueError. Results are scalars of the inputs' dtype.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...backends.specs import Term
from ...functional import reduce_terms
from ...norms import norm_penalty
from .._shared import MINUS, PLUS, bce, gradient_by_input, mean_of, result_dtype, square

__all__ = [
    "auxiliary_classification_loss",
    "boundary_equilibrium_discriminator_loss",
    "boundary_equilibrium_generator_loss",
    "dragan_gradient_penalty",
    "energy_based_discriminator_loss",
    "energy_based_generator_loss",
    "energy_based_pulling_away_term",
    "least_squares_discriminator_loss",
    "least_squares_generator_loss",
    "minimax_discriminator_loss",
    "minimax_generator_loss",
    "mutual_information_penalty",
    "wasserstein_discriminator_loss",
    "wasserstein_generator_loss",
    "wasserstein_gradient_penalty",
]


def _lenient(reduction: Any) -> str:
    """Return the reduction that torchgan takes a name for: any name but "mean" and "sum" is "none"."""
    return reduction if reduction in ("mean", "sum") else "none"


def _reduced(*entries: tuple[Term, Tensor], reduction: str) -> Tensor:
    """Return the sum of the terms over their tensors, reduced; unreduced they must have one shape."""
    if reduction != "none":
        return mean_of(*entries, reduction=reduction)
    tensors = [x for _, x in entries]
    _same_shape(*tensors)
    parts = reduce_terms([t for t, _ in entries], tensors, reduction="none")
    return sum(parts[1:], parts[0]).to(result_dtype(tensors))


def _same_shape(*tensors: Tensor) -> None:
    if any(t.shape != tensors[0].shape for t in tensors):
        shapes = " and ".join(str(tuple(t.shape)) for t in tensors)
        raise ValueError(f"expected real and fake outputs of one shape unless they are averaged, got {shapes}")


# ---------------------------------------------------------------------------------- losses


def minimax_generator_loss(dgz: Tensor, nonsaturating: bool = True, reduction: str = "mean") -> Tensor:
    """Return softplus(-dgz), or -softplus(dgz) where not nonsaturating; logits of any shape.

    Raises:
        ValueError: another reduction than "mean", "sum" or "none".
    """
    return _reduced((bce(1.0) if nonsaturating else bce(0.0, -1.0), dgz), reduction=reduction)


def minimax_discriminator_loss(
    dx: Tensor, dgz: Tensor, label_smoothing: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """Return the cross-entropy of dx with label 1 - label_smoothing plus that of dgz with label 0.

    Logits may have any shapes.

    Raises:
        ValueError: another reduction than "mean", "sum" or "none"; with "none", two shapes.
    """
    return _reduced((bce(1.0 - label_smoothing), dx), (bce(0.0), dgz), reduction=reduction)


def least_squares_generator_loss(dgz: Tensor, c: float = 1.0, reduction: str = "mean") -> Tensor:
    """Return 0.5 (dgz - c)^2, reduced."""
    return _reduced((square(c, 0.5), dgz), reduction=_lenient(reduction))


def least_squares_discriminator_loss(
    dx: Tensor, dgz: Tensor, a: float = 0.0, b: float = 1.0, reduction: str = "mean"
) -> Tensor:
    """Return 0.5 (dx - b)^2 + 0.5 (dgz - a)^2, each reduced; a, the label of fake, comes first.

    Raises:
        ValueError: two shapes where nothing is reduced.
    """
    return _reduced((square(b, 0.5), dx), (square(a, 0.5), dgz), reduction=_lenient(reduction))


def wasserstein_generator_loss(fgz: Tensor, reduction: str = "mean") -> Tensor:
    """Return -fgz, reduced."""
    return _reduced((MINUS, fgz), reduction=_lenient(reduction))


def wasserstein_discriminator_loss(fx: Tensor, fgz: Tensor, reduction: str = "mean") -> Tensor:
    """Return fgz - fx, reduced; the mean may be of batches of different sizes.

    Raises:
        ValueError: two shapes where it is not the mean.
    """
    reduction = _lenient(reduction)
    if reduction != "mean":
        _same_shape(fx, fgz)
    return _reduced((MINUS, fx), (PLUS, fgz), reduction=reduction)


def energy_based_generator_loss(dgz: Tensor, reduction: str = "mean") -> Tensor:
    """Return dgz, the energy of fake samples, reduced."""
    return _reduced((PLUS, dgz), reduction=_lenient(reduction))


def energy_based_discriminator_loss(dx: Tensor, dgz: Tensor, margin: float, reduction: str = "mean") -> Tensor:
    """Return dx + [margin - dgz]+, reduced; the mean may be of batches of different sizes.

    Raises:
        ValueError: two shapes where it is not the mean.
    """
    reduction = _lenient(reduction)
    if reduction != "mean":
        _same_shape(dx, dgz)
    return _reduced((PLUS, dx), (Term("relu", scale=-1.0, shift=float(margin)), dgz), reduction=reduction)


def energy_based_pulling_away_term(d_hid: Tensor) -> Tensor:
    """Return sum (h h^T)^2 / (N (N - 1)) of embeddings (N, ...).

    h is d_hid as (N, -1), divided by its norm over the batch, as in torchgan. The paper normalizes each sample's
    embedding instead, and leaves out the diagonal. The result is infinite for one sample.
    """
    h = F.normalize(d_hid, p=2.0, dim=0)
    n = len(h)
    h = h.reshape(n, -1)
    return torch.sum((h @ h.T) ** 2) / (n * (n - 1))


def boundary_equilibrium_generator_loss(dgz: Tensor, reduction: str = "mean") -> Tensor:
    """Return dgz, the reconstruction error of fake samples, reduced."""
    return _reduced((PLUS, dgz), reduction=_lenient(reduction))


def boundary_equilibrium_discriminator_loss(
    dx: Tensor, dgz: Tensor, k: float, reduction: str = "mean"
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (dx - k dgz, dx, dgz), each reduced; the last two have a graph each.

    Raises:
        ValueError: two shapes where nothing is reduced.
    """
    reduction = _lenient(reduction)
    if reduction == "none":
        _same_shape(dx, dgz)
    real, fake = (_reduced((PLUS, x), reduction=reduction) for x in (dx, dgz))
    return real - k * fake, real, fake


def auxiliary_classification_loss(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Return the softmax cross-entropy of class logits (N, classes) with labels (N,).

    Raises:
        ValueError: another reduction than "mean", "sum" or "none".
    """
    return F.cross_entropy(logits, labels, reduction=reduction)


def mutual_information_penalty(
    c_dis: Tensor, c_cont: Tensor, dist_dis: Any, dist_cont: Any, reduction: str = "mean"
) -> Tensor:
    """Return -mean log p_dis(c_dis) and -mean log p_cont(c_cont) of InfoGAN's codes, reduced.

    torchgan's value has no graph, so that its backward raises; this one has.
    """
    values = -torch.stack([dist.log_prob(c).mean() for dist, c in ((dist_dis, c_dis), (dist_cont, c_cont))])
    reduction = _lenient(reduction)
    return values if reduction == "none" else getattr(values, reduction)()


# ---------------------------------------------------------------------------------- penalties


def wasserstein_gradient_penalty(interpolate: Tensor, d_interpolate: Any, reduction: str = "mean") -> Tensor:
    """Return (n - 1)^2 with n the norm, over the whole batch, of sum(d_interpolate)'s gradient by `interpolate`.

    There is one norm for all samples, which grows with their number and is most likely not what you want.
    `fastgan.gradient_penalty` takes one per sample. So there is nothing to reduce: the result is 0-dim for any
    reduction.

    Raises:
        ValueError: the points did not require grad before the discriminator saw them, or do not enter.
        RuntimeError: the discriminator has no second derivative.
    """
    return dragan_gradient_penalty(interpolate, d_interpolate, 1.0, reduction)


def dragan_gradient_penalty(
    interpolate: Tensor, d_interpolate: Any, k: float = 1.0, reduction: str = "mean"
) -> Tensor:
    """Return (n - k)^2 with n the norm, over the whole batch, of sum(d_interpolate)'s gradient by `interpolate`.

    There is one norm for all samples, as in `wasserstein_gradient_penalty`, which also documents the errors.
    """
    g = gradient_by_input(d_interpolate, interpolate, name="interpolate")
    return norm_penalty(g, "two_sided", target=float(k), over="batch").to(g.dtype)
