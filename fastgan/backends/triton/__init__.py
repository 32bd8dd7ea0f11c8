"""The Triton kernels: where they can run, and the calls that are made of launches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..._torch_internals import no_modes
from ..base import REDUCTIONS, Gradients, Kernels, LossCall, Operands, Weights
from ..specs import PSIS, LossSpec, OperandTerm, Term
from ..verdicts import PassingError, lasting

OLDEST = (3, 6)
# Words of errors that may pass: no memory just now, a stream that is being captured, earlier work that failed.
_PASSING = (
    "out of memory", "captur", "launch failure", "launch timed out", "device-side assert", "uncorrectable",
    "hardware", "illegal memory", "illegal instruction", "misaligned", "address space", "program counter",
)  # fmt: skip
# The non-saturating loss of these logits, and its gradient: softplus(-x) / 2 and -sigmoid(-x) / 2.
_TRIAL = ((0.0, 2.0), (0.4100376, -0.25, -0.05960146))


def _check_version() -> None:
    import triton

    if tuple(int(v) for v in triton.__version__.split(".")[:2]) < OLDEST:
        raise ImportError(f"Triton {triton.__version__} is older than {OLDEST[0]}.{OLDEST[1]}")


try:
    _check_version()
    from ...triton_kernels import launch, loss, penalty
    from .arguments import address, bits, contiguous
    from .losses import BACKWARD, FORWARD, SECOND, LossLaunches, Table, most_terms
    from .norms import APART, DOTS, GREATEST, SCALED, SQUARES, GroupLaunches, NormTensor

    _import_error: str | None = None
except Exception as error:  # whatever an unknown package of this name does
    _import_error = str(error)


# ---------------------------------------------------------------------------------- where they run


def _index_function(accelerator: Any) -> Callable[[], int]:
    """Return the function that gives the current device's index; torch 2.6 has it under another name."""
    return getattr(accelerator, "current_device_index", None) or accelerator.current_device_idx


_current_index = _index_function(torch.accelerator)


@lasting
def unusable(kind: str, index: int) -> str | None:
    """Return why the kernels cannot run on a device, or None where they can."""
    if _import_error:
        return f"Triton is not there ({_import_error}); pip install 'triton>=3.6'"
    if launch.INTERPRETED:
        return None if kind == "cpu" else "TRITON_INTERPRET=1 serves CPU tensors only"
    if kind == "cpu":
        return "the tensors are on the CPU (there they run under TRITON_INTERPRET=1 only)"
    try:
        return _refused(kind, index)
    except PassingError:
        raise
    except Exception as error:  # a missing compiler, a driver too old: the reference serves then
        why = f"Triton cannot run: {str(error).strip() or type(error).__name__}"
        if isinstance(error, torch.OutOfMemoryError) or any(words in why for words in _PASSING):
            raise PassingError(why) from error
        return why


def _refused(kind: str, index: int) -> str | None:
    """Return why a device cannot serve, or None once a trial on it has succeeded."""
    import triton

    module = torch.get_device_module(kind)
    if kind == "xpu" and not module.get_device_properties(index).has_fp64:
        return "the device has no float64, in which sums are taken"
    with module.device(index):
        found = triton.runtime.driver.active.get_active_torch_device()
        if found.type != kind:
            return f"Triton's devices are {found.type}"
        _trial(torch.device(kind, index))
    return None


def _trial(device: torch.device) -> None:
    """Load a kernel with as many parameters as any, and launch small ones whose results are known.

    Raises:
        PassingError: the current stream is being captured, and results cannot be read.
        Exception: a kernel cannot be compiled, loaded or launched, or a result is wrong.
    """
    terms = most_terms(device.type)
    arguments = tuple(
        [(0,) * n for n in (terms * loss.ADDRESSES.value, terms * loss.FIELDS.value + 1, loss.MEMORY.value)]
    )
    launch.load(
        loss.loss_elements, arguments, (terms, 1, 1, True, 1, False, False, False, -1, False, 1024, False), 4
    )
    capturing = getattr(torch.get_device_module(device), "is_current_stream_capturing", None)
    if capturing is not None and capturing():
        raise PassingError(None)
    logits, known = _TRIAL
    # The caller may be inside of a transform or of a mode, which is not to see these tensors, or forbid waiting.
    with no_modes(), _may_wait(device):
        got = _small_loss(logits, device)
    if not all(math.isclose(g, k, rel_tol=1e-5) for g, k in zip(got, known, strict=True)):
        raise RuntimeError(f"a small loss and its gradient came out as {got}, not as {known}")


