"""R3GAN (brownvc/R3GAN, R3GAN/Trainer.py).

    from R3GAN.Trainer import AdversarialTraining              # before
    from fastgan.compat.r3gan import AdversarialTraining       # after

Real and fake logits must have one shape (R3GAN would broadcast). A discriminator that has no second derivative is
refused at the call, where R3GAN fails in backward or trains on a wrong gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..functional import generator_loss
from ._origin import Origin
from ._shared import differentiable, gradient_by_input, pruned_forward, squared_norms

__all__ = ["AdversarialTraining"]

ORIGIN = Origin(("R3GAN.Trainer",))

Preprocessor = Callable[[Tensor], Tensor]


def _paired(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return x - y, and softplus(-(x - y)) elementwise."""
    values = generator_loss(x, y, "nonsaturating", relativistic="paired", reduction="none")
    return (x - y).detach(), values.to(x.dtype)


class AdversarialTraining:
    """The paired relativistic loss with R1 and R2 (Huang et al. 2024, arXiv:2501.05441).

    Args:
        Generator: called as (Noise, Conditions).
        Discriminator: called as (Samples, Conditions), returns logits.

    Gradients are accumulated; nothing is zeroed and no optimizer steps.
    """

    def __init__(self, Generator: Callable[..., Tensor], Discriminator: Callable[..., Tensor]) -> None:
        self.Generator = Generator
        self.Discriminator = Discriminator

    @staticmethod
    def ZeroCenteredGradientPenalty(Samples: Tensor, Critics: Tensor) -> Tensor:
        """Return the squared norm of each sample's gradient of the summed critics, (N,); samples require grad."""
        return squared_norms(gradient_by_input(Critics, Samples, name="Samples"), reduction="none")

    def AccumulateGeneratorGradients(
        self,
        Noise: Tensor,
        RealSamples: Tensor,
        Conditions: Any,
        Scale: float = 1,
        Preprocessor: Preprocessor = lambda x: x,
    ) -> list[Tensor]:
        """Run the backward of Scale * mean softplus(-(f - r)); return [each logit's loss, f - r], detached."""
        fake = self.Generator(Noise, Conditions)
        fake_logits = self.Discriminator(Preprocessor(fake), Conditions)
        real_logits = self.Discriminator(Preprocessor(RealSamples.detach()), Conditions)
        difference, loss = _paired(fake_logits, real_logits)
        (Scale * loss.mean()).backward()
        return [loss.detach(), difference]

    def AccumulateDiscriminatorGradients(
        self,
        Noise: Tensor,
        RealSamples: Tensor,
        Conditions: Any,
        Gamma: float,
        Scale: float = 1,
        Preprocessor: Preprocessor = lambda x: x,
    ) -> list[Tensor]:
        """Run the backward of Scale * (mean softplus(-(r - f)) + Gamma / 2 * (mean R1 + mean R2)).

        Returns [each logit's loss, r - f, R1 (N,), R2 (N,)], detached. The penalties are on gradients with respect
        to the samples before the preprocessor.
        """
        real = RealSamples.detach().requires_grad_(True)
        fake = self.Generator(Noise, Conditions).detach().requires_grad_(True)
        (real_logits, r1), (fake_logits, r2) = self._penalised([real, fake], Conditions, Preprocessor)
        difference, loss = _paired(real_logits, fake_logits)
        # Means apart, as (N, 1) beside (N,) would broadcast to (N, N); of the same mean.
        total = loss.mean() + (Gamma / 2) * (r1.mean() + r2.mean())
        (Scale * total).backward()
        return [loss.detach(), difference, r1.detach(), r2.detach()]

    def _penalised(
        self, batches: list[Tensor], conditions: Any, preprocessor: Preprocessor
    ) -> list[tuple[Tensor, Tensor]]:
        """Return the logits and the penalties (N,) of each batch, pruned unless the penalty is a subclass's own."""
        if self.ZeroCenteredGradientPenalty is not AdversarialTraining.ZeroCenteredGradientPenalty:
            logits = [self.Discriminator(preprocessor(x), conditions) for x in batches]
            return [(y, self.ZeroCenteredGradientPenalty(x, y)) for x, y in zip(batches, logits, strict=True)]
        with differentiable():
            calls = [pruned_forward(self.Discriminator, x, conditions, before=preprocessor) for x in batches]
            grads = [call.gradients()[0] for call in calls]
        norms = [squared_norms(g, reduction="none") for g in grads]
        return [(call.result, call.with_zeros(n)) for call, n in zip(calls, norms, strict=True)]
