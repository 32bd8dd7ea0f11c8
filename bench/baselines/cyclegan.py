"""How CycleGAN, pix2pix and CUT compute their losses: of a prediction and a flag, and a penalty."""

import torch
from torch import nn
from torch.nn import functional as F


class GANLoss(nn.Module):
    """One object for all modes; "nonsaturating" gives a mean for each sample, the others one mean."""

    def __init__(self, gan_mode, target_real_label=1.0, target_fake_label=0.0):
        super().__init__()
        self.register_buffer("real_label", torch.tensor(target_real_label))
        self.register_buffer("fake_label", torch.tensor(target_fake_label))
        self.gan_mode = gan_mode
        if gan_mode == "lsgan":
            self.loss = nn.MSELoss()
        elif gan_mode == "vanilla":
            self.loss = nn.BCEWithLogitsLoss()
        elif gan_mode in ("wgangp", "nonsaturating"):
            self.loss = None
        else:
            raise NotImplementedError(f"gan mode {gan_mode} not implemented")

    def get_target_tensor(self, prediction, target_is_real):
        """The label, in the prediction's shape."""
        return (self.real_label if target_is_real else self.fake_label).expand_as(prediction)

    def __call__(self, prediction, target_is_real):
        if self.loss is not None:
            return self.loss(prediction, self.get_target_tensor(prediction, target_is_real))
        signed = -prediction if target_is_real else prediction
        if self.gan_mode == "wgangp":
            return signed.mean()
        return F.softplus(signed).reshape(prediction.size(0), -1).mean(dim=1)


def cal_gradient_penalty(netD, real_data, fake_data, device, type="mixed", constant=1.0, lambda_gp=10.0):
    """The penalty, its weight included, and the gradients as rows."""
    if lambda_gp <= 0.0:
        return 0.0, None
    if type == "real":
        points = real_data
    elif type == "fake":
        points = fake_data
    elif type == "mixed":
        alpha = torch.rand(real_data.size(0), 1, device=device)
        alpha = alpha.view(-1, *[1] * (real_data.dim() - 1))
        points = alpha * real_data + (1 - alpha) * fake_data
    else:
        raise NotImplementedError(f"{type} not implemented")
    points.requires_grad_(True)
    scores = netD(points)
    (gradients,) = torch.autograd.grad(scores, points, torch.ones_like(scores), create_graph=True)
    gradients = gradients.reshape(real_data.size(0), -1)
    penalty = (((gradients + 1e-16).norm(2, dim=1) - constant) ** 2).mean() * lambda_gp
    return penalty, gradients
