"""How MONAI's PatchAdversarialLoss computes: an activation of its own on the logits, then the criterion."""

import warnings
from enum import Enum

import torch
import torch.nn.functional as F
from torch import nn


class AdversarialCriterions(str, Enum):
    """The names of the criteria."""

    BCE = "bce"
    HINGE = "hinge"
    LEAST_SQUARE = "least_squares"


class PatchAdversarialLoss(nn.Module):
    """The loss of one tensor or of a list of them, for the discriminator or the generator."""

    def __init__(self, reduction="mean", criterion="least_squares", no_activation_leastsq=False):
        super().__init__()
        if criterion.lower() not in [member.value for member in AdversarialCriterions]:
            raise ValueError(f"unknown criterion: {criterion}")
        self.reduction = reduction
        self.criterion = criterion
        self.no_activation_leastsq = no_activation_leastsq

    def forward(self, input, target_is_real, for_discriminator):
        if not for_discriminator and not target_is_real:
            target_is_real = True
            warnings.warn("target_is_real must be True when a generator is optimised", stacklevel=2)
        members = input if isinstance(input, list) else [input]
        losses = [self._single(member, target_is_real) for member in members]
        if self.reduction == "none":
            return losses
        stacked = torch.stack(losses)
        return stacked.mean() if self.reduction == "mean" else stacked.sum()

    def _single(self, x, target_is_real):
        if self.criterion == "hinge":
            v = torch.tanh(x)
            return -torch.mean(torch.min((v if target_is_real else -v) - 1, torch.zeros_like(x)))
        if self.criterion == "bce":
            # The trainer takes sigmoid and log apart, which in float32 loses the fake loss past 17; logsigmoid
            # is the same number and loses nothing.
            return self._reduce(-F.logsigmoid(x if target_is_real else -x))
        v = x if self.no_activation_leastsq else F.leaky_relu(x, negative_slope=0.05)
        return self._reduce((v - 1.0 if target_is_real else v) ** 2)

    def _reduce(self, elements):
        if self.reduction == "none":
            return elements
        return elements.mean() if self.reduction == "mean" else elements.sum()
