"""stable-audio-tools (Stability-AI/stable-audio-tools, stable_audio_tools/models/discriminators.py and arc.py).

    from stable_audio_tools.models.discriminators import get_hinge_losses               # before
    from fastgan.compat.stable_audio_tools import get_hinge_losses                      # after

Its discriminators call the two functions in their own module, once per scale: there call
`fastgan.compat.patch("stable_audio_tools")`. The rest is inline in methods of networks and of the ARC trainer.
Lines that make one call of each loop are in docs/drop-ins/vocoders.md.

The autoencoder's trainer calls the discriminator's `loss` in both steps, with fakes that are not detached. In the
discriminator's step pass `fakes.detach()`; wrap the generator's call in `with fastgan.frozen(self.discriminator):`,
and leave the backward outside. Else each backward also walks through the other network.

The results are those of both networks at once, of which a step uses one. As in stable-audio-tools, the first is the
discriminator's. Unlike there, scores of different shapes raise in the relativistic form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ._origin import Origin
from ._shared import MINUS, hinge, mean_of, softplus

__all__ = ["get_hinge_losses", "get_relativistic_losses"]

ORIGIN = Origin(("stable_audio_tools.models.discriminators", "stable_audio_tools.models.arc"))


def get_hinge_losses(score_real: Tensor, score_fake: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean [1 - r]+ + mean [1 + f]+, and -mean f: the discriminator's loss, and the generator's."""
    return mean_of((hinge(-1), score_real), (hinge(1), score_fake)), mean_of((MINUS, score_fake))


def get_relativistic_losses(score_real: Tensor, score_fake: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean softplus(f - r), and mean softplus(r - f): the discriminator's loss, and the generator's."""
    pair = (score_real, score_fake)
    return mean_of((softplus(-1), pair)), mean_of((softplus(1), pair))


def samples(leaf: Callable[..., Tensor]) -> dict[str, Any]:
    """Return arguments for the probe: scores of one scale."""
    return {"score_real": leaf(2, 5, seed=1), "score_fake": leaf(2, 5, seed=4)}
