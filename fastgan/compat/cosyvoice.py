"""CosyVoice's vocoder (FunAudioLLM/CosyVoice, cosyvoice/utils/losses.py): HiFi-GAN's losses, and `tpr_loss`.

    from matcha.hifigan.models import feature_loss, generator_loss, discriminator_loss  # before, in hifigan.py
    from cosyvoice.utils.losses import tpr_loss, mel_loss
    from cosyvoice.utils.losses import mel_loss                                         # after
    from fastgan.compat.cosyvoice import discriminator_loss, feature_loss, generator_loss, tpr_loss

The first three are Matcha-TTS's, which are HiFi-GAN's: `fastgan.compat.patch("cosyvoice")` replaces them there, and
`tpr_loss` here. The mel loss stays.

The trainer leaves its discriminator trainable in the generator's turn. Wrap that turn's call,
`self.discriminator(real_speech, generated_speech)`, in `with fastgan.frozen(self.discriminator):`, and leave the
backward outside. All discriminators go through one call for each of the first three; `tpr_loss` has no kernel.

As in CosyVoice, `tpr_loss` is the discriminator's, also in the generator's turn: it is not swapped there, as it is
in StyleTTS 2. For NaN, lists and rounding see `styletts2`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ._origin import Origin
from ._vocoders import truncated, truncated_samples
from .hifigan import discriminator_loss, feature_loss, generator_loss

__all__ = ["discriminator_loss", "feature_loss", "generator_loss", "tpr_loss"]

ORIGIN = Origin(("cosyvoice.utils.losses", "matcha.hifigan.models"))


def tpr_loss(disc_real_outputs: Sequence[Tensor], disc_generated_outputs: Sequence[Tensor], tau: float) -> Any:
    """Return the sum over discriminators of min(mean (r - f - m)^2, tau), where m is the median of r - f.

    The mean is over the elements where r < f + m. The result is in the logits' dtype.
    """
    return truncated(disc_real_outputs, disc_generated_outputs, tau)


def samples(leaf: Callable[..., Tensor]) -> dict[str, Any]:
    """Return arguments for the probe: logits of several discriminators, of which tau truncates some."""
    return truncated_samples(leaf) | {"tau": 3.0}
