"""The CUDA kernels: where they can run, and how they are launched.

A launch goes to the current stream of the tensors' device and waits for nothing, so that it can be
captured in a CUDA graph. What a kernel needs of memory comes from torch's allocator.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from . import native
from .native import Kernels
from .verdicts import PassingError, lasting

# What the kernels' tables of strides hold; see csrc/cuda/memory.h.
_DIMS, _ELEMENTS = 6, 2**31 - 1


@lasting
def unusable(device: int) -> str | None:
    """Why the kernels cannot run on a CUDA device, or None where they can."""
    if native.native is None:
        return native.missing()
    if torch.version.hip:
        return "the device is not NVIDIA's"
    if not hasattr(native.native, "cuda_forward"):
        from .info import build_facts

        return f"the compiled extension has no CUDA kernels ({build_facts().get('cuda', 'it was built without')})"
    try:
        with torch.cuda.device(device):
            return native.native.cuda_unusable(device) or None
    except RuntimeError as error:  # raised, not returned: the next call may find it gone
        raise PassingError(str(error)) from error


def missing() -> str | None:
    """Why there are no CUDA kernels for any tensor, or None where there are."""
    if native.native is None or not hasattr(native.native, "cuda_forward"):
        return unusable(0)
    if not torch.cuda.is_available():
        return "torch sees no CUDA device" if torch.version.cuda else "torch was built without CUDA"
    return unusable(torch.cuda.current_device())


@cache
def _memory(device: int) -> tuple[Callable[[int], Tensor], Callable[[int], Tensor]]:
    place = torch.device("cuda", device)
    return (
        lambda size: torch.empty(size, dtype=torch.uint8, device=place),
        lambda size: torch.zeros(size, dtype=torch.uint8, device=place),
    )


class Cuda(Kernels):
    """On the current stream of the tensors' device."""

    def _where(self, t: Tensor) -> tuple[Any, ...]:
        device = t.get_device()
        return (device, torch._C._cuda_getCurrentRawStream(device), *_memory(device))

    def _run(self, name: str, t: Tensor, *arguments: Any) -> None:
        if t.get_device() == torch.cuda.current_device():
            return super()._run(name, t, *arguments)
        with torch.cuda.device(t.get_device()):
            return super()._run(name, t, *arguments)

    def weights(self, weights: Tensor) -> Tensor:
        return native.plain(weights.detach()).contiguous()

    def plain(self, t: Tensor) -> Tensor:
        """Also copied, where its memory has gaps of a kind that the kernels cannot walk over."""
        t = native.plain(t)
        if (t.dim() > _DIMS or t.numel() > _ELEMENTS) and not t.is_contiguous():
            return t.contiguous()
        return t


KERNELS = Cuda(native.native, "cuda_")
