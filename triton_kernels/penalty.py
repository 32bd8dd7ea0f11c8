"""What is made of the sums over rows: norms, penalties, their statistics and gradients (csrc/common/penalty.h)."""

import triton
import triton.language as tl

from .launch import kernel
from .math import double, to_odd
from .memory import doubles, select
from .rows import (
    APART,
    DOTS,
    DTYPE,
    EPS,
    FIELDS,
    GREATEST_OF,
    LENGTH,
    MASK,
    NORMS,
    ONE_SIDED,
    OUT,
    OUT_2,
    PARTIAL,
    POWER_OF,
    RESULT,
    ROWS,
    ROWS_PER_WEIGHT,
    SCALE,
    SCALED_OF,
    SQUARES_OF,
    STATISTICS,
    TARGET,
    TWO_SIDED,
    UNIT,
    UPSTREAM,
    WEIGHTS,
    V,
    X,
    extreme,
    get,
    over_parts,
    part_of,
    places,
    power_of,
    put,
    rescue_scale,
    row_factors,
    spread,
)
from .tree import CHUNK, add_rows, empty_lanes, fold, top, total


@triton.jit
def _store(address, at, v, there, WIDE: tl.constexpr):
    if WIDE:
        tl.store(doubles(address) + at, v, mask=there)
    else:
        p = address.to(tl.int64).to(tl.pointer_type(tl.float32))
        tl.store(p + at, v.to(tl.float32), mask=there)


@triton.jit
def _load(address, at, there, WIDE: tl.constexpr):
    if WIDE:
        return tl.load(doubles(address) + at, mask=there, other=0.0)
    else:
        p = address.to(tl.int64).to(tl.pointer_type(tl.float32))
        return tl.load(p + at, mask=there, other=0.0)


@triton.jit
def _weights(row, there, memory, WEIGHTED: tl.constexpr):
    """The factor on each row's psi."""
    if WEIGHTED:
        return tl.load(
            doubles(memory[WEIGHTS]) + row // memory[ROWS_PER_WEIGHT].to(tl.int64), mask=there, other=0.0
        )
    else:
        return tl.full(row.shape, 1.0, tl.float64)


