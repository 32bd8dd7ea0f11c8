"""The losses and penalties in plain PyTorch: the last backend, and what tests and benchmarks compare with.

`discriminator` and `generator` state each loss as the papers do. `evaluate` computes any spec term
by term, `norm_penalty` any penalty; both run on any device and under any transform, and their gradients
are autograd's, to any order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .losses import Options
from .rows import PenaltySpec, rows_first, rows_shape
from .terms import FAKE, REAL, Bound, Spec


def softplus(x: Tensor) -> Tensor:
    """ln(1 + e^x), exact at both ends with both derivatives, unlike F.softplus."""
    return -F.logsigmoid(-x)


PHI: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda z: z,
    "softplus": softplus,
    "relu": F.relu,
    "square": torch.square,
    "relu_square": lambda z: F.relu(z).square(),
    "abs": torch.abs,
    "relu_half": lambda z: torch.maximum(z, torch.zeros_like(z)),
}


# ---------------------------------------------------------------------------------- as in the papers


def _on_real(loss: str, o: Options) -> Callable[[Tensor], Tensor]:
    return {
        "saturating": lambda x: softplus(x) - o.real_target * x,
        "nonsaturating": lambda x: softplus(x) - o.real_target * x,
        "hinge": lambda x: F.relu(o.margin - x),
        "least_squares": lambda x: (x - o.targets[1]) ** 2,
        "wasserstein": lambda x: -x,
        "ranking": lambda x: F.relu(o.margin - x),
    }[loss]


def _on_fake(loss: str, o: Options) -> Callable[[Tensor], Tensor]:
    return {
        "saturating": lambda x: softplus(x) - o.fake_target * x,
        "nonsaturating": lambda x: softplus(x) - o.fake_target * x,
        "hinge": lambda x: F.relu(o.margin + x),
        "least_squares": lambda x: (x - o.targets[0]) ** 2,
        "wasserstein": lambda x: x,
        "ranking": lambda x: F.relu(o.margin + x),
    }[loss]


def _generator_on_fake(loss: str, o: Options) -> Callable[[Tensor], Tensor]:
    return {
        "saturating": lambda x: -(softplus(x) - o.fake_target * x),
        "nonsaturating": lambda x: softplus(x) - o.real_target * x,
        "hinge": lambda x: -x,
        "least_squares": lambda x: (x - o.targets[2]) ** 2,
        "wasserstein": lambda x: -x,
        "ranking": lambda x: -x,
    }[loss]


def discriminator(
    r: Tensor, f: Tensor, loss: str, relativistic: str | None = None, options: Options | None = None
) -> Tensor:
    """The discriminator's mean loss on real logits r and fake logits f."""
    o = options or Options()
    real, fake = _on_real(loss, o), _on_fake(loss, o)
    if relativistic == "average":
        return real(r - f.mean()).mean() + fake(f - r.mean()).mean()
    if relativistic == "paired" or loss == "ranking":
        return real(r - f).mean()
    return real(r).mean() + fake(f).mean()


def generator(
    f: Tensor, r: Tensor | None, loss: str, relativistic: str | None = None, options: Options | None = None
) -> Tensor:
    """The generator's mean loss on fake logits f, and real logits r in a relativistic form."""
    if relativistic is None:
        return _generator_on_fake(loss, options or Options())(f).mean()
    assert r is not None
    return discriminator(f, r, loss, relativistic, options)


# ---------------------------------------------------------------------------------- any spec


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _argument(bound: Bound, tensors: Sequence[Tensor]) -> Tensor:
    x = _wide(tensors[bound.x])
    if bound.y >= 0:
        return x - _wide(tensors[bound.y])
    if bound.centre >= 0:
        return x - _wide(tensors[bound.centre]).mean()
    return x


def _values(bound: Bound, z: Tensor) -> Tensor:
    phi, scale, shift, linear, _ = bound.term
    value = PHI[phi](scale * z + shift)
    return value + linear * z if linear else value


def evaluate(
    spec: Spec, tensors: Sequence[Tensor], weights: Sequence[float] | Tensor | None, reduction: str
) -> list[Tensor]:
    """Each term's value, weighted and reduced ("mean" or "sum") or of x's shape ("none").

    16-bit operands are computed in float32. Adding the values up gives the loss.
    """
    reduce: dict[str, Callable[[Tensor], Tensor]] = {
        "mean": Tensor.mean,
        "sum": Tensor.sum,
        "none": lambda v: v,
    }
    result = []
    for bound in spec.terms:
        factor = bound.term.weight if weights is None else bound.term.weight * weights[bound.member]
        value = reduce[reduction](_values(bound, _argument(bound, tensors)))
        result.append(value if isinstance(factor, float) and factor == 1.0 else factor * value)
    return result


