"""SEED-Voken: Open-MAGVIT2 and IBQ (TencentARC/SEED-Voken, modules/losses/vqperceptual.py of each).

    from Open_MAGVIT2.modules.losses.vqperceptual import lecam_reg, non_saturate_gen_loss      # before
    from fastgan.compat.seed_voken import lecam_reg, non_saturate_gen_loss                     # after

The trainer uses these in the module that defines them, so that no import line can be changed there: call
`fastgan.compat.patch("seed_voken")`. It also replaces `calculate_adaptive_weight`, a method of
VQLPIPSWithDiscriminator.

The step leaves the discriminator trainable for the generator: its optimization is manual, so that Lightning freezes
nothing. In `forward`, under `optimizer_idx == 0`, the lines that make `logits_fake` belong in
`with fastgan.frozen(self.discriminator):`. The losses are a small part of a step, as logits are few.

The cross-entropy is that of each sample's mean logit, and not of each patch's. The generator's loss is
`non_saturate_gen_loss` for every `disc_loss`. LeCam's averages are python floats, so that each update waits for the
device; `fastgan.nn.LeCam` keeps them there. The module for videos takes logits of 5 dimensions, and is not patched:
import by name there.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from ..backends.base import widest
from ._origin import Origin
from ._shared import PLUS, lecam, mean_of, mean_with_values, result_dtype, softplus
from .taming import (
    METHODS,
    _method,  # noqa: F401 (of METHODS)
    _method_without_factor,  # noqa: F401
    adopt_weight,
    calculate_adaptive_weight,
    hinge_d_loss,
    vanilla_d_loss,
)

__all__ = [
    "LeCAM_EMA", "adopt_weight", "calculate_adaptive_weight", "hinge_d_loss", "lecam_reg",
    "non_saturate_discriminator_loss", "non_saturate_gen_loss", "vanilla_d_loss",
]  # fmt: skip

ORIGIN = Origin(
    (
        "Open_MAGVIT2.modules.losses.vqperceptual",
        "IBQ.modules.losses.vqperceptual",
        "src.Open_MAGVIT2.modules.losses.vqperceptual",  # older commits
        "src.IBQ.modules.losses.vqperceptual",
    ),
    methods=METHODS,
)


def _means(logits: Tensor, samples: int) -> Tensor:
    """Return each sample's mean logit, in the widest dtype of the device: means of either sign cancel."""
    return logits.reshape(samples, -1).mean(-1, dtype=widest(logits.device))


def non_saturate_gen_loss(logits_fake: Tensor) -> Tensor:
    """Return the mean over samples of softplus(-m), with m a sample's mean logit; logits are (N, ...)."""
    means = _means(logits_fake, len(logits_fake))
    return mean_of((softplus(-1), means), dtype=result_dtype([logits_fake]))


def non_saturate_discriminator_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """Return mean softplus(-m_r) + mean softplus(m_f), with m the samples' mean logits, without a factor 1/2.

    The real logits are divided into as many samples as there are fake ones.
    """
    real, fake = (_means(x, len(logits_fake)) for x in (logits_real, logits_fake))
    return mean_of((softplus(-1), real), (softplus(1), fake), dtype=result_dtype([logits_real, logits_fake]))


class LeCAM_EMA:
    """`ema = LeCAM_EMA(); ema.update(logits_real, logits_fake)`: moving averages of mean logits, python floats.

    Args:
        init: the first value of `logits_real_ema` and `logits_fake_ema`.
        decay: the share of the old value at each update.
    """

    def __init__(self, init: float = 0.0, decay: float = 0.999) -> None:
        self.logits_real_ema = init
        self.logits_fake_ema = init
        self.decay = decay

    def update(self, logits_real: Tensor, logits_fake: Tensor) -> None:
        """Move both averages; it waits for the device, once."""
        values = mean_with_values((PLUS, logits_real.detach()), (PLUS, logits_fake.detach()))[1]
        real, fake = values.tolist()
        self.logits_real_ema = self.logits_real_ema * self.decay + real * (1 - self.decay)
        self.logits_fake_ema = self.logits_fake_ema * self.decay + fake * (1 - self.decay)


def lecam_reg(real_pred: Tensor, fake_pred: Tensor, lecam_ema: Any) -> Tensor:
    """Return mean [r - lecam_ema.logits_fake_ema]+^2 + mean [lecam_ema.logits_real_ema - f]+^2."""
    return lecam(real_pred, fake_pred, lecam_ema.logits_real_ema, lecam_ema.logits_fake_ema)


def samples(leaf: Callable[..., Tensor]) -> dict[str, Any]:
    """Return arguments for the probe: logits (N, 1, H, W), and averages."""
    logits = {"logits_real": leaf(3, 1, 2, 2, seed=1), "logits_fake": leaf(3, 1, 2, 2, seed=2)}
    predictions = {"real_pred": leaf(5, seed=3), "fake_pred": leaf(5, seed=4)}
    return logits | predictions | {"lecam_ema": SimpleNamespace(logits_real_ema=0.4, logits_fake_ema=-0.2)}
