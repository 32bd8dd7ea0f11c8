"""CTGAN (sdv-dev/CTGAN, ctgan/synthesizers/ctgan.py).

    pen = discriminator.calc_gradient_penalty(real_cat, fake_cat, self._device, self.pac)     # before
    pen = ctgan.calc_gradient_penalty(discriminator, real_cat, fake_cat, self._device, self.pac)     # after

with `from fastgan.compat import ctgan`. The function is a method of the trainer's Discriminator, and
`fastgan.compat.patch("ctgan")` replaces it there: call it before `fit`, below `import ctgan`.

The Wasserstein losses are inline, and stay: a batch has batch_size / pac logits. The penalty is the discriminator's
double backward, which fastgan prunes (LeakyReLU). The trainer detaches nothing: the penalty and the loss also go
backward through the generator, for gradients that the generator's step then zeroes. `fakeact.detach()` below
`_apply_activate` saves that. The generator's step leaves the discriminator trainable: put its calls of
`discriminator` into `with fastgan.frozen(discriminator):`.

Rows are grouped in packs of `pac`: one draw and one norm per pack. A number of rows that is no multiple raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..penalties import gradient_penalty
from ._origin import Origin
from ._shared import alike

__all__ = ["calc_gradient_penalty"]

ORIGIN = Origin(
    ("ctgan.synthesizers.ctgan",), methods=(("calc_gradient_penalty", ("calc_gradient_penalty",)),)
)  # fmt: skip


def calc_gradient_penalty(
    self: Callable[[Tensor], Any], real_data: Tensor, fake_data: Tensor, device: Any = "cpu", pac: int = 10,
    lambda_: float = 10,
) -> Tensor:  # fmt: skip
    """Return lambda_ * mean over packs of (n - 1)^2 at points between, with n the norm of a pack's gradient.

    `self` is the discriminator; data are (N, columns). Draws torch.rand(N // pac, 1, 1) on `device`. Data that
    require grad get one, and so does the generator behind `fake_data`. Where none does, the trainer's raises.
    """
    alpha = torch.rand(len(real_data) // pac, 1, 1, device=device)
    real, fake = alike(real_data, fake_data)
    eps = alpha.flatten().to(real.device)
    return gradient_penalty(self, real, fake, weight=lambda_, eps=eps, pac=pac).to(real.dtype)


def samples(leaf: Callable[..., Tensor]) -> dict[str, Any]:
    """Return rows in two packs, and a discriminator of packs, for the probe."""

    def judge(rows: Tensor) -> Tensor:
        packs = rows.reshape(-1, 30)
        return (packs + 0.3 * packs.square()).sum(1, keepdim=True) / 4

    return {"self": judge, "real_data": leaf(20, 3, seed=1), "fake_data": leaf(20, 3, seed=2)}
