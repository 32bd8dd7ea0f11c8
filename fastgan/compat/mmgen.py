"""mmgen (open-mmlab/mmgeneration), mmgen/models/losses.

    from mmgen.models.losses import GANLoss, R1GradientPenalty            # before
    from fastgan.compat.mmgen import GANLoss, R1GradientPenalty           # after

A configuration names its losses (`type='GANLoss'`): `fastgan.compat.patch("mmgen")` puts these into the registry.

Advantages: each loss is one pass over the logits, exact at both ends. Real and fake images may differ in dtype, as
under autocast. A discriminator that has no second derivative is refused at the penalty's call. A penalty's mask may
be bool.

Note: the penalties take one norm per pixel. `norm_mode="HWC"` takes one per sample, as WGAN-GP and R1 do.
`GradientPenaltyLoss` without data_info ignores its norm_mode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from . import _openmmlab, mmagic
from ._openmmlab import gen_path_regularizer
from ._origin import Origin
from ._shared import mean_of, square

__all__ = [
    "DiscShiftLoss",
    "GANLoss",
    "GeneratorPathRegularizer",
    "GradientPenaltyLoss",
    "R1GradientPenalty",
    "disc_shift_loss",
    "gen_path_regularizer",
    "gradient_penalty_loss",
    "r1_gradient_penalty_loss",
]

ORIGIN = Origin(
    ("mmgen.models.losses", "mmgen.models.losses.gan_loss", "mmgen.models.losses.disc_auxiliary_loss"),
    (("mmgen.models.builder", "MODULES"),),
)

_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda v: v,
    "mean": lambda v: v.mean(),
    "sum": lambda v: v.sum(),
    "batchmean": lambda v: v.sum() / v.shape[0],
    "flatmean": lambda v: v.mean(dim=list(range(1, v.dim()))),
}


def _reduced(value: Tensor, weight: Any, reduction: str, avg_factor: Any) -> Tensor:
    """Return the weighted value, reduced; an avg_factor is the number that its sum is divided by."""
    if weight is not None:
        value = value * weight
    if avg_factor is not None and reduction != "none":
        if reduction != "mean":
            raise ValueError(f"avg_factor: expected reduction 'mean' or 'none' with it, got {reduction!r}")
        return value.sum() / avg_factor
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction: expected one of {', '.join(_REDUCTIONS)}, got {reduction!r}")
    return _REDUCTIONS[reduction](value)


class GANLoss(mmagic.GANLossComps):
    """`GANLoss(type)(input, target_is_real, is_disc=False)`, the mean over logits x of any shape; t is the label.

    - "vanilla": cross-entropy with t.
    - "lsgan": (x - t)^2.
    - "wgan": -x for real, x for fake.
    - "wgan-logistic-ns": softplus(-x) for real, softplus(x) for fake.
    - "hinge": [1 - x]+ for real, [1 + x]+ for fake; for the generator -x, regardless of target_is_real.

    loss_weight is the factor of the generator's loss alone.

    Raises:
        NotImplementedError: another gan_type.
    """


def disc_shift_loss(
    pred: Tensor, *, weight: Any = None, reduction: str = "mean", avg_factor: float | None = None
) -> Tensor:
    """Return pred^2 * weight, reduced.

    Args:
        pred: outputs of any shape.
        weight: a number, or a tensor that broadcasts.
        reduction: "mean", "sum", "none", "batchmean" (the sum over N) or "flatmean" (one mean per sample).
        avg_factor: the divisor of the sum, in the place of the mean's number of elements.

    Raises:
        ValueError: another reduction; an avg_factor with a reduction that is neither "mean" nor "none".
    """
    plain = weight is None or isinstance(weight, (int, float))
    if plain and avg_factor is None and reduction in ("mean", "sum"):
        return mean_of((square(0.0, 1.0 if weight is None else float(weight)), pred), reduction=reduction)
    return _reduced(mmagic.disc_shift_loss(pred), weight, reduction, avg_factor)


def gradient_penalty_loss(
    discriminator: Callable[[Tensor], Any],
    real_data: Tensor,
    fake_data: Tensor,
    mask: Tensor | None = None,
    norm_mode: str = "pixel",
    *,
    weight: Any = None,
    reduction: str = "mean",
    avg_factor: float | None = None,
) -> Tensor:
    """Return mean (n - 1)^2 at points between real and fake images (N, C, H, W), times weight.

    n is the norm over the channels, one per pixel, which is most likely not what you want. "HWC" takes one norm per
    sample, as in WGAN-GP. `fastgan.compat.mmagic.gradient_penalty_loss` documents the rest, and the errors. The
    result is a mean already, so that reduction has no effect; avg_factor divides it.
    """
    value = _openmmlab.gradient_penalty_loss(discriminator, real_data, fake_data, mask, norm_mode)
    return _reduced(value, weight, reduction, avg_factor)


def r1_gradient_penalty_loss(
    discriminator: Callable[[Tensor], Any],
    real_data: Tensor,
    mask: Tensor | None = None,
    norm_mode: str = "pixel",
    loss_scaler: Any = None,
    use_apex_amp: bool = False,
    *,
    weight: Any = None,
    reduction: str = "mean",
    avg_factor: float | None = None,
) -> Tensor:
    """Return mean n^2 at real images (N, C, H, W), times weight.

    n is the norm over the channels, one per pixel, so that the mean is over pixels too. "HWC" takes one norm per
    sample, as in R1. `fastgan.compat.mmagic.r1_gradient_penalty_loss` documents the rest, and the errors. The
    result is a mean already, so that reduction has no effect; avg_factor divides it.
    """
    value = _openmmlab.r1_gradient_penalty_loss(
        discriminator, real_data, mask, norm_mode, loss_scaler, use_apex_amp
    )
    return _reduced(value, weight, reduction, avg_factor)


# ---------------------------------------------------------------------------------- modules


class DiscShiftLoss(mmagic.DiscShiftLossComps):
    """`disc_shift_loss` with weight loss_weight: a mean, unless the call says otherwise.

    With data_info (name of an argument -> key), the call takes one dict of outputs, positional or as outputs_dict=.
    Without, it takes the function's arguments.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss; an argument that is no dict raises AssertionError, none at all NotImplementedError."""
        if self.data_info is None:
            return disc_shift_loss(*args, weight=self.loss_weight, **kwargs)
        return disc_shift_loss(**{**(self.linked(args, kwargs) or {}), "weight": self.loss_weight})


