"""How R3GAN trains: a paired relativistic loss, with R1 and R2 in the discriminator's step."""

import torch
import torch.nn.functional as F


class AdversarialTraining:
    """The two halves of a step; gradients are accumulated, and stepping is the caller's."""

    def __init__(self, Generator, Discriminator):
        self.Generator = Generator
        self.Discriminator = Discriminator

    @staticmethod
    def ZeroCenteredGradientPenalty(Samples, Critics):
        """The squared norm of each sample's gradient."""
        (gradient,) = torch.autograd.grad(Critics.sum(), Samples, create_graph=True)
        return gradient.square().sum([1, 2, 3])

    def AccumulateGeneratorGradients(self, Noise, RealSamples, Conditions, Scale=1, Preprocessor=lambda x: x):
        """Backward of the generator's loss; what comes back is its elements and the differences of the logits."""
        fake = self.Generator(Noise, Conditions)
        fake_logits = self.Discriminator(Preprocessor(fake), Conditions)
        real_logits = self.Discriminator(Preprocessor(RealSamples.detach()), Conditions)
        difference = fake_logits - real_logits
        loss = F.softplus(-difference)
        (Scale * loss.mean()).backward()
        return [loss.detach(), difference.detach()]

    def AccumulateDiscriminatorGradients(
        self, Noise, RealSamples, Conditions, Gamma, Scale=1, Preprocessor=lambda x: x
    ):
        """Backward of the discriminator's loss with both penalties, of samples before the preprocessor."""
        real = RealSamples.detach().requires_grad_(True)
        fake = self.Generator(Noise, Conditions).detach().requires_grad_(True)
        real_logits = self.Discriminator(Preprocessor(real), Conditions)
        fake_logits = self.Discriminator(Preprocessor(fake), Conditions)
        r1 = self.ZeroCenteredGradientPenalty(real, real_logits)
        r2 = self.ZeroCenteredGradientPenalty(fake, fake_logits)
        difference = real_logits - fake_logits
        loss = F.softplus(-difference)
        (Scale * (loss + Gamma / 2 * (r1 + r2)).mean()).backward()
        return [loss.detach(), difference.detach(), r1.detach(), r2.detach()]
