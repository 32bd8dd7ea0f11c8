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
import torch.nn.functional as F
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


class GaussianBlur(nn.Module):
    """Blurs each channel of images with a normalized Gaussian, with zeros around the image.

    Args:
        kernel_size: odd numbers (height, width).
        sigma: standard deviations (height, width).

    Raises:
        TypeError: no tuples of two; a size that is not odd and positive; at the call, no tensor.
        ValueError: at the call, a tensor that is not (N, C, H, W).
    """

    def __init__(self, kernel_size: tuple[int, int] = (71, 71), sigma: tuple[float, float] = (10.0, 10.0)) -> None:
        super().__init__()
        for name, pair in {"kernel_size": kernel_size, "sigma": sigma}.items():
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise TypeError(f"{name}: expected a tuple of two, got {pair!r}")
        for size in kernel_size:
            if not isinstance(size, int) or size <= 0 or size % 2 == 0:
                raise TypeError(f"kernel_size: expected odd positive integers, got {kernel_size!r}")
        self.kernel_size = kernel_size
        self.sigma = sigma
        self.padding = (kernel_size[0] // 2, kernel_size[1] // 2)
        self.kernels = tuple(self._kernel(size, s) for size, s in zip(kernel_size, sigma, strict=True))

    @staticmethod
    def _kernel(size: int, sigma: float) -> Tensor:
        x = torch.arange(size, dtype=torch.float64) - size // 2
        values = torch.exp(-(x**2) / (2 * sigma**2))
        return values / values.sum()

    def forward(self, x: Tensor) -> Tensor:
        """Return the blurred images, (N, C, H, W)."""
        if not isinstance(x, Tensor):
            raise TypeError(f"x: expected a torch.Tensor, got {type(x).__name__}")
        if x.dim() != 4:
            raise ValueError(f"x: expected shape (N, C, H, W), got {tuple(x.shape)}")
        channels = x.shape[1]
        # One direction after the other is the same, and 35 times less work for the usual size.
        down, across = (k.to(x.device, x.dtype).expand(channels, 1, -1) for k in self.kernels)
        x = F.conv2d(x, down[..., None], padding=(self.padding[0], 0), groups=channels)
        return F.conv2d(x, across[:, :, None], padding=(0, self.padding[1]), groups=channels)


class GANLoss(basicsr.GANLoss):
    """`GANLoss(type)(input, target_is_real, is_disc=False)`, the mean over logits x of any shape; t is the label.

    - "vanilla": cross-entropy with t.
    - "lsgan": (x - t)^2.
    - "l1": |x - t|.
    - "wgan": -x for real, x for fake.
    - "hinge": [1 - x]+ for real, [1 + x]+ for fake; for the generator -x, regardless of target_is_real.
    - "smgan": (x - t)^2 on logits (N, C, h, w) resized to the mask's size. On the discriminator's fake logits, t is
      the blurred mask.

    The generator's "smgan" should weight by the mask, but mmagic weights a mean. The mask therefore has no effect,
    except that the loss is NaN where the mask is all 0.

    Args:
        gan_type: one of those.
        real_label_val: t of real.
        fake_label_val: t of fake.
        loss_weight: the factor of the generator's loss; the discriminator's has none.

    Raises:
        NotImplementedError: another gan_type.
        AttributeError: at the call, "smgan" without a mask.
    """

    TYPES: ClassVar[dict[str, _labels.Maker]] = {
        "vanilla": _labels.vanilla,
        "lsgan": _labels.lsgan,
        "wgan": _labels.wgan,
        "hinge": _labels.hinge_loss,
        "l1": _labels.l1,
        "smgan": _labels.lsgan,
    }

    def __init__(
        self, gan_type: str, real_label_val: float = 1.0, fake_label_val: float = 0.0, loss_weight: float = 1.0
    ) -> None:
        super().__init__(gan_type, real_label_val, fake_label_val, loss_weight)
        if gan_type == "smgan":
            self.gaussian_blur = GaussianBlur()

    def forward(
        self, input: Tensor, target_is_real: bool, is_disc: bool = False, mask: Tensor | None = None
    ) -> Tensor:
        """Return a scalar of the logits' dtype; `mask` (N, C, H, W) is for "smgan" alone."""
        if self.gan_type != "smgan":
            return super().forward(input, target_is_real, is_disc)
        if mask is None:
            raise AttributeError("mask: expected a tensor for gan_type 'smgan', got None")
        if input.shape[2:] != mask.shape[2:]:
            input = F.interpolate(input, size=mask.shape[2:], mode="bilinear", align_corners=True)
        if is_disc and not target_is_real:
            target = self.gaussian_blur(mask).detach()
            dtype = torch.promote_types(input.dtype, target.dtype)
            return mean_of((square(0.0), torch.broadcast_tensors(input.to(dtype), target.to(dtype))))
        loss = super().forward(input, target_is_real, is_disc)
        if is_disc:
            return loss
        mean = mask.mean()
        return loss * (mean / mean)  # 1, or NaN


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
