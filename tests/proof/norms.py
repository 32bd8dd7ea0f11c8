"""Norms of rows and their gradients beside exact arithmetic, and PyTorch's own: a part of the accuracy."""

from __future__ import annotations

import math
from functools import partial

import mpmath
import numpy as np
import torch
from torch import Tensor

import fastgan
from tests.helpers import ulp
from tests.proof.backends import CPU, ENVIRONMENT, HARNESS, INTERPRETER, serving
from tests.proof.claims import Batch, Claim

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


def distance(got: float, exact: mpmath.mpf, dtype: torch.dtype) -> float:
    """Return the distance of a number from the exact one in ulp of a dtype."""
    if exact > torch.finfo(dtype).max:
        return 0.0 if got == math.inf else math.inf
    if not math.isfinite(got):
        return math.inf
    exponent = max(int(mpmath.frexp(exact)[1]) - ulp.BITS[dtype], ulp.LOWEST[dtype]) if exact else ulp.LOWEST[dtype]
    return float(abs(mpmath.mpf(got) - exact) / mpmath.mpf(2) ** exponent)


FORMS = {
    "fastgan": lambda x: fastgan.gradient_norm(x[None])[0],
    "torch.linalg.vector_norm": torch.linalg.vector_norm,
    "Tensor.norm": lambda x: x.norm(2),
    "x.square().sum().sqrt()": lambda x: x.square().sum().sqrt(),
}


def errors(form: str, name: str, lengths: tuple[int, ...], seed: int) -> tuple[int, float, str]:
    """Return how many rows a form was given, its largest error, and where that was."""
    count, worst, where = 0, -1.0, ""
    with mpmath.workprec(200):
        for length in lengths:
            for exponent in EXPONENTS[name]:
                for kind, row in rows(length, exponent, DTYPES[name], seed).items():
                    got = FORMS[form](row)
                    off = distance(got.item(), exact_norm(row), got.dtype)
                    count += 1
                    if off > worst:
                        worst, where = off, f"{kind} row of {length:,} numbers of 1e{exponent}"
    return count, worst, where


def of_ours(backend: str, name: str, seed: int) -> Batch:
    """Look at the norms of rows through a backend."""
    with serving(backend):
        count, worst, where = errors("fastgan", name, SHORT if backend in (HARNESS, INTERPRETER) else LENGTHS, seed)
    return Batch(count, worst, f"{worst:.4f} ulp ({where})")


def of_pytorch(form: str, name: str, seed: int) -> Batch:
    """Look at a form of PyTorch as at ours."""
    count, worst, where = errors(form, name, LENGTHS, seed)
    return Batch(count, text=f"{worst:.4g} ulp of its result's dtype ({where})")


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


CLAIMS = [
    *(
        Claim(
            f"norms of rows, {name}: {backend}", partial(of_ours, backend, name), "at most 1 ulp", limit=1.0,
            endless=True, environment=ENVIRONMENT.get(backend, {}),
        )
        for backend in (*CPU, HARNESS, INTERPRETER)
        for name in DTYPES
    ),
    *(
        Claim(
            f"gradients of norms, {name}", partial(gradients, name), f"at most {limit:g} ulp", limit=limit,
            endless=True,
        )
        for name, limit in (("float32", 0.5001), ("float64", 2.0), ("float16", 0.5001), ("bfloat16", 0.5001))
    ),
    *(
        Claim(f"PyTorch: {form}, {name}", partial(of_pytorch, form, name), "for comparison")
        for form in list(FORMS)[1:]
        for name in DTYPES
    ),
]  # fmt: skip
