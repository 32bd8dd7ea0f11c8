"""Which kernels serve a call, and why the others do not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextvars import ContextVar, Token
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import cpu, cuda
from .native import Kernels

NAMES = ("auto", "cpu", "cuda", "triton", "reference")
_PROXY = torch._C._TorchDispatchModeKey.PROXY
_PLAIN = (Tensor, torch.nn.Parameter)


def _checked(name: str, source: str) -> str:
    if name not in NAMES:
        raise ValueError(f"{source}: expected one of {', '.join(NAMES)}, got {name!r}")
    return name


CHOSEN: ContextVar[str] = ContextVar(
    "fastgan_backend", default=_checked(os.environ.get("FASTGAN_BACKEND", "auto"), "FASTGAN_BACKEND")
)


def _triton() -> Any:
    """fastgan/triton.py, imported where it is wanted: Triton takes a while."""
    from . import triton

    return triton


def named(name: str) -> Kernels:
    """The kernels of the backend "cpu", "cuda" or "triton"."""
    return {"cpu": cpu.KERNELS, "cuda": cuda.KERNELS}.get(name) or _triton().KERNELS


def _compiled(kind: str, index: int) -> str | None:
    """The backend with compiled kernels for a device, or None."""
    if kind == "cpu":
        return "cpu" if cpu.PREFERRED else None
    return "cuda" if kind == "cuda" and cuda.unusable(index) is None else None


@torch.compiler.assume_constant_result
def traced(kind: str, index: int) -> str | None:
    """Which backend's kernels serve such a device, by the backend in force while a graph is traced; the
    compiled graph keeps it. None: the reference, which is traced.
    """
    name = CHOSEN.get()
    if name == "triton":
        why = _triton().unusable(kind, index)
        if why:
            raise RuntimeError(f"backend 'triton' cannot serve this call: {why}")
        return name
    # Of "auto" without compiled kernels the reference is traced: what the compiler makes of it is Triton code too,
    # and an operator would only hide it.
    return _compiled(kind, index) if name in ("auto", kind) else None


class backend:  # noqa: N801 (used as a statement: `with fastgan.backend("cpu"):`)
    """Chooses the kernels for the calls inside a `with` block; FASTGAN_BACKEND does so for a process.

    Args:
        name: "auto" (CPU tensors: cpu, else reference; CUDA tensors: cuda, else triton, else reference; those
            of other accelerators: triton, else reference), "cpu", "cuda", "triton" or "reference". One asked for
            by name that cannot serve a call raises and says why. A graph that torch.compile traces keeps the
            backend it was traced with. A step with engine="compiled" is traced through the reference, whichever is
            named.

    Raises:
        ValueError: an unknown name.
    """

    def __init__(self, name: str) -> None:
        self.name = _checked(name, "backend")
        self._tokens: list[Token[str]] = []

    def __enter__(self) -> backend:
        self._tokens.append(CHOSEN.set(self.name))
        return self

    def __exit__(self, *exception: Any) -> None:
        CHOSEN.reset(self._tokens.pop())


def missing(name: str) -> str | None:
    """Why a backend cannot be used at all, or None where it can."""
    if name == "triton":
        return _triton().missing()
    if name == "cuda":
        return cuda.missing()
    return cpu.missing() if name == "cpu" else None


def _unusable(name: str, t: Tensor) -> str | None:
    """Why a backend has no kernels for the device of a tensor, or None where it has."""
    if name == "triton":
        why = _triton().unusable(t.device.type, t.device.index or 0)
        return (why and t.is_cpu and missing(name)) or why
    if name == "cuda" and t.is_cuda:
        return cuda.unusable(t.get_device())
    return missing(name) or (None if name == t.device.type else f"the tensors are on {t.device}")


def _refusal(name: str, tensors: Sequence[Tensor], scanned: int) -> str | None:
    """Why the kernels of `name` cannot serve these tensors, or None where they can."""
    if name == "reference":
        return None
    why = _unusable(name, tensors[0])
    if why:
        return why
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return "torch.func transforms and forward-mode AD need the reference backend"
    if (
        torch._C._get_dispatch_mode(_PROXY) is not None
    ):  # make_fx, which would take a kernel's result for a constant
        return "a graph that is traced operation by operation needs the reference backend"
    if scanned < 0:
        for t in tensors:
            if type(t) not in _PLAIN:
                return f"a tensor subclass ({type(t).__name__}) needs the reference backend"
            if t.device != tensors[0].device:
                return f"the tensors are on {tensors[0].device} and {t.device}"
    return None


def choose(tensors: Sequence[Tensor], scanned: int = -1) -> Kernels | None:
    """The kernels that serve these tensors; None for the reference.

    `scanned`: what `native.scan` said of them, or -1.

    Raises:
        RuntimeError: the backend asked for by name cannot serve them.
    """
    name = CHOSEN.get()
    if name == "auto":
        first = tensors[0]
        if first.is_cpu:
            return cpu.KERNELS if cpu.PREFERRED and _refusal("cpu", tensors, scanned) is None else None
        if first.is_cuda and _refusal("cuda", tensors, scanned) is None:
            return cuda.KERNELS
        if first.is_meta or _refusal("triton", tensors, scanned) is not None:
            return None
        return _triton().KERNELS
    why = _refusal(name, tensors, scanned)
    if why:
        raise RuntimeError(f"backend {name!r} cannot serve this call: {why}")
    return None if name == "reference" else named(name)
