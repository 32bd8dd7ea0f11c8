"""pix2pix (junyanz/pytorch-CycleGAN-and-pix2pix): `fastgan.compat.cyclegan` by another name.

    self.criterionGAN = networks.GANLoss(opt.gan_mode)  # before, in models/pix2pix_model.py
    self.criterionGAN = pix2pix.GANLoss(opt.gan_mode)   # after: from fastgan.compat import pix2pix

Or call `fastgan.compat.patch("pix2pix")`.
"""

from ._origin import Origin
from .cyclegan import GANLoss, cal_gradient_penalty

__all__ = ["GANLoss", "cal_gradient_penalty"]

ORIGIN = Origin(("models.networks",))
