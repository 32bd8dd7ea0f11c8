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
    softplus_square,
    softplus_square_curvature,
    softplus_square_slope,
    softplus_sum,
)

PHIS = ("identity", "softplus", "relu", "square", "relu_square", "abs", "relu_half", "huber", "softplus_square")
IDENTITY, SOFTPLUS, RELU, SQUARE, RELU_SQUARE, ABS, RELU_HALF, HUBER, SOFTPLUS_SQUARE = (
    tl.constexpr(k) for k in range(len(PHIS))
)
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
    elif code // 2 == HUBER:
        return tl.where(a > one, one, tl.where(a < -one, -one, a))
    elif code // 2 == SOFTPLUS_SQUARE:
        return softplus_square_slope(a)
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
    elif code // 2 == HUBER:
        one = const(1.0, a)
        return tl.where(absolute(a) < one, one, tl.where(absolute(a) >= one, zero, a))
    elif code // 2 == SOFTPLUS_SQUARE:
        return softplus_square_curvature(a)
    else:
        tl.static_assert(False, "phi_curvature has no branch for a phi")


@triton.jit
def phi_value(code: tl.constexpr, z, a, shift, linear, total, u, u_lo, LABELLED: tl.constexpr):
    """Return the term; `total` is scale + linear. LABELLED: linear may be 0."""
    zero = const(0.0, z)
    rest = zero
    if code % 2 == 1:
        rest = linear * z
        if LABELLED:
            rest = tl.where(linear == 0, zero, rest)
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
    elif code // 2 == HUBER:
        half = const(0.5, z)
        return tl.where(absolute(a) > const(1.0, z), (absolute(a) - half) + rest, tl.fma(half * a, a, rest))
    elif code // 2 == SOFTPLUS_SQUARE:
        return softplus_square(a, rest)
    else:
        tl.static_assert(False, "phi_value has no branch for a phi")


@triton.jit
def _splat(number, like):
    """Return a float64 number, rounded once, as a block."""
    return tl.broadcast_to(number.to(like.dtype), like.shape)


@triton.jit
def _constants(
    code: tl.constexpr, like, scale, shift, linear, coefficient, label, LABELLED: tl.constexpr
):  # fmt: skip
    """Return scale, linear, their sum, and the first two times `coefficient`: at elements, with their labels.

    A label y of softplus(z) - y z near 1 makes that softplus(-z) + (1 - y) z, in which nothing cancels. A label of
    -inf stands for none.
    """
    k_scale = _splat(scale, like)
    k_linear = _splat(linear, like)
    k_sum = _splat(scale + linear, like)
    slope = _splat(coefficient * scale, like)
    slope_linear = _splat(coefficient * linear, like)
    if LABELLED and code % 2 == 1:
        label = label.to(like.dtype)
        has = label != float("-inf")
        k_linear = tl.where(has, k_linear * label, k_linear)
        k_sum = tl.where(has, k_scale + k_linear, k_sum)
        slope_linear = tl.where(has, slope_linear * label, slope_linear)
        if code // 2 == SOFTPLUS:
            near = has & (k_scale == 1) & (_splat(shift, like) == 0) & (k_sum < -k_linear)
            minus_label = k_linear
            slope_linear = tl.where(near, slope * k_sum, slope_linear)
            k_linear = tl.where(near, k_sum, k_linear)
            k_sum = tl.where(near, minus_label, k_sum)
            k_scale = tl.where(near, -k_scale, k_scale)
            slope = tl.where(near, -slope, slope)
    return k_scale, k_linear, k_sum, slope, slope_linear


@triton.jit
def _evaluate_code(
    code: tl.constexpr, z, scale, shift, linear, coefficient, label, VALUE: tl.constexpr, SLOPE: tl.constexpr,
    CURVATURE: tl.constexpr, LABELLED: tl.constexpr,
):  # fmt: skip
    k_shift = _splat(shift, z)
    k_scale, k_linear, k_sum, k_slope, k_slope_linear = _constants(
        code, z, scale, shift, linear, coefficient, label, LABELLED
    )
    a = tl.fma(k_scale, z, k_shift)
    u = a
    u_lo = a
    if code // 2 == SOFTPLUS:
        u, u_lo = exp_nonpositive(negative(a))
    value = a
    gradient = a
    curvature = a
    if VALUE:
        value = phi_value(code, z, a, k_shift, k_linear, k_sum, u, u_lo, LABELLED)
    if SLOPE:
        slope = phi_slope(code, a, u, u_lo)
        if code % 2 == 1:
            gradient = tl.fma(k_slope, slope, k_slope_linear)
        else:
            gradient = k_slope * slope
    if CURVATURE:
        curvature = _splat(coefficient * scale * scale, z) * phi_curvature(code, a, u, u_lo)
    return value, gradient, curvature


@triton.jit
def _evaluate_finely_code(
    code: tl.constexpr, z, scale, shift, linear, coefficient, label, CURVATURE: tl.constexpr,
    LABELLED: tl.constexpr,
):  # fmt: skip
    k_scale, _, _, k_slope, k_slope_linear = _constants(code, z, scale, shift, linear, coefficient, label, LABELLED)
    a = tl.fma(k_scale, z, _splat(shift, z))
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
    if code % 2 == 1:
        gradient = tl.fma(k_slope, slope, k_slope_linear)
    else:
        gradient = k_slope * slope
    if CURVATURE:
        curvature = _splat(coefficient * scale * scale, z) * curvature
    return gradient, curvature


@triton.jit
def evaluate_finely(
    code, z, scale, shift, linear, coefficient, factor, label, PHI_CODES: tl.constexpr, CURVATURE: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """Return `coefficient` times a term's first and second derivative in z, for 16-bit tensors; all float64."""
    gradient = z
    curvature = z
    for k in tl.static_range(PHI_CODE_COUNT):
        if PHI_CODES == 1 << k:
            gradient, curvature = _evaluate_finely_code(
                k, z, scale, shift, linear, coefficient, label, CURVATURE, MASKED
            )
        elif (PHI_CODES >> k) % 2 == 1:
            if code == k:
                gradient, curvature = _evaluate_finely_code(
                    k, z, scale, shift, linear, coefficient, label, CURVATURE, MASKED
                )
    if MASKED:
        gradient = factor.to(z.dtype) * gradient
        if CURVATURE:
            curvature = factor.to(z.dtype) * curvature
    return gradient, curvature


@triton.jit
def evaluate(
    code, z, scale, shift, linear, coefficient, factor, label, PHI_CODES: tl.constexpr, VALUE: tl.constexpr,
    SLOPE: tl.constexpr, CURVATURE: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Return a term's value, and `coefficient` times its first and its second derivative in z.

    z is the argument, float32 or float64. The numbers are float64, and a constant made of them is rounded once.
    Results that are not asked for are not computed. MASKED: with a factor and a label for each element.
    """
    value = z
    gradient = z
    curvature = z
    for k in tl.static_range(PHI_CODE_COUNT):
        if PHI_CODES == 1 << k:
            value, gradient, curvature = _evaluate_code(
                k, z, scale, shift, linear, coefficient, label, VALUE, SLOPE, CURVATURE, MASKED
            )
        elif (PHI_CODES >> k) % 2 == 1:
            if code == k:
                value, gradient, curvature = _evaluate_code(
                    k, z, scale, shift, linear, coefficient, label, VALUE, SLOPE, CURVATURE, MASKED
                )
    if MASKED:
        if VALUE:
            value = factor * value
        if SLOPE:
            gradient = factor * gradient
        if CURVATURE:
            curvature = factor * curvature
    return value, gradient, curvature
