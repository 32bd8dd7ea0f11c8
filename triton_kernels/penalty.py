"""Norms, penalties, their statistics and gradients from sums over groups (csrc/common/penalty.h)."""

import triton
import triton.language as tl

from .groups import (
    APART,
    DOTS,
    DTYPE,
    EPS,
    FIELDS,
    FIRST_PROGRAM,
    GREATEST_OF,
    GROUPS,
    GROUPS_PER_WEIGHT,
    LENGTH,
    MASK,
    NORMS,
    ONE_SIDED,
    OUT,
    OUT_2,
    PARTIAL,
    POWER_OF,
    RESULT,
    SCALE,
    SCALED_OF,
    SQUARES_OF,
    STATISTICS,
    TARGET,
    TENSORS,
    TWO_SIDED,
    UPSTREAM,
    WEIGHTS,
    V,
    X,
    extreme,
    get,
    group_factors,
    over_tensors,
    places,
    power_of,
    put,
    rescue_scale,
    scaled_factor,
    spread,
    tensor_of,
)
from .launch import kernel
from .math import double, to_odd
from .memory import FLOAT16, ONLY_FLOAT64, doubles, select
from .tree import CHUNK, LANE_ROW, add_rows, empty_lanes, fold, lane_rows, top, total, totals

GROUPS_AT_ONCE = tl.constexpr(32)  # whose chunks' sums a program adds up at a time


@triton.jit
def _store(address, at, v, there, IS_FLOAT64: tl.constexpr):
    if IS_FLOAT64:
        tl.store(doubles(address) + at, v, mask=there)
    else:
        p = address.to(tl.int64).to(tl.pointer_type(tl.float32))
        tl.store(p + at, v.to(tl.float32), mask=there)


@triton.jit
def _load(address, at, there, IS_FLOAT64: tl.constexpr):
    if IS_FLOAT64:
        return tl.load(doubles(address) + at, mask=there, other=0.0)
    else:
        p = address.to(tl.int64).to(tl.pointer_type(tl.float32))
        return tl.load(p + at, mask=there, other=0.0)


