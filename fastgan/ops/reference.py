"""The losses in plain PyTorch, as the papers state them: what tests and benchmarks compare with."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backends.formulas import softplus
from ..backends.reference import evaluate, interpolate, norm_penalty, norm_statistics, statistics
from .losses import LossOptions

__all__ = [
    "discriminator", "evaluate", "generator", "interpolate", "norm_penalty", "norm_statistics", "softplus",
    "statistics",
]  # fmt: skip


def _huber(x: Tensor) -> Tensor:
    return torch.where(x.abs() > 1, x.abs() - 0.5, x * x / 2)


def _on_real(loss: str, o: LossOptions) -> Callable[[Tensor], Tensor]:
    return {
        "saturating": lambda x: softplus(x) - o.real_target * x,
        "nonsaturating": lambda x: softplus(x) - o.real_target * x,
        "hinge": lambda x: F.relu(o.margin - x),
        "clipped_hinge": lambda x: F.relu(o.margin - x),
        "least_squares": lambda x: (x - o.targets[1]) ** 2,
        "huber": lambda x: _huber(x - o.targets[1]),
        "softplus_square": lambda x: softplus(o.margin - x) ** 2,
        "wasserstein": lambda x: -x,
        "ranking": lambda x: F.relu(o.margin - x),
    }[loss]


def _on_fake(loss: str, o: LossOptions) -> Callable[[Tensor], Tensor]:
    return {
        "saturating": lambda x: softplus(x) - o.fake_target * x,
        "nonsaturating": lambda x: softplus(x) - o.fake_target * x,
        "hinge": lambda x: F.relu(o.margin + x),
        "clipped_hinge": lambda x: F.relu(o.margin + x),
        "least_squares": lambda x: (x - o.targets[0]) ** 2,
        "huber": lambda x: _huber(x - o.targets[0]),
        "softplus_square": lambda x: softplus(x) ** 2,
        "wasserstein": lambda x: x,
        "ranking": lambda x: F.relu(o.margin + x),
    }[loss]


def _generator_on_fake(loss: str, o: LossOptions) -> Callable[[Tensor], Tensor]:
    return {
        "saturating": lambda x: -(softplus(x) - o.fake_target * x),
        "nonsaturating": lambda x: softplus(x) - o.real_target * x,
        "hinge": lambda x: -x,
        "clipped_hinge": lambda x: F.relu(o.margin - x),
        "least_squares": lambda x: (x - o.targets[2]) ** 2,
        "huber": lambda x: _huber(x - o.targets[2]),
        "softplus_square": lambda x: softplus(o.margin - x) ** 2,
        "wasserstein": lambda x: -x,
        "ranking": lambda x: -x,
    }[loss]


def discriminator(
    r: Tensor, f: Tensor, loss: str, relativistic: str | None = None, options: LossOptions | None = None
) -> Tensor:
    """Return the discriminator's mean loss on real logits r and fake logits f."""
    o = options or LossOptions()
    real, fake = _on_real(loss, o), _on_fake(loss, o)
    if relativistic == "average":
        return real(r - f.mean()).mean() + fake(f - r.mean()).mean()
    if relativistic == "paired" or loss == "ranking":
        return real(r - f).mean()
    return real(r).mean() + fake(f).mean()


def generator(
    f: Tensor, r: Tensor | None, loss: str, relativistic: str | None = None, options: LossOptions | None = None
) -> Tensor:
    """Return the generator's mean loss on fake logits f, and real logits r in a relativistic form."""
    if relativistic is None:
        return _generator_on_fake(loss, options or LossOptions())(f).mean()
    assert r is not None
    return discriminator(f, r, loss, relativistic, options)
