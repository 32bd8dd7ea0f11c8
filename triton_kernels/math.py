"""Element maths: csrc/common/math.h and csrc/common/dtype.h in Triton, step by step, and so with the same bits.

Every multiply-add is `tl.fma`, and kernels are compiled with enable_fp_fusion=False. Conditions are selects on
ordinary comparisons: `tl.maximum` drops NaN on some devices. Float32 division is `tl.div_rn`; ordinary float64
division already rounds correctly.
"""

import triton
import triton.language as tl


def _constants(*hexadecimal: str) -> tl.constexpr:
    return tl.constexpr(tuple(float.fromhex(h) for h in hexadecimal))


# (e^r - 1 - r) / r^2 on |r| <= ln(2)/2, highest power first.
EXP_TAIL_32 = _constants(
    "0x1.9a6ae4p-13", "0x1.6d4fp-10", "0x1.1115c8p-7", "0x1.5554e6p-5", "0x1.555552p-3", "0x1p-1"
)  # fmt: skip
EXP_TAIL_64 = _constants(
    "0x1.1ed986d1f5259p-29", "0x1.af6e5b2b81035p-26", "0x1.27e540c3e9a9p-22", "0x1.71ddee867a44ep-19",
    "0x1.a01a0176e937cp-16", "0x1.a01a01b43e0efp-13", "0x1.6c16c16c1fa9dp-10", "0x1.111111110ea06p-7",
    "0x1.5555555555541p-5", "0x1.555555555555cp-3", "0x1p-1",
)  # fmt: skip
# (ln(1 + u) - u + u^2 / 2) / u^3 on [-1/4, 1/2].
LOG1P_TAIL_32 = _constants(
    "-0x1.6c1ba6p-5", "0x1.aa0f5p-4", "-0x1.0d684p-3", "0x1.28ad52p-3", "-0x1.54f68cp-3", "0x1.9967bap-3",
    "-0x1.000026p-2", "0x1.5555a8p-2",
)  # fmt: skip
LOG1P_TAIL_64 = _constants(
    "0x1.88b97329faa47p-8", "-0x1.80b1b1c05eda2p-6", "0x1.639ef76f563bdp-5", "-0x1.b6d620d37a43dp-5",
    "0x1.c3cc2a9b79f14p-5", "-0x1.c96cb0f064e93p-5", "0x1.dfc01e1b7b992p-5", "-0x1.ff47fc414f7ffp-5",
    "0x1.1118a9a80ddd6p-4", "-0x1.2499e41c0976bp-4", "0x1.3b1420d814e26p-4", "-0x1.5555050e4d2dap-4",
    "0x1.745d0d2bf7f5ep-4", "-0x1.99999b6604b1p-4", "0x1.c71c721898878p-4", "-0x1.fffffffa929c6p-4",
    "0x1.24924923f32d5p-3", "-0x1.5555555559196p-3", "0x1.999999999ab7p-3", "-0x1.fffffffffffe5p-3",
    "0x1.555555555555p-2",
)  # fmt: skip
# Constants of one floating type, in this order.
CUTOFF = tl.constexpr(0)  # exp rounds to 0 from here down
MAGIC = tl.constexpr(1)  # adding it rounds to an integer
LOG2E = tl.constexpr(2)
LN2_HI = tl.constexpr(3)  # few bits: n * LN2_HI is exact
LN2_LO = tl.constexpr(4)
LOG2_HI = tl.constexpr(5)  # ln(2), to twice the precision
LOG2_LO = tl.constexpr(6)
SLOPE_AT_0 = tl.constexpr(7)  # 1 / (1 + u) is about SLOPE_AT_0 - u / 2
REAL_32 = _constants(
    "-0x1.ap6", "0x1.8p23", "0x1.715476p0", "0x1.62e4p-1", "0x1.7f7d1cp-20", "0x1.62e43p-1", "-0x1.05c61p-29",
    "0x1p0",
)  # fmt: skip
FINE_CUTOFF = tl.constexpr(-700.0)  # for 16-bit tensors e^x counts as 0 from here down
REAL_64 = _constants(
    "-0x1.75p9", "0x1.8p52", "0x1.71547652b82fep0", "0x1.62e42fefap-1", "0x1.cf79abc9e3b3ap-40",
    "0x1.62e42fefa39efp-1", "0x1.abc9e3b39803fp-56", "0x1.e9fbe76c8b439p-1",
)  # fmt: skip


@triton.jit
def const(value: tl.constexpr, like):
    """Return `value` as a block like another: a bare number might go through float32."""
    return tl.full(like.shape, value, like.dtype)


