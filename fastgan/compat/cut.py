"""CUT (taesungp/contrastive-unpaired-translation): `fastgan.compat.cyclegan` by another name.

    self.criterionGAN = networks.GANLoss(opt.gan_mode)  # before, in models/cut_model.py
    self.criterionGAN = cut.GANLoss(opt.gan_mode)       # after: from fastgan.compat import cut

Or call `fastgan.compat.patch("cut")`.
"""

from ._origin import Origin
from .cyclegan import GANLoss, cal_gradient_penalty

__all__ = ["GANLoss", "cal_gradient_penalty"]

ORIGIN = Origin(("models.networks",))
