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
_PLAIN = (Tensor, torch.nn.Parameter)


def _checked(name: str, source: str) -> str:
    if name not in NAMES:
        raise ValueError(f"{source}: expected one of {', '.join(NAMES)}, got {name!r}")
    return name


CHOSEN: ContextVar[str] = ContextVar(
    "fastgan_backend", default=_checked(os.environ.get("FASTGAN_BACKEND", "auto"), "FASTGAN_BACKEND")
)


def of(t: Tensor) -> Kernels:
    """The kernels for a tensor's device."""
    return cuda.KERNELS if t.is_cuda else cpu.KERNELS


@torch.compiler.assume_constant_result
def traced(kind: str, index: int) -> bool:
    """Whether kernels serve such a device, by the backend in force while a graph is traced; the compiled
    graph keeps it.
    """
    name = CHOSEN.get()
    if name not in ("auto", kind):
        return False
    return cpu.PREFERRED if kind == "cpu" else kind == "cuda" and cuda.unusable(index) is None


class backend:  # noqa: N801 (used as a statement: `with fastgan.backend("cpu"):`)
    """Chooses the kernels for the calls inside a `with` block; FASTGAN_BACKEND does so for a process.

    Args:
        name: "auto" (CPU tensors: cpu, else reference; CUDA tensors: cuda, else reference; others:
            reference), "cpu", "cuda", "triton" or "reference". One asked for by name that cannot serve a
            call raises and says why. A graph that torch.compile traces keeps the backend it was traced with.

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
        return "this version of fastgan has no triton kernels"
    if name == "cuda":
        return cuda.missing()
    return cpu.missing() if name == "cpu" else None


def _refusal(name: str, tensors: Sequence[Tensor], scanned: int) -> str | None:
    """Why the kernels of `name` cannot serve these tensors, or None where they can."""
    if name == "reference":
        return None
    if name == "cuda" and tensors[0].is_cuda:
        why = cuda.unusable(tensors[0].get_device())
    else:
        why = missing(name)
    if why:
        return why
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return "torch.func transforms and forward-mode AD need the reference backend"
    if scanned < 0:
        for t in tensors:
            if type(t) not in _PLAIN:
                return f"a tensor subclass ({type(t).__name__}) needs the reference backend"
            if not (t.is_cuda if name == "cuda" else t.is_cpu):
                return f"the tensors are on {t.device}"
            if t.device != tensors[0].device:
                return f"the tensors are on {tensors[0].device} and {t.device}"
    elif (name == "cuda") != (scanned >= 2):
        return f"the tensors are on {tensors[0].device}"
    return None


def choose(tensors: Sequence[Tensor], scanned: int = -1) -> Kernels | None:
    """The kernels that serve these tensors; None for the reference.

    `scanned`: what `native.scan` said of them, or -1.

    Raises:
        RuntimeError: the backend asked for by name cannot serve them.
    """
    name = CHOSEN.get()
    if name == "auto":
        if scanned >= 2 or (scanned < 0 and tensors[0].is_cuda):
            return cuda.KERNELS if _refusal("cuda", tensors, scanned) is None else None
        return cpu.KERNELS if cpu.PREFERRED and _refusal("cpu", tensors, scanned) is None else None
    why = _refusal(name, tensors, scanned)
    if why:
        raise RuntimeError(f"backend {name!r} cannot serve this call: {why}")
    return {"cpu": cpu.KERNELS, "cuda": cuda.KERNELS}.get(name)
