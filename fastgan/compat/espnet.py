"""ESPnet (espnet/espnet, espnet2/gan_tts/hifigan/loss.py): ParallelWaveGAN's losses.

    from espnet2.gan_tts.hifigan.loss import DiscriminatorAdversarialLoss, ...          # before
    from espnet2.gan_tts.hifigan.loss import MelSpectrogramLoss                         # after
    from fastgan.compat.espnet import DiscriminatorAdversarialLoss, FeatureMatchLoss, GeneratorAdversarialLoss

All models of gan_tts (VITS, HiFi-GAN, joint text2wav) and of gan_codec (SoundStream, EnCodec, DAC, FunCodec)
import them from there. `fastgan.compat.patch("espnet")` replaces them in all. The mel losses stay, and so does the
codecs' balancer.

The models run the discriminator on real sounds under no_grad, but leave it trainable in the generator's step. Wrap
`p_hat = self.discriminator(speech_hat_)` there in `with fastgan.frozen(self.discriminator):`.

Gains and habits are those of `parallelwavegan`: fake comes first in every class, the loss on real in the result.
"""

from ._origin import Origin
from .parallelwavegan import (
    DiscriminatorAdversarialLoss,
    FeatureMatchLoss,
    GeneratorAdversarialLoss,
    samples,  # noqa: F401 (for the probe)
)

__all__ = ["DiscriminatorAdversarialLoss", "FeatureMatchLoss", "GeneratorAdversarialLoss"]

ORIGIN = Origin(("espnet2.gan_tts.hifigan.loss",))