class GradientPenaltyLoss(mmagic.GradientPenaltyLossComps):
    """`gradient_penalty_loss` with weight loss_weight.

    With data_info (name of an argument -> key), the call takes one dict of outputs, positional or as outputs_dict=.
    Without, it takes the function's arguments, including norm_mode; the module's own norm_mode then has no effect.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss; an argument that is no dict raises AssertionError, none at all NotImplementedError."""
        if self.data_info is None:
            return gradient_penalty_loss(*args, weight=self.loss_weight, **kwargs)
        own = {"weight": self.loss_weight, "norm_mode": self.norm_mode}
        return gradient_penalty_loss(**{**(self.linked(args, kwargs) or {}), **own})


class R1GradientPenalty(mmagic.R1GradientPenaltyComps):
    """`r1_gradient_penalty_loss` with weight loss_weight.

    With data_info (name of an argument -> key), the call takes one dict of outputs, positional or as outputs_dict=.
    Without, it takes the function's arguments except norm_mode. An interval above 1 needs data_info, and reads the
    dict's "iteration".
    """

    def forward(self, *args: Any, **kwargs: Any) -> Tensor | None:
        """Return the loss, or None in an iteration that is no multiple of the interval.

        Errors are as in the modules above.
        """
        self.check_interval()
        if self.data_info is None:
            own: dict[str, Any] = {"weight": self.loss_weight, "norm_mode": self.norm_mode}
            return r1_gradient_penalty_loss(*args, **{**own, **kwargs})
        found = self.linked(args, kwargs)
        if found is None:
            return None
        found.update(weight=self.loss_weight, norm_mode=self.norm_mode, use_apex_amp=self.use_apex_amp)
        return r1_gradient_penalty_loss(**found)


class GeneratorPathRegularizer(mmagic.PathRegularizer):
    """`gen_path_regularizer` with weight loss_weight; the buffer `mean_path_length` (0-dim) takes its average.

    With data_info (name of an argument -> key), the call takes one dict of outputs, positional or as outputs_dict=,
    and returns the penalty. Without, it takes the function's arguments and returns all three results; the module's
    other options and its buffer are not used. An interval above 1 needs data_info, and reads the dict's
    "iteration".
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the penalty (or the triple), or None in an iteration that is no multiple of the interval."""
        self.check_interval()
        if self.data_info is None:
            return gen_path_regularizer(*args, **{"weight": self.loss_weight, **kwargs})
        found = self.linked(args, kwargs)
        if found is None:
            return None
        found.update(self.arguments(), weight=self.loss_weight)
        penalty, self.mean_path_length, _ = gen_path_regularizer(**found)
        return penalty
