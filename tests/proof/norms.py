"""Norms of rows and their gradients beside exact arithmetic, and PyTorch's own: a part of the accuracy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import mpmath
import numpy as np
import torch
from torch import Tensor

import fastgan
from tests.helpers import ulp
from tests.helpers.exact import distance
from tests.proof.backends import CPU, ENVIRONMENT, HARNESS, INTERPRETER, available, serving
from tests.proof.claims import Batch, Claim

LOST_BY = 1e6  # ulp: an overflow, or squares that are 0
LENGTHS = (
    1,
    2,
    3,
    5,
    8,
    17,
    127,
    128,
    129,
    1000,
    1023,
    1024,
    1025,
    3 * 64 * 64,
    100_003,
    1024 * 1024,
    3 * 1024 * 1024,
)
SHORT = LENGTHS[:12]  # what a simulated device does in seconds
DTYPES = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}
EXPONENTS = {"float32": (-30, -20, -7, 0, 7, 19, 30), "float64": (-30, 0, 30, -160, 160, -300, 300)}
EXPONENTS |= {"bfloat16": EXPONENTS["float32"], "float16": (-7, -4, -2, 0, 2)}


def rows(length: int, exponent: int, dtype: torch.dtype, seed: int) -> dict[str, Tensor]:
    """Return rows of a magnitude: constant, random, and such that a sum in the row's own precision goes wrong."""
    g = torch.Generator().manual_seed(seed + length)
    random = torch.randn(length, generator=g, dtype=torch.float64)
    small = torch.full((length,), 2.0**-13, dtype=torch.float64)  # a square is lost beside 1 in float32
    small[0] = 1
    falling = torch.logspace(0, -20, length, dtype=torch.float64)
    apart = torch.where(torch.arange(length) % 2 == 0, 1.0, 1e-20).double()
    found = {"constant": torch.full_like(small, 1 / 3), "random": random, "one large": small}
    found |= {"falling": falling, "rising": falling.flip(0), "far apart": apart}
    return {name: (row * 10.0**exponent).to(dtype) for name, row in found.items()}


def exact_norm(row: Tensor) -> mpmath.mpf:
    """Return the norm of the numbers that a row has, from exact squares and an exact sum."""
    x = row.double().numpy()
    largest = float(np.abs(x).max())
    if largest == 0:
        return mpmath.mpf(0)
    scale = math.frexp(largest)[1]
    x = np.ldexp(x, -scale)
    x = x[np.abs(x) > 2.0**-400]  # squares of the rest are below 2^-700 of the sum
    split = x * 134217729.0
    high = split - (split - x)
    low = x - high
    square = x * x
    rest = ((high * high - square) + 2 * high * low) + low * low  # Dekker: square + rest is x^2
    parts = np.concatenate([square, rest]).tolist()
    total = math.fsum(parts)
    return mpmath.sqrt(mpmath.mpf(total) + math.fsum([*parts, -total])) * mpmath.mpf(2) ** scale


def through(backend: str, row: Tensor) -> Tensor:
    """Return a row's norm through a backend."""
    with serving(backend):
        return fastgan.gradient_norm(row[None])[0]


OURS = {backend: partial(through, backend) for backend in (*CPU, HARNESS, INTERPRETER)}
PYTORCH = {
    "torch.linalg.vector_norm": torch.linalg.vector_norm,
    "Tensor.norm": lambda x: x.norm(2),
    "x.square().sum().sqrt()": lambda x: x.square().sum().sqrt(),
}


@dataclass
class Worst:
    """The largest error of a form so far, and where it was; how many rows it lost altogether."""

    error: float = -1.0
    where: str = ""
    lost: int = 0

    def __str__(self) -> str:
        return f"{self.error:.4g} ulp ({self.where}), {self.lost} rows of which all digits are lost"

    def take(self, error: float, where: str) -> None:
        if error > LOST_BY:
            self.lost += 1
        elif error > self.error:
            self.error, self.where = error, where


