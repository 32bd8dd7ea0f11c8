"""BigVGAN (NVIDIA/BigVGAN, loss.py): HiFi-GAN's losses.

    from loss import feature_loss, generator_loss, discriminator_loss, ...             # before, in train.py
    from loss import MultiScaleMelSpectrogramLoss                                      # after
    from fastgan.compat.bigvgan import discriminator_loss, feature_loss, generator_loss

The spectrogram loss is imported in the same statement, and stays. As in `hifigan`, wrap the generator's calls of
both discriminators in `with fastgan.frozen(mpd, mrd):`.
"""

from ._origin import Origin
from .hifigan import discriminator_loss, feature_loss, generator_loss

__all__ = ["discriminator_loss", "feature_loss", "generator_loss"]

ORIGIN = Origin(("loss",))