@contextmanager
def _may_wait(device: torch.device) -> Iterator[None]:
    """Let the trial wait for its results where `torch.cuda.set_sync_debug_mode` forbids it."""
    if device.type != "cuda" or not torch.cuda.is_initialized():
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("default")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _small_loss(logits: tuple[float, ...], device: torch.device) -> tuple[float, ...]:
    """Return the non-saturating generator loss of these logits, and its gradient, as the kernels write them."""
    spec = LossSpec((OperandTerm(Term("softplus", scale=-1.0), 0),), (0,))
    x = torch.tensor(logits, dtype=torch.float32, device=device)
    value, gradient = x.new_full((), math.nan), torch.full_like(x, math.nan)
    mean = REDUCTIONS["mean"]
    BACKEND._forward(spec, (x,), None, value, (), mean, None, False, False)
    BACKEND._backward(spec, (x,), (gradient,), (x.new_ones(()),), (), mean, None)
    return (value.item(), *gradient.tolist())


def missing() -> str | None:
    """Return why there are no Triton kernels for any tensor, or None where there are."""
    if _import_error or launch.INTERPRETED:
        return unusable("cpu", 0)
    if not torch.accelerator.is_available():
        return "there is no accelerator (without one they run under TRITON_INTERPRET=1 only)"
    device = torch.accelerator.current_accelerator()
    return unusable(device.type, _current_index()) if device else "there is no accelerator"


