"""Losses without logits of real and fake: classifiers, features, histories of parameters, codes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from .._shared import mean_of, square
from . import functional
from .adversarial import Override
from .loss import (
    DiscriminatorLoss,
    GeneratorLoss,
    _Loss,
    descend,
    draw_labels,
    draw_noise,
    generate,
    judge_fake,
    judge_real,
    need_labels,
)

__all__ = [
    "AuxiliaryClassifierDiscriminatorLoss",
    "AuxiliaryClassifierGeneratorLoss",
    "FeatureMatchingGeneratorLoss",
    "HistoricalAverageDiscriminatorLoss",
    "HistoricalAverageGeneratorLoss",
    "MutualInformationPenalty",
]


def _takes_labels(generator: Any) -> None:
    if generator.label_type == "none":
        raise ValueError("generator: expected one with labels, as ACGAN's, got label_type 'none'")


class AuxiliaryClassifierGeneratorLoss(GeneratorLoss):
    """ACGAN's classification loss of the fake samples: softmax cross-entropy."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of class logits (N, classes) with labels (N,)."""
        return functional.auxiliary_classification_loss(logits, labels, self.reduction)

    def train_ops(
        self,
        generator: Any,
        discriminator: Any,
        optimizer_generator: Any,
        device: Any,
        batch_size: int,
        labels: Any = None,
    ) -> Any:
        """Run one step of the generator; the discriminator is called with mode="classifier".

        Raises:
            ValueError: no labels for a generator that requires them; a generator without labels.
        """
        if self.override_train_ops is not None:
            return self.override_train_ops(
                generator, discriminator, optimizer_generator, device, batch_size, labels
            )
        need_labels(labels, generator)
        _takes_labels(generator)
        noise = draw_noise(generator, batch_size, device)
        optimizer_generator.zero_grad()
        drawn = draw_labels(generator, batch_size, device)
        logits = discriminator(generate(generator, noise, labels, drawn), mode="classifier")
        return descend(self.forward(logits, labels if drawn is None else drawn), optimizer_generator)


