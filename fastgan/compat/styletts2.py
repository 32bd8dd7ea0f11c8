"""StyleTTS 2 (yl4579/StyleTTS2, losses.py): HiFi-GAN's losses, and the truncated relativistic ones (TPRLS).

    from losses import *                                                # before, and after: in train_second.py
    from fastgan.compat.styletts2 import DiscriminatorLoss, GeneratorLoss               # after, below it

The spectrogram and WavLM losses stay. `fastgan.compat.patch("styletts2")` replaces the functions too.

The trainer leaves its discriminators trainable in the generator's step. `gl(wav, y_rec)` there calls them: wrap it
in `with fastgan.frozen(model.mpd, model.msd):`, and leave the backward outside. In `GeneratorLoss` each kind of
loss of all discriminators is one call. In `DiscriminatorLoss` nothing waits for the device, as the floats that the
trainer throws away are not made. TPRLS has no kernel, and is computed per discriminator.

As in StyleTTS 2, the generator's TPRLS has real and fake swapped, and real feature maps are not detached. Where no
logit is below the median, as of one or two, TPRLS is NaN. Lists of unequal length are cut to the shorter, and empty
ones give the int 0. Unlike there, tensors of different shapes in a pair raise, and TPRLS is computed in float64. In
the trainer's own dtype a rounding decides whether the median itself, whose square is 0, counts in the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ._origin import Origin
from ._shared import mean_of, square
from ._vocoders import truncated, truncated_samples
from .hifigan import discriminator_loss, feature_loss, generator_loss

__all__ = [
    "DiscriminatorLoss", "GeneratorLoss", "discriminator_TPRLS_loss", "discriminator_loss", "feature_loss",
    "generator_TPRLS_loss", "generator_loss",
]  # fmt: skip

ORIGIN = Origin(("losses",))
_TAU = 0.04


def discriminator_TPRLS_loss(disc_real_outputs: Sequence[Tensor], disc_generated_outputs: Sequence[Tensor]) -> Any:
    """Return the sum over discriminators of min(mean (r - f - m)^2, 0.04), where m is the median of r - f.

    The mean is over the elements where r < f + m. The result is in the logits' dtype.
    """
    return truncated(disc_real_outputs, disc_generated_outputs, _TAU)


def generator_TPRLS_loss(disc_real_outputs: Sequence[Tensor], disc_generated_outputs: Sequence[Tensor]) -> Any:
    """Return `discriminator_TPRLS_loss` with real and generated swapped."""
    return truncated(disc_generated_outputs, disc_real_outputs, _TAU)


def _both(first: Any, second: Any, *indices: int) -> list[list[Any]]:
    """Return outputs of both discriminators, by index, as one list each; of either cut to the shorter."""
    found: list[list[Any]] = [[] for _ in indices]
    for outputs in (first, second):
        length = min(len(outputs[i]) for i in indices)
        for lists, i in zip(found, indices, strict=True):
            lists.extend(list(outputs[i])[:length])
    return found


class _Judged(nn.Module):
    def __init__(self, mpd: Any, msd: Any) -> None:
        super().__init__()
        self.mpd = mpd
        self.msd = msd


class GeneratorLoss(_Judged):
    """`loss(mpd, msd)(y, y_hat)`: the sum of the generator's, feature and TPRLS losses of both discriminators.

    They return logits of y and of y_hat, and feature maps of y and of y_hat, a list each.
    """

    def forward(self, y: Tensor, y_hat: Tensor) -> Tensor:
        """Return a scalar."""
        judged = self.mpd(y, y_hat), self.msd(y, y_hat)
        (fakes,) = _both(*judged, 1)
        loss = generator_loss(fakes)[0] + feature_loss(*_both(*judged, 2, 3))
        return (loss + generator_TPRLS_loss(*_both(*judged, 0, 1))).mean()


class DiscriminatorLoss(_Judged):
    """`loss(mpd, msd)(y, y_hat)`: the sum of the discriminator's and TPRLS losses of both discriminators.

    The generated sound is not detached here: the trainer detaches it at the call.
    """

    def forward(self, y: Tensor, y_hat: Tensor) -> Tensor:
        """Return a scalar."""
        reals, fakes = _both(self.mpd(y, y_hat), self.msd(y, y_hat), 0, 1)
        loss = mean_of(*[(square(1.0), r) for r in reals], *[(square(0.0), f) for f in fakes])
        return (loss + discriminator_TPRLS_loss(reals, fakes)).mean()


def samples(leaf: Callable[..., Tensor]) -> dict[str, Any]:
    """Return arguments for the probe: logits, sounds, and two discriminators."""
    found = truncated_samples(leaf)
    y, y_hat = found["disc_real_outputs"][1], found["disc_generated_outputs"][1]

    def mpd(y: Tensor, y_hat: Tensor) -> tuple[Any, ...]:
        return [y, y / 16], [y_hat, y_hat / 16], [[y, y.square()]], [[y_hat, y_hat.square()]]

    def msd(y: Tensor, y_hat: Tensor) -> tuple[Any, ...]:
        return [2 * y], [y_hat], [[y.exp()], [y]], [[y_hat.exp()], [2 * y_hat]]

    return found | {"mpd": mpd, "msd": msd, "y": y, "y_hat": y_hat}