@triton.jit
def real(index: tl.constexpr, like):
    """Return a constant of `like`'s floating type."""
    if like.dtype == tl.float64:
        return const(REAL_64[index], like)
    else:
        return const(REAL_32[index], like)


@triton.jit
def _horner(x, coefficients: tl.constexpr, count: tl.constexpr):
    p = const(coefficients[0], x)
    for k in tl.static_range(1, count):
        p = tl.fma(p, x, const(coefficients[k], x))
    return p


@triton.jit
def exp_tail(r):
    if r.dtype == tl.float64:
        return _horner(r, EXP_TAIL_64, 11)
    else:
        return _horner(r, EXP_TAIL_32, 6)


@triton.jit
def log1p_tail(u):
    if u.dtype == tl.float64:
        return _horner(u, LOG1P_TAIL_64, 21)
    else:
        return _horner(u, LOG1P_TAIL_32, 8)


@triton.jit
def divide(a, b):
    """Divide as IEEE does."""
    if a.dtype == tl.float64:
        return a / b
    else:
        return tl.div_rn(a, b)


@triton.jit
def absolute(x):
    """Return |x|, by its sign bit."""
    if x.dtype == tl.float64:
        return (x.to(tl.int64, bitcast=True) & 0x7FFFFFFFFFFFFFFF).to(tl.float64, bitcast=True)
    else:
        return (x.to(tl.int32, bitcast=True) & 0x7FFFFFFF).to(tl.float32, bitcast=True)


@triton.jit
def negative(x):
    """Return -|x|; a minus sign would be 0 - x, which is 0 for 0."""
    if x.dtype == tl.float64:
        return (x.to(tl.int64, bitcast=True) | -0x8000000000000000).to(tl.float64, bitcast=True)
    else:
        return (x.to(tl.int32, bitcast=True) | -0x80000000).to(tl.float32, bitcast=True)


@triton.jit
def exp_nonpositive(x, EXACT: tl.constexpr = False):
    """Compute exp(x) for x <= 0, -inf and NaN included, as a number and its error; all of that if EXACT."""
    x = tl.where(real(CUTOFF, x) > x, real(CUTOFF, x), x)  # NaN stays
    magic = real(MAGIC, x)
    shifted = tl.fma(x, real(LOG2E, x), magic)
    n = shifted - magic
    t = tl.fma(n, -real(LN2_HI, x), x)
    r = tl.fma(n, -real(LN2_LO, x), t)
    if EXACT or x.dtype == tl.float64:
        # Here: taken after the polynomial, it has ptxas keep a number in local memory.
        lost = tl.fma(n, -real(LN2_LO, x), t - r)
    square = r * r
    tail = exp_tail(r)
    p = tl.fma(square, tail, r)
    one = const(1.0, x)
    hi = one + p
    lo = p - (hi - one)
    if EXACT:
        lo = lo + tl.fma(tl.fma(r, r, -square), tail, tl.fma(square, tail, r - p))
    if EXACT or x.dtype == tl.float64:
        lo = tl.fma(lost, hi, lo)
    # 2^n as a product, since it may be denormal.
    if x.dtype == tl.float64:
        m = shifted.to(tl.int64, bitcast=True) - magic.to(tl.int64, bitcast=True) + 2 * 1023
        half = m >> 1
        power = (half << 52).to(tl.float64, bitcast=True) * ((m - half) << 52).to(tl.float64, bitcast=True)
    else:
        m = shifted.to(tl.int32, bitcast=True) - magic.to(tl.int32, bitcast=True) + 2 * 127
        half = m >> 1
        power = (half << 23).to(tl.float32, bitcast=True) * ((m - half) << 23).to(tl.float32, bitcast=True)
    return hi * power, lo * power


@triton.jit
def softplus_parts(m, u, u_lo, EXACT: tl.constexpr = False):
    """Return m + ln(1 + u), where m is finite, as a number and what it lacks; all that a square needs if EXACT."""
    zero = const(0.0, m)
    half = const(0.5, m)
    upper = u >= half
    v = tl.where(upper, tl.fma(half, u, -half), u)
    base = tl.where(upper, real(LOG2_HI, m), zero)
    base_lo = tl.where(upper, real(LOG2_LO, m), zero)
    first = base + v
    first_lo = v - (first - base)
    slope = tl.fma(-half, u, real(SLOPE_AT_0, m))
    small = tl.fma(u_lo, slope, base_lo) + first_lo
    square = v * v
    tail = log1p_tail(v)
    factor = tl.fma(v, tail, -half)
    rest = tl.fma(square, factor, small)
    total = m + first
    shadow = total - m
    error = (m - (total - shadow)) + (first - shadow)
    if EXACT:
        square_lo = tl.fma(v, v, -square)
        factor_lo = tl.fma(v, tail, -half - factor)
        rest_lo = tl.fma(square, factor, -rest) + small
        rest_lo = rest_lo + tl.fma(square_lo, factor, square * factor_lo)
        hi = total + rest
        return hi, (rest - (hi - total)) + (error + rest_lo)
    else:
        return total, rest + error