class AuxiliaryClassifierDiscriminatorLoss(DiscriminatorLoss):
    """ACGAN's classification loss of real and fake samples: softmax cross-entropy.

    Args:
        reduction: "mean", "sum" or "none".
        override_train_ops: a function in the place of `train_ops`, which is not given the loss.
    """

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of class logits (N, classes) with labels (N,)."""
        return functional.auxiliary_classification_loss(logits, labels, self.reduction)

    def train_ops(
        self,
        generator: Any,
        discriminator: Any,
        optimizer_discriminator: Any,
        real_inputs: Any,
        device: Any,
        labels: Any = None,
    ) -> Any:
        """Run one step of the discriminator, called with mode="classifier"; the fake samples are not detached.

        Raises:
            ValueError: no labels; a generator without labels.
        """
        if self.override_train_ops is not None:
            return self.override_train_ops(
                generator, discriminator, optimizer_discriminator, real_inputs, device, labels
            )
        if labels is None:
            raise ValueError("labels: expected the classes of the real samples, got None")
        _takes_labels(generator)
        count = len(real_inputs)
        noise = draw_noise(generator, count, device)
        optimizer_discriminator.zero_grad()
        of_real = discriminator(real_inputs, mode="classifier")
        drawn = draw_labels(generator, count, device)
        of_fake = discriminator(generate(generator, noise, labels, drawn), mode="classifier")
        loss = self.forward(of_fake, labels if drawn is None else drawn) + self.forward(of_real, labels)
        return descend(loss, optimizer_discriminator)


class FeatureMatchingGeneratorLoss(GeneratorLoss):
    """(fgz - fx)^2 of the discriminator's features, reduced; both sides get a gradient.

    Args:
        reduction: "mean", "sum" or "none"; another name raises ValueError.
        override_train_ops: a function in the place of `train_ops`; it is given neither the loss nor real_inputs.
    """

    def forward(self, fx: Tensor, fgz: Tensor) -> Tensor:
        """Return the loss of features of one shape; others raise ValueError."""
        return mean_of((square(0.0), (fgz, fx)), reduction=self.reduction)

    def train_ops(  # type: ignore[override]
        self,
        generator: Any,
        discriminator: Any,
        optimizer_generator: Any,
        real_inputs: Any,
        device: Any,
        labels: Any = None,
    ) -> Any:
        """Run one step of the generator; the discriminator is called with feature_matching=True.

        Raises:
            ValueError: no labels for a generator that requires them.
        """
        if self.override_train_ops is not None:
            return self.override_train_ops(generator, discriminator, optimizer_generator, device, labels)
        need_labels(labels, generator)
        count = len(real_inputs)
        noise = draw_noise(generator, count, device)
        optimizer_generator.zero_grad()
        drawn = draw_labels(generator, count, device)
        fake = generate(generator, noise, labels, drawn)
        fx = judge_real(discriminator, real_inputs, labels, drawn, feature_matching=True)
        fgz = judge_fake(discriminator, fake, labels, drawn, feature_matching=True)
        return descend(self.forward(fx, fgz), optimizer_generator)


# ---------------------------------------------------------------------------------- histories


class _History(_Loss):
    """lambd * sum (p - S / t)^2, with S the sum of the parameters p at the t previous calls."""

    def __init__(
        self, reduction: str = "elementwise_mean", override_train_ops: Override = None, lambd: float = 1.0
    ) -> None:
        super().__init__(reduction, override_train_ops)
        self.timesteps = 0
        self.sum_parameters: list[Tensor] = []
        self.lambd = lambd

    def _step(self, parameters: Iterable[Tensor], optimizer: Any) -> float:
        """Run one step towards the average; the first call only remembers the parameters."""
        found = list(parameters)
        if self.timesteps == 0:
            self.sum_parameters = [p.detach().clone() for p in found]
            self.timesteps = 1
            return 0.0
        optimizer.zero_grad()
        pairs = [(p, s / self.timesteps) for p, s in zip(found, self.sum_parameters, strict=True) if p.numel()]
        loss = mean_of(*[(square(0.0, self.lambd), pair) for pair in pairs], reduction="sum")
        for p, s in zip(found, self.sum_parameters, strict=True):
            s.add_(p.detach())
        self.timesteps += 1
        return descend(loss, optimizer)


class HistoricalAverageGeneratorLoss(_History, GeneratorLoss):
    """lambd times the squared distance of the generator's parameters from their average so far; no forward.

    Args:
        reduction: has no effect.
        override_train_ops: a function in the place of `train_ops`; it is given the loss first.
        lambd: the factor.
    """

    def train_ops(self, generator: Any, optimizer_generator: Any) -> Any:  # type: ignore[override]
        """Run one step of the generator; the first call stores its parameters and returns 0.0."""
        if self.override_train_ops is not None:
            return self.override_train_ops(self, generator, optimizer_generator)
        return self._step(generator.parameters(), optimizer_generator)


class HistoricalAverageDiscriminatorLoss(_History, DiscriminatorLoss):
    """lambd times the squared distance of the discriminator's parameters from their average so far; no forward.

    Args:
        reduction: has no effect.
        override_train_ops: a function in the place of `train_ops`; it is given the loss first.
        lambd: the factor.
    """

    def train_ops(self, discriminator: Any, optimizer_discriminator: Any) -> Any:  # type: ignore[override]
        """Run one step of the discriminator; the first call stores its parameters and returns 0.0."""
        if self.override_train_ops is not None:
            return self.override_train_ops(self, discriminator, optimizer_discriminator)
        return self._step(discriminator.parameters(), optimizer_discriminator)


# ---------------------------------------------------------------------------------- codes


class MutualInformationPenalty(GeneratorLoss, DiscriminatorLoss):
    """`mutual_information_penalty` as a module; `forward` leaves lambd out.

    torchgan's value has no graph, so that its `train_ops` raises; this one trains both networks.
    """

    def __init__(self, lambd: float = 1.0, reduction: str = "mean", override_train_ops: Override = None) -> None:
        super().__init__(reduction, override_train_ops)
        self.lambd = lambd

    def forward(self, c_dis: Tensor, c_cont: Tensor, dist_dis: Any, dist_cont: Any) -> Tensor:
        """Return the penalty of codes under distributions (torch.distributions)."""
        return functional.mutual_information_penalty(c_dis, c_cont, dist_dis, dist_cont, self.reduction)

    def train_ops(  # type: ignore[override]
        self,
        generator: Any,
        discriminator: Any,
        optimizer_generator: Any,
        optimizer_discriminator: Any,
        dis_code: Tensor,
        cont_code: Tensor,
        device: Any,
        batch_size: int,
    ) -> Any:
        """Run one step of both networks on lambd times the penalty, and return that.

        The discriminator is called as (fake, True) and returns (_, dist_dis, dist_cont).
        """
        if self.override_train_ops is not None:
            return self.override_train_ops(
                generator, discriminator, optimizer_generator, optimizer_discriminator, dis_code, cont_code, device,
                batch_size,
            )  # fmt: skip
        noise = draw_noise(generator, batch_size, device)
        optimizer_discriminator.zero_grad()
        optimizer_generator.zero_grad()
        _, dist_dis, dist_cont = discriminator(generator(noise, dis_code, cont_code), True)
        loss = self.lambd * self.forward(dis_code, cont_code, dist_dis, dist_cont)
        return descend(loss, optimizer_discriminator, optimizer_generator)
