"""How Vocos computes losses: hinge by clamp, sums over discriminators in tensors of shape (1,)."""

import torch
from torch import nn


class GeneratorLoss(nn.Module):
    """The sum over discriminators, and its parts."""

    def forward(self, disc_outputs):
        first = disc_outputs[0]
        total = torch.zeros(1, device=first.device, dtype=first.dtype)
        parts = []
        for logits in disc_outputs:
            part = torch.clamp(1 - logits, min=0).mean()
            total = total + part
            parts.append(part)
        return total, parts


class DiscriminatorLoss(nn.Module):
    """The sum over discriminators, and its parts on real and on generated."""

    def forward(self, disc_real_outputs, disc_generated_outputs):
        first = disc_real_outputs[0]
        total = torch.zeros(1, device=first.device, dtype=first.dtype)
        on_real, on_generated = [], []
        for real, generated in zip(disc_real_outputs, disc_generated_outputs, strict=False):
            on_real.append(torch.clamp(1 - real, min=0).mean())
            on_generated.append(torch.clamp(1 + generated, min=0).mean())
            total = total + (on_real[-1] + on_generated[-1])
        return total, on_real, on_generated


class FeatureMatchingLoss(nn.Module):
    """The sum of the mean distances of all feature maps; gradients go to the real side too."""

    def forward(self, fmap_r, fmap_g):
        first = fmap_r[0][0]
        total = torch.zeros(1, device=first.device, dtype=first.dtype)
        for reals, generateds in zip(fmap_r, fmap_g, strict=False):
            for real, generated in zip(reals, generateds, strict=False):
                total = total + torch.abs(real - generated).mean()
        return total
