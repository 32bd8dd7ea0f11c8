"""Functions in mpmath's precision, and distances from what they say."""

import math

import mpmath
import torch

from tests.helpers.ulp import BITS, LOWEST


def jet(phi: str, x: float) -> tuple:
    """The value, first and second derivative of a phi, with mpmath's precision in force."""
    x = mpmath.mpf(x)
    u, above = mpmath.exp(-abs(x)), x if x > 0 else mpmath.mpf(0)
    s, slope, curvature = above + mpmath.log1p(u), (1 if x >= 0 else u) / (1 + u), u / (1 + u) ** 2
    return {
        "identity": (x, 1, 0),
        "softplus": (s, slope, curvature),
        "relu": (above, int(x > 0), 0),
        "square": (x * x, 2 * x, 2),
        "relu_square": (above**2, 2 * above, 2 * int(x > 0)),
        "abs": (abs(x), mpmath.sign(x), 0),
        "relu_half": (above, 0.5 if x == 0 else int(x > 0), 0),
        "huber": (abs(x) - 0.5, mpmath.sign(x), 0) if abs(x) >= 1 else (x * x / 2, x, 1),
        "softplus_square": (s**2, 2 * s * slope, 2 * (slope**2 + s * curvature)),
    }[phi]


def exponent(exact: mpmath.mpf, dtype: torch.dtype) -> int:
    """The power of 2 that is one ulp of a dtype at a number."""
    return max(int(mpmath.frexp(exact)[1]) - BITS[dtype], LOWEST[dtype]) if exact else LOWEST[dtype]


def distance(got: float, exact: mpmath.mpf, dtype: torch.dtype = torch.float64) -> float:
    """The distance of a number from the exact one in ulp of a dtype; what is past its range must be infinite."""
    exact = mpmath.mpf(exact)
    if abs(exact) > torch.finfo(dtype).max:
        return 0.0 if got == math.copysign(math.inf, exact) else math.inf
    if not math.isfinite(got):
        return math.inf
    return float(abs(mpmath.mpf(got) - exact) / mpmath.mpf(2) ** exponent(exact, dtype))
