"""The functions that make up every loss, as in csrc/common/phi.h: phi(scale * z + shift) + linear * z.

A phi code is 2 * phi + (linear != 0), with phi as numbered in PHIS. A kernel is compiled for the codes of its call,
one bit of PHI_CODES each. If there are several, every program branches to its own.

A new phi is a name at the end of PHIS and a branch in each of `phi_slope`, `phi_curvature` and `phi_value`.
"""

import triton
import triton.language as tl

from .math import (
    absolute,
    const,
    exp_nonpositive,
    fine_decay,
    fine_sigmoid,
    fine_sigmoid_slope,
    negative,
    sigmoid,
    sigmoid_slope,
    softplus_sum,
)

PHIS = ("identity", "softplus", "relu", "square", "relu_square", "abs", "relu_half")
IDENTITY, SOFTPLUS, RELU, SQUARE, RELU_SQUARE, ABS, RELU_HALF = (tl.constexpr(k) for k in range(len(PHIS)))
PHI_CODE_COUNT = tl.constexpr(2 * len(PHIS))


@triton.jit
def phi_slope(code: tl.constexpr, a, u, u_lo):
    """Return phi'(a), NaN where a is."""
    zero = const(0.0, a)
    one = const(1.0, a)
    if code // 2 == SOFTPLUS:
        return sigmoid(a, u, u_lo)
    elif code // 2 == RELU:
        return tl.where(a > zero, one, tl.where(a <= zero, zero, a))
    elif code // 2 == SQUARE:
        return a + a
    elif code // 2 == RELU_SQUARE:
        return tl.where(zero > a, zero, a + a)
    elif code // 2 == ABS:
        return tl.where(a > zero, one, tl.where(a < zero, -one, a))
    elif code // 2 == RELU_HALF:
        return tl.where(a > zero, one, tl.where(a < zero, zero, tl.where(a == zero, const(0.5, a), a)))
    elif code // 2 == IDENTITY:
        return one
    else:
        tl.static_assert(False, "phi_slope has no branch for a phi")


