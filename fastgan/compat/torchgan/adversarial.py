"""Minimax, least squares and Wasserstein losses as modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...wgan import clip_weights_
from . import functional
from .loss import DiscriminatorLoss, GeneratorLoss

__all__ = [
    "LeastSquaresDiscriminatorLoss",
    "LeastSquaresGeneratorLoss",
    "MinimaxDiscriminatorLoss",
    "MinimaxGeneratorLoss",
    "WassersteinDiscriminatorLoss",
    "WassersteinGeneratorLoss",
]

Override = Callable[..., Any] | None


class MinimaxGeneratorLoss(GeneratorLoss):
    """`minimax_generator_loss` as a module: softplus(-dgz), or -softplus(dgz) where not nonsaturating."""

    def __init__(
        self, reduction: str = "mean", nonsaturating: bool = True, override_train_ops: Override = None
    ) -> None:
        super().__init__(reduction, override_train_ops)
        self.nonsaturating = nonsaturating

    def forward(self, dgz: Tensor) -> Tensor:
        """Return the loss of logits of any shape."""
        return functional.minimax_generator_loss(dgz, self.nonsaturating, self.reduction)


class MinimaxDiscriminatorLoss(DiscriminatorLoss):
    """`minimax_discriminator_loss` as a module; label_smoothing comes before the reduction."""

    def __init__(
        self, label_smoothing: float = 0.0, reduction: str = "mean", override_train_ops: Override = None
    ) -> None:
        super().__init__(reduction, override_train_ops)
        self.label_smoothing = label_smoothing

    def forward(self, dx: Tensor, dgz: Tensor) -> Tensor:
        """Return the loss of logits of any shapes."""
        return functional.minimax_discriminator_loss(dx, dgz, self.label_smoothing, self.reduction)


class LeastSquaresGeneratorLoss(GeneratorLoss):
    """`least_squares_generator_loss` as a module: 0.5 (dgz - c)^2."""

    def __init__(self, reduction: str = "mean", c: float = 1.0, override_train_ops: Override = None) -> None:
        super().__init__(reduction, override_train_ops)
        self.c = c

    def forward(self, dgz: Tensor) -> Tensor:
        """Return the loss of outputs of any shape."""
        return functional.least_squares_generator_loss(dgz, self.c, self.reduction)


class LeastSquaresDiscriminatorLoss(DiscriminatorLoss):
    """`least_squares_discriminator_loss` as a module: 0.5 (dx - b)^2 + 0.5 (dgz - a)^2."""

    def __init__(
        self, reduction: str = "mean", a: float = 0.0, b: float = 1.0, override_train_ops: Override = None
    ) -> None:
        super().__init__(reduction, override_train_ops)
        self.a = a
        self.b = b

    def forward(self, dx: Tensor, dgz: Tensor) -> Tensor:
        """Return the loss of outputs of any shapes."""
        return functional.least_squares_discriminator_loss(dx, dgz, self.a, self.b, self.reduction)


class WassersteinGeneratorLoss(GeneratorLoss):
    """`wasserstein_generator_loss` as a module: -fgz."""

    def forward(self, fgz: Tensor) -> Tensor:
        """Return the loss of outputs of any shape."""
        return functional.wasserstein_generator_loss(fgz, self.reduction)


class WassersteinDiscriminatorLoss(DiscriminatorLoss):
    """`wasserstein_discriminator_loss` as a module: fgz - fx.

    Args:
        reduction: "mean", "sum" or "none".
        clip: (low, high): `train_ops` first clamps all parameters of the discriminator to it; a value that is not a
            pair counts as None.
        override_train_ops: a function in the place of `train_ops`, which is not given the loss.
    """

    def __init__(self, reduction: str = "mean", clip: Any = None, override_train_ops: Override = None) -> None:
        super().__init__(reduction, override_train_ops)
        self.clip = clip if isinstance(clip, (tuple, list)) and len(clip) > 1 else None

    def forward(self, fx: Tensor, fgz: Tensor) -> Tensor:
        """Return the loss of outputs of any shapes."""
        return functional.wasserstein_discriminator_loss(fx, fgz, self.reduction)

    def train_ops(
        self,
        generator: Any,
        discriminator: Any,
        optimizer_discriminator: Any,
        real_inputs: Any,
        device: Any,
        labels: Any = None,
    ) -> Any:
        """Run the base's step, on clipped weights."""
        arguments = (generator, discriminator, optimizer_discriminator, real_inputs, device, labels)
        if self.override_train_ops is not None:
            return self.override_train_ops(*arguments)
        if self.clip is not None:
            clip_weights_(discriminator, (self.clip[0], self.clip[1]))
        return super().train_ops(*arguments)
