"""BigVGAN (NVIDIA/BigVGAN, loss.py): HiFi-GAN's losses.

from loss import discriminator_loss, feature_loss, generator_loss                    # before
from fastgan.compat.bigvgan import discriminator_loss, feature_loss, generator_loss  # after
"""

from .hifigan import discriminator_loss, feature_loss, generator_loss

__all__ = ["discriminator_loss", "feature_loss", "generator_loss"]
