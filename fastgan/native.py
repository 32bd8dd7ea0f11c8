"""The compiled extension, and kernels as tensors in, tensors out; no autograd.

A `Kernels` offers the same calls on whatever device: fastgan/cpu.py, fastgan/cuda.py and fastgan/triton.py say
where they run.
"""

from __future__ import annotations

import pkgutil
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .rows import KINDS, PenaltySpec, rows_first, rows_shape
from .terms import PHIS, Spec


def module_name(folder: str, cuda: str | None) -> str:
    """Return the extension to load: the newest in `folder` whose CUDA's major version torch's `cuda` reaches.

    A build with several CUDA toolkits has _native, by the oldest, and others such as _native_cuda13. A driver that
    serves torch serves such a one; and devices that CUDA 13 dropped are used with a torch built by CUDA 12.
    """
    matches = [re.fullmatch(r"_native_cuda(\d+)", found.name) for found in pkgutil.iter_modules([folder])]
    majors = [int(match[1]) for match in matches if match]
    reached = [major for major in majors if major <= int((cuda or "0").split(".")[0])]
    return f"_native_cuda{max(reached)}" if reached else "_native"


try:
    if TYPE_CHECKING:
        from . import _native as native
    else:
        native = import_module(f".{module_name(str(Path(__file__).parent), torch.version.cuda)}", __package__)
    _import_error = None
except ImportError as error:
    native = None  # type: ignore
    _import_error = str(error)
else:
    native.learn(
        Tensor,
        torch.nn.Parameter,
        torch.strided,
        (torch.float32, torch.float64, torch.float16, torch.bfloat16),
    )
# How many numbers LossStats and PenaltyStats are made of.
LOSS_STATS, NORM_STATS = 8, 5
_REDUCTIONS = {"none": 0, "sum": 1, "mean": 2}
Weights = tuple[float, ...] | Tensor
Operands = tuple[Tensor, ...]
Gradients = tuple[Tensor | None, ...]


def missing() -> str | None:
    """Why there is no compiled extension, or None where there is."""
    return None if native is not None else f"the compiled extension is not there ({_import_error})"


def native_spec(spec: Spec, module: Any) -> Any:
    """The spec as the extension `module` takes it."""
    rows = [
        (PHIS.index(b.term.phi), b.x, b.y, b.centre, *b.term[1:], b.threshold, b.side, b.member, b.role)
        for b in spec.terms
    ]
    return module.Spec(rows, spec.roles)


def _cannot_scan(tensors: Operands) -> int:
    return -1


# scan(tensors): -1 unless these are plain, dense, non-empty CPU tensors of one supported dtype; else
# whether one requires grad. A quick yes before the checks that know what to say.
scan = _cannot_scan if native is None else native.scan


def plain(t: Tensor) -> Tensor:
    """`t`, with a pending negation (as x.conj().imag has one) carried out: kernels read memory."""
    return t.resolve_neg() if t.is_neg() else t


def aux_for(spec: Spec, device: torch.device) -> Tensor:
    """Memory for what a forward keeps: means and constants of centres, terms' values, statistics."""
    size = 2 * len(spec.roles) + len(spec.terms) + LOSS_STATS
    # What a call does not keep is never read; zeros, where they cost no launch, make it look tidy.
    make = torch.zeros if device.type == "cpu" else torch.empty
    return make(size, dtype=torch.float64, device=device)


