"""Common parts of OpenMMLab's trainers: modules that read a dict of outputs, and penalties."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..discriminator.forward import differentiable
from ..norms import norm_penalty
from ._shared import between, mean_of, path_lengths, quiet_input, square

_OVER = {"pixel": "channel", "HWC": "sample"}


class Linked(nn.Module):
    """A loss that finds its arguments in a dict of a training step's outputs, if it is told where.

    Args:
        loss_weight: the factor.
        data_info: name of an argument -> key in the dict; None: the call's arguments are the loss's.
        loss_name: the name that `loss_name()` returns.
        interval: the loss is computed once per so many iterations.
    """

    def __init__(
        self, loss_weight: float, data_info: dict[str, str] | None, loss_name: str, interval: int = 1
    ) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.data_info = data_info
        self.interval = interval
        self._loss_name = loss_name

    def loss_name(self) -> str:
        """Return the name under which the trainer adds the loss up."""
        return self._loss_name

    def linked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
        """Return the loss's keyword arguments, or None in a skipped iteration; `data_info` must be set."""
        assert self.data_info is not None
        if len(args) == 1:
            outputs = args[0]
            if not isinstance(outputs, dict):
                raise AssertionError(f"outputs_dict: expected a dict of outputs, got {type(outputs).__name__}")
        elif "outputs_dict" in kwargs:
            if args:
                raise AssertionError(f"outputs_dict: expected no positional arguments beside it, got {len(args)}")
            outputs = kwargs.pop("outputs_dict")
        else:
            raise NotImplementedError(f"outputs_dict: expected one dict, got {len(args)} positional arguments")
        if self.interval > 1 and outputs["iteration"] % self.interval != 0:
            return None
        return {**kwargs, **{name: outputs[key] for name, key in self.data_info.items()}}

    def check_interval(self) -> None:
        """Raise if the iteration cannot be known."""
        if self.interval > 1 and self.data_info is None:
            raise AssertionError(f"interval: expected 1 without data_info, got {self.interval}")


# ---------------------------------------------------------------------------------- penalties


class _ApexScaler:
    """Apex's loss scaler number k, with the two methods of a GradScaler that are needed here."""

    def __init__(self, k: int) -> None:
        from apex.amp._amp_state import _amp_state

        self.scaler = _amp_state.loss_scalers[k]

    def get_scale(self) -> float:
        return self.scaler.loss_scale()

    def scale(self, outputs: Tensor) -> Tensor:
        return outputs.float() * self.get_scale()


def _scaler(loss_scaler: Any, use_apex_amp: bool, k: int) -> Any:
    """Return the given GradScaler, or Apex's number k if it is to be used, or None."""
    return _ApexScaler(k) if loss_scaler is None and use_apex_amp else loss_scaler


def _over(norm_mode: str) -> str:
    """Return fastgan's name for the elements that a norm covers."""
    if norm_mode not in _OVER:
        raise NotImplementedError(f"norm_mode: {norm_mode!r} not implemented (known: 'pixel', 'HWC')")
    return _OVER[norm_mode]


def _masked(grads: Tensor, kind: str, over: str, mask: Tensor | None) -> Tensor:
    """Return a penalty on the norms of gradient times mask, divided by the mask's mean, in that product's dtype."""
    dtype = grads.dtype
    if mask is not None and mask.is_floating_point():
        dtype = torch.promote_types(dtype, mask.dtype)
    return norm_penalty(grads, kind, over=over, mask=mask).to(dtype)


def gradient_penalty_loss(
    discriminator: Callable[[Tensor], Any],
    real_data: Tensor,
    fake_data: Tensor,
    mask: Tensor | None = None,
    norm_mode: str = "pixel",
) -> Tensor:
    """Return mean (n - 1)^2 at points between real and fake images (N, C, H, W), without a factor in front.

    n is the norm over the channels, one per pixel, which is most likely not what you want. "HWC" takes one norm per
    sample, as in WGAN-GP. Draws torch.rand(N, 1, 1, 1) on the CPU; the images get no gradient.

    Args:
        discriminator: called with the points.
        real_data: real images.
        fake_data: fake images of the same shape.
        mask: a factor on the gradient that broadcasts to it; the result is divided by the mask's mean.
        norm_mode: "pixel" or "HWC".

    Raises:
        NotImplementedError: another norm_mode.
        ValueError: a mask whose mean is not positive.
        RuntimeError: the discriminator has no second derivative.
    """
    over = _over(norm_mode)
    eps = torch.rand(len(real_data), 1, 1, 1).to(real_data)
    points = between(real_data.detach(), fake_data.detach(), eps)
    return _masked(quiet_input(discriminator, points), "two_sided", over, mask)