@triton.jit
def _psi(n, square, target, PSI: tl.constexpr, POWER: tl.constexpr):
    above = n - target
    if PSI == TWO_SIDED:
        return above * above
    elif PSI == ONE_SIDED:
        return tl.where(above <= 0, tl.zeros(n.shape, tl.float64), above * above)
    elif PSI == POWER_OF:
        if POWER % 2 == 1:
            return power_of(square, POWER // 2) * n
        else:
            return power_of(square, POWER // 2)
    else:
        tl.static_assert(False, "_psi has no branch for a psi")


@triton.jit
def _norms(row, there, memory, WIDE: tl.constexpr):
    """Norms and their squares; of rows of doubles also where those overflow or underflow."""
    square = over_parts(memory[SQUARES_OF], row, there, memory, False)
    norm = tl.sqrt(square)
    if WIDE:
        again = extreme(square) & there
        most = over_parts(memory[GREATEST_OF], row, again, memory, True)
        scale, done = rescue_scale(most)
        rescued = tl.sqrt(over_parts(memory[SCALED_OF], row, again, memory, False)) / scale
        rescued = tl.where(done, most, rescued)
        norm = tl.where(again, rescued, norm)
        square = tl.where(again, rescued * rescued, square)
    return norm, square


@kernel
def penalty_rows(
    memory, WHAT: tl.constexpr, PSI: tl.constexpr, POWER: tl.constexpr, WIDE: tl.constexpr, WEIGHTED: tl.constexpr,
    UNREDUCED: tl.constexpr, ONE: tl.constexpr, T: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """From the sums over rows: norms and penalties (SQUARES), the upstream's gradient (DOTS), or that of eps
    (APART). Each program has T chunks of rows; ONE has all of them, and the penalty too.
    """
    rows = memory[ROWS].to(tl.int64)
    first = tl.program_id(0).to(tl.int64) * (T * CHUNK)
    c = tl.arange(0, T)
    lane = empty_lanes(first + (c + 1) * CHUNK <= rows, 128)
    target = double(memory[TARGET])
    for part in range(0, 8, E):
        row = first + c[None, :, None] * CHUNK + places(E, T, 128, False) + part * 128
        there = row < rows
        if WHAT == APART:
            _store(memory[RESULT], row, over_parts(memory[SQUARES_OF], row, there, memory, False), there, WIDE)
        else:
            weight = _weights(row, there, memory, WEIGHTED)
            coefficient = double(memory[SCALE]) * weight
            if WHAT == DOTS:
                dot = over_parts(memory[SQUARES_OF], row, there, memory, False)
                norm = tl.load(doubles(memory[NORMS]) + row, mask=there, other=1.0)
                _scale, slope, _bend = row_factors(norm, target, PSI, POWER)
                value = coefficient * (slope * dot)
                unreduced = value
            else:
                norm, square = _norms(row, there, memory, WIDE)
                tl.store(doubles(memory[NORMS]) + row, norm, mask=there)
                value = _psi(norm, square, target, PSI, POWER)
                unreduced = coefficient * value
                value = weight * value
            if UNREDUCED:
                _store(memory[RESULT], row, unreduced, there, WIDE)
            else:
                lane = add_rows(lane, value, there)
    if WHAT != APART and not UNREDUCED:
        s = fold(lane)
        if ONE:
            summed = top(s, (rows + (CHUNK - 1)) // CHUNK)
            if WHAT != DOTS:
                summed = double(memory[SCALE]) * summed
            _store(memory[RESULT], 0, summed, rows > 0, WIDE)
        else:
            chunk = tl.program_id(0).to(tl.int64) * T + c
            tl.store(doubles(memory[PARTIAL]) + chunk, s, mask=chunk * CHUNK < rows)


@kernel
def penalty_total(source, n, memory, WHAT: tl.constexpr, WIDE: tl.constexpr):
    """The penalty, from n sums at `source` of what several programs of `penalty_rows` have left; one program."""
    summed = total(source, n.to(tl.int64), 0.0, False)
    if WHAT != DOTS:
        summed = double(memory[SCALE]) * summed
    _store(memory[RESULT], 0, summed, n > 0, WIDE)


@kernel
def penalty_mean(source, n, memory):
    """The mean of all norms, from n sums at `source`; one program."""
    tl.store(doubles(memory[STATISTICS]), total(source, n.to(tl.int64), 0.0, False) / memory[ROWS].to(tl.float64))


@kernel
def penalty_statistics(source, n, memory, AT_ONCE: tl.constexpr):
    """Mean, deviation, least, greatest, and share above the target, of all norms; one program.

    AT_ONCE: `source` has the n norms themselves; else n sums of squares of deviations from a mean that is there.
    """
    rows = memory[ROWS].to(tl.int64)
    count = rows.to(tl.float64)
    p = doubles(memory[STATISTICS])
    n = n.to(tl.int64)
    if AT_ONCE:
        mean = total(source, n, 0.0, False) / count
        tl.store(p, mean)
        variance = total(source, n, mean, True) / count
    else:
        variance = total(source, n, 0.0, False) / count
    infinity = float("inf")
    least = tl.full((512,), infinity, tl.float64)
    most = tl.full((512,), -infinity, tl.float64)
    above = tl.zeros((512,), tl.float64)
    nan = tl.zeros((512,), tl.int32)
    target = double(memory[TARGET])
    for first in range(0, rows, 512):
        at = first + tl.arange(0, 512)
        x = tl.load(doubles(memory[NORMS]) + at, mask=at < rows, other=0.0)
        there = (at < rows) & (x == x)
        nan = tl.where(x == x, nan, 1)
        least = tl.where(there & (x < least), x, least)
        most = tl.where(there & (x > most), x, most)
        above = above + (there & (x > target)).to(tl.float64)
    bad = tl.max(nan, axis=0) > 0
    tl.store(p + 1, tl.sqrt(variance))
    tl.store(p + 2, tl.where(bad, float("nan"), tl.min(least, axis=0)))
    tl.store(p + 3, tl.where(bad, float("nan"), tl.max(most, axis=0)))
    tl.store(p + 4, tl.sum(above, axis=0) / count)


# ---------------------------------------------------------------------------------- elements


@triton.jit
def _items(unit, constants, memory, COUNT: tl.constexpr, T: tl.constexpr, L: tl.constexpr):
    """Of a program: its part, T rows, the first element in them, how many there are, and their dtype."""
    part = part_of(unit, constants, COUNT)
    length = select(constants, part, LENGTH, FIELDS, COUNT)
    blocks = (length + (L - 1)) // L
    own = unit - select(constants, part, UNIT, FIELDS, COUNT)
    row = own // blocks * T + tl.arange(0, T)
    there = row < memory[ROWS].to(tl.int64)
    first = (own - own // blocks * blocks) * L
    element = first + tl.zeros((T,), tl.int64)
    left = tl.where(there, tl.minimum(length - first, L), 0).to(tl.int32)
    return part, tl.where(there, row, 0), element, left, there, select(constants, part, DTYPE, FIELDS, COUNT)


@kernel
def penalty_gradient(
    addresses, constants, layout, memory, COUNT: tl.constexpr, WHAT: tl.constexpr, PSI: tl.constexpr,
    POWER: tl.constexpr, MASKED: tl.constexpr, WEIGHTED: tl.constexpr, ELEMENTWISE: tl.constexpr, DR: tl.constexpr,
    DE: tl.constexpr, DTYPES: tl.constexpr, ACCESS: tl.constexpr, ACROSS: tl.constexpr, T: tl.constexpr,
    L: tl.constexpr,
):  # fmt: skip
    """Gradients, or (DOTS) the gradients of <v, gradient>: T rows and L of their elements a program.

    In float64 throughout, and rounded once.
    """
    WIDE: tl.constexpr = DTYPES == 2
    OWN: tl.constexpr = 1 if DTYPES == 2 else 0
    unit = tl.program_id(0).to(tl.int64)
    part, row, element, left, there, dtype = _items(unit, constants, memory, COUNT, T, L)
    norm = tl.load(doubles(memory[NORMS]) + row, mask=there, other=1.0)
    scale, slope, bend = row_factors(norm, double(memory[TARGET]), PSI, POWER)
    if ELEMENTWISE:
        upstream = _load(memory[UPSTREAM], row, there, WIDE).to(tl.float64)
    else:
        upstream = _load(memory[UPSTREAM], row * 0, there, WIDE).to(tl.float64)
    upstream = upstream * (double(memory[SCALE]) * _weights(row, there, memory, WEIGHTED))
    first = upstream * slope
    second = first
    if WHAT == DOTS:
        second = upstream * (bend * over_parts(memory[SQUARES_OF], row, there, memory, False)) * scale
    if not WIDE:
        first = first * scale
        second = second * scale

    at = places(1, T, L, ACROSS)
    h = get(X, part, row, element, at, left, dtype, addresses, layout, COUNT, DR, DE, DTYPES, ACCESS, ACROSS)
    h = h.to(tl.float64)
    if MASKED:
        mask = get(
            MASK, part, row, element, at, left, OWN, addresses, layout, COUNT, DR, DE, 1 << OWN, ACCESS, ACROSS
        ).to(tl.float64)
        h = h * mask
    if WIDE:
        h = h * spread(scale, ACROSS)
    if WHAT == DOTS:
        w = get(V, part, row, element, at, left, dtype, addresses, layout, COUNT, DR, DE, DTYPES, ACCESS, ACROSS)
        w = w.to(tl.float64)
        if MASKED:
            w = w * mask
        if WIDE:
            w = w * spread(scale, ACROSS)
        g = tl.fma(tl.broadcast_to(spread(first, ACROSS), w.shape), w, spread(second, ACROSS) * h)
    else:
        g = spread(first, ACROSS) * h
    if MASKED:
        g = g * mask
    if not WIDE:
        # Of 16 bits, so that the rounding to them is the only one.
        g = tl.where(dtype >= 2, to_odd(g), g.to(tl.float32))
    put(OUT, g, part, row, element, at, left, dtype, addresses, layout, COUNT, DR, DE, DTYPES, ACCESS, ACROSS)


@kernel
def interpolate(
    addresses, constants, layout, memory, COUNT: tl.constexpr, BACKWARD: tl.constexpr, DR: tl.constexpr,
    DE: tl.constexpr, DTYPES: tl.constexpr, ACCESS: tl.constexpr, T: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """Points between samples (csrc/cpu/interpolate.cpp), or the gradients of both."""
    unit = tl.program_id(0).to(tl.int64)
    part, row, element, left, there, dtype = _items(unit, constants, memory, COUNT, T, L)
    eps = _load(memory[EPS], row, there, DTYPES == 2)
    rest = 1.0 - eps
    at = places(1, T, L, False)
    zero = tl.zeros(at.shape, eps.dtype)
    e = spread(eps, False) + zero
    if BACKWARD:
        u = get(MASK, part, row, element, at, left, dtype, addresses, layout, COUNT, DR, DE, DTYPES, ACCESS, False)
        put(
            OUT, e * u, part, row, element, at, left, dtype, addresses, layout, COUNT, DR, DE, DTYPES, ACCESS, False
        )
        out = spread(rest, False) * u
        put(
            OUT_2, out, part, row, element, at, left, dtype, addresses, layout, COUNT, DR, DE, DTYPES, ACCESS, False
        )
    else:
        r = get(X, part, row, element, at, left, dtype, addresses, layout, COUNT, DR, DE, DTYPES, ACCESS, False)
        f = get(V, part, row, element, at, left, dtype, addresses, layout, COUNT, DR, DE, DTYPES, ACCESS, False)
        out = tl.where(r == f, r, tl.fma(e, r, spread(rest, False) * f))
        put(OUT, out, part, row, element, at, left, dtype, addresses, layout, COUNT, DR, DE, DTYPES, ACCESS, False)