def errors(
    forms: dict[str, Callable[[Tensor], Tensor]], name: str, lengths: tuple[int, ...], seed: int
) -> tuple[int, dict[str, Worst]]:
    """Return how many rows the forms were given, and the largest error of each."""
    count, found = 0, {form: Worst() for form in forms}
    with mpmath.workprec(200):
        for length, exponent in itertools.product(lengths, EXPONENTS[name]):
            for kind, row in rows(length, exponent, DTYPES[name], seed).items():
                exact = exact_norm(row)
                count += 1
                for form, worst in found.items():
                    got = forms[form](row)
                    where = f"{kind} row of {length:,} numbers of 1e{exponent}"
                    worst.take(distance(got.item(), exact, got.dtype), where)
    return count, found


def of_ours(backends: tuple[str, ...], name: str, seed: int) -> Batch:
    """Look at the norms of rows through backends that this machine has."""
    lengths = LENGTHS if backends == CPU else SHORT
    count, found = errors({b: OURS[b] for b in backends if available(b)}, name, lengths, seed)
    worst = max(found.values(), key=lambda w: (w.lost, w.error))
    assert not worst.lost, str(worst)
    return Batch(count * len(found), worst.error, f"{worst.error:.4f} ulp ({worst.where})")


def of_pytorch(name: str, seed: int) -> Batch:
    """Look at the forms of PyTorch as at ours."""
    count, found = errors(PYTORCH, name, LENGTHS, seed)
    return Batch(count * len(found), text="; ".join(f"{form}: {worst}" for form, worst in found.items()))


def gradients(name: str, seed: int) -> Batch:
    """Look at the gradient of a norm, x / n, element by element beside long double."""
    worst, count = 0.0, 0
    with mpmath.workprec(200):
        for length in SHORT:
            for exponent in EXPONENTS[name]:
                for row in rows(length, exponent, DTYPES[name], seed).values():
                    n = exact_norm(row)
                    if n == 0:
                        continue
                    x = row.clone().requires_grad_()
                    (got,) = torch.autograd.grad(fastgan.norm_penalty(x[None], "power", power=1), x)
                    scale = int(mpmath.frexp(n)[1])
                    high = float(n / mpmath.mpf(2) ** scale)
                    low = float(n / mpmath.mpf(2) ** scale - high)
                    over = np.ldexp(row.double().numpy().astype(np.longdouble), -scale)
                    exact = over / (np.longdouble(high) + np.longdouble(low))
                    off = element_error(got, exact)
                    worst, count = max(worst, off), count + length
    return Batch(count, worst, f"{worst:.4f} ulp")


def element_error(got: Tensor, exact: np.ndarray) -> float:
    """Return the largest distance of numbers from those of long double in ulp of their dtype."""
    exponent = np.maximum(np.frexp(exact)[1] - ulp.BITS[got.dtype], ulp.LOWEST[got.dtype])
    off = np.abs(got.double().numpy().astype(np.longdouble) - exact)
    return float((off / np.ldexp(np.longdouble(1), exponent)).max())


LOST = (
    "squares are summed in float64, over a tree whose depth grows with the row's length; with two numbers for each"
    " sum it would hold, at more work"
)

CLAIMS = [
    *(
        Claim(
            f"norms of rows, {name}: {' and '.join(backends)}", partial(of_ours, backends, name), "at most 1 ulp",
            limit=1.0, endless=True, environment=ENVIRONMENT.get(backends[0], {}),
            unmet=LOST if name == "float64" else "",
        )
        for backends in (CPU, (HARNESS,), (INTERPRETER,))
        for name in DTYPES
    ),
    *(
        Claim(
            f"gradients of norms, {name}", partial(gradients, name), f"at most {limit:g} ulp", limit=limit,
            endless=True,
        )
        for name, limit in (("float32", 0.5001), ("float64", 4.0), ("float16", 0.5001), ("bfloat16", 0.5001))
    ),
    *(Claim(f"PyTorch: norms of rows, {name}", partial(of_pytorch, name), "for comparison") for name in DTYPES),
]  # fmt: skip
