"""pix2pix (junyanz/pytorch-CycleGAN-and-pix2pix): `fastgan.compat.cyclegan` by another name.

from models.networks import GANLoss             # before
from fastgan.compat.pix2pix import GANLoss     # after
"""

from .cyclegan import GANLoss, cal_gradient_penalty

__all__ = ["GANLoss", "cal_gradient_penalty"]
