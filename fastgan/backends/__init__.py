"""Which backend serves a call, and why the others do not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextvars import ContextVar, Token
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from .._checks import has_warned, warn_once
from .._torch_internals import forward_level, is_tracing, is_transformed, proxy_mode
from . import cpu, native
from .base import Backend

# A backend is a module here, with its BACKEND. What "auto" tries for tensors on a kind of device, before the
# reference; the last entry is for all other accelerators.
NAMES = ("auto", "cpu", "cuda", "triton", "reference")
_AUTOMATIC = {"cpu": ("cpu",), "meta": (), "cuda": ("cuda", "triton")}
_ELSEWHERE = ("triton",)
_PLAIN = (Tensor, torch.nn.Parameter)


def _checked(name: str, source: str) -> str:
    if name not in NAMES:
        raise ValueError(f"{source}: expected one of {', '.join(NAMES)}, got {name!r}")
    return name


_OF_THE_PROCESS = _checked(os.environ.get("FASTGAN_BACKEND", "auto"), "FASTGAN_BACKEND")
CHOSEN: ContextVar[str] = ContextVar("fastgan_backend", default=_OF_THE_PROCESS)


@cache
def named(name: str) -> Any:
    """Return the backend of a name; its module is imported only then, as Triton takes a while."""
    return import_module(f".{name}", __package__).BACKEND


class backend:  # noqa: N801 (used as a statement: `with fastgan.backend("cpu"):`)
    """Choose the kernels for the calls inside a `with` block; FASTGAN_BACKEND does so for a process.

        with fastgan.backend("reference"):
            loss = fastgan.discriminator_loss(real_logits, fake_logits)

    Args:
        name: "auto" (CPU tensors: cpu, else reference; CUDA tensors: cuda, else triton, else reference; those
            of other accelerators: triton, else reference), "cpu", "cuda", "triton" or "reference". One asked for
            by name that cannot serve a call raises and says why. A graph that torch.compile traces keeps the
            backend it was traced with; norms and points are traced through the reference, whichever is named.

    Raises:
        ValueError: an unknown name.
    """

    def __init__(self, name: str) -> None:
        self.name = _checked(name, "backend")
        self._tokens: list[Token[str]] = []

    def __enter__(self) -> backend:
        """Put the backend in force."""
        self._tokens.append(CHOSEN.set(self.name))
        return self

    def __exit__(self, *exception: Any) -> None:
        """Put the former one back."""
        CHOSEN.reset(self._tokens.pop())


def get(tensors: Sequence[Tensor], scanned: int = -1) -> Backend:
    """Return the backend that serves these tensors.

    Args:
        tensors: the operands of a call.
        scanned: what `native.scan` returned for them, or -1.

    Raises:
        RuntimeError: the backend asked for by name cannot serve them.
    """
    name = CHOSEN.get()
    if name == "auto":
        if (
            0 <= scanned < 2
            and cpu.PREFERRED
            and not is_tracing()
            and not is_transformed()
            and forward_level() < 0
            and proxy_mode() is None
        ):
            return cpu.BACKEND
        return _automatic(tensors, scanned)
    chosen = named(name)
    why = _refusal(chosen, tensors, scanned)
    if why:
        raise RuntimeError(f"backend {name!r} cannot serve this call: {why}")
    return chosen


def _automatic(tensors: Sequence[Tensor], scanned: int) -> Backend:
    """Return the first backend for this kind of device that can serve, else the reference."""
    for name in _AUTOMATIC.get(tensors[0].device.type, _ELSEWHERE):
        candidate = named(name)
        if candidate.preferred and _refusal(candidate, tensors, scanned) is None:
            return candidate
    if not has_warned("kernels"):
        _tell_of_a_loss(tensors, scanned)
    return named("reference")


def _tell_of_a_loss(tensors: Sequence[Tensor], scanned: int) -> None:
    """Warn where a plain call on a CPU or CUDA device has the reference only because kernels are missing."""
    device = tensors[0].device
    if device.type not in ("cpu", "cuda") or native.left_out() or is_tracing() or _special(tensors, scanned):
        return
    found = {name: named(name).unusable(device.type, device.index or 0) for name in _AUTOMATIC[device.type]}
    if all(found.values()):  # else the kernels are there, and the reference is faster on this processor
        why = "; ".join(f"{name}: {why}" for name, why in found.items())
        warn_once(
            "kernels",
            f"tensors on {device.type} are served by plain PyTorch, which is slower ({why}). "
            "FASTGAN_BACKEND=reference, or an install with FASTGAN_NATIVE=0, takes it silently.",
            RuntimeWarning,
        )


def _refusal(candidate: Backend, tensors: Sequence[Tensor], scanned: int) -> str | None:
    """Return why a backend cannot serve these tensors, or None where it can."""
    if candidate.differentiable:
        return None
    if is_tracing():  # a kernel's result would be memory that nothing has filled
        return "torch.jit.trace records operations of PyTorch alone: the reference backend"
    device = tensors[0].device
    why = candidate.unusable(device.type, device.index or 0)
    return why or _special(tensors, scanned)


def _special(tensors: Sequence[Tensor], scanned: int) -> str | None:
    """Return why a call is the reference's by design, or None where kernels would be right."""
    if is_transformed() or forward_level() >= 0:
        return "torch.func transforms and forward-mode AD need the reference backend"
    if proxy_mode() is not None:  # a kernel's result would be taken for a constant
        return "a graph that is traced operation by operation needs the reference backend"
    return None if scanned >= 0 else _unfit(tensors)


def _unfit(tensors: Sequence[Tensor]) -> str | None:
    """Return why kernels cannot read these tensors, or None where they can."""
    for t in tensors:
        if type(t) not in _PLAIN:
            return f"a tensor subclass ({type(t).__name__}) needs the reference backend"
        if t.device != tensors[0].device:
            return f"the tensors are on {tensors[0].device} and {t.device}"
    return None


@torch.compiler.assume_constant_result
def traced(kind: str, index: int) -> str | None:
    """Return the backend whose operators a graph calls on a device, or None where the reference is traced.

    The backend in force while a graph is traced decides; the compiled graph keeps it.
    """
    name = CHOSEN.get()
    if name == "triton":
        why = named(name).unusable(kind, index)
        if why:
            raise RuntimeError(f"backend 'triton' cannot serve this call: {why}")
        return name
    # Under "auto" the reference is traced rather than Triton's kernels: the compiler makes Triton code of it
    # anyway, and an operator would only hide it.
    for own in _AUTOMATIC.get(kind, ()) if name == "auto" else (name,) * (name == kind):
        candidate = named(own)
        if candidate.in_graphs:
            return own if candidate.preferred and candidate.unusable(kind, index) is None else None
    return None
