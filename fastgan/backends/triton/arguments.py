"""What kernels are told: integers, and no more bytes of them than a device takes."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from ..base import without_negation

CHUNK = 1024
CODES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}


def parameter_bytes(kind: str) -> int:
    """How large a kernel's parameters may be on a kind of device."""
    if kind == "xpu":
        return 2048 - 64
    return 4096 - 64 if torch.version.hip else 4352 - 24


def bits(x: float) -> int:
    """A float64's bits, as a signed integer."""
    return struct.unpack("<q", struct.pack("<d", x))[0]


def up(n: int) -> int:
    """The next power of two."""
    return 1 << max(0, n - 1).bit_length()


def cdiv(n: int, d: int) -> int:
    """The quotient, rounded up."""
    return -(-n // d)


def level_space(n: int) -> int:
    """Room for so many sums, and for the levels of the tree above them."""
    space = n
    while n > CHUNK:
        n = cdiv(n, CHUNK)
        space += n
    return space


def address(t: Tensor | None) -> int:
    """Of a tensor's memory, 0 for no tensor."""
    if t is None:
        return 0
    p = t.data_ptr()
    if p == 0:
        raise ValueError("a tensor has no memory (a null address)")
    return p


def aligned(addresses: Sequence[int]) -> bool:
    """Whether all are multiples of 16."""
    return not any([a % 16 for a in addresses])


def dtype_bits(tensors: Sequence[Tensor]) -> int:
    """A bit for each dtype."""
    found = 0
    for t in tensors:
        found |= 1 << CODES[t.dtype]
    return found


def contiguous(t: Tensor) -> Tensor:
    """`t`, without gaps and with a pending negation carried out."""
    return without_negation(t).contiguous()
