"""Points between real and generated samples, where a gradient penalty looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import autograd, backends, checks, native, reference
from .native import Kernels


class Interpolation(autograd.Operation):
    """Operands are all of real, all of fake, and eps; results are as many as there are of real."""

    __slots__ = ("kernels",)
    second_in_closed_form = False

    def __init__(self, kernels: Kernels) -> None:
        self.kernels = kernels

    def forward(self, tensors: tuple[Tensor, ...], need: Sequence[bool] | None) -> Any:
        half = len(tensors) // 2
        return self.kernels.interpolate_forward(tensors[:half], tensors[half:-1], tensors[-1])

    def gradients(self, tensors: Sequence[Tensor], upstream: Sequence[Tensor], need: Sequence[bool]) -> Any:
        half = len(tensors) // 2
        given = tuple([self.kernels.plain(u) for u in upstream])
        return self.kernels.interpolate_backward(
            tuple(tensors[:half]), tuple(tensors[half:-1]), tensors[-1], given, need
        )

    def reference(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        half = len(tensors) // 2
        pairs = zip(tensors[:half], tensors[half:-1], strict=True)
        return [reference.interpolate(r, f, tensors[-1]) for r, f in pairs]


def checked_samples(name: str, value: Any) -> tuple[Tensor, ...]:
    """`value`, a tensor or a tuple of them, as a tuple of tensors with one number of samples."""
    tensors = (value,) if isinstance(value, Tensor) else value
    if not isinstance(tensors, (list, tuple)):
        raise TypeError(f"{name}: expected a tensor or a tuple of them, got {type(value).__name__}")
    if not tensors:
        raise ValueError(f"{name}: expected at least one tensor, got an empty tuple")
    for t in tensors:
        checks.logits(name, t)
        if t.dim() < 1 or len(t) != len(tensors[0]):
            shapes = ", ".join(str(tuple(s.shape)) for s in tensors if isinstance(s, Tensor))
            raise ValueError(f"{name}: expected samples along dimension 0, as many in each tensor, got {shapes}")
        first = tensors[0]
        if t.device != first.device or (t.dtype == torch.float64) != (first.dtype == torch.float64):
            raise ValueError(f"{name}: expected one device, and no mix of float64 with other dtypes")
    return tuple(tensors)


def checked_pair(real: Any, fake: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Real and fake as tuples of tensors that fit each other."""
    single = isinstance(real, Tensor) and isinstance(fake, Tensor) and not torch.compiler.is_compiling()
    if single and native.scan((real, fake)) >= 0 and real.shape == fake.shape and real.dim():
        return (real,), (fake,)  # a quick yes, before the checks that know what to say
    r, f = checked_samples("real", real), checked_samples("fake", fake)
    if len(r) != len(f):
        raise ValueError(f"real and fake: expected as many tensors, got {len(r)} and {len(f)}")
    for a, b in zip(r, f, strict=True):
        checks.pair("real", a, "fake", b, False)
        if a.shape != b.shape:
            raise ValueError(f"real and fake: expected one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    return r, f


def eps_for(t: Tensor, eps: Any, generator: torch.Generator | None) -> Tensor:
    """`eps` as a vector in the dtype of the arithmetic on `t`, drawn if it is None."""
    dtype = torch.float64 if t.dtype == torch.float64 else torch.float32
    n = len(t)
    if eps is None:
        return torch.rand(n, dtype=dtype, device=t.device, generator=generator)
    if not isinstance(eps, Tensor) or eps.dtype not in checks.FLOATS:
        kind = eps.dtype if isinstance(eps, Tensor) else type(eps).__name__
        raise TypeError(f"eps: expected a floating-point tensor, got {kind}")
    if eps.device != t.device:
        raise ValueError(f"eps: expected it on {t.device} as the samples are, got {eps.device}")
    if eps.dim() < 1 or len(eps) != n or eps.numel() != n:
        raise ValueError(f"eps: expected shape ({n},), one number a sample, got {tuple(eps.shape)}")
    if checks.readable(eps):
        low, high = (e.item() for e in eps.detach().aminmax())
        if not (low >= 0 and high <= 1):  # NaN fails too
            raise ValueError(f"eps: expected numbers in [0, 1], got some from {low:g} to {high:g}")
    return eps if eps.dtype is dtype and eps.dim() == 1 else eps.to(dtype).reshape(n)


def evaluate(real: tuple[Tensor, ...], fake: tuple[Tensor, ...], eps: Tensor) -> tuple[Tensor, ...]:
    """The points between, of inputs that have been checked."""
    operands = (*real, *fake, eps)
    kernels = None if torch.compiler.is_compiling() else backends.choose(operands)
    if kernels is None:
        return tuple([reference.interpolate(r, f, eps) for r, f in zip(real, fake, strict=True)])
    plain = tuple([kernels.plain(t) for t in operands])
    call = Interpolation(kernels)
    if torch.is_grad_enabled() and any([t.requires_grad for t in plain]):
        return autograd.apply(call, *plain)
    return call.forward(plain, None)


def interpolate(
    real: Tensor | Sequence[Tensor],
    fake: Tensor | Sequence[Tensor],
    eps: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Any:
    """Points between real and fake samples, eps * real + (1 - eps) * fake, one eps a sample.

    One pass over both, in float32 (float64 for float64). Where real equals fake the result is that value
    exactly; at eps of 0 and 1 it is fake and real, if both are finite.

    Args:
        real: (N, ...), float32, float64, float16 or bfloat16, any strides; or a tuple of such tensors
            (an image and its segmentation, say), which then share eps.
        fake: as real, of the same shapes and dtypes.
        eps: (N,) or (N, 1, ..., 1), in [0, 1] (checked on the CPU; elsewhere that would wait for the
            device); by default uniform, from `torch.rand(N)` on real's device.
        generator: for that draw.

    Returns:
        Tensors as real, attached to what requires grad among real, fake and eps.

    Raises:
        TypeError, ValueError: bad input, with the argument's name, what came and what is needed.
    """
    r, f = checked_pair(real, fake)
    points = evaluate(r, f, eps_for(r[0], eps, generator))
    return points[0] if isinstance(real, Tensor) else points