# ---------------------------------------------------------------------------------- the kernels
class Triton(Kernels):
    """The Triton kernels, on the current stream of the tensors' device; under TRITON_INTERPRET=1 on the CPU."""

    name = "triton"
    # Elements of a program, and how many it works on at a time: a thread has few. The interpreter wants many.
    block = 16384 if _import_error is None and launch.INTERPRETED else 1024
    tile = 4096 if _import_error is None and launch.INTERPRETED else 1024

    def missing(self) -> str | None:
        """Return why there are no Triton kernels for any tensor, or None where there are."""
        return missing()

    def unusable(self, kind: str, index: int) -> str | None:
        """Return why the kernels cannot serve a device, or None where they can."""
        why = unusable(kind, index)
        return (missing() or why) if why and kind == "cpu" else why

    def rows_at_once(self, heavy: bool) -> int:
        """Return how many of a chunk's 8 lane rows a program takes at a time: one, if it needs many registers."""
        return 1 if heavy and not launch.INTERPRETED else 8

    def _launch(self, name: str, t: Tensor, *arguments: Any) -> None:
        run = getattr(self, "_" + name)
        if t.is_cpu or t.device.index == _current_index():
            return run(*arguments)
        with torch.get_device_module(t.device).device(t.device):
            return run(*arguments)

    def _loss(self, spec: LossSpec) -> LossSpec:
        return spec

    @staticmethod
    def tables_of(spec: LossSpec) -> dict[Any, list[Table]]:
        """Return the tables that have been made for a loss."""
        if spec.tables is None or len(spec.tables) > 256:
            spec.tables = {}
        return spec.tables

    def prepare_weights(self, weights: Tensor) -> Tensor:
        """Return a tensor of weights without gaps; it stays on its device."""
        return contiguous(weights.detach())

    # Losses take contiguous tensors only; one with gaps, which logits rarely have, is copied.

    def loss_forward(
        self, call: LossCall, tensors: Operands, unit_gradients: Gradients | None, keep: bool
    ) -> Tensor | Operands:
        """Return the reduced loss, or each term's unreduced values."""
        return super().loss_forward(call, self._packed(tensors), unit_gradients, keep)

    def loss_backward(
        self, call: LossCall, tensors: Operands, upstream: Operands, need: Sequence[bool]
    ) -> Gradients:
        """Return gradients of the operands that need one."""
        return super().loss_backward(call, self._packed(tensors), self._packed(upstream), need)

    def loss_second(
        self, call: LossCall, tensors: Operands, upstream: Operands, cotangents: Gradients, need: Sequence[bool]
    ) -> tuple[Operands, Gradients]:
        """Return gradients of <cotangents, gradients> with respect to the upstream and to the operands."""
        packed = tuple([None if v is None else contiguous(v) for v in cotangents])
        return super().loss_second(call, self._packed(tensors), self._packed(upstream), packed, need)

    @staticmethod
    def _packed(tensors: Operands) -> Operands:
        return tuple([t if t.is_contiguous() and not t.is_neg() else contiguous(t) for t in tensors])

    def _forward(
        self,
        spec: LossSpec,
        x: Operands,
        units: Any,
        result: Any,
        weights: Weights,
        reduction: int,
        memory: Tensor | None,
        stats: bool,
        keep: bool,
    ) -> None:
        call = LossLaunches(spec, x, weights, reduction == 2, memory, self)
        if reduction == 0:
            if spec.subtracts_mean:
                call.means(x, "means")
            return call.elements(FORWARD, (), (), result, ())
        call.set(result=address(result))
        return call.sums(FORWARD, slopes=spec.subtracts_mean and keep, stats=stats)

    def _backward(
        self,
        spec: LossSpec,
        x: Operands,
        g: Gradients,
        upstream: Operands,
        weights: Weights,
        reduction: int,
        memory: Tensor | None,
    ) -> None:
        call = LossLaunches(spec, x, weights, reduction == 2, memory, self)
        up: Gradients = ()
        if reduction == 0:
            up = upstream
            if spec.subtracts_mean:  # constants that this upstream gives
                call.set(constants=call.scratch(len(x)))
                call.sums(BACKWARD, slopes=True, up=up)
        else:
            call.set(scalar=address(upstream[0]))
        call.elements(BACKWARD, g, (), (), up)

    def _second(
        self,
        spec: LossSpec,
        x: Operands,
        g: Gradients,
        v: Gradients,
        upstream: Operands,
        result: Any,
        weights: Weights,
        reduction: int,
        memory: Tensor | None,
    ) -> None:
        call = LossLaunches(spec, x, weights, reduction == 2, memory, self)
        up: Gradients = upstream if reduction == 0 else ()
        if spec.subtracts_mean:
            call.set(v_means=call.scratch(len(x)), constants=call.scratch(len(x)))
            call.means(v, "v_means")
        if reduction:
            call.set(result=address(result), scalar=address(upstream[0]))
        if spec.subtracts_mean or reduction:
            call.sums(SECOND, slopes=spec.subtracts_mean, v=v, up=up)
        call.elements(SECOND, g, v, result if reduction == 0 else (), up)

    def _penalty(
        self,
        codes: tuple[Any, ...],
        tensors: Operands,
        masks: Gradients | None,
        weights: Tensor | None,
        norms: Tensor,
        vs: Gradients | None = None,
        outs: Gradients | None = None,
    ) -> GroupLaunches:
        psi, target, power, scale, outer, transposed = codes
        rows_in_all = norms.numel()
        nothing: Gradients = (None,) * len(tensors)
        lists = zip(tensors, masks or nothing, vs or nothing, outs or nothing, strict=True)
        parts = [NormTensor(x.dtype, x.numel() // rows_in_all, (x, m, v, out, None)) for x, m, v, out in lists]
        call = GroupLaunches(parts, rows_in_all, outer, transposed, self)
        call.psi, call.power, call.masked = psi, power if PSIS[psi] == "power" else 2, masks is not None
        call.set(norms=address(norms), target=bits(target), scale=bits(scale))
        if weights is not None:
            call.set(weights=address(weights), groups_per_weight=rows_in_all // weights.numel())
        return call

    def _penalty_forward(
        self,
        codes: tuple[Any, ...],
        tensors: Operands,
        masks: Gradients | None,
        weights: Tensor | None,
        norms: Tensor,
        result: Tensor,
        unreduced: bool,
        numbers: Tensor | None,
    ) -> None:
        call = self._penalty(codes, tensors, masks, weights, norms)
        call.set(squares_of=call.sums(SQUARES))
        if call.wide:
            call.set(greatest_of=call.sums(GREATEST))
            call.set(scaled_of=call.sums(SCALED))
        call.finish(SQUARES, result, unreduced, weights is not None, numbers)

    def _penalty_backward(
        self,
        codes: tuple[Any, ...],
        tensors: Operands,
        masks: Gradients | None,
        weights: Tensor | None,
        norms: Tensor,
        upstream: Tensor,
        elementwise: bool,
        outs: Gradients,
    ) -> None:
        call = self._penalty(codes, tensors, masks, weights, norms, outs=outs)
        call.set(upstream=address(upstream))
        self._write(call, SQUARES, weights is not None, elementwise)

    def _penalty_second(
        self,
        codes: tuple[Any, ...],
        tensors: Operands,
        masks: Gradients | None,
        weights: Tensor | None,
        norms: Tensor,
        upstream: Tensor,
        elementwise: bool,
        vs: Gradients,
        outs: Gradients,
        up_grad: Tensor,
    ) -> None:
        call = self._penalty(codes, tensors, masks, weights, norms, vs, outs)
        call.set(upstream=address(upstream))
        call.set(squares_of=call.sums(DOTS))
        call.finish(DOTS, up_grad, elementwise, weights is not None)
        self._write(call, DOTS, weights is not None, elementwise)

    @staticmethod
    def _write(call: GroupLaunches, what: int, weighted: bool, elementwise: bool) -> None:
        call.gradients(
            penalty.penalty_gradient,
            lambda table, t, elements: (
                table.parts, what, call.psi, call.power, call.masked, weighted, elementwise, *table.dims,
                call.dtypes, table.access, call.transposed, t, elements,
            ),
        )  # fmt: skip

    def _interpolation(self, lists: Sequence[Gradients], eps: Tensor) -> GroupLaunches:
        parts = []
        for tensors in zip(*lists, strict=True):
            first = next(t for t in tensors if t is not None)
            parts.append(NormTensor(first.dtype, first.numel() // eps.numel(), tensors))
        call = GroupLaunches(parts, eps.numel(), 1, False, self)
        call.set(eps=address(eps))
        return call

    def _interpolate_forward(self, real: Operands, fake: Operands, eps: Tensor, out: Operands) -> None:
        nothing: Gradients = (None,) * len(real)
        self._points(self._interpolation((real, nothing, fake, out, nothing), eps), False)

    @staticmethod
    def _points(call: GroupLaunches, backward: bool) -> None:
        call.gradients(
            penalty.interpolate,
            lambda table, t, elements: (
                table.parts, backward, *table.dims, call.dtypes, table.access, t, elements
            ),
        )  # fmt: skip

    def _interpolate_backward(
        self,
        real: Operands,
        fake: Operands,
        eps: Tensor,
        upstream: Operands,
        real_grads: Gradients,
        fake_grads: Gradients,
        eps_grad: Tensor | None,
    ) -> None:
        nothing: Gradients = (None,) * len(real)
        self._points(self._interpolation((nothing, upstream, nothing, real_grads, fake_grads), eps), True)
        if eps_grad is not None:
            call = self._interpolation((real, upstream, fake, nothing, nothing), eps)
            call.masked = True
            call.set(squares_of=call.sums(APART))
            call.finish(APART, eps_grad, True, False)


BACKEND = Triton()
