"""RelativisticGAN (AlexiaJM/RelativisticGAN, code/GAN_losses_iter.py).

Its losses are inline, chosen by the number loss_D; these helpers, of our own names, go in their place:

    errD = (torch.mean((y_pred - torch.mean(y_pred_fake) - y) ** 2) + ...) / 2     # before, for loss_D 7
    errD = discriminator_loss(y_pred, y_pred_fake, loss_D=7)                        # after

Nothing is detached: means carry gradient, and so do the generator's real outputs. Unequal shapes raise in the
paired form (5), where the trainer would broadcast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import functional
from ..penalties import gradient_penalty as penalty_of
from ._origin import Origin
from ._shared import MINUS, PLUS, alike, given, hinge, mean_of, result_dtype, square

__all__ = ["discriminator_loss", "generator_loss", "gradient_penalty"]

ORIGIN = Origin()  # its losses are inline in its script

# loss_D -> the loss of the relativistic forms, and its options.
_RELATIVISTIC: dict[int, tuple[str, str, dict[str, Any]]] = {
    5: ("nonsaturating", "paired", {}),
    6: ("nonsaturating", "average", {"weights": [0.5]}),
    7: ("least_squares", "average", {"weights": [0.5], "targets": (-1.0, 1.0, 1.0)}),
    8: ("hinge", "average", {"weights": [0.5]}),
}


def _checked(loss_D: int | None) -> int:
    number: int = given("loss_D", loss_D, "the script's option --loss_D, a number from 1 to 8")
    if number not in range(1, 9):
        raise ValueError(f"loss_D: expected a number from 1 to 8, got {loss_D!r}")
    return number


def _result(loss: Tensor, logits: Tensor, loss_D: int) -> Tensor:
    """Return a loss in the trainer's dtype: for 16-bit logits, float32 where the target is a tensor there."""
    return loss if loss_D in (2, 5, 6, 7) else loss.to(result_dtype([logits]))


def _on_probabilities(p: Tensor, real: bool) -> Tensor:
    """Return -mean ln p or -mean ln(1 - p), each logarithm at least -100, in float32 or wider."""
    wide = p.to(torch.promote_types(p.dtype, torch.float32))
    return F.binary_cross_entropy(wide, torch.full_like(wide, float(real)))


def discriminator_loss(y_pred: Tensor, y_pred_fake: Tensor, loss_D: int | None = None) -> Tensor:
    """Return the discriminator's loss on outputs (N,) for real and for fake.

    loss_D is the script's option, and has no default. r and f are the outputs, m their means:

    - 1: GAN, on probabilities, -ln r - ln(1 - f).
    - 2: LSGAN, (r - 1)^2 + f^2.
    - 3: WGAN, -r + f.
    - 4: hinge.
    - 5: the cross-entropy of r - f.
    - 6 to 8: cross-entropy, least squares (labels 1, -1) and hinge of r - m(f) and f - m(r), halved.

    Raises:
        TypeError: no loss_D.
        ValueError: another number; 5 with shapes that differ.
    """
    loss_D = _checked(loss_D)
    if loss_D == 1:
        return (_on_probabilities(y_pred, True) + _on_probabilities(y_pred_fake, False)).to(y_pred.dtype)
    if loss_D in _RELATIVISTIC:
        name, form, options = _RELATIVISTIC[loss_D]
        y_pred, y_pred_fake = alike(y_pred, y_pred_fake)
        loss = functional.discriminator_loss(y_pred, y_pred_fake, name, relativistic=form, **options)
        return _result(loss, y_pred, loss_D)
    on_real, on_fake = {2: (square(1.0), square(0.0)), 3: (MINUS, PLUS), 4: (hinge(-1), hinge(1))}[loss_D]
    wide = torch.promote_types(y_pred.dtype, torch.float32) if loss_D == 2 else None
    return mean_of((on_real, y_pred), (on_fake, y_pred_fake), dtype=wide)


def generator_loss(y_pred_fake: Tensor, y_pred: Tensor | None = None, loss_D: int | None = None) -> Tensor:
    """Return the generator's loss on outputs for fake (N,), and for real from loss_D 5 on, with the roles swapped.

    1, on probabilities, -ln f; 2 (f - 1)^2; 3 and 4 -f.

    Raises:
        TypeError: no loss_D.
        ValueError: another number; no y_pred from 5 on; 5 with shapes that differ.
    """
    loss_D = _checked(loss_D)
    if loss_D == 1:
        return _on_probabilities(y_pred_fake, True).to(y_pred_fake.dtype)
    if loss_D in _RELATIVISTIC:
        if y_pred is None:
            raise ValueError(f"y_pred: expected the outputs for real with loss_D={loss_D}, got None")
        name, form, options = _RELATIVISTIC[loss_D]
        y_pred_fake, y_pred = alike(y_pred_fake, y_pred)
        loss = functional.generator_loss(y_pred_fake, y_pred, name, relativistic=form, **options)
        return _result(loss, y_pred_fake, loss_D)
    wide = torch.promote_types(y_pred_fake.dtype, torch.float32) if loss_D == 2 else None
    return mean_of((square(1.0) if loss_D == 2 else MINUS, y_pred_fake), dtype=wide)


def gradient_penalty(D: Callable[[Tensor], Any], x: Tensor, x_fake: Tensor, penalty: float | None = None) -> Tensor:
    """Return penalty * mean (n - 1)^2 at points between, with n the norm of each sample's gradient.

    Draws uniform numbers into (N, 1, 1, 1) on x's device. The data get no gradient. `penalty` is the script's
    option of that name, and has no default: without it a TypeError is raised.
    """
    weight = given("penalty", penalty, "the script's option --penalty (10 unless it is given)")
    u = torch.empty(len(x), 1, 1, 1, device=x.device).uniform_()
    real, fake = alike(x.detach(), x_fake.detach())
    return penalty_of(D, real, fake, weight=float(weight), eps=u).to(real.dtype)