@triton.jit
def softplus_sum(z, m, u, u_lo):
    """Return m + ln(1 + u), where m is softplus(z)'s other summand and u + u_lo = e^-|z|."""
    hi, lo = softplus_parts(m, u, u_lo)
    return tl.where(absolute(z) > -real(CUTOFF, z), m, hi + lo)


@triton.jit
def sigmoid(z, u, u_lo):
    """Return 1 / (1 + e^-z), the derivative of softplus."""
    one = const(1.0, z)
    t = one + u
    t_lo = (u - (t - one)) + u_lo
    q = divide(one, t)
    r = u * q
    below = tl.fma(tl.fma(-r, t, u) + tl.fma(-r, t_lo, u_lo), q, r)
    return tl.where(z >= const(0.0, z), one - below, below)


@triton.jit
def _sigmoids(u, u_lo):
    """Return 1 / (1 + u) and u / (1 + u), each as a number and its error."""
    one = const(1.0, u)
    t = one + u
    t_lo = (u - (t - one)) + u_lo
    q = divide(one, t)
    q_lo = tl.fma(-q, t_lo, tl.fma(-q, t, one)) * q
    r = u * q
    return q, q_lo, r, tl.fma(u, q, -r) + tl.fma(u, q_lo, u_lo * q)


@triton.jit
def _product(a, a_lo, b, b_lo):
    hi = a * b
    return hi, tl.fma(a, b, -hi) + tl.fma(a, b_lo, a_lo * b)


@triton.jit
def sigmoid_slope(u, u_lo):
    """Return sigmoid(z) sigmoid(-z), the second derivative of softplus."""
    q, q_lo, r, r_lo = _sigmoids(u, u_lo)
    h, h_lo = _product(r, r_lo, q, q_lo)
    return h + h_lo


@triton.jit
def _softplus_parts_at(z):
    """Return max(z, 0), whether z is past the cutoff, and where it is not: e^-|z| and softplus(z), with errors."""
    zero = const(0.0, z)
    m = tl.where(zero > z, zero, z)
    u, u_lo = exp_nonpositive(negative(z), EXACT=True)
    part, part_lo = softplus_parts(m, u, u_lo, EXACT=True)
    s = part + part_lo
    return m, absolute(z) > -real(CUTOFF, z), u, u_lo, s, part_lo - (s - part)


@triton.jit
def _scaled_product(a, a_lo, b, b_lo, DOWN: tl.constexpr):
    """Return 2^60 a b DOWN. It may be denormal, where what a product lacks would be lost."""
    up = const(2.0**60, a)
    p, p_lo = _product(a * up, a_lo * up, b, b_lo)
    return (p + p_lo) * const(DOWN, a)


@triton.jit
def softplus_square(z, rest):
    """Return softplus(z)^2 + rest."""
    m, far, _, _, s, s_lo = _softplus_parts_at(z)
    return tl.where(far, m * m, _scaled_product(s, s_lo, s, s_lo, 2.0**-60)) + rest


@triton.jit
def softplus_square_slope(z):
    """Return the derivative of softplus(z)^2."""
    m, far, u, u_lo, s, s_lo = _softplus_parts_at(z)
    q, q_lo, r, r_lo = _sigmoids(u, u_lo)
    above = z >= const(0.0, z)
    own = tl.where(above, q, r)
    own_lo = tl.where(above, q_lo, r_lo)
    return tl.where(far, m + m, _scaled_product(own, own_lo, s, s_lo, 2.0**-59))


@triton.jit
def softplus_square_curvature(z):
    """Return the second derivative of softplus(z)^2."""
    zero = const(0.0, z)
    _, far, u, u_lo, s, s_lo = _softplus_parts_at(z)
    q, q_lo, r, r_lo = _sigmoids(u, u_lo)
    above = z >= zero
    own = tl.where(above, q, r)
    own_lo = tl.where(above, q_lo, r_lo)
    b, b_lo = _product(s, s_lo, tl.where(above, r, q), tl.where(above, r_lo, q_lo))
    total = own + b
    shadow = total - own
    total_lo = (own - (total - shadow)) + (b - shadow) + (own_lo + b_lo)
    return tl.where(
        far, tl.where(z > zero, const(2.0, z), zero), _scaled_product(own, own_lo, total, total_lo, 2.0**-59)
    )


