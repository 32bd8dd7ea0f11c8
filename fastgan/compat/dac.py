"""DAC (descriptinc/descript-audio-codec, dac/nn/loss.py).

    from dac.nn.loss import GANLoss                                                     # before
    from fastgan.compat.dac import GANLoss                                              # after

The trainer's script takes its losses as attributes of `dac.nn.loss`, so there call `fastgan.compat.patch("dac")`
below the import of dac.

The script leaves the discriminator trainable in the generator's step. Wrap that step's call of
`state.gan_loss.generator_loss` in `with fastgan.frozen(state.discriminator):`, and leave the backward outside. It
also spares the graph of the discriminator on real audio, which the trainer builds there and uses for nothing.

All discriminators go through one call forward and one backward, and so do all feature maps. The loss is a small
part of a step of networks of this size; `frozen` is the larger gain.

As in DAC, fake comes first, nothing is divided by the number of discriminators, and without members or maps the
result is the int 0. Unlike there, feature maps of different shapes in a pair raise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ._origin import Origin
from ._vocoders import JudgedSounds, Sound

__all__ = ["GANLoss"]

ORIGIN = Origin(("dac.nn.loss",))


class GANLoss(JudgedSounds):
    """`loss(discriminator)`: losses of AudioSignals, whose `audio_data` it gives to the discriminator.

    The discriminator returns a list per member, whose last entry is the logits and the others feature maps.
    """

    def forward(self, fake: Any, real: Any) -> tuple[Any, Any]:
        """Return the discriminator's outputs of both, fake first."""
        return self.discriminator(fake.audio_data), self.discriminator(real.audio_data)

    def discriminator_loss(self, fake: Any, real: Any) -> Any:
        """Return the sum over members of mean f^2 + mean (1 - r)^2, in the logits' dtype; fake is detached."""
        return super().discriminator_loss(fake, real)

    def generator_loss(self, fake: Any, real: Any) -> tuple[Any, Any]:
        """Return the sum over members of mean (1 - f)^2, and that over other maps of mean |f - r|; r is detached."""
        return super().generator_loss(fake, real)


def samples(leaf: Callable[..., Tensor]) -> dict[str, Any]:
    """Return arguments for the probe: sounds, and a discriminator of two members."""

    def discriminator(x: Tensor) -> list[list[Tensor]]:
        return [[x.sin(), 2 * x, x.square() - 1], [x.flatten(1)]]

    sounds = {"fake": Sound((leaf(2, 1, 5, seed=1),)), "real": Sound((leaf(2, 1, 5, seed=2),))}
    return {"discriminator": discriminator, **sounds}
