"""Arguments of kernels: integers, and no more bytes of them than a device takes."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from ..base import without_negation

CHUNK = 1024
CODES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}


def parameter_bytes(kind: str) -> int:
    """Return how many bytes of parameters a kernel may have on a kind of device."""
    if kind == "xpu":
        return 2048 - 64
    return 4096 - 64 if torch.version.hip else 4352 - 24


def bits(x: float) -> int:
    """Return a float64's bits as a signed integer."""
    return struct.unpack("<q", struct.pack("<d", x))[0]


def up(n: int) -> int:
    """Return the next power of two."""
    return 1 << max(0, n - 1).bit_length()


def cdiv(n: int, d: int) -> int:
    """Return the quotient, rounded up."""
    return -(-n // d)


def level_space(n: int) -> int:
    """Return the room for so many sums and for the levels of the tree above them."""
    space = n
    while n > CHUNK:
        n = cdiv(n, CHUNK)
        space += n
    return space


def address(t: Tensor | None) -> int:
    """Return the address of a tensor's memory, 0 for no tensor."""
    if t is None:
        return 0
    p = t.data_ptr()
    if p == 0:
        raise ValueError("a tensor has no memory (a null address)")
    return p


def aligned(addresses: Sequence[int]) -> bool:
    """Return whether all are multiples of 16."""
    return not any([a % 16 for a in addresses])


def dtype_bits(tensors: Sequence[Tensor]) -> int:
    """Return a number with a bit for each dtype."""
    found = 0
    for t in tensors:
        found |= 1 << CODES[t.dtype]
    return found


def contiguous(t: Tensor) -> Tensor:
    """Return `t` without gaps and with a pending negation carried out."""
    return without_negation(t).contiguous()