def r1_gradient_penalty_loss(
    discriminator: Callable[[Tensor], Any],
    real_data: Tensor,
    mask: Tensor | None = None,
    norm_mode: str = "pixel",
    loss_scaler: Any = None,
    use_apex_amp: bool = False,
) -> Tensor:
    """Return mean n^2 at real images (N, C, H, W), without a factor in front.

    n is the norm over the channels, one per pixel, so that the mean is over pixels too. "HWC" takes one norm per
    sample, as in R1. The images are left as they are, and get a gradient if they have a graph.

    Args:
        discriminator: called with the images.
        real_data: real images.
        mask: a factor on the gradient that broadcasts to it; the result is divided by the mask's mean.
        norm_mode: "pixel" or "HWC".
        loss_scaler: a GradScaler, which scales the outputs and then the gradient back.
        use_apex_amp: the same with Apex's first scaler.

    Raises:
        NotImplementedError: another norm_mode.
        ValueError: a mask whose mean is not positive.
        RuntimeError: the discriminator has no second derivative.
    """
    over = _over(norm_mode)
    scaler = _scaler(loss_scaler, use_apex_amp, 0)
    points = real_data.clone() if real_data.requires_grad else real_data
    grads = quiet_input(discriminator, points, pick=scaler and scaler.scale)
    if scaler is not None:
        grads = grads * (1.0 / scaler.get_scale())
    return _masked(grads, "power", over, mask)


def _over_ranks(average: Tensor) -> Tensor:
    """Return the mean over all ranks; as in the trainers, the gradient is that of this rank's share."""
    dist = torch.distributed
    if not (dist.is_available() and dist.is_initialized()):
        return average
    total = average.detach().clone()
    dist.all_reduce(total)
    return (average + (total - average.detach())) / dist.get_world_size()


def gen_path_regularizer(
    generator: Callable[..., Any],
    num_batches: int,
    mean_path_length: Any,
    pl_batch_shrink: int = 1,
    decay: float = 0.01,
    weight: float = 1.0,
    pl_batch_size: int | None = None,
    sync_mean_buffer: bool = False,
    loss_scaler: Any = None,
    use_apex_amp: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return StyleGAN2's path length regularizer, weight * mean (l - m)^2 with m = m0 + decay (mean l - m0).

    At a latent whose gradient is 0 its derivative is 0, where mmagic's is not a number.

    Args:
        generator: called as (None, num_batches=..., return_latents=True); returns a dict with "fake_img" (N, C, H,
            W) and "latent" (N, L, d).
        num_batches: the number of samples.
        mean_path_length: m0, 0-dim.
        pl_batch_shrink: divides the number of samples.
        decay: how fast m moves; it is part of the graph.
        weight: the factor.
        pl_batch_size: the number of samples; it overrides num_batches and pl_batch_shrink.
        sync_mean_buffer: m is the mean over all ranks.
        loss_scaler: a GradScaler, which scales the images and then the gradient back.
        use_apex_amp: the same with Apex's second scaler.

    Returns:
        The penalty, m detached, and the lengths l (N,) with a graph.
    """
    if pl_batch_shrink > 1:
        num_batches = max(1, num_batches // pl_batch_shrink)
    if pl_batch_size is not None:
        num_batches = pl_batch_size
    with differentiable():
        made = generator(None, num_batches=num_batches, return_latents=True)
    images, latents = made["fake_img"], made["latent"]
    scaler = _scaler(loss_scaler, use_apex_amp, 1)
    if scaler is None:
        lengths = path_lengths(images, latents)
    else:
        lengths = path_lengths(scaler.scale(images), latents) / scaler.get_scale()
    lengths = lengths.to(latents.dtype)
    average = mean_path_length + decay * (lengths.mean() - mean_path_length)
    if sync_mean_buffer:
        average = _over_ranks(average)
    penalty = mean_of((square(0.0, float(weight)), (lengths, average.to(lengths.dtype))), centred=True)
    return penalty, average.detach(), lengths
