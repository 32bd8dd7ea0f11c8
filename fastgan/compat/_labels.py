"""Losses of logits that are all real or all fake: the form of most image trainers' GANLoss."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from ..backends.specs import Term
from ._shared import MINUS, PLUS, bce, distance, hinge, softplus, square

# (label, is real, is for the discriminator) -> term. The label is the number that the trainer gives real or fake.
Maker = Callable[[float, bool, bool], Term]
# The same in plain PyTorch where labels are a tensor.
ON_TARGETS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "vanilla": F.binary_cross_entropy_with_logits,
    "lsgan": F.mse_loss,
    "l1": F.l1_loss,
}


def vanilla(label: float, real: bool, disc: bool) -> Term:
    """Return the cross-entropy with the label."""
    return bce(label)


def lsgan(label: float, real: bool, disc: bool) -> Term:
    """Return the square of the distance from the label, without a factor 1/2."""
    return square(label)


def l1(label: float, real: bool, disc: bool) -> Term:
    """Return the distance from the label."""
    return distance(label)


def huber(label: float, real: bool, disc: bool) -> Term:
    """Return Huber's loss of the distance d from the label: d^2 / 2 up to d = 1, then d - 1/2."""
    return Term("huber", shift=-float(label))


def wgan(label: float, real: bool, disc: bool) -> Term:
    """Return -x for real, x for fake."""
    return MINUS if real else PLUS


def wgan_softplus(label: float, real: bool, disc: bool) -> Term:
    """Return softplus(-x) for real, softplus(x) for fake."""
    return softplus(-1 if real else 1)


def hinge_loss(label: float, real: bool, disc: bool) -> Term:
    """Return the hinge; the generator's is about fake logits, regardless of the flag."""
    return hinge(-1 if real else 1) if disc else MINUS


def replaced(method: Callable[..., object], own: Callable[..., object]) -> bool:
    """Return whether a trainer's subclass or instance has replaced an adapter's method `own` by another."""
    return getattr(method, "__func__", None) is not getattr(own, "__func__", None)
