"""CUT (taesungp/contrastive-unpaired-translation): `fastgan.compat.cyclegan` by another name.

self.criterionGAN = networks.GANLoss(opt.gan_mode).to(self.device)    # before, in models/cut_model.py
self.criterionGAN = cut.GANLoss(opt.gan_mode).to(self.device)         # after: from fastgan.compat import cut
"""

from .cyclegan import GANLoss, cal_gradient_penalty

__all__ = ["GANLoss", "cal_gradient_penalty"]
