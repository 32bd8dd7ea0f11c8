"""The bases of the losses, and the steps that torchgan's Trainer runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["DiscriminatorLoss", "GeneratorLoss"]


def _trainers_bases() -> tuple[Any, Any]:
    """Return torchgan's own bases, by which its Trainer tells the losses apart; without torchgan, plain modules."""
    try:
        from torchgan.losses.loss import DiscriminatorLoss as OfDiscriminator
        from torchgan.losses.loss import GeneratorLoss as OfGenerator
    except ImportError:
        return nn.Module, nn.Module
    return OfGenerator, OfDiscriminator


_BASES = _trainers_bases()
_OfGenerator: Any = _BASES[0]
_OfDiscriminator: Any = _BASES[1]


# ---------------------------------------------------------------------------------- parts of a step


def need_labels(labels: Any, *networks: Any) -> None:
    """Raise if a network's label_type is "required" and there are no labels."""
    if labels is None and any(network.label_type == "required" for network in networks):
        raise ValueError("labels: expected labels for a network whose label_type is 'required', got None")


def draw_noise(generator: Any, count: int, device: Any) -> Tensor:
    """Draw the generator's input."""
    return torch.randn(count, generator.encoding_dims, device=device)


def draw_labels(generator: Any, count: int, device: Any) -> Tensor | None:
    """Draw labels for a generator whose label_type is "generated"; else draw nothing."""
    if generator.label_type != "generated":
        return None
    return torch.randint(0, generator.num_classes, (count,), device=device)


def generate(generator: Any, noise: Tensor, labels: Any, drawn: Tensor | None) -> Any:
    """Return fake samples, with the labels that the generator asks for."""
    if generator.label_type == "none":
        return generator(noise)
    return generator(noise, labels if generator.label_type == "required" else drawn)


def judge_real(discriminator: Any, real: Any, labels: Any, drawn: Tensor | None, **options: Any) -> Any:
    """Return the discriminator's output for real samples."""
    if discriminator.label_type == "none":
        return discriminator(real, **options)
    return discriminator(real, labels if discriminator.label_type == "required" else drawn, **options)


def judge_fake(discriminator: Any, fake: Any, labels: Any, drawn: Tensor | None, **options: Any) -> Any:
    """Return the discriminator's output for fake samples, with the labels that they were generated from.

    These are the generator's own labels where it has any, else the given ones.
    """
    if discriminator.label_type == "none":
        return discriminator(fake, **options)
    return discriminator(fake, labels if drawn is None else drawn, **options)


def descend(loss: Tensor, *optimizers: Any) -> float:
    """Run backward and a step of each optimizer; return the loss as a number."""
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    return loss.item()


# ---------------------------------------------------------------------------------- bases


class _Loss(nn.Module):
    """A loss's options, read at each call, and its map of arguments."""

    def __init__(self, reduction: str = "mean", override_train_ops: Callable[..., Any] | None = None) -> None:
        nn.Module.__init__(self)  # and not torchgan's, which would set the same
        self.reduction = reduction
        self.override_train_ops = override_train_ops
        self.arg_map: dict[str, str] = {}

    def set_arg_map(self, value: dict[str, str]) -> None:
        """Add to `arg_map`, which holds the Trainer's names for the arguments of `train_ops`."""
        self.arg_map.update(value)


class GeneratorLoss(_Loss, _OfGenerator):
    """The base of the generator's losses: a subclass has `forward(dgz)`.

    Args:
        reduction: "mean", "sum" or "none".
        override_train_ops: a function that is called with the arguments of `train_ops` in its place.
    """

    def train_ops(
        self,
        generator: Any,
        discriminator: Any,
        optimizer_generator: Any,
        device: Any,
        batch_size: int,
        labels: Any = None,
    ) -> Any:
        """Run one step of the generator; return the loss as a float.

        Raises:
            ValueError: no labels for a generator that requires them.
        """
        if self.override_train_ops is not None:
            return self.override_train_ops(
                generator, discriminator, optimizer_generator, device, batch_size, labels
            )
        need_labels(labels, generator)
        noise = draw_noise(generator, batch_size, device)
        optimizer_generator.zero_grad()
        drawn = draw_labels(generator, batch_size, device)
        fake = generate(generator, noise, labels, drawn)
        return descend(self.forward(judge_fake(discriminator, fake, labels, drawn)), optimizer_generator)


class DiscriminatorLoss(_Loss, _OfDiscriminator):
    """The base of the discriminator's losses: a subclass has `forward(dx, dgz)`.

    Args:
        reduction: "mean", "sum" or "none".
        override_train_ops: a function that is called with the loss and the arguments of `train_ops` in its place.
    """

    def train_ops(
        self,
        generator: Any,
        discriminator: Any,
        optimizer_discriminator: Any,
        real_inputs: Any,
        device: Any,
        labels: Any = None,
    ) -> Any:
        """Run one step of the discriminator; return the loss as a float.

        Raises:
            ValueError: no labels for a network that requires them.
        """
        if self.override_train_ops is not None:
            return self.override_train_ops(
                self, generator, discriminator, optimizer_discriminator, real_inputs, device, labels
            )
        dx, dgz = self._outputs(generator, discriminator, optimizer_discriminator, real_inputs, device, labels)
        return descend(self.forward(dx, dgz), optimizer_discriminator)

    @staticmethod
    def _outputs(
        generator: Any, discriminator: Any, optimizer: Any, real: Any, device: Any, labels: Any
    ) -> tuple[Any, Any]:
        """Zero the gradients, and return the discriminator's outputs for real samples and then for fake ones."""
        need_labels(labels, generator, discriminator)
        noise = draw_noise(generator, len(real), device)
        drawn = draw_labels(generator, len(real), device)
        optimizer.zero_grad()
        dx = judge_real(discriminator, real, labels, drawn)
        fake = generate(generator, noise, labels, drawn)
        return dx, judge_fake(discriminator, fake.detach(), labels, drawn)
