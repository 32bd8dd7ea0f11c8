"""DeblurGANv2's losses, as mmagic has them: modules that run the discriminator themselves."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import torch
from torch import Tensor, nn

from ..backends.specs import Term
from ._mmagic_gan import GANLoss
from ._openmmlab import gradient_penalty_loss
from ._shared import MINUS, PLUS, bce, mean_of, square

__all__ = [
    "AdvLoss",
    "DiscLoss",
    "DiscLossWGANGP",
    "ImagePool",
    "RelativisticDiscLoss",
    "RelativisticDiscLossLS",
]


class ImagePool:
    """The discriminator's outputs for the last `pool_size` samples, as views without a graph.

    Attributes:
        images: a deque of tensors with one sample each; a pool of size 0 has none.
    """

    def __init__(self, pool_size: int) -> None:
        self.pool_size = pool_size
        self.sample_size = pool_size
        if pool_size > 0:
            self.num_imgs = 0
            self.images: deque[Tensor] = deque()

    def add(self, images: Tensor) -> Tensor | None:
        """Remember outputs, and forget the oldest; a pool of size 0 returns them."""
        if self.pool_size == 0:
            return images
        for image in images.detach().split(1):
            if self.num_imgs < self.pool_size:
                self.num_imgs += 1
            else:
                self.images.popleft()
            self.images.append(image)
        return None

    def query(self) -> Tensor:
        """Return what is remembered, or `sample_size` of it at random.

        Raises:
            RuntimeError: nothing is remembered.
        """
        if not self.images:
            raise RuntimeError(
                "model: expected a call for the discriminator first, since the means come from those"
            )
        few = len(self.images) > self.sample_size
        return torch.cat(random.sample(self.images, self.sample_size) if few else list(self.images))


class DiscLoss(nn.Module):
    """The criterion on fake with label 0 and on real with label 1, halved; for the generator, fake with label 1.

    Args:
        gan_type: of `GANLoss`.
    """

    def __init__(self, gan_type: str = "vanilla") -> None:
        super().__init__()
        self.criterionGAN = GANLoss(gan_type=gan_type)

    def name(self) -> str:
        """Return "DiscLoss"."""
        return "DiscLoss"

    def forward(self, net: Any, fakeB: Tensor, realB: Tensor, model: str = "discriminator") -> Tensor:
        """Return the loss of images that `net` judges; any other `model` is the generator."""
        if model != "discriminator":
            return self.criterionGAN(net.forward(fakeB), 1)
        self.pred_fake = net.forward(fakeB.detach())
        self.loss_D_fake = self.criterionGAN(self.pred_fake, 0)
        self.pred_real = net.forward(realB)
        self.loss_D_real = self.criterionGAN(self.pred_real, 1)
        self.loss_D = (self.loss_D_fake + self.loss_D_real) * 0.5
        return self.loss_D


class DiscLossWGANGP(DiscLoss):
    """mean f - mean r + LAMBDA times the penalty with one norm per pixel; for the generator, -mean f."""

    def __init__(self) -> None:
        super().__init__()
        self.LAMBDA = 10

    def name(self) -> str:
        """Return "DiscLossWGAN-GP"."""
        return "DiscLossWGAN-GP"

    def forward(self, net: Any, fakeB: Tensor, realB: Tensor, model: str = "discriminator") -> Tensor:
        """Return the loss of images that `net` judges; any other `model` is the generator."""
        fake = net.forward(fakeB.detach() if model == "discriminator" else fakeB)
        self.D_fake = mean_of((PLUS, fake))
        if model != "discriminator":
            return mean_of((MINUS, fake))
        self.D_real = mean_of((PLUS, net.forward(realB)))
        self.loss_D = self.D_fake - self.D_real
        return self.loss_D + gradient_penalty_loss(net, realB.detach(), fakeB.detach()) * self.LAMBDA


class RelativisticDiscLoss(nn.Module):
    """(term on r - m_f + term on f - m_r) / 2 with means m from pools; for the generator, the terms are swapped.

    Attributes:
        REAL, FAKE: the discriminator's terms on real and on fake, halved.
    """

    REAL: Term = bce(1.0, 0.5)
    FAKE: Term = bce(0.0, 0.5)
    _TYPE = "vanilla"

    def __init__(self) -> None:
        super().__init__()
        self.criterionGAN = GANLoss(gan_type=self._TYPE)
        self.fake_pool = ImagePool(50)
        self.real_pool = ImagePool(50)

    def name(self) -> str:
        """Return the class's name."""
        return "RelativisticDiscLoss"

    def forward(self, net: Any, fakeB: Tensor, realB: Tensor, model: str = "discriminator") -> Tensor:
        """Return the loss of images that `net` judges; any other `model` is the generator.

        Raises:
            RuntimeError: a call for the generator before any for the discriminator.
        """
        if model == "discriminator":
            self.fake_B, self.real_B = fakeB.detach(), realB
            self.pred_fake = net.forward(self.fake_B)
            self.fake_pool.add(self.pred_fake)
            self.pred_real = net.forward(realB)
            self.real_pool.add(self.pred_real)
            self.loss_D = self._of(self.REAL, self.FAKE)
            return self.loss_D
        self.pred_fake, self.pred_real = net.forward(fakeB), net.forward(realB)
        return self._of(self.FAKE, self.REAL)

    def _of(self, on_real: Term, on_fake: Term) -> Tensor:
        of_fake, of_real = self.fake_pool.query(), self.real_pool.query()
        return mean_of((on_real, (self.pred_real, of_fake)), (on_fake, (self.pred_fake, of_real)), centred=True)