class Kernels(ABC):
    """The kernels of one backend; each call raises if its arguments do not fit together.

    Attributes:
        units: whether a loss's forward writes gradients that `finish` can make the wanted ones; else
            backward computes them anew.
    """

    units = False

    def __init__(self, module: Any, prefix: str) -> None:
        self.module = module
        self.prefix = prefix

    @abstractmethod
    def _where(self, t: Tensor) -> Any:
        """What the extension is told of the place where `t` is."""

    def _run(self, name: str, t: Tensor, *arguments: Any) -> None:
        getattr(self.module, self.prefix + name)(*arguments, self._where(t))

    def _spec(self, spec: Spec) -> Any:
        if spec.native is None:
            spec.native = native_spec(spec, self.module)
        return spec.native

    def weights(self, weights: Tensor) -> Weights:
        """A tensor of weights as the kernels take it."""
        return weights.detach()

    def finish(self, spec: Spec, units: Gradients, upstream: Tensor, aux: Tensor | None) -> bool:
        """Turns gradients for an upstream of 1 into gradients, in place; False if they cannot serve."""
        return False

    def plain(self, t: Tensor) -> Tensor:
        """`t` as the kernels can read it."""
        return plain(t)

    def forward(
        self,
        spec: Spec,
        tensors: Operands,
        weights: Weights,
        reduction: str,
        aux: Tensor | None,
        units: Gradients | None,
        stats: bool = False,
        keep: bool = True,
    ) -> Any:
        """The reduced loss, or each term's unreduced values.

        Writes each operand's gradient for an upstream of 1 into `units` where there is a tensor, and what
        `aux_for` lists into aux.
        """
        first = tensors[0]
        dtype = torch.float64 if first.dtype is torch.float64 else torch.float32
        result: Any
        if reduction == "none":
            result = tuple([torch.empty(tensors[b.x].shape, dtype=dtype, device=first.device) for b in spec.terms])
        else:
            result = torch.empty((), dtype=dtype, device=first.device)
        self._run(
            "forward", first, self._spec(spec), tensors, units, result, weights,
            _REDUCTIONS[reduction], aux, stats, keep,
        )  # fmt: skip
        return result

    def backward(
        self,
        spec: Spec,
        tensors: Operands,
        weights: Weights,
        reduction: str,
        aux: Tensor | None,
        upstream: Operands,
        need: Sequence[bool],
    ) -> Gradients:
        """Gradients of the operands that need one."""
        grads = _like(tensors, need)
        self._run(
            "backward", tensors[0], self._spec(spec), tensors, grads, self._all(upstream), weights,
            _REDUCTIONS[reduction], aux,
        )  # fmt: skip
        return grads

    def second(
        self,
        spec: Spec,
        tensors: Operands,
        weights: Weights,
        reduction: str,
        aux: Tensor | None,
        upstream: Operands,
        cotangents: Gradients,
        need: Sequence[bool],
    ) -> tuple[Operands, Gradients]:
        """Gradients of <cotangents, gradients> with respect to the upstream and to the operands."""
        grads = _like(tensors, need)
        up_grads = tuple([torch.empty(u.shape, dtype=u.dtype, device=u.device) for u in upstream])
        self._run(
            "second", tensors[0], self._spec(spec), tensors, grads,
            tuple([None if v is None else self.plain(v) for v in cotangents]), self._all(upstream),
            up_grads if reduction == "none" else up_grads[0], weights, _REDUCTIONS[reduction], aux,
        )  # fmt: skip
        return up_grads, grads

    def _all(self, tensors: Sequence[Tensor]) -> Operands:
        return tuple([self.plain(t) for t in tensors])

    def penalty_forward(
        self, spec: PenaltySpec, tensors: Operands, masks: Operands | None, weights: Tensor | None, stats: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The penalty, the norms in float64 and, if asked for, the five numbers of PenaltyStats."""
        first = tensors[0]
        native_spec, arranged, covers = self._norm_call(spec, tensors, masks)
        dtype = torch.float64 if first.dtype is torch.float64 else torch.float32
        shape = rows_shape(first, spec.over)
        result = torch.empty(shape if spec.reduction == "none" else (), dtype=dtype, device=first.device)
        kept = torch.empty(shape, dtype=torch.float64, device=first.device)
        numbers = None
        if stats:
            numbers = torch.empty(NORM_STATS, dtype=torch.float64, device=first.device)
        self._run(
            "penalty_forward", first, native_spec, arranged, covers, weights, kept, result,
            spec.reduction == "none", numbers,
        )  # fmt: skip
        return result, kept, numbers

    def penalty_backward(
        self,
        spec: PenaltySpec,
        tensors: Sequence[Tensor],
        masks: Operands | None,
        weights: Tensor | None,
        kept: Tensor,
        upstream: Tensor,
        need: Sequence[bool],
    ) -> Gradients:
        """Gradients of the operands that need one."""
        native_spec, arranged, covers = self._norm_call(spec, tensors, masks)
        grads = _like(tensors, need)
        self._run(
            "penalty_backward", tensors[0], native_spec, arranged, covers, weights, kept,
            plain(upstream).contiguous(), spec.reduction == "none", _arranged(grads, spec.over),
        )  # fmt: skip
        return grads

    def penalty_second(
        self,
        spec: PenaltySpec,
        tensors: Sequence[Tensor],
        masks: Operands | None,
        weights: Tensor | None,
        kept: Tensor,
        upstream: Tensor,
        cotangents: Sequence[Tensor | None],
        need: Sequence[bool],
    ) -> tuple[Tensor, Gradients]:
        """Gradients of <cotangents, gradients> with respect to the upstream and to the operands."""
        native_spec, arranged, covers = self._norm_call(spec, tensors, masks)
        vs = [
            torch.zeros_like(t) if v is None else self.plain(v).to(t.dtype)
            for t, v in zip(tensors, cotangents, strict=True)
        ]
        grads = _like(tensors, need)
        up_grad = torch.empty_like(upstream, memory_format=torch.contiguous_format)
        self._run(
            "penalty_second", tensors[0], native_spec, arranged, covers, weights, kept,
            plain(upstream).contiguous(), spec.reduction == "none", _arranged(vs, spec.over),
            _arranged(grads, spec.over), up_grad,
        )  # fmt: skip
        return up_grad, grads

    def _norm_call(
        self, spec: PenaltySpec, tensors: Sequence[Tensor], masks: Operands | None
    ) -> tuple[tuple[Any, ...], Gradients, Gradients | None]:
        """The penalty as the extension takes it, and the operands with rows first."""
        over = spec.over
        outer = {"sample": 1, "batch": 0, "channel": tensors[0].dim() - 1}[over]
        across = over == "channel" and outer > 1
        codes = (KINDS.index(spec.kind), spec.target, spec.power, spec.scale, outer, across)
        covers = None if masks is None else _arranged(self._all(masks), over)
        return codes, _arranged(tensors, over), covers

    def interpolate_forward(self, real: Operands, fake: Operands, eps: Tensor) -> Operands:
        """Eps * real + (1 - eps) * fake, with one eps a sample."""
        out = tuple([torch.empty_like(r) for r in real])
        self._run("interpolate_forward", eps, real, fake, eps.contiguous(), out)
        return out

    def interpolate_backward(
        self, real: Operands, fake: Operands, eps: Tensor, upstream: Operands, need: Sequence[bool]
    ) -> Gradients:
        """Gradients of real, of fake and of eps, where they need one."""
        grads = _like((*real, *fake), need[:-1])
        eps_grad = torch.empty(eps.shape, dtype=eps.dtype, device=eps.device) if need[-1] else None
        self._run(
            "interpolate_backward", eps, real, fake, eps.contiguous(), upstream, grads[: len(real)],
            grads[len(real) :], eps_grad,
        )  # fmt: skip
        return (*grads, eps_grad)


def _like(tensors: Sequence[Tensor], need: Sequence[bool]) -> Gradients:
    """Memory for the gradients of those that need one."""
    return tuple([torch.empty_like(t) if wanted else None for t, wanted in zip(tensors, need, strict=True)])


def _arranged(tensors: Sequence[Tensor | None], over: str) -> Gradients:
    """With rows first."""
    return tuple([None if t is None else rows_first(t, over) for t in tensors])
