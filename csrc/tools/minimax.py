"""Print the polynomial coefficients of csrc/common/math.h (needs mpmath).

Each polynomial is a least-squares fit at Chebyshev nodes. One coefficient after another is rounded to the target
type, and the rest are fitted again to the remainder. So the others make up for the rounding of a low-order
coefficient.

    python csrc/tools/minimax.py
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import mpmath as mp

mp.mp.prec = 400


def round_to(value: mp.mpf, is_float: bool) -> mp.mpf:
    """Round `value` to float32 or float64."""
    return mp.mpf(struct.unpack("f", struct.pack("f", float(value)))[0] if is_float else float(value))


def fit(f: Callable, weight: Callable, low: float, high: float, degree: int, is_float: bool) -> list:
    """Return coefficients of f on [low, high], lowest order first, each a number of the target type."""
    count = 4 * (degree + 1)
    nodes = [
        (mp.mpf(low) + high) / 2 + (mp.mpf(high) - low) / 2 * mp.cos(mp.pi * (2 * k + 1) / (2 * count))
        for k in range(count)
    ]
    done: list = []
    for k in range(degree + 1):
        basis = mp.matrix(count, degree + 1 - k)
        rest = mp.matrix(count, 1)
        for i, x in enumerate(nodes):
            rest[i] = weight(x) * (f(x) - sum(c * x**j for j, c in enumerate(done)))
            for j in range(k, degree + 1):
                basis[i, j - k] = weight(x) * x**j
        done.append(round_to(mp.lu_solve(basis, rest)[0], is_float))
    return done


def exp_tail(r: mp.mpf) -> mp.mpf:
    """Return (e^r - 1 - r) / r^2."""
    return (mp.expm1(r) - r) / r**2 if r else mp.mpf(1) / 2


def log1p_tail(u: mp.mpf) -> mp.mpf:
    """Return (ln(1 + u) - u + u^2 / 2) / u^3."""
    return (mp.log1p(u) - u + u**2 / 2) / u**3 if u else mp.mpf(1) / 3


def main() -> None:
    """Print every table with its largest relative error in the function it serves."""
    half = float(mp.log(2) / 2) * 1.0001
    for name, f, low, high, degree, is_float, whole, power in [
        ("exp float", exp_tail, -half, half, 5, True, mp.exp, 2),
        ("exp double", exp_tail, -half, half, 10, False, mp.exp, 2),
        ("log1p float", log1p_tail, -0.25, 0.5, 7, True, mp.log1p, 3),
        ("log1p double", log1p_tail, -0.25, 0.5, 20, False, mp.log1p, 3),
    ]:

        def weight(x: mp.mpf, whole: Callable = whole, power: int = power) -> mp.mpf:
            return x**power / whole(x)

        c = fit(f, weight, low, high, degree, is_float)
        worst = mp.mpf(0)
        for k in range(2001):
            x = mp.mpf(low) + (mp.mpf(high) - low) * k / 2000
            if x:
                p = sum(ci * x**i for i, ci in enumerate(c))
                worst = max(worst, abs((p - f(x)) * weight(x)))
        print(f"// {name}, degree {degree}: relative error 2^{float(mp.log(worst, 2)):.1f}")
        print(", ".join(float(x).hex() + ("f" if is_float else "") for x in reversed(c)))


if __name__ == "__main__":
    main()