@triton.jit
def phi_curvature(code: tl.constexpr, a, u, u_lo):
    """Return phi''(a), 0 at a kink."""
    zero = const(0.0, a)
    two = const(2.0, a)
    if code // 2 == SOFTPLUS:
        return sigmoid_slope(u, u_lo)
    elif code // 2 == SQUARE:
        return two
    elif code // 2 == RELU_SQUARE:
        return tl.where(a > zero, two, tl.where(a <= zero, zero, a))
    elif (code // 2 == IDENTITY or code // 2 == RELU) or (code // 2 == ABS or code // 2 == RELU_HALF):
        return zero
    else:
        tl.static_assert(False, "phi_curvature has no branch for a phi")


@triton.jit
def phi_value(code: tl.constexpr, z, a, shift, linear, total, u, u_lo):
    """Return the term; `total` is scale + linear."""
    zero = const(0.0, z)
    rest = zero
    if code % 2 == 1:
        rest = linear * z
    if code // 2 == SOFTPLUS:
        m = tl.where(zero > a, zero, a)
        if code % 2 == 1:
            # max(a, 0) + linear * z in one rounding.
            m = tl.where(a > zero, tl.where(total == zero, shift, tl.fma(total, z, shift)), rest)
        return softplus_sum(a, m, u, u_lo)
    elif code // 2 == RELU or code // 2 == RELU_HALF:
        return tl.where(zero > a, zero, a) + rest
    elif code // 2 == SQUARE:
        return tl.fma(a, a, rest)
    elif code // 2 == RELU_SQUARE:
        r = tl.where(zero > a, zero, a)
        return tl.fma(r, r, rest)
    elif code // 2 == ABS:
        return absolute(a) + rest
    elif code // 2 == IDENTITY:
        if code % 2 == 1:
            return tl.where(total == zero, zero, total * z) + shift
        else:
            return a
    else:
        tl.static_assert(False, "phi_value has no branch for a phi")


@triton.jit
def _splat(number, like):
    """Return a float64 number, rounded once, as a block."""
    return tl.broadcast_to(number.to(like.dtype), like.shape)


@triton.jit
def _evaluate_code(
    code: tl.constexpr, z, scale, shift, linear, coefficient, VALUE: tl.constexpr, SLOPE: tl.constexpr,
    CURVATURE: tl.constexpr,
):  # fmt: skip
    k_shift = _splat(shift, z)
    a = tl.fma(_splat(scale, z), z, k_shift)
    u = a
    u_lo = a
    if code // 2 == SOFTPLUS:
        u, u_lo = exp_nonpositive(negative(a))
    value = a
    gradient = a
    curvature = a
    if VALUE:
        value = phi_value(code, z, a, k_shift, _splat(linear, z), _splat(scale + linear, z), u, u_lo)
    if SLOPE:
        gradient = _splat(coefficient * scale, z)
        slope = phi_slope(code, a, u, u_lo)
        if code % 2 == 1:
            gradient = tl.fma(gradient, slope, _splat(coefficient * linear, z))
        else:
            gradient = gradient * slope
    if CURVATURE:
        curvature = _splat(coefficient * scale * scale, z) * phi_curvature(code, a, u, u_lo)
    return value, gradient, curvature


@triton.jit
def _evaluate_finely_code(code: tl.constexpr, z, scale, shift, linear, coefficient, CURVATURE: tl.constexpr):
    a = tl.fma(_splat(scale, z), z, _splat(shift, z))
    curvature = a
    if code // 2 == SOFTPLUS:
        hi, lo, power = fine_decay(a)
        slope = fine_sigmoid(a, hi, lo, power)
        if CURVATURE:
            curvature = fine_sigmoid_slope(hi, lo, power)
    else:
        slope = phi_slope(code, a, a, a)
        if CURVATURE:
            curvature = phi_curvature(code, a, a, a)
    gradient = _splat(coefficient * scale, z)
    if code % 2 == 1:
        gradient = tl.fma(gradient, slope, _splat(coefficient * linear, z))
    else:
        gradient = gradient * slope
    if CURVATURE:
        curvature = _splat(coefficient * scale * scale, z) * curvature
    return gradient, curvature


@triton.jit
def evaluate_finely(
    code, z, scale, shift, linear, coefficient, PHI_CODES: tl.constexpr, CURVATURE: tl.constexpr
):  # fmt: skip
    """Return `coefficient` times a term's first and second derivative in z, for 16-bit tensors; all float64."""
    gradient = z
    curvature = z
    for k in tl.static_range(PHI_CODE_COUNT):
        if PHI_CODES == 1 << k:
            gradient, curvature = _evaluate_finely_code(k, z, scale, shift, linear, coefficient, CURVATURE)
        elif (PHI_CODES >> k) % 2 == 1:
            if code == k:
                gradient, curvature = _evaluate_finely_code(k, z, scale, shift, linear, coefficient, CURVATURE)
    return gradient, curvature


@triton.jit
def evaluate(
    code, z, scale, shift, linear, coefficient, PHI_CODES: tl.constexpr, VALUE: tl.constexpr, SLOPE: tl.constexpr,
    CURVATURE: tl.constexpr,
):  # fmt: skip
    """Return a term's value, and `coefficient` times its first and its second derivative in z.

    z is the argument, float32 or float64. The numbers are float64, and a constant made of them is rounded once.
    Results that are not asked for are not computed.
    """
    value = z
    gradient = z
    curvature = z
    for k in tl.static_range(PHI_CODE_COUNT):
        if PHI_CODES == 1 << k:
            value, gradient, curvature = _evaluate_code(
                k, z, scale, shift, linear, coefficient, VALUE, SLOPE, CURVATURE
            )
        elif (PHI_CODES >> k) % 2 == 1:
            if code == k:
                value, gradient, curvature = _evaluate_code(
                    k, z, scale, shift, linear, coefficient, VALUE, SLOPE, CURVATURE
                )
    return value, gradient, curvature
