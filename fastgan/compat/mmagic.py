"""mmagic (open-mmlab/mmagic), mmagic/models/losses.

    from mmagic.models.losses import GANLoss, gradient_penalty_loss            # before
    from fastgan.compat.mmagic import GANLoss, gradient_penalty_loss           # after

A configuration names its losses (`type='GANLoss'`): `fastgan.compat.patch("mmagic")` puts these into the registry.

Advantages: each loss is one pass over the logits, exact at both ends. Real and fake images may differ in dtype, as
under autocast. A discriminator that has no second derivative is refused at the penalty's call. A penalty's mask may
be bool.

Note: the penalties take one norm per pixel. `norm_mode="HWC"` takes one per sample, as WGAN-GP and R1 do.
`GradientPenaltyLossComps` without data_info ignores its norm_mode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from . import _labels, basicsr
from ._deblurring import (
    AdvLoss,
    DiscLoss,
    DiscLossWGANGP,
    ImagePool,
    RelativisticDiscLoss,
    RelativisticDiscLossLS,
)
from ._mmagic_gan import GANLoss, GaussianBlur
from ._openmmlab import Linked, gen_path_regularizer, gradient_penalty_loss, r1_gradient_penalty_loss
from ._origin import Origin
from ._probe import Critic
from ._shared import elements, mean_of, square

__all__ = [
    "AdvLoss",
    "DiscLoss",
    "DiscLossWGANGP",
    "DiscShiftLoss",
    "DiscShiftLossComps",
    "GANLoss",
    "GANLossComps",
    "GaussianBlur",
    "GeneratorPathRegularizerComps",
    "GradientPenaltyLoss",
    "GradientPenaltyLossComps",
    "ImagePool",
    "R1GradientPenaltyComps",
    "RelativisticDiscLoss",
    "RelativisticDiscLossLS",
    "disc_shift_loss",
    "gen_path_regularizer",
    "gradient_penalty_loss",
    "r1_gradient_penalty_loss",
]

_LOSSES = "mmagic.models.losses"
ORIGIN = Origin(
    (_LOSSES, *[f"{_LOSSES}.{name}" for name in ("gan_loss", "adv_loss", "disc_auxiliary_loss")]),
    (("mmagic.registry", "MODELS"),),
)


class GANLossComps(basicsr.GANLoss):
    """`GANLossComps(type)(input, target_is_real, is_disc=False)`: `GANLoss` without a mask.

    The types are "vanilla", "lsgan", "wgan", "hinge" and "wgan-logistic-ns": softplus(-x) for real, softplus(x) for
    fake.

    Raises:
        NotImplementedError: another gan_type.
    """

    TYPES: ClassVar[dict[str, _labels.Maker]] = {
        "vanilla": _labels.vanilla,
        "lsgan": _labels.lsgan,
        "wgan": _labels.wgan,
        "hinge": _labels.hinge_loss,
        "wgan-logistic-ns": _labels.wgan_softplus,
    }

    def get_target_label(self, input: Tensor, target_is_real: bool) -> Any:
        """Return the label in the input's shape; for the two wgan types, the flag itself."""
        if self.gan_type == "wgan-logistic-ns":
            return target_is_real
        return super().get_target_label(input, target_is_real)

    _own_labels = get_target_label


# ---------------------------------------------------------------------------------- penalties


def disc_shift_loss(pred: Tensor) -> Tensor:
    """Return pred^2, unreduced."""
    return elements(square(0.0), pred)


class DiscShiftLoss(nn.Module):
    """loss_weight * mean x^2; keeps the discriminator's outputs near 0 (PGGAN)."""

    def __init__(self, loss_weight: float = 0.1) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, x: Tensor) -> Tensor:
        """Return the loss of outputs of any shape: a scalar of their dtype."""
        return mean_of((square(0.0, float(self.loss_weight)), x))


