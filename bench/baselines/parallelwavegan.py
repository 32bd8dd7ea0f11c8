"""How ParallelWaveGAN's loss modules take their arguments (generated first) and average over discriminators."""

import torch
import torch.nn.functional as F
from torch import nn


def _real(x, loss_type):
    if loss_type == "mse":
        return F.mse_loss(x, x.new_ones(x.size()))
    return -torch.mean(torch.min(x - 1, x.new_zeros(x.size())))


def _fake(x, loss_type):
    if loss_type == "mse":
        return F.mse_loss(x, x.new_zeros(x.size()))
    return -torch.mean(torch.min(-x - 1, x.new_zeros(x.size())))


def _last(member):
    return member[-1] if isinstance(member, (tuple, list)) else member


class GeneratorAdversarialLoss(nn.Module):
    """The generator's loss on one tensor, or on a list of tensors or of lists of feature maps."""

    def __init__(self, average_by_discriminators=True, loss_type="mse"):
        super().__init__()
        assert loss_type in ("mse", "hinge"), f"{loss_type} is not supported."
        self.average_by_discriminators = average_by_discriminators
        self.loss_type = loss_type

    def _criterion(self, x):
        return _real(x, "mse") if self.loss_type == "mse" else -x.mean()

    def forward(self, outputs):
        if not isinstance(outputs, (tuple, list)):
            return self._criterion(outputs)
        loss = 0.0
        for output in outputs:
            loss += self._criterion(_last(output))
        if self.average_by_discriminators:
            loss /= len(outputs)
        return loss


class DiscriminatorAdversarialLoss(nn.Module):
    """The discriminator's losses (real, fake), of arguments (fake, real)."""

    def __init__(self, average_by_discriminators=True, loss_type="mse"):
        super().__init__()
        assert loss_type in ("mse", "hinge"), f"{loss_type} is not supported."
        self.average_by_discriminators = average_by_discriminators
        self.loss_type = loss_type

    def forward(self, outputs_hat, outputs):
        if not isinstance(outputs, (tuple, list)):
            return _real(outputs, self.loss_type), _fake(outputs_hat, self.loss_type)
        real_loss = fake_loss = 0.0
        members = list(zip(outputs_hat, outputs, strict=False))
        for fake, real in members:
            real_loss += _real(_last(real), self.loss_type)
            fake_loss += _fake(_last(fake), self.loss_type)
        if self.average_by_discriminators:
            real_loss /= len(members)
            fake_loss /= len(members)
        return real_loss, fake_loss


class FeatureMatchLoss(nn.Module):
    """The mean distance of generated feature maps from detached real ones."""

    def __init__(self, average_by_layers=True, average_by_discriminators=True, include_final_outputs=False):
        super().__init__()
        self.average_by_layers = average_by_layers
        self.average_by_discriminators = average_by_discriminators
        self.include_final_outputs = include_final_outputs

    def forward(self, feats_hat, feats):
        total = 0.0
        members = list(zip(feats_hat, feats, strict=False))
        for fakes, reals in members:
            last = None if self.include_final_outputs else -1
            layers = list(zip(fakes[:last], reals[:last], strict=False))
            inner = 0.0
            for fake, real in layers:
                inner += F.l1_loss(fake, real.detach())
            if self.average_by_layers:
                inner /= len(layers)
            total += inner
        if self.average_by_discriminators:
            total /= len(members)
        return total
