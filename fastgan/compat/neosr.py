"""neosr (muslll/neosr, neosr/losses/gan_loss.py).

    from neosr.losses.gan_loss import gan_loss         # before
    from fastgan.compat.neosr import gan_loss          # after

A configuration names its losses, and LOSS_REGISTRY builds them: call `fastgan.compat.patch("neosr")`. The trainer
freezes the discriminator in the generator's step itself, so that `fastgan.frozen` adds nothing. The loss is a small
part of a step, even of a U-Net's logits.

It is BasicSR's with other names: "bce" is "vanilla" there and "mse" is "lsgan". The default weight is 0.1, on the
generator's loss alone. "chc" is a loss of images that neosr also allows here; it stays neosr's own.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from . import _labels, basicsr
from ._origin import Origin

__all__ = ["gan_loss"]

ORIGIN = Origin(("neosr.losses.gan_loss", "neosr.losses"), (("neosr.utils.registry", "LOSS_REGISTRY"),))


class gan_loss(basicsr.GANLoss):
    """`gan_loss(type)(net_output, target_is_real, is_disc=False)`, the mean over logits x of any shape.

    | gan_type | with the label real_label_val or fake_label_val |
    | --- | --- |
    | "bce" | cross-entropy |
    | "mse" | (x - label)^2 |
    | "huber" | with d = abs(x - label): d^2 / 2 up to d = 1, then d - 1/2 |
    | "chc" | neosr's own loss of that name, in plain PyTorch |

    Args:
        gan_type: one of those; another raises NotImplementedError.
        real_label_val: the label of real.
        fake_label_val: the label of fake.
        loss_weight: a factor on the generator's loss alone (is_disc=False).
    """

    TYPES: ClassVar[dict[str, _labels.Maker]] = {
        "bce": _labels.vanilla,
        "mse": _labels.lsgan,
        "huber": _labels.huber,
    }
    PLAIN: ClassVar[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
        "bce": F.binary_cross_entropy_with_logits,
        "mse": F.mse_loss,
        "huber": F.huber_loss,
    }

    def __init__(
        self,
        gan_type: str = "bce",
        real_label_val: float = 1.0,
        fake_label_val: float = 0.0,
        loss_weight: float = 0.1,
    ) -> None:
        if gan_type not in (*self.PLAIN, "chc"):
            raise NotImplementedError(
                f"gan_type: {gan_type!r} not implemented (known: {', '.join(self.PLAIN)}, chc)"
            )
        super().__init__("bce", real_label_val, fake_label_val, loss_weight)
        self.gan_type = gan_type
        self.plain: Any = self.PLAIN.get(gan_type)
        if gan_type == "chc":
            self.plain = import_module("neosr.losses.basic_loss").chc()

    def get_target_label(self, net_output: Tensor, target_is_real: bool) -> Tensor:
        """Return the label in the output's shape."""
        return net_output.new_full(net_output.shape, self.real_label_val if target_is_real else self.fake_label_val)

    _own_labels: Any = get_target_label

    def forward(self, net_output: Tensor, target_is_real: bool, is_disc: bool = False) -> Tensor:
        """Return a scalar of the logits' dtype."""
        if self.gan_type in self.TYPES and not _labels.replaced(self.get_target_label, self._own_labels):
            return self._mean([net_output], target_is_real, is_disc)
        loss: Tensor = self.plain(net_output, self.get_target_label(net_output, target_is_real))
        return loss * self._factor(is_disc)


def samples(leaf: Callable[..., Tensor]) -> dict[str, Any]:
    """Return logits for the probe."""
    return {"net_output": leaf(5, seed=1)}
