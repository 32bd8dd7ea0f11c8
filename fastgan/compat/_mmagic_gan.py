"""mmagic's GANLoss, and the blur of its masks."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import _labels, basicsr
from ._shared import mean_of, square

__all__ = ["GANLoss", "GaussianBlur"]


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
