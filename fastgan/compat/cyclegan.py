"""CycleGAN and pix2pix (junyanz/pytorch-CycleGAN-and-pix2pix), and CUT (taesungp/contrastive-unpaired-translation).

    self.criterionGAN = networks.GANLoss(opt.gan_mode)     # before, in models/*_model.py
    self.criterionGAN = cyclegan.GANLoss(opt.gan_mode)     # after: from fastgan.compat import cyclegan

Or call `fastgan.compat.patch("cyclegan")` once `models.networks` is imported. Binary cross-entropy is exact at both
ends, and float64 logits give a float64 loss. On a device the label buffers are read once, which waits, and again
where they were changed (not through `.data`). The plain formula is used for a subclass with its own
get_target_tensor, and in graphs that torch.compile traces.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..norms import norm_penalty
from . import _labels
from ._origin import Origin
from ._shared import between, elements, mean_of, quiet_input, result_dtype

__all__ = ["GANLoss", "cal_gradient_penalty"]

ORIGIN = Origin(("models.networks",))

_MODES = {
    "lsgan": _labels.lsgan,
    "vanilla": _labels.vanilla,
    "wgangp": _labels.wgan,
    "nonsaturating": _labels.wgan_softplus,
}


class GANLoss(nn.Module):
    """`GANLoss(mode)(prediction, target_is_real)` of logits x.

    Mean (x - t)^2 ("lsgan"), cross-entropy with label t ("vanilla"), -mean x or mean x ("wgangp"), or CUT's
    "nonsaturating": softplus(-x) or softplus(x) with one mean per sample, (N,).

    Args:
        gan_mode: one of those; another raises NotImplementedError.
        target_real_label: t of real, in the buffer `real_label`.
        target_fake_label: t of fake, in `fake_label`.

    The result of "lsgan" and "vanilla" is float32 for 16-bit logits; that of the others has their dtype.
    """

    real_label: Tensor
    fake_label: Tensor

    def __init__(self, gan_mode: str, target_real_label: float = 1.0, target_fake_label: float = 0.0) -> None:
        super().__init__()
        if gan_mode not in _MODES:
            raise NotImplementedError(f"gan_mode: {gan_mode!r} not implemented (known: {', '.join(_MODES)})")
        self.register_buffer("real_label", torch.tensor(target_real_label))
        self.register_buffer("fake_label", torch.tensor(target_fake_label))
        self.gan_mode = gan_mode

    def get_target_tensor(self, prediction: Tensor, target_is_real: bool) -> Tensor:
        """Return the label, in the prediction's shape."""
        return (self.real_label if target_is_real else self.fake_label).expand_as(prediction)

    _own_labels = get_target_tensor

    def _label(self, real: bool) -> float:
        buffer = self.real_label if real else self.fake_label
        if buffer.is_cpu or buffer.is_inference():
            return float(buffer.item())
        # Elsewhere reading waits for the device: once, unless the buffer is another or was changed.
        read = self.__dict__.setdefault("_read", {})
        seen, version, number = read.get(real, (None, 0, 0.0))
        if seen is not buffer or version != buffer._version:
            number = float(buffer.item())
            read[real] = (buffer, buffer._version, number)
        return number

    def _labels_are_tensors(self) -> bool:
        """Return whether labels cannot be numbers: for a subclass's own labels, in a traced graph, or on meta."""
        own = _labels.replaced(self.get_target_tensor, self._own_labels)
        return own or torch.compiler.is_compiling() or self.real_label.is_meta

    def forward(self, prediction: Tensor, target_is_real: bool) -> Tensor:
        """Return the loss of logits of any shape: a scalar, or (N,) for "nonsaturating"."""
        real = bool(target_is_real)
        if self.gan_mode in _labels.ON_TARGETS and self._labels_are_tensors():
            return _labels.ON_TARGETS[self.gan_mode](prediction, self.get_target_tensor(prediction, target_is_real))
        term = _MODES[self.gan_mode](self._label(real) if self.gan_mode in _labels.ON_TARGETS else 0.0, real, True)
        if self.gan_mode == "nonsaturating":
            values = elements(term, prediction, torch.promote_types(prediction.dtype, torch.float32))
            samples = len(prediction) if prediction.dim() else 1
            return values.reshape(samples, -1).mean(1).to(result_dtype([prediction]))
        wide = self.gan_mode != "wgangp"
        return mean_of(
            (term, prediction), dtype=torch.promote_types(prediction.dtype, torch.float32) if wide else None
        )


def cal_gradient_penalty(
    netD: Any,
    real_data: Tensor,
    fake_data: Tensor,
    device: Any,
    type: str = "mixed",
    constant: float = 1.0,
    lambda_gp: float = 10.0,
) -> tuple[Any, Any]:
    """Return lambda_gp * mean (n - constant)^2, n the norm of each sample's gradient, and the gradients as (N, -1).

    As in the trainer, the norm is that of the gradient plus 1e-16 in each element. A sample whose gradient is
    exactly 0 is pushed in the direction (1, ..., 1), where 0 would be the natural derivative. "mixed" draws
    torch.rand(N, 1) on `device`, and the penalty then also reaches real and fake data that require grad. "real" and
    "fake" evaluate it at those data themselves and make them require grad, in place.

    Raises:
        NotImplementedError: another type.
    """
    if lambda_gp <= 0.0:
        return 0.0, None
    if type in ("real", "fake"):
        points = (real_data if type == "real" else fake_data).requires_grad_(True)
    elif type == "mixed":
        alpha = torch.rand(len(real_data), 1, device=device)
        points = between(real_data, fake_data, alpha)
    else:
        raise NotImplementedError(f"type: {type!r} not implemented (known: 'real', 'fake', 'mixed')")
    gradients = quiet_input(netD, points).reshape(len(points), -1)
    penalty = norm_penalty(gradients + 1e-16, "two_sided", target=constant)
    return (penalty * lambda_gp).to(gradients.dtype), gradients
