"""The losses in plain PyTorch: the last backend, and what tests and benchmarks compare with.

`discriminator` and `generator` state each loss as the papers do. `evaluate` computes any spec term
by term; it runs on any device and under any transform, and its gradients are autograd's, to any order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .losses import Options
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
