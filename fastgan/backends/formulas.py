"""The functions that losses and penalties are made of, in plain PyTorch.

The order of the names is that of their codes in the kernels: csrc/common/phi.h and penalty.h, triton_kernels/phi.py
and rows.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def softplus(x: Tensor) -> Tensor:
    """Return ln(1 + e^x), exact at both ends with both derivatives, unlike F.softplus."""
    return -F.logsigmoid(-x)


# phi(z), by the name that `fastgan.term` takes.
PHI: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda z: z,
    "softplus": softplus,
    "relu": F.relu,
    "square": torch.square,
    "relu_square": lambda z: F.relu(z).square(),
    "abs": torch.abs,
    "relu_half": lambda z: torch.maximum(z, torch.zeros_like(z)),
    "huber": lambda z: F.huber_loss(z, torch.zeros_like(z), reduction="none"),
    "softplus_square": lambda z: softplus(z).square(),
}
# psi(n) of a norm, with the target k and the power p of the penalty.
PSI: dict[str, Callable[[Tensor, float, int], Tensor]] = {
    "two_sided": lambda n, k, p: (n - k).square(),
    "one_sided": lambda n, k, p: F.relu(n - k).square(),
    "power": lambda n, k, p: n**p,
}
