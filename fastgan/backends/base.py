"""What a backend is: where operations run, tensors in and tensors out, without autograd.

`Backend` is what every backend answers. `Kernels` allocates results for a backend that runs kernels, and leaves the
launch to it. A call's constants travel in a `LossCall` or a `PenaltyCall`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .specs import PSIS, LossSpec, PenaltySpec

# How many numbers LossStats and PenaltyStats have.
LOSS_STATISTICS, NORM_STATISTICS = 8, 5
REDUCTIONS = {"none": 0, "sum": 1, "mean": 2}
Weights = tuple[float, ...] | Tensor
Operands = tuple[Tensor, ...]
Gradients = tuple[Tensor | None, ...]


def widest(device: torch.device) -> torch.dtype:
    """Return the dtype in which sums are kept on a device: Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


class LossBuffers:
    """What a loss's forward leaves beside its result: one float64 allocation, and four views of it.

    Attributes:
        memory: the whole.
        means, constants: of each operand, its mean, and what its gradient receives through that mean.
        values: each term's reduced value.
        statistics: the numbers of LossStats.
    """

    __slots__ = ("memory", "operands", "terms")

    def __init__(self, memory: Tensor, operands: int, terms: int) -> None:
        self.memory = memory
        self.operands = operands
        self.terms = terms

    @staticmethod
    def size(spec: LossSpec) -> int:
        """Return how many numbers there are for a loss."""
        return 2 * len(spec.roles) + len(spec.terms) + LOSS_STATISTICS

    @classmethod
    def allocate(cls, spec: LossSpec, device: torch.device) -> LossBuffers:
        """Make room for a loss."""
        # What a call does not keep is never read; zeros, where they cost no launch, make it look tidy.
        make = torch.zeros if device.type == "cpu" else torch.empty
        memory = make(cls.size(spec), dtype=widest(device), device=device)
        return cls(memory, len(spec.roles), len(spec.terms))

    @property
    def means(self) -> Tensor:
        """The means of the operands."""
        return self.memory[: self.operands]

    @property
    def constants(self) -> Tensor:
        """The gradients that operands receive through their means."""
        return self.memory[self.operands : 2 * self.operands]

    @property
    def values(self) -> Tensor:
        """The values of the terms."""
        first = 2 * self.operands
        return self.memory[first : first + self.terms]

    @property
    def statistics(self) -> Tensor:
        """The numbers of LossStats."""
        return self.memory[2 * self.operands + self.terms :]

    def addresses(self) -> dict[str, int]:
        """Return where each view begins."""
        views = {"means": self.means, "constants": self.constants, "values": self.values}
        return {name: v.data_ptr() for name, v in {**views, "statistics": self.statistics}.items()}


class LossCall(Protocol):
    """What a backend reads of one call of a loss (fastgan/ops/loss.py).

    Attributes:
        spec: the loss.
        weights: one per member, () for all 1: floats, or a tensor on the device.
        reduction: "mean", "sum" or "none".
        statistics: whether the numbers of LossStats are wanted.
        buffers: where forward leaves means, values and statistics; None where nobody wants them.
    """

    spec: LossSpec
    weights: Weights
    reduction: str
    statistics: bool
    buffers: LossBuffers | None

    def check_weights(self) -> None:
        """Raise if weights in a tensor were modified after forward."""


class PenaltyCall(Protocol):
    """What a backend reads and writes of one call of a penalty on norms (fastgan/ops/norm.py).

    Attributes:
        spec: the penalty.
        weights: one float64 per sample, or None.
        masks: factors on the gradients, of their shapes, or None.
        statistics: whether the numbers of PenaltyStats are wanted.
        norms: the norms in float64, which forward saves for backward.
        numbers: the numbers of PenaltyStats, where they were wanted.
    """

    spec: PenaltySpec
    weights: Tensor | None
    masks: Operands | None
    statistics: bool
    norms: Any
    numbers: Tensor | None


class Backend(ABC):
    """Where operations run.

    Attributes:
        name: as `fastgan.backend` takes it.
        differentiable: results carry autograd's own graph, so that no derivative need be asked for.
        in_graphs: under "auto", torch.compile traces an operator of this backend; else the reference.
    """

    name: str
    differentiable = False
    in_graphs = False

    @abstractmethod
    def missing(self) -> str | None:
        """Return why the backend cannot be used for any tensor, or None where it can."""

    @abstractmethod
    def unusable(self, kind: str, index: int) -> str | None:
        """Return why the backend cannot serve a kind of device, or None where it can."""

    @property
    def preferred(self) -> bool:
        """Whether "auto" takes this backend where it can serve."""
        return True

    def prepare(self, t: Tensor) -> Tensor:
        """Return `t` as the backend reads it."""
        return t

    def prepare_weights(self, weights: Tensor) -> Weights:
        """Return a tensor of weights as the backend reads it."""
        return weights

    @abstractmethod
    def loss_forward(
        self, call: LossCall, tensors: Operands, unit_gradients: Gradients | None, keep: bool
    ) -> Tensor | Operands:
        """Return the reduced loss, or each term's unreduced values.

        Fill each tensor of `unit_gradients` with that operand's gradient for an upstream of 1, and the call's
        buffers. `keep` says whether a backward follows.
        """

    @abstractmethod
    def penalty_forward(self, call: PenaltyCall, tensors: Operands) -> Tensor:
        """Return the penalty, one number or one per norm; fill the call's norms and numbers."""

    @abstractmethod
    def interpolate_forward(self, real: Operands, fake: Operands, eps: Tensor) -> Operands:
        """Return eps * real + (1 - eps) * fake, with one eps per sample."""


