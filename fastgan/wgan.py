"""Wasserstein GANs beside their loss: weight clipping and the curriculum over critics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ._checks import FLOATS, dense, integer, number
from ._torch_internals import clamp_


def clip_weights_(
    module_or_parameters: nn.Module | Tensor | Iterable[Tensor], bound: float | tuple[float, float]
) -> None:
    """Clamp all parameters into [-bound, bound] in place (WGAN, Arjovsky et al. 2017, algorithm 1).

        optimizer_d.step()
        fastgan.clip_weights_(D, 0.01)

    One multi-tensor operation for each device and dtype; NaN stays NaN.

    Args:
        module_or_parameters: a module, a tensor, or an iterable of tensors.
        bound: a positive number, or the pair (low, high).

    Raises:
        ValueError: a bound that is not positive, or a pair out of order.
        TypeError: something else than parameters.
    """
    low, high = _bounds(bound)
    if isinstance(module_or_parameters, nn.Module):
        parameters: list[Tensor] = list(module_or_parameters.parameters())
    elif isinstance(module_or_parameters, Tensor):
        parameters = [module_or_parameters]
    elif isinstance(module_or_parameters, Iterable):
        parameters = list(module_or_parameters)
    else:
        parameters = [module_or_parameters]
    for p in parameters:
        if not isinstance(p, Tensor) or p.dtype not in FLOATS:
            kind = p.dtype if isinstance(p, Tensor) else type(p).__name__
            raise TypeError(f"module_or_parameters: expected floating-point tensors, got {kind}")
        if isinstance(p, nn.UninitializedParameter):
            raise ValueError(
                "module_or_parameters: expected parameters that have values, got those of a lazy layer; call the"
                " module once before"
            )
        if p.layout is not torch.strided:
            dense("module_or_parameters", p)
    if not parameters:
        return
    with torch.no_grad():
        clamp_(parameters, low, high)


def _bounds(bound: Any) -> tuple[float, float]:
    """Return the lowest and the highest weight."""
    if isinstance(bound, tuple):
        found = [number("bound", b) for b in bound]
    else:
        found = [-number("bound", bound), number("bound", bound)]
    if len(found) != 2 or found[0] >= found[1]:
        raise ValueError(f"bound: expected a positive number or (low, high), got {bound}")
    return found[0], found[1]


def curriculum_weights(num_critics: int, progress: float) -> tuple[float, ...]:
    """Return convex weights over critics of growing strength (WGAN-C, arXiv:1807.09295).

        weights = fastgan.curriculum_weights(3, progress=0.25)  # (0.5, 0.5, 0.0)
        loss = fastgan.discriminator_loss([real_logits] * 3, [fake_logits] * 3, "wasserstein", weights=weights)

    At progress 0 all weight is on the first and weakest critic, at 1 on the last. Between, it moves
    linearly from each critic to the next: at most two weights are not 0, and the sum is 1. For the
    `weights` of a loss over a sequence with one member per critic.

    Args:
        num_critics: at least 1.
        progress: in [0, 1].

    Returns:
        A tuple of num_critics floats.

    Raises:
        ValueError, TypeError: a number out of range, or none.
    """
    integer("num_critics", num_critics, 1)
    position = number("progress", progress, 0.0, 1.0) * (num_critics - 1)
    below = min(int(position), num_critics - 1)
    share = position - below
    weights = [0.0] * num_critics
    weights[below] = 1.0 - share
    if share:
        weights[below + 1] = share
    return tuple(weights)