@torch.no_grad()
def statistics(spec: Spec, tensors: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """The eight numbers of `LossStats`, in its order, as one float64 tensor."""
    columns = []
    for role in (REAL, FAKE):
        none = [tensors[0].flatten()[:0].double()]
        loss, logits, right = list(none), list(none), list(none)
        for bound, value in zip(spec.terms, values, strict=True):
            if bound.role == role:
                loss.append(value.double().reshape(1))
            for operand in (bound.x, bound.y):
                if operand >= 0 and spec.roles[operand] == role:
                    logits.append(tensors[operand].flatten().double())
                    if bound.side:
                        z = _argument(bound, tensors).flatten()
                        right.append((bound.side * (z - bound.threshold) > 0).double())
        x = torch.cat(logits)
        sign = (x > 0).double() - (x < 0).double()
        columns.append(torch.stack([torch.cat(loss).sum(), x.mean(), sign.mean(), torch.cat(right).mean()]))
    return torch.stack(columns, dim=1).flatten()


# ---------------------------------------------------------------------------------- penalties


def interpolate(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    """Eps * real + (1 - eps) * fake, with one eps a sample; exact where the two are equal."""
    r, f = _wide(real), _wide(fake)
    e = eps.to(r.dtype).reshape(-1, *[1] * (real.dim() - 1))
    same = (r == f) & r.isfinite()  # there the second form is exact, with the same derivatives
    return torch.where(same, f + e * (r - f), e * r + (1 - e) * f).to(real.dtype)


def _double(t: Tensor) -> Tensor:
    return t.float() if t.device.type == "mps" else t.double()  # Apple's GPUs have no float64


def _rows(tensors: Sequence[Tensor], over: str, masks: Sequence[Tensor] | None) -> Tensor:
    """All elements of all tensors, in double and masked: (rows, elements)."""
    rows = []
    for i, t in enumerate(tensors):
        h = _double(t) if masks is None else _double(t) * _double(masks[i])
        rows.append(rows_first(h, over).reshape(rows_shape(t, over).numel(), -1))
    return torch.cat(rows, 1)


def _root(squares: Tensor) -> Tensor:
    """The square root, with derivatives of 0 at 0."""
    zero = squares == 0
    return torch.where(zero, 0.0, squares.masked_fill(zero, 1.0).sqrt())


def _unit(rows: Tensor) -> Tensor:
    """A power of two near each row's largest element: what it is divided by before it is squared."""
    most = rows.detach().abs().amax(1)
    exponent = (
        torch.log2(most).floor().clamp(-1000, 1000)
    )  # not frexp, whose code for a CPU does not always compile
    ordinary = (most > 0) & most.isfinite()
    return torch.where(ordinary, torch.ldexp(torch.ones_like(most), exponent), 1.0)


def _psi(spec: PenaltySpec, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Psi of each row's norm, and the norms."""
    unit = _unit(rows)
    n = _root((rows / unit[:, None]).square().sum(1)) * unit
    if spec.kind == "two_sided":
        return (n - spec.target).square(), n
    if spec.kind == "one_sided":
        return F.relu(n - spec.target).square(), n
    return (rows.square().sum(1) if spec.power == 2 else n**spec.power), n


def norm_penalty(
    tensors: Sequence[Tensor],
    spec: PenaltySpec,
    weights: Tensor | None = None,
    masks: Sequence[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """A penalty, reduced or one for each norm, and the norms in double."""
    shape = rows_shape(tensors[0], spec.over)
    values, n = _psi(spec, _rows(tensors, spec.over, masks))
    if weights is not None:
        values = values.reshape(len(weights), -1) * _double(weights)[:, None]
    values = spec.scale * (values.reshape(shape) if spec.reduction == "none" else values.sum())
    return values.to(_wide(tensors[0]).dtype), n.reshape(shape)


@torch.no_grad()
def norm_statistics(n: Tensor, target: float) -> Tensor:
    """The five numbers of PenaltyStats."""
    mean = n.mean()
    return torch.stack(
        [mean, (n - mean).square().mean().sqrt(), n.amin(), n.amax(), (n > target).to(n.dtype).mean()]
    )
