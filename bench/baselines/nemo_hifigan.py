"""How NeMo's HiFi-GAN computes losses: HiFi-GAN's functions, in modules."""

from torch import nn

from bench.baselines import hifigan


class FeatureMatchingLoss(nn.Module):
    """Twice the sum of the mean distances of all feature maps."""

    def forward(self, fmap_r, fmap_g):
        return hifigan.feature_loss(fmap_r, fmap_g)


class DiscriminatorLoss(nn.Module):
    """The sum over discriminators, and its parts as floats."""

    def forward(self, disc_real_outputs, disc_generated_outputs):
        return hifigan.discriminator_loss(disc_real_outputs, disc_generated_outputs)


class GeneratorLoss(nn.Module):
    """The sum over discriminators, and its parts as tensors."""

    def forward(self, disc_outputs):
        return hifigan.generator_loss(disc_outputs)
