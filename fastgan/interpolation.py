"""Points between real and generated samples, at which a gradient penalty is evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor

from . import _checks as checks
from .backends import nodes
from .ops import interpolation as ops
from .samples import Groups, Samples, arranged


def checked_samples(name: str, value: Any, samples: Samples | None = None) -> tuple[Tensor, ...]:
    """Return a tensor or a tuple of them as a tuple of tensors with one number of samples."""
    if samples is None and isinstance(value, Tensor) and _is_sound(value):
        return (value,)
    tensors = checks.operands(name, value)
    if samples is not None:
        samples.check(name, tensors)
        return tensors
    for t in tensors:
        if t.dim() < 1 or len(t) != len(tensors[0]):
            shapes = ", ".join(str(tuple(s.shape)) for s in tensors)
            raise ValueError(f"{name}: expected samples along dimension 0, as many in each tensor, got {shapes}")
    return tensors


def _is_sound(*tensors: Tensor) -> bool:
    """Return whether samples need no closer look: a quick yes, before the checks that know what to say."""
    return not torch.compiler.is_compiling() and nodes.scan(tensors) >= 0 and tensors[0].dim() > 0


def checked_pair(
    real: Any, fake: Any, samples: Samples | None = None
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return real and fake as tuples of tensors that fit each other, in one dtype for each pair."""
    single = samples is None and isinstance(real, Tensor) and isinstance(fake, Tensor)
    if single and _is_sound(real, fake) and real.shape == fake.shape and real.dtype is fake.dtype:
        return (real,), (fake,)
    r, f = checked_samples("real", real, samples), checked_samples("fake", fake, samples)
    if len(r) != len(f):
        raise ValueError(f"real and fake: expected as many tensors, got {len(r)} and {len(f)}")
    pairs = []
    for a, b in zip(r, f, strict=True):
        if a.shape != b.shape:
            raise ValueError(f"real and fake: expected one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
        pairs.append(checks.pair("real", a, "fake", b, False))
    return tuple([a for a, _ in pairs]), tuple([b for _, b in pairs])


def eps_for(t: Tensor, eps: Any, generator: torch.Generator | None, samples: Samples | None = None) -> Tensor:
    """Return `eps`, one per sample, as a vector in the dtype of the arithmetic on `t`; draw it if it is None."""
    dtype = torch.float64 if t.dtype == torch.float64 else torch.float32
    n, drawn_by = len(t) if samples is None else samples.number(t), _drawn_by(generator)
    if eps is None:
        return torch.rand((n,), dtype=dtype, device=t.device, **drawn_by)
    if not isinstance(eps, Tensor) or eps.dtype not in checks.FLOATS:
        kind = eps.dtype if isinstance(eps, Tensor) else type(eps).__name__
        raise TypeError(f"eps: expected a floating-point tensor, got {kind}")
    checks.dense("eps", eps)
    if eps.device != t.device:
        raise ValueError(f"eps: expected it on {t.device} as the samples are, got {eps.device}")
    if eps.dim() < 1 or len(eps) != n or eps.numel() != n:
        raise ValueError(f"eps: expected shape ({n},), one per sample, got {tuple(eps.shape)}")
    if checks.is_readable(eps):
        low, high = (e.item() for e in eps.detach().aminmax())
        if not (low >= 0 and high <= 1):  # NaN fails too
            raise ValueError(f"eps: expected numbers in [0, 1], got some from {low:g} to {high:g}")
    return eps if eps.dtype is dtype and eps.dim() == 1 else eps.to(dtype).reshape(n)


def _drawn_by(generator: torch.Generator | None) -> dict[str, Any]:
    """Return the argument; none for None, with which torch.compile takes no sizes that vary."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator, got {type(generator).__name__}")
    return {} if generator is None else {"generator": generator}


def between(
    real: Any, fake: Any, eps: Tensor | None, generator: torch.Generator | None, samples: Samples | None = None
) -> tuple[Tensor, ...]:
    """Return the points between real and fake, checked here."""
    r, f = checked_pair(real, fake, samples)
    eps = eps_for(r[0], eps, generator, samples)
    return ops.evaluate(r, f, eps) if samples is None else _arranged(r, f, eps, samples)


def around(
    real: Any, eps: Tensor | None, generator: torch.Generator | None, samples: Samples | None = None
) -> tuple[Tensor, ...]:
    """Return DRAGAN's points: between real samples and the same with noise of half the batch's deviation."""
    r = checked_samples("real", real, samples)
    eps = eps_for(r[0], eps, generator, samples)
    noisy = tuple([_perturbed(t, generator) for t in r])
    return ops.evaluate(noisy, r, eps) if samples is None else _arranged(noisy, r, eps, samples)


def _arranged(
    real: tuple[Tensor, ...], fake: tuple[Tensor, ...], eps: Tensor, samples: Samples
) -> tuple[Tensor, ...]:
    """Return the points between tensors whose samples do not simply lie along dimension 0."""
    r, f = (tuple([samples.first(t) for t in side]) for side in (real, fake))
    return tuple([samples.back(p) for p in ops.evaluate(r, f, samples.per_entry(eps))])


def _perturbed(real: Tensor, generator: torch.Generator | None) -> Tensor:
    if real.numel() < 2:
        raise ValueError("real: expected at least two elements, of which a standard deviation can be taken")
    wide = real.double() if real.dtype == torch.float64 else real.float()
    noise = torch.rand(real.shape, dtype=wide.dtype, device=real.device, **_drawn_by(generator))
    return (wide + 0.5 * wide.std() * noise).to(real.dtype)


def nearby(points: tuple[Tensor, ...], sigma: float, generator: torch.Generator | None) -> tuple[Tensor, ...]:
    """Return points at a distance of sigma * noise."""
    moved = []
    for p in points:
        dtype = torch.float64 if p.dtype == torch.float64 else torch.float32
        noise = torch.randn(p.shape, dtype=dtype, device=p.device, **_drawn_by(generator))
        moved.append((p + sigma * noise).to(p.dtype))
    return tuple(moved)


@overload
def interpolate(
    real: Tensor,
    fake: Tensor,
    eps: Tensor | None = ...,
    *,
    generator: torch.Generator | None = ...,
    batch_dim: int = ...,
    pac: int = ...,
    groups: Groups | None = ...,
) -> Tensor: ...
@overload
def interpolate(
    real: Sequence[Tensor],
    fake: Sequence[Tensor],
    eps: Tensor | None = ...,
    *,
    generator: torch.Generator | None = ...,
    batch_dim: int = ...,
    pac: int = ...,
    groups: Groups | None = ...,
) -> tuple[Tensor, ...]: ...
def interpolate(
    real: Tensor | Sequence[Tensor],
    fake: Tensor | Sequence[Tensor],
    eps: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
    batch_dim: int = 0,
    pac: int = 1,
    groups: Groups | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """Return points between real and fake samples, eps * real + (1 - eps) * fake, one eps per sample.

        x = fastgan.interpolate(real, fake.detach()).requires_grad_()

    One pass over both, in float32 (float64 for float64). Where real equals fake the result is that value
    exactly; at eps of 0 and 1 it is fake and real, if both are finite.

    Args:
        real: (N, ...), float32, float64, float16 or bfloat16, any strides; or a tuple of such tensors
            (an image and its segmentation, say), which then share eps.
        fake: as real, of the same shapes; 16-bit numbers beside float32 are taken as float32.
        eps: (N,) or (N, 1, ..., 1), in [0, 1] (checked on the CPU; elsewhere that would wait for the
            device); by default uniform, from `torch.rand(N)` on real's device.
        generator: for that draw.
        batch_dim: the dimension along which samples lie, 1 for recurrent networks in PyTorch's layout.
        pac: how many consecutive entries make one sample, as in PacGAN; there are then N / pac samples.
        groups: for ragged batches and graphs, the number of the sample that each entry belongs to: (N,) of int64,
            or a pair of it and the number of samples, with which nothing waits for the device.

    Returns:
        A tensor, or a tuple of them where real is a sequence, of real's shapes and dtype (float32 where 16-bit
        numbers stand beside it). They have a graph to what requires grad among real, fake and eps.

    Raises:
        TypeError, ValueError: bad input, with the argument's name, what came and what is needed.
    """
    plain = groups is None and type(batch_dim) is type(pac) is int and batch_dim == 0 and pac == 1
    points = between(real, fake, eps, generator, None if plain else arranged(batch_dim, pac, groups))
    return points[0] if isinstance(real, Tensor) else points