class RelativisticDiscLossLS(RelativisticDiscLoss):
    """The same with squares: ((r - m_f - 1)^2 + (f - m_r + 1)^2) / 2."""

    REAL = square(1.0, 0.5)
    FAKE = square(-1.0, 0.5)
    _TYPE = "l1"

    def name(self) -> str:
        """Return the class's name."""
        return "RelativisticDiscLossLS"


class AdvLoss:
    """`AdvLoss(loss_type)` is a module that is called as (net, fakeB, realB, model="discriminator").

    Any other `model` is the generator. The module runs `net` on fakeB and then on realB; f and r are its outputs:

    - "gan": `DiscLoss()`, (softplus(f) + softplus(-r)) / 2; the generator's softplus(-f).
    - "lsgan": the same with |x - label| in the place of the cross-entropy. Despite the name there are no squares,
      which is most likely not what you want.
    - "wgan-gp": `DiscLossWGANGP()`, f - r + 10 times `gradient_penalty_loss` (one norm per pixel) on detached
      images; -f.
    - "ragan": `RelativisticDiscLoss()`, (softplus(-(r - m_f)) + softplus(f - m_r)) / 2; the generator's has the
      roles swapped.
    - "ragan-ls": `RelativisticDiscLossLS()`, ((r - m_f - 1)^2 + (f - m_r + 1)^2) / 2; the generator's has the
      signs of the ones swapped.

    All are means. m_r and m_f are means over the outputs for the last 50 samples of the discriminator's calls,
    including the present ones. They carry no gradient.

    Raises:
        ValueError: another loss_type.
    """

    def __new__(cls, loss_type: str) -> Any:
        """Return the module."""
        made = {
            "gan": DiscLoss,
            "lsgan": lambda: DiscLoss(gan_type="l1"),
            "wgan-gp": DiscLossWGANGP,
            "ragan": RelativisticDiscLoss,
            "ragan-ls": RelativisticDiscLossLS,
        }
        if loss_type not in made:
            raise ValueError(f"loss_type: {loss_type!r} not recognized (known: {', '.join(map(repr, made))})")
        return made[loss_type]()
