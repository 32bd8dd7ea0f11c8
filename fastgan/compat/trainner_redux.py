"""traiNNer-redux (the-database/traiNNer-redux, traiNNer/losses/gan_loss.py).

    from traiNNer.losses.gan_loss import GANLoss, MultiScaleGANLoss, r1_penalty         # before
    from fastgan.compat.trainner_redux import GANLoss, MultiScaleGANLoss, r1_penalty    # after

A configuration names its losses, and LOSS_REGISTRY builds them: call `fastgan.compat.patch("trainner_redux")`. The
trainer freezes the discriminator in the generator's step itself, so that `fastgan.frozen` adds nothing. The losses
are a small part of a step, even of a U-Net's logits.

They are BasicSR's with `loss_weight` as the first argument, which the losses do not apply: the trainer does. Older
versions apply it, and `patch` refuses those. A list of logits raises in the trainer's MultiScaleGANLoss, whose sum
begins with an integer; here it gives the mean over the list, as in BasicSR.
"""

from __future__ import annotations

from typing import Any

from . import basicsr
from ._origin import Origin
from .basicsr import g_path_regularize, gradient_penalty_loss, r1_penalty

__all__ = ["GANLoss", "MultiScaleGANLoss", "g_path_regularize", "gradient_penalty_loss", "r1_penalty"]

ORIGIN = Origin(
    ("traiNNer.losses.gan_loss", "traiNNer.losses"), (("traiNNer.utils.registry", "LOSS_REGISTRY"),)
)  # fmt: skip


class GANLoss(basicsr.GANLoss):
    """`GANLoss(loss_weight, type)(input, target_is_real, is_disc=False)`, the mean over logits x of any shape.

    The types are those of `fastgan.compat.basicsr.GANLoss`.

    Args:
        loss_weight: kept, and not applied.
        gan_type: "vanilla", "lsgan", "wgan", "wgan_softplus" or "hinge"; another raises NotImplementedError.
        real_label_val: the label of real.
        fake_label_val: the label of fake.
    """

    def __init__(
        self,
        loss_weight: float,
        gan_type: str = "vanilla",
        real_label_val: float = 1.0,
        fake_label_val: float = 0.0,
    ) -> None:
        super().__init__(gan_type, real_label_val, fake_label_val, loss_weight)

    def _factor(self, disc: bool) -> Any:
        return 1.0


class MultiScaleGANLoss(GANLoss, basicsr.MultiScaleGANLoss):
    """`GANLoss` as the mean over a list (or tuple) of logits; for a member that is a list its last entry counts."""

    def __init__(
        self, loss_weight: float, gan_type: str, real_label_val: float = 1.0, fake_label_val: float = 0.0
    ) -> None:
        super().__init__(loss_weight, gan_type, real_label_val, fake_label_val)


def samples(leaf: Any) -> dict[str, Any]:
    """Return a weight for the probe."""
    return {"loss_weight": 0.5}
