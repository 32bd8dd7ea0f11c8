"""NeMo's audio codecs (NVIDIA/NeMo, nemo/collections/tts/losses/audio_codec_loss.py).

    _target_: nemo.collections.tts.losses.audio_codec_loss.GeneratorSquaredLoss         # before, in the config
    _target_: fastgan.compat.nemo.GeneratorSquaredLoss                                  # after

The model builds its adversarial losses from its config, and imports the feature loss: call
`fastgan.compat.patch("nemo")` for all of them. `RelativeFeatureMatchingLoss`, the default of the model, is left as
it is (docs/drop-ins/vocoders.md has lines for it), and so are the losses of spectrograms and waveforms. NeMo's
vocoder has its losses in `nemo_hifigan`.

The model leaves the discriminator trainable in the generator's step. Wrap that step's call,
`self.discriminator(audio_real=audio, audio_gen=audio_gen)`, in `with fastgan.frozen(self.discriminator):`, and
leave the backward outside.

All discriminators go through one call forward and one backward, and so do all feature maps. The loss is a small
part of a step of networks of this size; `frozen` is the larger gain.

As in NeMo, sums are divided by the length of the list of real ones, also where the other list is shorter. Empty
lists raise ZeroDivisionError, and real maps are not detached. NeMo's check of types is not made: arguments may also
be given by position. Unlike there, tensors of different shapes in a pair raise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ..backends.specs import Term
from ._origin import Origin
from ._shared import feature_distance, hinge, mean_of, square

__all__ = [
    "DiscriminatorHingedLoss", "DiscriminatorSquaredLoss", "FeatureMatchingLoss", "GeneratorHingedLoss",
    "GeneratorSquaredLoss",
]  # fmt: skip

ORIGIN = Origin(("nemo.collections.tts.losses.audio_codec_loss",))


def _of_generator(term: Term, scores: Sequence[Tensor]) -> Tensor:
    """Return the mean over discriminators of the term's means."""
    weight = 1.0 / len(scores)
    return mean_of(*[(term.weighted(weight), x) for x in scores])


def _of_discriminator(terms: tuple[Term, Term], reals: Sequence[Tensor], fakes: Sequence[Tensor]) -> Any:
    """Return the mean over discriminators of half the terms' means; 0.0 where no fake is beside a real one."""
    weight = 0.5 / len(reals)
    on_real, on_fake = (term.weighted(weight) for term in terms)
    entries = [e for r, f in zip(reals, fakes, strict=False) for e in ((on_real, r), (on_fake, f))]
    return mean_of(*entries) if entries else 0.0


class FeatureMatchingLoss(nn.Module):
    """`loss(fmaps_real, fmaps_gen)`: the mean over discriminators and their layers of mean |r - g|."""

    def forward(self, fmaps_real: Sequence[Sequence[Tensor]], fmaps_gen: Sequence[Sequence[Tensor]]) -> Any:
        """Return a scalar of the maps' dtype; 0.0 where there are none."""
        outer = 1.0 / len(fmaps_real)
        triples = [
            (r, f, outer / len(real))
            for real, fake in zip(fmaps_real, fmaps_gen, strict=False)
            for r, f in zip(real, fake, strict=False)
        ]
        if not triples:
            return 0.0
        reals, fakes, weights = zip(*triples, strict=True)
        return feature_distance(reals, fakes, weights)


class GeneratorHingedLoss(nn.Module):
    """`loss(disc_scores_gen)`: the mean over discriminators of mean [1 - f]+."""

    def forward(self, disc_scores_gen: Sequence[Tensor]) -> Tensor:
        """Return a scalar of the scores' dtype."""
        return _of_generator(hinge(-1), disc_scores_gen)


class GeneratorSquaredLoss(nn.Module):
    """`loss(disc_scores_gen)`: the mean over discriminators of mean (1 - f)^2."""

    def forward(self, disc_scores_gen: Sequence[Tensor]) -> Tensor:
        """Return a scalar of the scores' dtype."""
        return _of_generator(square(1.0), disc_scores_gen)


class DiscriminatorHingedLoss(nn.Module):
    """`loss(disc_scores_real, disc_scores_gen)`: the mean over discriminators.

    Of each (mean [1 - r]+ + mean [1 + f]+) / 2.
    """

    def forward(self, disc_scores_real: Sequence[Tensor], disc_scores_gen: Sequence[Tensor]) -> Any:
        """Return a scalar of the scores' dtype."""
        return _of_discriminator((hinge(-1), hinge(1)), disc_scores_real, disc_scores_gen)


class DiscriminatorSquaredLoss(nn.Module):
    """`loss(disc_scores_real, disc_scores_gen)`: the mean over discriminators.

    Of each (mean (1 - r)^2 + mean f^2) / 2.
    """

    def forward(self, disc_scores_real: Sequence[Tensor], disc_scores_gen: Sequence[Tensor]) -> Any:
        """Return a scalar of the scores' dtype."""
        return _of_discriminator((square(1.0), square(0.0)), disc_scores_real, disc_scores_gen)


def samples(leaf: Callable[..., Tensor]) -> dict[str, Any]:
    """Return arguments for the probe: scores and feature maps of two discriminators."""
    real, fake = ([leaf(2, 3, seed=k), leaf(5, seed=k + 1)] for k in (1, 3))
    maps = [[[leaf(2, 3, seed=k), leaf(4, seed=k + 1)], [leaf(3, seed=k + 2)]] for k in (5, 8)]
    return {"disc_scores_real": real, "disc_scores_gen": fake, "fmaps_real": maps[0], "fmaps_gen": maps[1]}
