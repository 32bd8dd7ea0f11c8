"""The CPU kernels: which of them this processor has, and how they are called."""

from __future__ import annotations

import platform

import torch
from torch import Tensor

from .native import Gradients, Kernels, Weights, missing, native
from .terms import Spec

__all__ = ["KERNELS", "PREFERRED", "missing"]

# Whether the CPU kernels beat the reference: on x86-64 they need AVX2 and FMA.
PREFERRED = native is not None and (
    native.isas()[0] != "generic" or platform.machine().lower() not in ("x86_64", "amd64")
)


class Cpu(Kernels):
    """On torch's own threads."""

    units = True

    def _where(self, t: Tensor) -> int:
        return torch.get_num_threads()

    def weights(self, weights: Tensor) -> Weights:
        return tuple(weights.tolist())

    def finish(self, spec: Spec, units: Gradients, upstream: Tensor, aux: Tensor | None) -> bool:
        if upstream.item() == 1.0 and not spec.centred:
            return True
        return native.finish(self._spec(spec), units, (upstream,), aux, torch.get_num_threads())


KERNELS = Cpu(native, "")