def place_name(kind: str, index: int) -> str:
    """Return a device's name, as torch prints it."""
    return kind if kind in ("cpu", "meta") else f"{kind}:{index}"


def without_negation(t: Tensor) -> Tensor:
    """Return `t` with a pending negation (as x.conj().imag has one) carried out: kernels read memory."""
    return t.resolve_neg() if t.is_neg() else t


class Kernels(Backend):
    """A backend of kernels: memory for results, and one launch for each call."""

    @abstractmethod
    def _launch(self, name: str, t: Tensor, *arguments: Any) -> None:
        """Run a kernel where `t` is."""

    def _encode(self, spec: LossSpec) -> Any:
        """Return a loss in the compiled extension's form."""
        raise NotImplementedError

    def _loss(self, spec: LossSpec) -> Any:
        """Return a loss as the kernels take it: encoded once for the compiled extension."""
        if spec.native is None:
            spec.native = self._encode(spec)
        return spec.native

    def prepare(self, t: Tensor) -> Tensor:
        """Return `t` as the kernels can read it."""
        return without_negation(t)

    def prepare_weights(self, weights: Tensor) -> Weights:
        """Return a tensor of weights as the kernels take it."""
        return weights.detach()

    def writes_unit_gradients(self, spec: LossSpec) -> bool:
        """Return whether forward writes gradients that `rescale` makes the wanted ones, and not backward."""
        return False

    def rescale(self, call: LossCall, tensors: Operands, unit_gradients: Gradients, upstream: Tensor) -> bool:
        """Turn gradients for an upstream of 1 into those for `upstream`, in place; return False if they cannot."""
        return False

    def loss_forward(
        self, call: LossCall, tensors: Operands, unit_gradients: Gradients | None, keep: bool
    ) -> Tensor | Operands:
        """Return the reduced loss, or each term's unreduced values; see `Backend.loss_forward`."""
        first = tensors[0]
        dtype = torch.float64 if first.dtype is torch.float64 else torch.float32
        result: Any
        if call.reduction == "none":
            shapes = [tensors[t.x].shape for t in call.spec.terms]
            result = tuple([torch.empty(shape, dtype=dtype, device=first.device) for shape in shapes])
        else:
            result = torch.empty((), dtype=dtype, device=first.device)
        self._launch(
            "forward", first, self._loss(call.spec), tensors, unit_gradients, result, call.weights,
            REDUCTIONS[call.reduction], memory_of(call), call.statistics, keep,
        )  # fmt: skip
        return result

    def loss_backward(
        self, call: LossCall, tensors: Operands, upstream: Operands, need: Sequence[bool]
    ) -> Gradients:
        """Return gradients of the operands that need one."""
        grads = _empty_like(tensors, need)
        self._launch(
            "backward", tensors[0], self._loss(call.spec), tensors, grads, self._all(upstream), call.weights,
            REDUCTIONS[call.reduction], memory_of(call),
        )  # fmt: skip
        return grads

    def loss_second(
        self, call: LossCall, tensors: Operands, upstream: Operands, cotangents: Gradients, need: Sequence[bool]
    ) -> tuple[Operands, Gradients]:
        """Return gradients of <cotangents, gradients> with respect to the upstream and to the operands."""
        grads = _empty_like(tensors, need)
        up_grads = tuple([torch.empty(u.shape, dtype=u.dtype, device=u.device) for u in upstream])
        self._launch(
            "second", tensors[0], self._loss(call.spec), tensors, grads,
            tuple([None if v is None else self.prepare(v) for v in cotangents]), self._all(upstream),
            up_grads if call.reduction == "none" else up_grads[0], call.weights, REDUCTIONS[call.reduction],
            memory_of(call),
        )  # fmt: skip
        return up_grads, grads

    def penalty_forward(self, call: PenaltyCall, tensors: Operands) -> Tensor:
        """Return the penalty, one number or one per norm; fill the call's norms and numbers."""
        first, spec = tensors[0], call.spec
        dtype = torch.float64 if first.dtype is torch.float64 else torch.float32
        shape, elementwise = norms_shape(first, spec.over), spec.reduction == "none"
        result = torch.empty(shape if elementwise else (), dtype=dtype, device=first.device)
        call.norms = torch.empty(shape, dtype=torch.float64, device=first.device)
        if call.statistics:
            call.numbers = torch.empty(NORM_STATISTICS, dtype=torch.float64, device=first.device)
        self._launch(
            "penalty_forward",
            first,
            *self._penalty_arguments(call, tensors),
            call.norms,
            result,
            elementwise,
            call.numbers,
        )
        return result

    def penalty_backward(
        self, call: PenaltyCall, tensors: Operands, upstream: Tensor, need: Sequence[bool]
    ) -> Gradients:
        """Return gradients of the operands that need one."""
        grads, spec = _empty_like(tensors, need), call.spec
        self._launch(
            "penalty_backward", tensors[0], *self._penalty_arguments(call, tensors), call.norms,
            without_negation(upstream).contiguous(), spec.reduction == "none", _groups_first(grads, spec.over),
        )  # fmt: skip
        return grads

    def penalty_second(
        self, call: PenaltyCall, tensors: Operands, upstream: Tensor, cotangents: Gradients, need: Sequence[bool]
    ) -> tuple[Tensor, Gradients]:
        """Return gradients of <cotangents, gradients> with respect to the upstream and to the operands."""
        vs = [
            torch.zeros_like(t) if v is None else self.prepare(v).to(t.dtype)
            for t, v in zip(tensors, cotangents, strict=True)
        ]
        grads, spec = _empty_like(tensors, need), call.spec
        up_grad = torch.empty_like(upstream, memory_format=torch.contiguous_format)
        self._launch(
            "penalty_second", tensors[0], *self._penalty_arguments(call, tensors), call.norms,
            without_negation(upstream).contiguous(), spec.reduction == "none", _groups_first(vs, spec.over),
            _groups_first(grads, spec.over), up_grad,
        )  # fmt: skip
        return up_grad, grads

    def interpolate_forward(self, real: Operands, fake: Operands, eps: Tensor) -> Operands:
        """Return eps * real + (1 - eps) * fake, with one eps per sample."""
        out = tuple([torch.empty_like(r) for r in real])
        self._launch("interpolate_forward", eps, real, fake, eps.contiguous(), out)
        return out

    def interpolate_backward(
        self, real: Operands, fake: Operands, eps: Tensor, upstream: Operands, need: Sequence[bool]
    ) -> Gradients:
        """Return gradients of real, of fake and of eps, where they need one."""
        grads = _empty_like((*real, *fake), need[:-1])
        eps_grad = torch.empty(eps.shape, dtype=eps.dtype, device=eps.device) if need[-1] else None
        self._launch(
            "interpolate_backward", eps, real, fake, eps.contiguous(), upstream, grads[: len(real)],
            grads[len(real) :], eps_grad,
        )  # fmt: skip
        return (*grads, eps_grad)

    def _all(self, tensors: Sequence[Tensor]) -> Operands:
        return tuple([self.prepare(t) for t in tensors])

    def _penalty_arguments(
        self, call: PenaltyCall, tensors: Operands
    ) -> tuple[tuple[Any, ...], Gradients, Gradients | None, Tensor | None]:
        """Return the penalty as the kernels take it, operands and masks with groups first, and weights."""
        spec = call.spec
        outer = {"sample": 1, "batch": 0, "channel": tensors[0].dim() - 1}[spec.over]
        transposed = spec.over == "channel" and outer > 1
        scale = spec.scale / call.norms.numel() if spec.reduction == "mean" else spec.scale
        codes = (PSIS.index(spec.psi), spec.target, spec.power, scale, outer, transposed)
        masks = None if call.masks is None else _groups_first(self._all(call.masks), spec.over)
        return codes, _groups_first(tensors, spec.over), masks, call.weights


def memory_of(call: LossCall) -> Tensor | None:
    """Return the memory of a call's buffers, or None where there are none."""
    return None if call.buffers is None else call.buffers.memory


def _empty_like(tensors: Sequence[Tensor], need: Sequence[bool]) -> Gradients:
    """Make room for the gradients of those that need one."""
    return tuple([torch.empty_like(t) if wanted else None for t, wanted in zip(tensors, need, strict=True)])


def _groups_first(tensors: Sequence[Tensor | None], over: str) -> Gradients:
    if over != "channel":
        return tuple(tensors)
    return tuple([None if t is None else groups_first(t, over) for t in tensors])


def groups_first(t: Tensor, over: str) -> Tensor:
    """Return `t` with the dimensions that number the norms before those that a norm covers."""
    return t.movedim(1, -1) if over == "channel" else t


def norms_shape(t: Tensor, over: str) -> torch.Size:
    """Return the shape of the norms of `t`."""
    if over == "batch":
        return torch.Size(())
    return t.shape[:1] if over == "sample" else t.shape[:1] + t.shape[2:]