@triton.jit
def _weights(group, there, memory, WEIGHTED: tl.constexpr):
    """Return the factor on each group's psi."""
    if WEIGHTED:
        return tl.load(
            doubles(memory[WEIGHTS]) + group // memory[GROUPS_PER_WEIGHT].to(tl.int64), mask=there, other=0.0
        )
    else:
        return tl.full(group.shape, 1.0, tl.float64)


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
def _sums_of_chunks(group, constants, memory, COUNT: tl.constexpr, STORED: tl.constexpr):
    """Add up a lane row of groups' sums over their chunks, and these over tensors, one tensor after another.

    `constants` has, per tensor, the address of its groups' sums over chunks and the number of chunks of a group.
    STORED: also store each tensor's sums, for a later launch.
    """
    groups = memory[GROUPS].to(tl.int32)
    lane = tl.arange(0, LANE_ROW)
    total = tl.zeros((LANE_ROW,), tl.float64)
    for k in range(0, memory[TENSORS].to(tl.int32)):
        address = select(constants, k, 0, 2, COUNT)
        chunks = select(constants, k, 1, 2, COUNT).to(tl.int32)
        found = tl.zeros((LANE_ROW // GROUPS_AT_ONCE, GROUPS_AT_ONCE), tl.float64)
        part = tl.arange(0, LANE_ROW // GROUPS_AT_ONCE)[:, None]
        for first in range(0, groups, GROUPS_AT_ONCE):
            own = first + tl.arange(0, GROUPS_AT_ONCE)
            n = tl.where(own < groups, chunks, 0)
            s = totals(address, (own * chunks).to(tl.int64), n, 0.0, lane_rows(chunks), False)
            found = tl.where(part == first // GROUPS_AT_ONCE, s[None, :], found)
        s = tl.reshape(found, (LANE_ROW,))
        if STORED:
            tl.store(doubles(memory[SQUARES_OF]) + k * groups + lane, s, mask=lane < groups)
        total = tl.where(k == 0, s, total + s)
    return tl.reshape(total, group.shape)


@triton.jit
def _sums(group, there, constants, memory, COUNT: tl.constexpr, STORED: tl.constexpr):
    """Return each group's sum over its tensors; COUNT > 0: of sums over chunks."""
    if COUNT > 0:
        return _sums_of_chunks(group, constants, memory, COUNT, STORED)
    else:
        return over_tensors(memory[SQUARES_OF], group, there, memory, False)


@triton.jit
def _norms(square, group, there, memory, IS_FLOAT64: tl.constexpr):
    """Return norms and their squares; for groups of doubles, also where the squares overflow or underflow."""
    norm = tl.sqrt(square)
    if IS_FLOAT64:
        again = extreme(square) & there
        most = over_tensors(memory[GREATEST_OF], group, again, memory, True)
        scale, done = rescue_scale(most)
        rescued = tl.sqrt(over_tensors(memory[SCALED_OF], group, again, memory, False)) / scale
        rescued = tl.where(done, most, rescued)
        norm = tl.where(again, rescued, norm)
        square = tl.where(again, rescued * rescued, square)
    return norm, square


@triton.jit
def _few_total(v, there, n):
    """Add up n numbers of a lane row, (1, 1, 128), as `total` does; a single number stays as it is."""
    one = n + tl.zeros((1,), tl.int64) == 1
    return tl.sum(fold(add_rows(empty_lanes(one, LANE_ROW), v, there)), axis=0)


@triton.jit
def _few_statistics(norm, there, memory):
    """Do as `penalty_statistics` for a lane row of norms, (1, 1, 128)."""
    groups = memory[GROUPS].to(tl.int64)
    count = groups.to(tl.float64)
    mean = _few_total(norm, there, groups) / count
    d = norm - mean
    variance = _few_total(d * d, there, groups) / count
    norm = tl.reshape(norm, (LANE_ROW,))
    there = tl.reshape(there, (LANE_ROW,))
    bad = tl.max((there & (norm != norm)).to(tl.int32), axis=0) > 0
    infinity = tl.full((LANE_ROW,), float("inf"), tl.float64)
    least = tl.min(tl.where(there & (norm == norm), norm, infinity), axis=0)
    most = tl.max(tl.where(there & (norm == norm), norm, -infinity), axis=0)
    above = tl.sum((there & (norm > double(memory[TARGET]))).to(tl.float64), axis=0)
    p = doubles(memory[STATISTICS])
    tl.store(p, mean)
    tl.store(p + 1, tl.sqrt(variance))
    tl.store(p + 2, tl.where(bad, float("nan"), least))
    tl.store(p + 3, tl.where(bad, float("nan"), most))
    tl.store(p + 4, above / count)


@kernel
def penalty_groups(
    constants, memory, COUNT: tl.constexpr, PASS: tl.constexpr, PSI: tl.constexpr, POWER: tl.constexpr,
    IS_FLOAT64: tl.constexpr, WEIGHTED: tl.constexpr, UNREDUCED: tl.constexpr, ONE: tl.constexpr,
    FEW: tl.constexpr, STATS: tl.constexpr, T: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """Compute the results that need sums over groups.

    They are norms and penalties (SQUARES), the upstream's gradient (DOTS), or that of eps (APART). Each program has
    T chunks of groups; ONE has all of them, and the penalty too. FEW: of up to a lane row of groups, it can also
    have the sums over chunks (COUNT > 0: of up to so many tensors), and the numbers of PenaltyStats (STATS).
    """
    groups = memory[GROUPS].to(tl.int64)
    first = tl.program_id(0).to(tl.int64) * (T * CHUNK)
    c = tl.arange(0, T)
    lane = empty_lanes(first + (c + 1) * CHUNK <= groups, 128)
    target = double(memory[TARGET])
    rows = 8
    if FEW:
        rows = 1
    elif E < 8:
        rows = lane_rows(groups - first)
    for lane_row in range(0, rows, E):
        group = first + c[None, :, None] * CHUNK + places(E, T, 128, False) + lane_row * 128
        there = group < groups
        if PASS == APART:
            _store(memory[RESULT], group, _sums(group, there, constants, memory, COUNT, False), there, IS_FLOAT64)
        else:
            weight = _weights(group, there, memory, WEIGHTED)
            coefficient = double(memory[SCALE]) * weight
            if PASS == DOTS:
                dot = _sums(group, there, constants, memory, COUNT, True)
                norm = tl.load(doubles(memory[NORMS]) + group, mask=there, other=1.0)
                _scale, slope, _bend = group_factors(norm, target, PSI, POWER)
                value = coefficient * (slope * dot)
                unreduced = value
            else:
                square = _sums(group, there, constants, memory, COUNT, False)
                norm, square = _norms(square, group, there, memory, IS_FLOAT64)
                tl.store(doubles(memory[NORMS]) + group, norm, mask=there)
                if STATS:
                    _few_statistics(norm, there, memory)
                value = _psi(norm, square, target, PSI, POWER)
                unreduced = coefficient * value
                value = weight * value
            if UNREDUCED:
                _store(memory[RESULT], group, unreduced, there, IS_FLOAT64)
            else:
                lane = add_rows(lane, value, there)
    if PASS != APART and not UNREDUCED:
        s = fold(lane)
        if ONE:
            summed = top(s, (groups + (CHUNK - 1)) // CHUNK)
            if PASS != DOTS:
                summed = double(memory[SCALE]) * summed
            _store(memory[RESULT], 0, summed, groups > 0, IS_FLOAT64)
        else:
            chunk = tl.program_id(0).to(tl.int64) * T + c
            tl.store(doubles(memory[PARTIAL]) + chunk, s, mask=chunk * CHUNK < groups)


@kernel
def penalty_total(source, n, memory, PASS: tl.constexpr, IS_FLOAT64: tl.constexpr):
    """Compute the penalty from n sums at `source`, left by several programs of `penalty_groups`; one program."""
    summed = total(source, n.to(tl.int64), 0.0, False)
    if PASS != DOTS:
        summed = double(memory[SCALE]) * summed
    _store(memory[RESULT], 0, summed, n > 0, IS_FLOAT64)


@kernel
def penalty_mean(source, n, memory):
    """Compute the mean of all norms from n sums at `source`; one program."""
    tl.store(doubles(memory[STATISTICS]), total(source, n.to(tl.int64), 0.0, False) / memory[GROUPS].to(tl.float64))


@kernel
def penalty_statistics(source, n, memory, AT_ONCE: tl.constexpr):
    """Compute mean, deviation, least, greatest, and share above the target, of all norms; one program.

    AT_ONCE: `source` has the n norms themselves. Else it has n sums of squared deviations from the mean, which is
    already stored.
    """
    groups = memory[GROUPS].to(tl.int64)
    count = groups.to(tl.float64)
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
    for first in range(0, groups, 512):
        at = first + tl.arange(0, 512)
        x = tl.load(doubles(memory[NORMS]) + at, mask=at < groups, other=0.0)
        there = (at < groups) & (x == x)
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
def _items(program, constants, memory, COUNT: tl.constexpr, T: tl.constexpr, L: tl.constexpr):
    """Return a program's tensor, T groups, first element, number of elements, mask of groups, and dtype."""
    tensor = tensor_of(program, constants, COUNT)
    length = select(constants, tensor, LENGTH, FIELDS, COUNT)
    blocks = (length + (L - 1)) // L
    own = program - select(constants, tensor, FIRST_PROGRAM, FIELDS, COUNT)
    group = own // blocks * T + tl.arange(0, T)
    there = group < memory[GROUPS].to(tl.int64)
    first = (own - own // blocks * blocks) * L
    element = first + tl.zeros((T,), tl.int64)
    left = tl.where(there, tl.minimum(length - first, L), 0).to(tl.int32)
    return tensor, tl.where(there, group, 0), element, left, there, select(constants, tensor, DTYPE, FIELDS, COUNT)


@kernel
def penalty_gradient(
    addresses, constants, layout, memory, COUNT: tl.constexpr, PASS: tl.constexpr, PSI: tl.constexpr,
    POWER: tl.constexpr, MASKED: tl.constexpr, WEIGHTED: tl.constexpr, ELEMENTWISE: tl.constexpr, DG: tl.constexpr,
    DE: tl.constexpr, DTYPES: tl.constexpr, ACCESS: tl.constexpr, TRANSPOSED: tl.constexpr, T: tl.constexpr,
    L: tl.constexpr,
):  # fmt: skip
    """Compute gradients, or (DOTS) the gradients of <v, gradient>: T groups and L of their elements per program.

    All arithmetic is in float64, and each result is rounded once.
    """
    IS_FLOAT64: tl.constexpr = DTYPES == 2
    OWN: tl.constexpr = 1 if DTYPES == 2 else 0
    program = tl.program_id(0).to(tl.int64)
    tensor, group, element, left, there, dtype = _items(program, constants, memory, COUNT, T, L)
    norm = tl.load(doubles(memory[NORMS]) + group, mask=there, other=1.0)
    scale, slope, bend = group_factors(norm, double(memory[TARGET]), PSI, POWER)
    if ELEMENTWISE:
        upstream = _load(memory[UPSTREAM], group, there, IS_FLOAT64).to(tl.float64)
    else:
        upstream = _load(memory[UPSTREAM], group * 0, there, IS_FLOAT64).to(tl.float64)
    upstream = upstream * (double(memory[SCALE]) * _weights(group, there, memory, WEIGHTED))
    first, first_scale = scaled_factor(upstream * slope, scale)
    second = first
    second_scale = first_scale
    if PASS == DOTS:
        bent = upstream * (bend * over_tensors(memory[SQUARES_OF], group, there, memory, False)) * scale
        second, second_scale = scaled_factor(bent, scale)
    if not IS_FLOAT64:
        first = first * first_scale
        second = second * second_scale

    at = places(1, T, L, TRANSPOSED)
    h = get(
        X, tensor, group, element, at, left, dtype, addresses, layout, COUNT, DG, DE, DTYPES, ACCESS, TRANSPOSED
    )
    h = h.to(tl.float64)
    if MASKED:
        mask = get(
            MASK, tensor, group, element, at, left, OWN, addresses, layout, COUNT, DG, DE, 1 << OWN, ACCESS,
            TRANSPOSED,
        ).to(tl.float64)  # fmt: skip
        h = h * mask
    if IS_FLOAT64:
        h = h * spread(second_scale, TRANSPOSED)
    if PASS == DOTS:
        w = get(
            V, tensor, group, element, at, left, dtype, addresses, layout, COUNT, DG, DE, DTYPES, ACCESS, TRANSPOSED
        )
        w = w.to(tl.float64)
        if MASKED:
            w = w * mask
        if IS_FLOAT64:
            w = w * spread(first_scale, TRANSPOSED)
        g = tl.fma(tl.broadcast_to(spread(first, TRANSPOSED), w.shape), w, spread(second, TRANSPOSED) * h)
    else:
        g = spread(first, TRANSPOSED) * h
    if MASKED:
        g = g * mask
    if DTYPES == 1:
        g = g.to(tl.float32)
    elif DTYPES % 4 == 0:  # of 16 bits, so that the rounding to them is the only one
        g = to_odd(g)
    elif DTYPES != ONLY_FLOAT64:
        g = tl.where(dtype >= FLOAT16, to_odd(g), g.to(tl.float32))
    put(
        OUT, g, tensor, group, element, at, left, dtype, addresses, layout, COUNT, DG, DE, DTYPES, ACCESS,
        TRANSPOSED,
    )  # fmt: skip


@kernel
def interpolate(
    addresses, constants, layout, memory, COUNT: tl.constexpr, BACKWARD: tl.constexpr, DG: tl.constexpr,
    DE: tl.constexpr, DTYPES: tl.constexpr, ACCESS: tl.constexpr, T: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """Interpolate between samples (csrc/cpu/interpolate.cpp), or compute the gradients of both."""
    program = tl.program_id(0).to(tl.int64)
    tensor, group, element, left, there, dtype = _items(program, constants, memory, COUNT, T, L)
    eps = _load(memory[EPS], group, there, DTYPES == 2)
    rest = 1.0 - eps
    at = places(1, T, L, False)
    zero = tl.zeros(at.shape, eps.dtype)
    e = spread(eps, False) + zero
    if BACKWARD:
        u = get(
            MASK, tensor, group, element, at, left, dtype, addresses, layout, COUNT, DG, DE, DTYPES, ACCESS, False
        )
        put(
            OUT, e * u, tensor, group, element, at, left, dtype, addresses, layout, COUNT, DG, DE, DTYPES, ACCESS,
            False,
        )  # fmt: skip
        out = spread(rest, False) * u
        put(
            OUT_2, out, tensor, group, element, at, left, dtype, addresses, layout, COUNT, DG, DE, DTYPES, ACCESS,
            False,
        )  # fmt: skip
    else:
        r = get(X, tensor, group, element, at, left, dtype, addresses, layout, COUNT, DG, DE, DTYPES, ACCESS, False)
        f = get(V, tensor, group, element, at, left, dtype, addresses, layout, COUNT, DG, DE, DTYPES, ACCESS, False)
        out = tl.where(r == f, r, tl.fma(e, r, spread(rest, False) * f))
        put(
            OUT, out, tensor, group, element, at, left, dtype, addresses, layout, COUNT, DG, DE, DTYPES, ACCESS,
            False,
        )  # fmt: skip
