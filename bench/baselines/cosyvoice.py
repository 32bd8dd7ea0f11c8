"""How CosyVoice's vocoder computes losses: HiFi-GAN's of Matcha-TTS, and a truncated relativistic loss."""

from bench.baselines import hifigan
from bench.baselines.styletts2 import _truncated

discriminator_loss = hifigan.discriminator_loss
generator_loss = hifigan.generator_loss
feature_loss = hifigan.feature_loss
__all__ = ["discriminator_loss", "feature_loss", "generator_loss"]


def tpr_loss(disc_real_outputs, disc_generated_outputs, tau):
    """Truncated at tau."""
    return _truncated(disc_real_outputs, disc_generated_outputs, tau)
