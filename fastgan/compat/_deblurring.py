"""DeblurGANv2's losses, as mmagic has them: modules that run the discriminator themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..backends.specs import Term
from ._openmmlab import gradient_penalty_loss
from ._shared import MINUS, PLUS, bce, distance, mean_of, square

_POOL = 50  # samples whose outputs a mean is taken over


class _Pool:
    """The discriminator's outputs for the last samples that it was trained on."""

    def __init__(self) -> None:
        self.outputs: Tensor | None = None

    def add(self, outputs: Tensor) -> Tensor:
        """Remember outputs, and return all that are remembered, these included."""
        new = outputs.detach()
        self.outputs = (new.clone() if self.outputs is None else torch.cat((self.outputs, new)))[-_POOL:]
        return self.outputs

    def read(self) -> Tensor:
        if self.outputs is None:
            raise RuntimeError(
                "model: expected a call for the discriminator first, since the means come from those"
            )
        return self.outputs


class _Separate(nn.Module):
    """(term on fake with label 0 + term on real with label 1) / 2; for the generator, that on fake with label 1."""

    def __init__(self, term: Any) -> None:
        super().__init__()
        self.term = term

    def forward(self, net: Any, fakeB: Tensor, realB: Tensor, model: str = "discriminator") -> Tensor:
        """Return the loss of images that `net` judges; any other `model` is the generator."""
        if model != "discriminator":
            return mean_of((self.term(1.0), net(fakeB)))
        fake, real = net(fakeB.detach()), net(realB)
        return mean_of((self.term(0.0, 0.5), fake), (self.term(1.0, 0.5), real))


class _Wasserstein(nn.Module):
    """mean f - mean r + 10 times the penalty with one norm per pixel; for the generator, -mean f."""

    def forward(self, net: Any, fakeB: Tensor, realB: Tensor, model: str = "discriminator") -> Tensor:
        """Return the loss of images that `net` judges; any other `model` is the generator."""
        if model != "discriminator":
            return mean_of((MINUS, net(fakeB)))
        fake, real = net(fakeB.detach()), net(realB)
        loss = mean_of((PLUS, fake), (MINUS, real))
        return loss + 10.0 * gradient_penalty_loss(net, realB.detach(), fakeB.detach())


class _Relativistic(nn.Module):
    """(term on r - m_f + term on f - m_r) / 2 with means m from pools; for the generator, the terms are swapped.

    Args:
        real: the discriminator's term on real.
        fake: its term on fake.
    """

    def __init__(self, real: Term, fake: Term) -> None:
        super().__init__()
        self.real = real
        self.fake = fake
        self.real_pool = _Pool()
        self.fake_pool = _Pool()

    def forward(self, net: Any, fakeB: Tensor, realB: Tensor, model: str = "discriminator") -> Tensor:
        """Return the loss of images that `net` judges; any other `model` is the generator.

        Raises:
            RuntimeError: a call for the generator before any for the discriminator.
        """
        if model == "discriminator":
            fake, real = net(fakeB.detach()), net(realB)
            of_fake, of_real = self.fake_pool.add(fake), self.real_pool.add(real)
            on_real, on_fake = self.real, self.fake
        else:
            of_fake, of_real = self.fake_pool.read(), self.real_pool.read()
            fake, real = net(fakeB), net(realB)
            on_real, on_fake = self.fake, self.real
        return mean_of((on_real, (real, of_fake)), (on_fake, (fake, of_real)), centred=True)


class AdvLoss:
    """`AdvLoss(loss_type)` is a module that is called as (net, fakeB, realB, model="discriminator").

    Any other `model` is the generator. The module runs `net` on fakeB and then on realB; f and r are its outputs:

    - "gan": (softplus(f) + softplus(-r)) / 2; the generator's softplus(-f).
    - "lsgan": the same with |x - label| in the place of the cross-entropy. Despite the name there are no squares,
      which is most likely not what you want.
    - "wgan-gp": f - r + 10 times `gradient_penalty_loss` (one norm per pixel) on detached images; -f.
    - "ragan": (softplus(-(r - m_f)) + softplus(f - m_r)) / 2; the generator's has the roles swapped.
    - "ragan-ls": ((r - m_f - 1)^2 + (f - m_r + 1)^2) / 2; the signs of the ones swapped.

    All are means. m_r and m_f are means over the outputs for the last 50 samples of the discriminator's calls,
    including the present ones. They carry no gradient.

    Raises:
        ValueError: another loss_type.
    """

    def __new__(cls, loss_type: str) -> Any:
        """Return the module."""
        if loss_type in ("gan", "lsgan"):
            return _Separate(bce if loss_type == "gan" else distance)
        if loss_type == "wgan-gp":
            return _Wasserstein()
        if loss_type == "ragan":
            return _Relativistic(bce(1.0, 0.5), bce(0.0, 0.5))
        if loss_type == "ragan-ls":
            return _Relativistic(square(1.0, 0.5), square(-1.0, 0.5))
        known = "'gan', 'lsgan', 'wgan-gp', 'ragan', 'ragan-ls'"
        raise ValueError(f"loss_type: {loss_type!r} not recognized (known: {known})")
