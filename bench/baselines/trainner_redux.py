"""How traiNNer-redux computes its losses: BasicSR's, with the weight first, which the trainer applies elsewhere."""

import torch
from torch import nn
from torch.nn import functional as F

from bench.baselines.basicsr import g_path_regularize, gradient_penalty_loss, r1_penalty

__all__ = ["g_path_regularize", "gradient_penalty_loss", "r1_penalty"]


class GANLoss(nn.Module):
    """One object for all types."""

    def __init__(self, loss_weight, gan_type="vanilla", real_label_val=1.0, fake_label_val=0.0):
        super().__init__()
        self.gan_type = gan_type
        self.loss_weight = loss_weight
        self.real_label_val = real_label_val
        self.fake_label_val = fake_label_val
        if gan_type == "vanilla":
            self.loss = nn.BCEWithLogitsLoss()
        elif gan_type == "lsgan":
            self.loss = nn.MSELoss()
        elif gan_type == "wgan":
            self.loss = lambda x, is_real: -x.mean() if is_real else x.mean()
        elif gan_type == "wgan_softplus":
            self.loss = lambda x, is_real: F.softplus(-x if is_real else x).mean()
        elif gan_type == "hinge":
            self.loss = nn.ReLU()
        else:
            raise NotImplementedError(f"GAN type {gan_type} is not implemented.")

    def get_target_label(self, input, target_is_real):
        """The flag itself for the two Wasserstein types, else the label in the input's shape and dtype."""
        if self.gan_type in ("wgan", "wgan_softplus"):
            return target_is_real
        return input.new_ones(input.size()) * (self.real_label_val if target_is_real else self.fake_label_val)

    def forward(self, input, target_is_real, is_disc=False):
        if self.gan_type != "hinge":
            return self.loss(input, self.get_target_label(input, target_is_real))
        if is_disc:
            return self.loss(1 + (-input if target_is_real else input)).mean()
        return -input.mean()


class MultiScaleGANLoss(GANLoss):
    """The mean over a list's members; the sum begins with an integer, to which no float can be added in place."""

    def __init__(self, loss_weight, gan_type, real_label_val=1.0, fake_label_val=0.0):
        super().__init__(loss_weight, gan_type, real_label_val, fake_label_val)

    def forward(self, input, target_is_real, is_disc=False):
        if not isinstance(input, list):
            return super().forward(input, target_is_real, is_disc)
        assert len(input) > 0
        loss = torch.tensor(0, device=input[0].device)
        for prediction in input:
            last = prediction[-1] if isinstance(prediction, list) else prediction
            loss += super().forward(last, target_is_real, is_disc).mean()
        return loss / len(input)
