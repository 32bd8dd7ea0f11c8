"""BasicSR (XPixelGroup/BasicSR, basicsr/losses/gan_loss.py): Real-ESRGAN, GFPGAN and others train with it.

    from basicsr.losses.gan_loss import GANLoss, r1_penalty             # before
    from fastgan.compat.basicsr import GANLoss, r1_penalty              # after

For trainers that build losses from LOSS_REGISTRY by name, call `fastgan.compat.patch("basicsr")`. The lists of
`MultiScaleGANLoss` go through one call. ESRGAN's relativistic average is inline in its trainer; in fastgan it is
`fastgan.discriminator_loss(..., relativistic="average")`, halved and without the detached means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..norms import norm_penalty
from . import _labels
from ._origin import Origin
from ._shared import between, gradient_by_input, mean_of, path_lengths, quiet_input, squared_norms

__all__ = ["GANLoss", "MultiScaleGANLoss", "g_path_regularize", "gradient_penalty_loss", "r1_penalty"]

ORIGIN = Origin(("basicsr.losses.gan_loss", "basicsr.losses"), (("basicsr.utils.registry", "LOSS_REGISTRY"),))


class GANLoss(nn.Module):
    """`GANLoss(type)(input, target_is_real, is_disc=False)`, the mean over logits x of any shape.

    | gan_type | real | fake |
    | --- | --- | --- |
    | "vanilla" | cross-entropy with real_label_val | with fake_label_val |
    | "lsgan" | (x - real_label_val)^2 | (x - fake_label_val)^2 |
    | "wgan" | -x | x |
    | "wgan_softplus" | softplus(-x) | softplus(x) |
    | "hinge" | [1 - x]+; for the generator -x | [1 + x]+; for the generator -x |

    Args:
        gan_type: one of those; another raises NotImplementedError.
        real_label_val: the label of real.
        fake_label_val: the label of fake.
        loss_weight: a factor on the generator's loss alone (is_disc=False).
    """

    TYPES: ClassVar[dict[str, _labels.Maker]] = {
        "vanilla": _labels.vanilla,
        "lsgan": _labels.lsgan,
        "wgan": _labels.wgan,
        "wgan_softplus": _labels.wgan_softplus,
        "hinge": _labels.hinge_loss,
    }

    def __init__(
        self, gan_type: str, real_label_val: float = 1.0, fake_label_val: float = 0.0, loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        if gan_type not in self.TYPES:
            raise NotImplementedError(f"gan_type: {gan_type!r} not implemented (known: {', '.join(self.TYPES)})")
        self.gan_type = gan_type
        self.loss_weight = loss_weight
        self.real_label_val = real_label_val
        self.fake_label_val = fake_label_val

    def get_target_label(self, input: Tensor, target_is_real: bool) -> Any:
        """Return the label in the input's shape; for the two wgan types, the flag itself."""
        if self.gan_type in ("wgan", "wgan_softplus"):
            return target_is_real
        return input.new_full(input.shape, self.real_label_val if target_is_real else self.fake_label_val)

    _own_labels: Any = get_target_label

    def _factor(self, disc: bool) -> Any:
        return 1.0 if disc else self.loss_weight

    def _mean(self, members: Sequence[Tensor], real: bool, disc: bool) -> Tensor:
        """Return the mean over members of their losses, in one call."""
        label = self.real_label_val if real else self.fake_label_val
        factor = self._factor(disc)
        apart = isinstance(factor, Tensor)  # it may want a gradient, and reading it would wait
        if self.gan_type in _labels.ON_TARGETS and _labels.replaced(self.get_target_label, self._own_labels):
            # A trainer's own labels, which may differ from logit to logit.
            loss = _labels.ON_TARGETS[self.gan_type]
            values = [loss(x, self.get_target_label(x, real)) for x in members]
            return torch.stack(values).sum() * factor / len(members)
        term = self.TYPES[self.gan_type](label, bool(real), bool(disc))
        term = term.weighted(term.weight * (1.0 if apart else float(factor)) / len(members))
        total = mean_of(*[(term, x) for x in members])
        return total * factor if apart else total

    def forward(self, input: Tensor, target_is_real: bool, is_disc: bool = False) -> Tensor:
        """Return a scalar of the logits' dtype."""
        return self._mean([input], target_is_real, is_disc)


class MultiScaleGANLoss(GANLoss):
    """`GANLoss` as the mean over a list (or tuple) of logits; for a member that is a list its last entry counts."""

    def forward(self, input: Any, target_is_real: bool, is_disc: bool = False) -> Tensor:
        """Return a scalar; an empty list raises ZeroDivisionError, as in BasicSR."""
        if isinstance(input, Tensor):
            return super().forward(input, target_is_real, is_disc)
        members = [x[-1] if isinstance(x, (list, tuple)) else x for x in input]
        return self._mean(members, target_is_real, is_disc)


def r1_penalty(real_pred: Any, real_img: Tensor) -> Tensor:
    """Return the mean over samples of ||g||^2, without 1/2 and weight; `real_img` must require grad.

    The logits are there already, so that nothing is pruned. `fastgan.r1_penalty(net_d, real_img, weight=2.0)` is
    the same, pruned.
    """
    return squared_norms(gradient_by_input(real_pred, real_img, name="real_img"))


def g_path_regularize(
    fake_img: Tensor, latents: Tensor, mean_path_length: Any, decay: float = 0.01
) -> tuple[Tensor, Tensor, Tensor]:
    """Return StyleGAN2's path length penalty, the mean of the lengths, and the new moving average.

    The last two are detached; in the penalty the average has its graph. `latents` are (N, L, d), `fake_img` is (N,
    C, H, W); draws torch.randn_like(fake_img). Where a path has length 0 its derivative is 0; BasicSR's is not
    finite.
    """
    lengths = path_lengths(fake_img, latents)
    mean = mean_path_length + decay * (lengths.mean() - mean_path_length)
    return (lengths - mean).square().mean(), lengths.detach().mean(), mean.detach()


def gradient_penalty_loss(
    discriminator: Callable[[Tensor], Any], real_data: Tensor, fake_data: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Return mean (n - 1)^2 at points between, with n the norm over channels: one per pixel, not one per sample.

    Data are (N, C, H, W) and get no gradient; draws torch.rand(N, 1, 1, 1) on the CPU. With `weight`, which
    broadcasts to the data, the gradient is multiplied by it and the result divided by its mean. There is no lambda.
    """
    alpha = torch.rand(len(real_data), 1, 1, 1).to(real_data)
    points = between(real_data.detach(), fake_data.detach(), alpha)
    grads = quiet_input(discriminator, points)
    return norm_penalty(grads, over="channel", mask=weight).to(grads.dtype)
