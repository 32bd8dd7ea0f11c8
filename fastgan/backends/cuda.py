"""The CUDA kernels: where they can run, and how they are launched.

A launch goes to the current stream of the tensors' device and waits for nothing, so that it can be captured in a
CUDA graph. Kernels take the memory that they need from torch's allocator.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .._torch_internals import current_stream
from . import native
from .base import REDUCTIONS, Gradients, LossCall, Operands, Weights, memory_of, place_name, without_negation
from .native import Extension
from .specs import LossSpec
from .verdicts import PassingError, lasting

# What the kernels' tables of strides hold; see csrc/cuda/memory.h.
_DIMS, _ELEMENTS = 6, 2**31 - 1


@lasting
def unusable(device: int) -> str | None:
    """Return why the kernels cannot run on a CUDA device, or None where they can."""
    if native.native is None:
        return native.missing()
    if torch.version.hip:
        return "the device is not NVIDIA's"
    if not hasattr(native.native, "cuda_forward"):
        why = native.build_facts().get("cuda", "it was built without")
        return f"the compiled extension has no CUDA kernels ({why})"
    try:
        with torch.cuda.device(device):
            return native.native.cuda_unusable(device) or None
    except RuntimeError as error:  # raised, not returned: the next call may find it gone
        raise PassingError(str(error)) from error


def missing() -> str | None:
    """Return why there are no CUDA kernels for any tensor, or None where there are."""
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


class Cuda(Extension):
    """The CUDA kernels, on the current stream of the tensors' device."""

    name = "cuda"

    def missing(self) -> str | None:
        """Return why there are no CUDA kernels, or None where there are."""
        return missing()

    def unusable(self, kind: str, index: int) -> str | None:
        """Return why the kernels cannot serve a device, or None where they can."""
        if kind == "cuda":
            return unusable(index)
        return missing() or f"the tensors are on {place_name(kind, index)}"

    def prepare(self, t: Tensor) -> Tensor:
        """Return `t`, copied where its memory has gaps that the kernels cannot walk over."""
        t = without_negation(t)
        if (t.dim() > _DIMS or t.numel() > _ELEMENTS) and not t.is_contiguous():
            return t.contiguous()
        return t

    def prepare_weights(self, weights: Tensor) -> Weights:
        """Return a tensor of weights, without gaps; it stays on its device."""
        return without_negation(weights.detach()).contiguous()

    def writes_unit_gradients(self, spec: LossSpec) -> bool:
        """Return whether no gradient waits for a sum over all logits, as a relativistic average's does."""
        return not spec.subtracts_mean

    def rescale(self, call: LossCall, tensors: Operands, unit_gradients: Gradients, upstream: Tensor) -> bool:
        """Recompute the gradients from the operands if the device finds that the upstream is not 1."""
        call.check_weights()
        self._launch(
            "rescale", tensors[0], self._loss(call.spec), tensors, unit_gradients, self._all((upstream,)),
            call.weights, REDUCTIONS[call.reduction], memory_of(call),
        )  # fmt: skip
        return True

    def _launch(self, name: str, t: Tensor, *arguments: Any) -> None:
        device = t.get_device()
        if device == torch.cuda.current_device():
            return self._run(name, device, *arguments)
        with torch.cuda.device(device):
            return self._run(name, device, *arguments)

    def _run(self, name: str, device: int, *arguments: Any) -> None:
        place = (device, current_stream(device), *_memory(device))
        getattr(self.module, self.prefix + name)(*arguments, place)


BACKEND = Cuda(native.native, "cuda_")
