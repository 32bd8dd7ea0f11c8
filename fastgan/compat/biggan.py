"""BigGAN (ajbrock/BigGAN-PyTorch, losses.py).

    import losses                                 # before
    from fastgan.compat import biggan as losses   # after

The fake logits are the first argument, the loss on real the first result.
"""

from __future__ import annotations

from torch import Tensor

from ._origin import Origin
from ._shared import MINUS, hinge, mean_of, softplus

__all__ = [
    "discriminator_loss", "generator_loss", "loss_dcgan_dis", "loss_dcgan_gen", "loss_hinge_dis", "loss_hinge_gen",
]  # fmt: skip

ORIGIN = Origin(("losses",))


def loss_dcgan_dis(dis_fake: Tensor, dis_real: Tensor) -> tuple[Tensor, Tensor]:
    """Return (mean softplus(-real), mean softplus(fake)): scalars of the logits' dtype, each with a graph."""
    return mean_of((softplus(-1), dis_real)), mean_of((softplus(1), dis_fake))


def loss_dcgan_gen(dis_fake: Tensor) -> Tensor:
    """Return mean softplus(-fake)."""
    return mean_of((softplus(-1), dis_fake))


def loss_hinge_dis(dis_fake: Tensor, dis_real: Tensor) -> tuple[Tensor, Tensor]:
    """Return (mean [1 - real]+, mean [1 + fake]+)."""
    return mean_of((hinge(-1), dis_real)), mean_of((hinge(1), dis_fake))


def loss_hinge_gen(dis_fake: Tensor) -> Tensor:
    """Return -mean fake."""
    return mean_of((MINUS, dis_fake))


generator_loss = loss_hinge_gen
discriminator_loss = loss_hinge_dis