class GradientPenaltyLoss(nn.Module):
    """loss_weight times `gradient_penalty_loss`, with one norm per pixel."""

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(
        self, discriminator: Any, real_data: Tensor, fake_data: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Return the penalty; see the function."""
        return gradient_penalty_loss(discriminator, real_data, fake_data, mask=mask) * self.loss_weight


class DiscShiftLossComps(Linked):
    """loss_weight times `disc_shift_loss`, unreduced.

    With data_info (name of an argument -> key), the call takes one dict of outputs, positional or as outputs_dict=.
    Without, it takes the function's arguments.
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        data_info: dict[str, str] | None = None,
        loss_name: str = "loss_disc_shift",
    ) -> None:
        super().__init__(loss_weight, data_info, loss_name)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss; an argument that is no dict raises AssertionError, none at all NotImplementedError."""
        if self.data_info is None:
            return disc_shift_loss(*args, **kwargs) * self.loss_weight
        return disc_shift_loss(**(self.linked(args, kwargs) or {})) * self.loss_weight


class GradientPenaltyLossComps(Linked):
    """loss_weight times `gradient_penalty_loss`.

    With data_info (name of an argument -> key), the call takes one dict of outputs, positional or as outputs_dict=.
    Without, it takes the function's arguments, including norm_mode; the module's own norm_mode then has no effect.
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        norm_mode: str = "pixel",
        data_info: dict[str, str] | None = None,
        loss_name: str = "loss_gp",
    ) -> None:
        super().__init__(loss_weight, data_info, loss_name)
        self.norm_mode = norm_mode

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss; an argument that is no dict raises AssertionError, none at all NotImplementedError."""
        if self.data_info is None:
            return gradient_penalty_loss(*args, **kwargs) * self.loss_weight
        found = {**(self.linked(args, kwargs) or {}), "norm_mode": self.norm_mode}
        return gradient_penalty_loss(**found) * self.loss_weight


class R1GradientPenaltyComps(Linked):
    """loss_weight times `r1_gradient_penalty_loss`.

    With data_info (name of an argument -> key), the call takes one dict of outputs, positional or as outputs_dict=.
    Without, it takes the function's arguments except norm_mode. An interval above 1 needs data_info, and reads the
    dict's "iteration".
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        norm_mode: str = "pixel",
        interval: int = 1,
        data_info: dict[str, str] | None = None,
        use_apex_amp: bool = False,
        loss_name: str = "loss_r1_gp",
    ) -> None:
        super().__init__(loss_weight, data_info, loss_name, interval)
        self.norm_mode = norm_mode
        self.use_apex_amp = use_apex_amp

    def forward(self, *args: Any, **kwargs: Any) -> Tensor | None:
        """Return the loss, or None in an iteration that is no multiple of the interval.

        Errors are as in the modules above.
        """
        self.check_interval()
        if self.data_info is None:
            return r1_gradient_penalty_loss(*args, **{"norm_mode": self.norm_mode, **kwargs}) * self.loss_weight
        found = self.linked(args, kwargs)
        if found is None:
            return None
        found.update(norm_mode=self.norm_mode, use_apex_amp=self.use_apex_amp)
        return r1_gradient_penalty_loss(**found) * self.loss_weight


class PathRegularizer(Linked):
    """The options of `gen_path_regularizer`, and the average length as a buffer."""

    mean_path_length: Tensor

    def __init__(
        self,
        loss_weight: float = 1.0,
        pl_batch_shrink: int = 1,
        decay: float = 0.01,
        pl_batch_size: int | None = None,
        sync_mean_buffer: bool = False,
        interval: int = 1,
        data_info: dict[str, str] | None = None,
        use_apex_amp: bool = False,
        loss_name: str = "loss_path_regular",
    ) -> None:
        super().__init__(loss_weight, data_info, loss_name, interval)
        self.pl_batch_shrink = pl_batch_shrink
        self.decay = decay
        self.pl_batch_size = pl_batch_size
        self.sync_mean_buffer = sync_mean_buffer
        self.use_apex_amp = use_apex_amp
        self.register_buffer("mean_path_length", torch.tensor(0.0))

    def arguments(self) -> dict[str, Any]:
        """Return the function's arguments that are not in the dict of outputs."""
        return {
            "mean_path_length": self.mean_path_length,
            "pl_batch_shrink": self.pl_batch_shrink,
            "decay": self.decay,
            "use_apex_amp": self.use_apex_amp,
            "pl_batch_size": self.pl_batch_size,
            "sync_mean_buffer": self.sync_mean_buffer,
        }


class GeneratorPathRegularizerComps(PathRegularizer):
    """loss_weight times `gen_path_regularizer`'s penalty; the buffer `mean_path_length` (0-dim) takes its average.

    With data_info (name of an argument -> key), the call takes one dict of outputs, positional or as outputs_dict=.
    Without, it takes all of the function's arguments, and the module's own options have no effect. An interval
    above 1 needs data_info, and reads the dict's "iteration".
    """

    def forward(self, *args: Any, **kwargs: Any) -> Tensor | None:
        """Return the loss, or None in an iteration that is no multiple of the interval.

        Errors are as in the modules above.
        """
        self.check_interval()
        if self.data_info is not None:
            found = self.linked(args, kwargs)
            if found is None:
                return None
            args, kwargs = (), {**found, **self.arguments()}
        penalty, self.mean_path_length, _ = gen_path_regularizer(*args, **kwargs)
        return penalty * self.loss_weight


def samples(leaf: Callable[..., Tensor]) -> dict[str, Any]:
    """Return arguments for the probe: a network that is called by its forward, and images."""
    return {"net": Critic(), "fakeB": leaf(2, 3, 2, 2, seed=21), "realB": leaf(2, 3, 2, 2, seed=22), "pool_size": 3}
