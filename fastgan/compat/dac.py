"""DAC (descriptinc/descript-audio-codec, dac/nn/loss.py).

    from dac.nn.loss import GANLoss                                                     # before
    from fastgan.compat.dac import GANLoss                                              # after

The trainer's script takes its losses as attributes of `dac.nn.loss`, so there call `fastgan.compat.patch("dac")`
below the import of dac.

The script leaves the discriminator trainable in the generator's step. Wrap that step's call of
`state.gan_loss.generator_loss` in `with fastgan.frozen(state.discriminator):`, and leave the backward outside. It
also spares the graph of the discriminator on real audio, which the trainer builds there and uses for nothing.

All discriminators go through one call forward and one backward, and so do all feature maps. The loss is about two
per cent of a step (docs/benchmarks.md); `frozen` is the larger gain.

As in DAC, fake comes first, nothing is divided by the number of discriminators, and without members or maps the
result is the int 0. Unlike there, feature maps of different shapes in a pair raise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ._origin import Origin
from ._shared import feature_distance, mean_of, square

__all__ = ["GANLoss"]

ORIGIN = Origin(("dac.nn.loss",))


class GANLoss(nn.Module):
    """`loss(discriminator)`: losses of AudioSignals, whose `audio_data` it gives to the discriminator.

    The discriminator returns a list per member, whose last entry is the logits and the others feature maps.
    """

    def __init__(self, discriminator: Any) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, fake: Any, real: Any) -> tuple[Any, Any]:
        """Return the discriminator's outputs of both, fake first."""
        return self.discriminator(fake.audio_data), self.discriminator(real.audio_data)

    def discriminator_loss(self, fake: Any, real: Any) -> Any:
        """Return the sum over members of mean f^2 + mean (1 - r)^2, in the logits' dtype; the fake is detached."""
        d_fake, d_real = self.forward(fake.clone().detach(), real)
        pairs = list(zip(d_fake, d_real, strict=False))
        if not pairs:
            return 0
        entries = [e for f, r in pairs for e in ((square(0.0), f[-1]), (square(1.0), r[-1]))]
        return mean_of(*entries)

    def generator_loss(self, fake: Any, real: Any) -> tuple[Any, Any]:
        """Return the sum over members of mean (1 - f)^2, and over the other maps of mean |f - r|, r detached."""
        d_fake, d_real = self.forward(fake, real)
        loss = mean_of(*[(square(1.0), f[-1]) for f in d_fake]) if d_fake else 0
        maps = [(d_real[i][j], f) for i, member in enumerate(d_fake) for j, f in enumerate(member[:-1])]
        if not maps:
            return loss, 0
        return loss, feature_distance([r for r, _ in maps], [f for _, f in maps], 1.0, detach_real=True)


class _Sound(tuple):
    """A sound of one tensor, as audiotools' AudioSignal holds it."""

    audio_data = property(lambda self: self[0])

    def clone(self) -> _Sound:
        """Return a copy with its graph."""
        return _Sound((self[0].clone(),))

    def detach(self) -> _Sound:
        """Return it without its graph."""
        return _Sound((self[0].detach(),))


def judge(x: Tensor) -> list[list[Tensor]]:
    """Return the outputs of two members, a discriminator for the probe."""
    return [[x.sin(), 2 * x, x.square() - 1], [x.flatten(1)]]


def samples(leaf: Callable[..., Tensor]) -> dict[str, Any]:
    """Return arguments for the probe: sounds, and a discriminator of two members."""
    sounds = {"fake": _Sound((leaf(2, 1, 5, seed=1),)), "real": _Sound((leaf(2, 1, 5, seed=2),))}
    return {"discriminator": judge, **sounds}
