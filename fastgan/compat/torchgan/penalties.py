"""Gradient penalties as modules, with a step of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...discriminator.forward import differentiable
from .._shared import between
from . import functional
from .adversarial import Override
from .loss import DiscriminatorLoss, draw_labels, draw_noise, generate, judge_fake, need_labels

__all__ = ["DraganGradientPenalty", "WassersteinGradientPenalty"]


class _Penalty(DiscriminatorLoss):
    def __init__(self, reduction: str, lambd: float, override_train_ops: Override) -> None:
        super().__init__(reduction, override_train_ops)
        self.lambd = lambd

    def _descend(self, discriminator: Any, points: Tensor, optimizer: Any, labels: Any, drawn: Any) -> float:
        """Run backward on lambd times the penalty at these points, and a step; return the penalty as a number."""
        with differentiable():
            outputs = judge_fake(discriminator, points, labels, drawn)
        loss = self.forward(points, outputs)
        (self.lambd * loss).backward()
        optimizer.step()
        return loss.item()


class WassersteinGradientPenalty(_Penalty):
    """`wasserstein_gradient_penalty` as a module: (n - 1)^2, with n one norm over the whole batch.

    `forward` leaves lambd out; `train_ops` trains on lambd times the penalty. The norm grows with the number of
    samples.

    Args:
        reduction: has no effect, since there is one norm.
        lambd: the factor in `train_ops`.
        override_train_ops: a function in the place of `train_ops`; it is given the loss first, and no device.
    """

    def __init__(self, reduction: str = "mean", lambd: float = 10.0, override_train_ops: Override = None) -> None:
        super().__init__(reduction, lambd, override_train_ops)

    def forward(self, interpolate: Tensor, d_interpolate: Any) -> Tensor:
        """Return the penalty, without lambd, of the discriminator's outputs at points that required grad before."""
        return functional.wasserstein_gradient_penalty(interpolate, d_interpolate, self.reduction)

    def train_ops(
        self,
        generator: Any,
        discriminator: Any,
        optimizer_discriminator: Any,
        real_inputs: Any,
        device: Any,
        labels: Any = None,
    ) -> Any:
        """Step the discriminator on lambd times the penalty between real and fake; return it without lambd.

        One factor for all samples is drawn on the CPU. The fake samples are not detached: the generator's
        parameters get a gradient too, which its own step zeroes.

        Raises:
            ValueError: no labels for a network that requires them.
        """
        if self.override_train_ops is not None:
            return self.override_train_ops(
                self, generator, discriminator, optimizer_discriminator, real_inputs, labels
            )
        need_labels(labels, generator, discriminator)
        count = len(real_inputs)
        noise = draw_noise(generator, count, device)
        drawn = draw_labels(generator, count, device)
        optimizer_discriminator.zero_grad()
        fake = generate(generator, noise, labels, drawn)
        eps = torch.full((count,), torch.rand(1).item(), device=real_inputs.device)
        return self._descend(discriminator, between(real_inputs, fake, eps), optimizer_discriminator, labels, drawn)


class DraganGradientPenalty(_Penalty):
    """`dragan_gradient_penalty` as a module: (n - k)^2, with n one norm over the whole batch.

    `forward` leaves lambd out; `train_ops` trains on lambd times the penalty. The norm grows with the number of
    samples.

    Args:
        reduction: has no effect, since there is one norm.
        lambd: the factor in `train_ops`.
        k: the target norm.
        override_train_ops: a function in the place of `train_ops`; it is given the loss first, and no device.
    """

    def __init__(
        self, reduction: str = "mean", lambd: float = 10.0, k: float = 1.0, override_train_ops: Override = None
    ) -> None:
        super().__init__(reduction, lambd, override_train_ops)
        self.k = k

    def forward(self, interpolate: Tensor, d_interpolate: Any) -> Tensor:
        """Return the penalty, without lambd, of the discriminator's outputs at points that required grad before."""
        return functional.dragan_gradient_penalty(interpolate, d_interpolate, self.k, self.reduction)

    def train_ops(
        self,
        generator: Any,
        discriminator: Any,
        optimizer_discriminator: Any,
        real_inputs: Any,
        device: Any,
        labels: Any = None,
    ) -> Any:
        """Step the discriminator on lambd times the penalty around real; return it without lambd.

        Points are real + (1 - a) * 0.5 * std(real) * u, with a and u uniform for each element.

        Raises:
            ValueError: no labels for a discriminator that requires them.
        """
        if self.override_train_ops is not None:
            return self.override_train_ops(
                self, generator, discriminator, optimizer_discriminator, real_inputs, labels
            )
        a = torch.rand(real_inputs.shape, device=device)
        u = torch.rand(real_inputs.shape, device=device)
        optimizer_discriminator.zero_grad()
        points = real_inputs + (1 - a) * 0.5 * real_inputs.std() * u
        if not points.requires_grad:
            points.requires_grad_()
        drawn = draw_labels(generator, len(real_inputs), device)
        if drawn is None:
            need_labels(labels, discriminator)
        return self._descend(discriminator, points, optimizer_discriminator, labels, drawn)
