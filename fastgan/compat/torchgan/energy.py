"""Energy-based and boundary equilibrium losses as modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from . import functional
from .adversarial import Override
from .loss import DiscriminatorLoss, GeneratorLoss, descend, draw_noise

__all__ = [
    "BoundaryEquilibriumDiscriminatorLoss",
    "BoundaryEquilibriumGeneratorLoss",
    "EnergyBasedDiscriminatorLoss",
    "EnergyBasedGeneratorLoss",
    "EnergyBasedPullingAwayTerm",
]


def _encodes(discriminator: Any) -> bool:
    """Return whether it is an auto-encoder, which has a switch for also returning its embeddings."""
    return isinstance(getattr(discriminator, "embeddings", None), bool)


@contextmanager
def _without_embeddings(discriminator: Any) -> Iterator[None]:
    """Make an auto-encoder return its reconstruction errors alone; its switch is on afterwards."""
    switch = _encodes(discriminator)
    if switch:
        discriminator.embeddings = False
    try:
        yield
    finally:
        if switch:
            discriminator.embeddings = True


class EnergyBasedGeneratorLoss(GeneratorLoss):
    """`energy_based_generator_loss` as a module: dgz."""

    def forward(self, dgz: Tensor) -> Tensor:
        """Return the loss of energies of any shape."""
        return functional.energy_based_generator_loss(dgz, self.reduction)

    def train_ops(
        self,
        generator: Any,
        discriminator: Any,
        optimizer_generator: Any,
        device: Any,
        batch_size: int,
        labels: Any = None,
    ) -> Any:
        """Run the base's step, with the discriminator's `embeddings` off; they are on afterwards."""
        arguments = (generator, discriminator, optimizer_generator, device, batch_size, labels)
        if self.override_train_ops is not None:
            return self.override_train_ops(*arguments)
        with _without_embeddings(discriminator):
            return super().train_ops(*arguments)


class EnergyBasedDiscriminatorLoss(DiscriminatorLoss):
    """`energy_based_discriminator_loss` as a module: dx + [margin - dgz]+.

    Args:
        reduction: "mean", "sum" or "none".
        margin: the energy above which fake samples are left alone.
        override_train_ops: a function in the place of `train_ops`; it is given the loss first, and no batch_size.
    """

    def __init__(self, reduction: str = "mean", margin: float = 80.0, override_train_ops: Override = None) -> None:
        super().__init__(reduction, override_train_ops)
        self.margin = margin

    def forward(self, dx: Tensor, dgz: Tensor) -> Tensor:
        """Return the loss of energies of any shapes."""
        return functional.energy_based_discriminator_loss(dx, dgz, self.margin, self.reduction)

    def train_ops(  # type: ignore[override]
        self,
        generator: Any,
        discriminator: Any,
        optimizer_discriminator: Any,
        real_inputs: Any,
        device: Any,
        batch_size: Any,
        labels: Any = None,
    ) -> Any:
        """Run the base's step, with the discriminator's `embeddings` off; they are on afterwards."""
        arguments = (generator, discriminator, optimizer_discriminator, real_inputs, device, labels)
        if self.override_train_ops is not None:
            return self.override_train_ops(self, *arguments)
        with _without_embeddings(discriminator):
            return super().train_ops(*arguments)


class EnergyBasedPullingAwayTerm(GeneratorLoss):
    """pt_ratio times `energy_based_pulling_away_term`, as a module."""

    def __init__(self, pt_ratio: float = 0.1, override_train_ops: Override = None) -> None:
        super().__init__("mean", override_train_ops)
        self.pt_ratio = pt_ratio

    def forward(self, dgz: Any, d_hid: Tensor) -> Tensor:
        """Return the term of embeddings (N, ...); dgz is not used."""
        return self.pt_ratio * functional.energy_based_pulling_away_term(d_hid)

    def train_ops(
        self,
        generator: Any,
        discriminator: Any,
        optimizer_generator: Any,
        device: Any,
        batch_size: int,
        labels: Any = None,
    ) -> Any:
        """Run one step of the generator; the discriminator returns (embeddings, energies).

        Raises:
            ValueError: no auto-encoder, or its `embeddings` are off; or a generator that has labels.
        """
        if self.override_train_ops is not None:
            return self.override_train_ops(
                generator, discriminator, optimizer_generator, device, batch_size, labels
            )
        if not (_encodes(discriminator) and discriminator.embeddings):
            raise ValueError("discriminator: expected an auto-encoder with `embeddings` set to True")
        if generator.label_type != "none":
            raise ValueError(f"generator: expected one without labels, got label_type {generator.label_type!r}")
        noise = draw_noise(generator, batch_size, device)
        optimizer_generator.zero_grad()
        d_hid, dgz = discriminator(generator(noise))
        return descend(self.forward(dgz, d_hid), optimizer_generator)


class BoundaryEquilibriumGeneratorLoss(GeneratorLoss):
    """`boundary_equilibrium_generator_loss` as a module: dgz."""

    def forward(self, dgz: Tensor) -> Tensor:
        """Return the loss of reconstruction errors of any shape."""
        return functional.boundary_equilibrium_generator_loss(dgz, self.reduction)


class BoundaryEquilibriumDiscriminatorLoss(DiscriminatorLoss):
    """`boundary_equilibrium_discriminator_loss` as a module: (dx - k dgz, dx, dgz).

    Args:
        reduction: "mean", "sum" or "none".
        override_train_ops: a function in the place of `train_ops`; it is given the loss first.
        init_k: k at the start; `train_ops` moves it.
        lambd: how fast k moves.
        gamma: the target ratio of the errors on fake and on real.
    """

    def __init__(
        self,
        reduction: str = "mean",
        override_train_ops: Override = None,
        init_k: float = 0.0,
        lambd: float = 0.001,
        gamma: float = 0.75,
    ) -> None:
        super().__init__(reduction, override_train_ops)
        self.k = init_k
        self.lambd = lambd
        self.gamma = gamma
        self.convergence_metric: float | None = None

    def forward(self, dx: Tensor, dgz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, and its terms on real and on fake, for reconstruction errors of any shapes."""
        return functional.boundary_equilibrium_discriminator_loss(dx, dgz, self.k, self.reduction)

    def set_k(self, k: float = 0.0) -> None:
        """Set k."""
        self.k = k

    def update_k(self, loss_real: float, loss_fake: float) -> None:
        """Move k to k + lambd (gamma loss_real - loss_fake), clamped to [0, 1].

        Also set the measure of convergence.
        """
        difference = self.gamma * loss_real - loss_fake
        self.k += self.lambd * difference
        self.convergence_metric = loss_real + abs(difference)
        self.k = max(min(self.k, 1.0), 0.0)

    def train_ops(
        self,
        generator: Any,
        discriminator: Any,
        optimizer_discriminator: Any,
        real_inputs: Any,
        device: Any,
        labels: Any = None,
    ) -> Any:
        """Run the base's step, and then one of k."""
        if self.override_train_ops is not None:
            return self.override_train_ops(
                self, generator, discriminator, optimizer_discriminator, real_inputs, device, labels
            )
        dx, dgz = self._outputs(generator, discriminator, optimizer_discriminator, real_inputs, device, labels)
        loss, real, fake = self.forward(dx, dgz)
        value = descend(loss, optimizer_discriminator)
        self.update_k(real.item(), fake.item())
        return value
