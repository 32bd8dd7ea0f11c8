"""SpeechBrain's HiFi-GAN (speechbrain/speechbrain, speechbrain/lobes/models/HifiGAN.py).

    mseg_loss: !new:speechbrain.lobes.models.HifiGAN.MSEGLoss                           # before, in the hparams
    mseg_loss: !new:fastgan.compat.speechbrain.MSEGLoss                                 # after

The hparams build the losses, and the module's own `GeneratorLoss` and `DiscriminatorLoss` call them once per
discriminator. `fastgan.compat.patch("speechbrain")` also replaces the two functions that do so, and then all
discriminators go through one call. Spectrogram losses stay, and so do those two classes.

The recipe leaves the discriminator trainable in the generator's step. Wrap the two calls of
`self.modules.discriminator` below the optimizer's step in `with fastgan.frozen(self.modules.discriminator):`, and
leave the backward outside. It computes both networks' losses in either step; one of them is for the log alone.

As in SpeechBrain, fake comes first, logits are summed over discriminators, and feature maps averaged over all maps
(none: ZeroDivisionError), with gradients for the real ones. Of a list, the losses on real and on fake that are
returned for the log are twice the last discriminator's: the trainer adds each to itself. Unlike there, tensors of
different shapes in a pair raise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ._origin import Origin
from ._shared import feature_distance, mean_and_each, mean_of, square

__all__ = ["MSEDLoss", "MSEGLoss", "MelganFeatureLoss", "_apply_D_loss", "_apply_G_adv_loss"]

ORIGIN = Origin(("speechbrain.lobes.models.HifiGAN",))


class MSEGLoss(nn.Module):
    """`loss(score_fake)`: mean (1 - f)^2 of one discriminator's logits."""

    def forward(self, score_fake: Tensor) -> Tensor:
        """Return a scalar of the logits' dtype."""
        return mean_of((square(1.0), score_fake))


class MelganFeatureLoss(nn.Module):
    """`loss(fake_feats, real_feats)`: the mean over all maps of all discriminators of mean |f - r|."""

    def forward(self, fake_feats: Sequence[Sequence[Tensor]], real_feats: Sequence[Sequence[Tensor]]) -> Tensor:
        """Return a scalar of the maps' dtype."""
        members = [(fake, real_feats[i]) for i, fake in enumerate(fake_feats)]
        pairs = [pair for fake, real in members for pair in zip(fake, real, strict=False)]
        return feature_distance([r for _, r in pairs], [f for f, _ in pairs], 1.0 / len(pairs))


class MSEDLoss(nn.Module):
    """`loss(score_fake, score_real)`: the tuple (sum, mean (1 - r)^2, mean f^2) of one discriminator's logits."""

    def forward(self, score_fake: Tensor, score_real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return three scalars of the logits' dtype, with a graph each."""
        total, (on_real, on_fake) = mean_and_each((square(1.0), score_real), (square(0.0), score_fake))
        return total, on_real, on_fake


def _apply_G_adv_loss(scores_fake: Any, loss_func: Callable[..., Any]) -> Any:
    """Return the sum of a loss over a list of logits, or the loss of a tensor; of an empty list the int 0."""
    if not isinstance(scores_fake, list):
        return loss_func(scores_fake)
    if type(loss_func) is MSEGLoss and scores_fake:
        return mean_of(*[(square(1.0), f) for f in scores_fake])
    return sum(loss_func(f) for f in scores_fake)


def _apply_D_loss(scores_fake: Any, scores_real: Any, loss_func: Callable[..., Any]) -> tuple[Any, Any, Any]:
    """Return the sum of a loss over a list of logits, and twice the last one's parts; or the loss of tensors."""
    if not isinstance(scores_fake, list):
        return loss_func(scores_fake, scores_real)
    pairs = list(zip(scores_fake, scores_real, strict=False))
    if not pairs:
        return 0, 0, 0
    if type(loss_func) is MSEDLoss:
        entries = [e for f, r in pairs for e in ((square(1.0), r), (square(0.0), f))]
        total, values = mean_and_each(*entries)
        return total, 2 * values[-2], 2 * values[-1]
    found = [loss_func(score_fake=f, score_real=r) for f, r in pairs]
    return sum(total for total, _, _ in found), 2 * found[-1][1], 2 * found[-1][2]


def samples(leaf: Callable[..., Tensor]) -> dict[str, Any]:
    """Return arguments for the probe: logits and maps of two discriminators, and a loss of one or both roles."""

    def loss_func(score_fake: Tensor, score_real: Tensor | None = None) -> Any:
        on_fake = score_fake.square().mean()
        if score_real is None:
            return on_fake
        on_real = score_real.exp().mean()
        return on_fake + on_real, on_real, on_fake

    fake, real = ([leaf(2, 3, seed=k), leaf(5, seed=k + 1)] for k in (1, 3))
    found = {"score_fake": fake[0], "score_real": real[0], "scores_fake": fake, "scores_real": real}
    maps = [[[leaf(2, 3, seed=k), leaf(4, seed=k + 1)], [leaf(3, seed=k + 2)]] for k in (5, 8)]
    return found | {"loss_func": loss_func, "fake_feats": maps[0], "real_feats": maps[1]}
