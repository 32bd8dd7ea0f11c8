"""How neosr computes its adversarial loss: BasicSR's, with other names of types."""

from torch import nn


class gan_loss(nn.Module):
    """One object for all types; its fourth, "chc", is a loss of images and left out here."""

    def __init__(self, gan_type="bce", real_label_val=1.0, fake_label_val=0.0, loss_weight=0.1):
        super().__init__()
        self.gan_type = gan_type
        self.loss_weight = loss_weight
        self.real_label_val = real_label_val
        self.fake_label_val = fake_label_val
        if gan_type == "bce":
            self.loss = nn.BCEWithLogitsLoss()
        elif gan_type == "mse":
            self.loss = nn.MSELoss()
        elif gan_type == "huber":
            self.loss = nn.HuberLoss()
        else:
            raise NotImplementedError(f"GAN type {gan_type} is not implemented.")

    def get_target_label(self, net_output, target_is_real):
        """The label in the output's shape and dtype."""
        label = self.real_label_val if target_is_real else self.fake_label_val
        return net_output.new_ones(net_output.size()) * label

    def forward(self, net_output, target_is_real, is_disc=False):
        loss = self.loss(net_output, self.get_target_label(net_output, target_is_real))
        return loss if is_disc else loss * self.loss_weight
