"""TiTok and its kin (bytedance/1d-tokenizer, modeling/modules/losses.py).

    from modeling.modules.losses import compute_lecam_loss, hinge_d_loss            # before
    from fastgan.compat.titok import compute_lecam_loss, hinge_d_loss               # after

The trainer's ReconstructionLoss_* use them in the module that defines them: call `fastgan.compat.patch("titok")`
there. The trainer freezes the discriminator in the generator's step itself, so that `fastgan.frozen` adds nothing.
The losses are a small part of a step, as logits are few.

LeCam is of mean logits there: the mean is taken before the hinge, and not after it as in LeCam's own code.
`fastgan.nn.LeCam` is that of each logit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..backends.specs import Term
from ._origin import Origin
from ._shared import alike, mean_of
from .taming import hinge_d_loss

__all__ = ["compute_lecam_loss", "hinge_d_loss"]

ORIGIN = Origin(("modeling.modules.losses",))

_EXCESS = Term("relu_square")  # of a pair: [x - y]+^2


def compute_lecam_loss(
    logits_real_mean: Tensor, logits_fake_mean: Tensor, ema_logits_real_mean: Tensor, ema_logits_fake_mean: Tensor
) -> Tensor:
    """Return mean [r - ema_f]+^2 + mean [ema_r - f]+^2, of mean logits r and f and of their moving averages.

    Each pair broadcasts; the trainer's are of shapes () and (1,). Averages that require grad get a gradient.
    """
    above = torch.broadcast_tensors(*alike(logits_real_mean, ema_logits_fake_mean))
    below = torch.broadcast_tensors(*alike(ema_logits_real_mean, logits_fake_mean))
    return mean_of((_EXCESS, above), (_EXCESS, below))


def samples(leaf: Callable[..., Tensor]) -> dict[str, Any]:
    """Return arguments of LeCam for the probe."""
    means = {"logits_real_mean": leaf(1, seed=1)[0], "logits_fake_mean": leaf(1, seed=2)[0]}
    return means | {"ema_logits_real_mean": leaf(1, seed=3), "ema_logits_fake_mean": leaf(1, seed=4)}
