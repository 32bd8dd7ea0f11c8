"""How NeMo's audio codecs compute losses: means over discriminators, halves in the discriminator's."""

import torch
import torch.nn.functional as F
from torch import nn


class FeatureMatchingLoss(nn.Module):
    """The mean distance over discriminators and layers; gradients go to the real side too."""

    def forward(self, fmaps_real, fmaps_gen):
        total = 0.0
        for reals, gens in zip(fmaps_real, fmaps_gen, strict=False):
            for real, gen in zip(reals, gens, strict=False):
                total = total + torch.abs(real - gen).mean() / len(reals)
        return total / len(fmaps_real)


class GeneratorHingedLoss(nn.Module):
    """The mean over discriminators of a hinge."""

    def forward(self, disc_scores_gen):
        total = 0.0
        for scores in disc_scores_gen:
            total = total + F.relu(1 - scores).mean()
        return total / len(disc_scores_gen)


class GeneratorSquaredLoss(nn.Module):
    """The mean over discriminators of a square."""

    def forward(self, disc_scores_gen):
        total = 0.0
        for scores in disc_scores_gen:
            total = total + ((1 - scores) ** 2).mean()
        return total / len(disc_scores_gen)


class DiscriminatorHingedLoss(nn.Module):
    """The mean over discriminators of the hinges' mean."""

    def forward(self, disc_scores_real, disc_scores_gen):
        total = 0.0
        for real, gen in zip(disc_scores_real, disc_scores_gen, strict=False):
            total = total + (F.relu(1 - real).mean() + F.relu(1 + gen).mean()) / 2
        return total / len(disc_scores_real)


class DiscriminatorSquaredLoss(nn.Module):
    """The mean over discriminators of the squares' mean."""

    def forward(self, disc_scores_real, disc_scores_gen):
        total = 0.0
        for real, gen in zip(disc_scores_real, disc_scores_gen, strict=False):
            total = total + (((1 - real) ** 2).mean() + (gen**2).mean()) / 2
        return total / len(disc_scores_real)
