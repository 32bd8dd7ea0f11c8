"""The CPU kernels: whether this processor has good ones, and how they are called."""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor

from .base import Gradients, LossCall, Operands, Weights, memory_of, place_name
from .native import Extension, missing, native
from .specs import LossSpec

__all__ = ["BACKEND", "PREFERRED", "missing", "native"]

# Whether the CPU kernels beat the reference: on x86-64 they need AVX2 and FMA.
PREFERRED = native is not None and (
    native.isas()[0] != "generic" or platform.machine().lower() not in ("x86_64", "amd64")
)


class Cpu(Extension):
    """The CPU kernels, on torch's own threads."""

    name = "cpu"

    def missing(self) -> str | None:
        """Return why there are no CPU kernels, or None where there are."""
        return missing()

    def unusable(self, kind: str, index: int) -> str | None:
        """Return why the kernels cannot serve a device, or None where they can."""
        return missing() or (None if kind == "cpu" else f"the tensors are on {place_name(kind, index)}")

    @property
    def preferred(self) -> bool:
        """Whether they beat the reference."""
        return PREFERRED

    def prepare_weights(self, weights: Tensor) -> Weights:
        """Return a tensor of weights as numbers."""
        return tuple(weights.tolist())

    def writes_unit_gradients(self, spec: LossSpec) -> bool:
        """Return True: for every loss."""
        return True

    def rescale(self, call: LossCall, tensors: Operands, unit_gradients: Gradients, upstream: Tensor) -> bool:
        """Turn gradients for an upstream of 1 into those for `upstream`, in place."""
        if upstream.item() == 1.0 and not call.spec.subtracts_mean:
            return True
        spec, threads = self._loss(call.spec), torch.get_num_threads()
        return native.rescale(spec, unit_gradients, (self.prepare(upstream),), memory_of(call), threads)

    def _launch(self, name: str, t: Tensor, *arguments: Any) -> None:
        getattr(self.module, name)(*arguments, torch.get_num_threads())


BACKEND = Cpu(native, "")