@triton.jit
def fine_decay(z):
    """Return e^-|z| = (hi + lo) * power for 16-bit tensors: hi and lo are float32, z and power float64.

    A gradient in 16 bits is formed in float64 and rounded once. Only the exponential and the quotient are of
    float32, whose errors are carried along to 2^-31: a device may have few units for float64.
    """
    x = negative(z.to(tl.float32))
    x_lo = (negative(z) - x.to(tl.float64)).to(tl.float32)
    cutoff = const(FINE_CUTOFF, x)
    far = cutoff > x
    x = tl.where(far, cutoff, x)
    x_lo = tl.where(far, const(0.0, x), x_lo)
    # As exp_nonpositive(), where each rounding has its error beside it.
    magic = real(MAGIC, x)
    shifted = tl.fma(x, real(LOG2E, x), magic)
    n = shifted - magic
    t = tl.fma(n, -real(LN2_HI, x), x)
    r = tl.fma(n, -real(LN2_LO, x), t)
    r_lo = tl.fma(n, -real(LN2_LO, x), t - r) + x_lo
    q = _horner(r, EXP_TAIL_32, 5)
    half = const(0.5, x)
    tail = tl.fma(q, r, half)
    tail_lo = tl.fma(q, r, half - tail)
    square = r * r
    square_lo = tl.fma(r, r, -square)
    p = tl.fma(square, tail, r)
    p_lo = tl.fma(square, tail, r - p)
    p_lo = tl.fma(square, tail_lo, tl.fma(square_lo, tail, p_lo))
    one = const(1.0, x)
    hi = one + p
    lo = (p - (hi - one)) + tl.fma(r_lo, hi, p_lo)
    exponent = shifted.to(tl.int32, bitcast=True) - magic.to(tl.int32, bitcast=True)
    power = ((exponent.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
    return hi, lo, tl.where(far, const(0.0, power), power)


@triton.jit
def _fine_quotient(hi, lo, power):
    """Return 1 + u for u = (hi + lo) * power, as a number and its error, and 1 / (1 + u) to a float32."""
    w = power.to(tl.float32)
    one = const(1.0, hi)
    u = hi * w
    t = one + u
    return t, (u - (t - one)) + lo * w, divide(one, t)


@triton.jit
def fine_sigmoid(z, hi, lo, power):
    """Return the derivative of softplus at z, float64, from fine_decay(z)."""
    t, t_lo, q = _fine_quotient(hi, lo, power)
    above = z >= const(0.0, z)
    n = tl.where(above, const(1.0, hi), hi)
    n_lo = tl.where(above, const(0.0, lo), lo)
    s = n * q
    s_lo = (tl.fma(-s, t, n) + tl.fma(-s, t_lo, n_lo)) * q
    return (s.to(tl.float64) + s_lo.to(tl.float64)) * tl.where(above, const(1.0, power), power)


@triton.jit
def fine_sigmoid_slope(hi, lo, power):
    """Return the second derivative of softplus at z, float64, from fine_decay(z)."""
    t, t_lo, q = _fine_quotient(hi, lo, power)
    q_lo = tl.fma(-q, t_lo, tl.fma(-q, t, const(1.0, q))) * q
    s = hi * q
    s_lo = tl.fma(hi, q, -s) + tl.fma(hi, q_lo, lo * q)
    h = s * q
    h_lo = tl.fma(s, q, -h) + tl.fma(s, q_lo, s_lo * q)
    return (h.to(tl.float64) + h_lo.to(tl.float64)) * power


@triton.jit
def double(bits):
    """Return the float64 with the bits of a 64-bit integer: numbers reach kernels as integers."""
    return bits.to(tl.int64).to(tl.float64, bitcast=True)


@triton.jit
def widen_bfloat16(bits):
    """Return the float32 of a bfloat16, given as its 16 bits."""
    return (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def narrow_bfloat16(x):
    """Return the 16 bits of the bfloat16 nearest to a float32, ties to even; NaN stays NaN."""
    u = x.to(tl.int32, bitcast=True)
    rounded = (u + 0x7FFF + ((u >> 16) & 1)) >> 16
    return tl.where(x != x, 0x7FC0, rounded).to(tl.int16)


@triton.jit
def to_odd(x):
    """Round float64 to float32 such that narrowing that to 16 bits equals rounding the float64 once."""
    f = x.to(tl.float32)
    u = f.to(tl.int32, bitcast=True)
    back = f.to(tl.float64)
    u = tl.where(absolute(back) > absolute(x), u - 1, u)
    return tl.where(back == x, u, u | 1).to(tl.float32, bitcast=True)
