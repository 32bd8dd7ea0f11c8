"""CUT (taesungp/contrastive-unpaired-translation): `fastgan.compat.cyclegan` by another name.

from models.networks import GANLoss             # before
from fastgan.compat.cut import GANLoss     # after
"""

from .cyclegan import GANLoss, cal_gradient_penalty

__all__ = ["GANLoss", "cal_gradient_penalty"]
