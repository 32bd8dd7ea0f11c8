"""Tensors as groups of elements, and sums over groups: csrc/common/penalty.h in Triton.

A call's tensors come as four tuples of integers:

- addresses: ADDRESSES per tensor, its own and those of tensors of its shape.
- constants: FIELDS per tensor.
- layout: where the elements of each lie.
- memory: numbers and addresses of the call as a whole.

A block is (E, T, L): T chunks of groups, each with E rows of L lanes at a time. If TRANSPOSED, threads go along
neighbouring groups, whose elements are adjacent in memory. So are the pixels of an image, where a group is a
pixel's channels.
"""

import triton
import triton.language as tl

from .launch import kernel
from .math import absolute, double
from .memory import doubles, read, select, write
from .tree import CHUNK, add_rows, chunks_at, empty_lanes, fold, minus_zero, rows_of, top

# Per tensor: values (or real samples), a factor on them (or an upstream), cotangents (or fake samples), the result,
# and a second result.
X, MASK, V, OUT, OUT_2 = (tl.constexpr(k) for k in range(5))
ADDRESSES = tl.constexpr(5)
LENGTH, FIRST_PROGRAM, SUMS, DTYPE = (tl.constexpr(k) for k in range(4))
FIELDS = tl.constexpr(4)
# In `memory`: numbers, float64 numbers by their bits, and addresses.
(
    GROUPS, TENSORS, NORMS, SQUARES_OF, GREATEST_OF, SCALED_OF, TARGET, SCALE, WEIGHTS, GROUPS_PER_WEIGHT, UPSTREAM,
    RESULT, PARTIAL, STATISTICS, EPS,
) = (tl.constexpr(k) for k in range(15))  # fmt: skip
MEMORY = tl.constexpr(15)
# The summands: squares of mask * x, the same of extreme groups scaled, products of v with mask * x * scale, or of
# `mask` with x - v (the gradient of an interpolation's eps). Or the greatest mask * x of extreme groups.
SQUARES, SCALED, DOTS, APART, GREATEST = (tl.constexpr(k) for k in range(5))
# ACCESS: all groups of all tensors begin at 16 bytes; or groups have 2^31 elements and more, and indices 64 bits.
ALIGNED_ACCESS = tl.constexpr(1)
LONG_GROUPS = tl.constexpr(2)
PSIS = ("two_sided", "one_sided", "power")
TWO_SIDED, ONE_SIDED, POWER_OF = (tl.constexpr(k) for k in range(len(PSIS)))


@triton.jit
def near_reciprocal(n):
    """Return a power of two near 1 / n for n > 0, within the range of normal numbers."""
    e = (n.to(tl.int64, bitcast=True) >> 52) & 2047
    e = tl.where(e < 1, 1, tl.where(e > 2045, 2045, e))
    return ((2046 - e) << 52).to(tl.float64, bitcast=True)


@triton.jit
def extreme(square):
    """Return whether a sum of squares of doubles overflowed, or lost its smaller summands."""
    low = tl.full(square.shape, 1.1830521861667747e-271, tl.float64)  # 2^-900
    high = tl.full(square.shape, 1.7976931348623157e308, tl.float64)
    return (square < low) | (square > high)


@triton.jit
def rescue_scale(most):
    """Return the factor on an extreme group, and whether its greatest element is its norm (0 or not finite)."""
    high = tl.full(most.shape, 1.7976931348623157e308, tl.float64)
    done = (most == 0) | (most > high)
    return tl.where(done, tl.full(most.shape, 1.0, tl.float64), near_reciprocal(most)), done


@triton.jit
def over_tensors(address, group, there, memory, GREATEST_ONES: tl.constexpr):
    """Add up each group's sums over its tensors, one tensor after another (or return the greatest of them)."""
    groups = memory[GROUPS].to(tl.int64)
    total = tl.load(doubles(address) + group, mask=there, other=0.0)
    for k in range(1, memory[TENSORS].to(tl.int32)):
        s = tl.load(doubles(address) + k * groups + group, mask=there, other=0.0)
        if GREATEST_ONES:
            total = tl.where(s > total, s, total)
        else:
            total = total + s
    return total


@triton.jit
def power_of(x, P: tl.constexpr):
    result = tl.full(x.shape, 1.0, tl.float64)
    for _ in tl.static_range(P):
        result = result * x
    return result


@triton.jit
def scaled_factor(factor, scale):
    """Return a factor on h * scale, and that scale: 1 where h * scale might underflow before a large factor."""
    one = tl.full(factor.shape, 1.0, tl.float64)
    folded = (absolute(factor) >= one) & (scale < one)
    return tl.where(folded, factor * scale, factor), tl.where(folded, one, scale)


@triton.jit
def group_factors(n, target, PSI: tl.constexpr, POWER: tl.constexpr):
    """Return scale, slope and bend of csrc/common/psi.h for norms n."""
    zero = tl.zeros(n.shape, tl.float64)
    one = tl.full(n.shape, 1.0, tl.float64)
    if PSI == POWER_OF and POWER == 2:
        return one, one + one, zero
    else:
        scale = near_reciprocal(n)
        near_one = n * scale
        if PSI == POWER_OF:
            below = power_of(n, POWER - 1)
            first = tl.full(n.shape, POWER, tl.float64) * below
            second = tl.full(n.shape, POWER * (POWER - 2), tl.float64) * below
        elif PSI == TWO_SIDED or PSI == ONE_SIDED:
            first = 2.0 * (n - target)
            second = tl.broadcast_to(2.0 * target, n.shape)
            if PSI == ONE_SIDED:
                first = tl.where(n <= target, zero, first)
                second = tl.where(n <= target, zero, second)
        else:
            tl.static_assert(False, "group_factors has no branch for a psi")
        slope = first / near_one
        bend = second / near_one / near_one / near_one
        return tl.where(n == 0, zero, scale), tl.where(n == 0, zero, slope), tl.where(n == 0, zero, bend)


# ---------------------------------------------------------------------------------- where elements lie


@triton.jit
def _offset(index, layout, SIZES: tl.constexpr, STRIDES: tl.constexpr, DIMS: tl.constexpr):
    """Return an element's offset from its logical index.

    Its sizes and strides begin at SIZES and STRIDES of the layout.
    """
    total = index.to(tl.int64) * 0
    rest = index
    for k in tl.static_range(1, DIMS):
        size = layout[SIZES + DIMS - k].to(index.dtype)
        q = rest // size
        total += (rest - q * size).to(tl.int64) * layout[STRIDES + DIMS - k].to(tl.int64)
        rest = q
    return total + rest.to(tl.int64) * layout[STRIDES].to(tl.int64)


@triton.jit
def _offset_in(
    tensor, index, layout, COUNT: tl.constexpr, WHICH: tl.constexpr, DG: tl.constexpr, DE: tl.constexpr,
    OF_GROUP: tl.constexpr,
):  # fmt: skip
    """Return the offset of a group, or of an element within its group, at address WHICH of a tensor.

    A tensor's layout: DG sizes of groups, DE of elements, then for each of its addresses DG strides and DE.
    """
    OWN: tl.constexpr = (DG + DE) * (1 + ADDRESSES)
    STRIDES: tl.constexpr = (DG + DE) * (1 + WHICH)
    total = index.to(tl.int64) * 0
    for i in tl.static_range(COUNT):
        if OF_GROUP:
            here = _offset(index, layout, i * OWN, i * OWN + STRIDES, DG)
        else:
            here = _offset(index, layout, i * OWN + DG, i * OWN + STRIDES + DG, DE)
        if COUNT == 1:
            total = here
        else:
            total = tl.where(tensor == i, here, total)
    return total


@triton.jit
def spread(v, TRANSPOSED: tl.constexpr):
    """Return (T,) as a block in which every element of an item has the item's value."""
    if TRANSPOSED:
        return v[None, None, :]
    else:
        return v[None, :, None]


@triton.jit
def places(E: tl.constexpr, T: tl.constexpr, L: tl.constexpr, TRANSPOSED: tl.constexpr):
    """Return 128 * row + lane, in the shape (E, T, L), or (E, L, T) transposed."""
    if TRANSPOSED:
        at = tl.arange(0, E)[:, None, None] * 128 + tl.arange(0, L)[None, :, None]
        return at + tl.zeros((1, 1, T), tl.int32)
    else:
        at = tl.arange(0, E)[:, None, None] * 128 + tl.arange(0, L)[None, None, :]
        return at + tl.zeros((1, T, 1), tl.int32)


@triton.jit
def _start(
    WHICH: tl.constexpr, tensor, group, element, at, layout, COUNT: tl.constexpr, DG: tl.constexpr,
    DE: tl.constexpr, DTYPES: tl.constexpr, ACCESS: tl.constexpr, TRANSPOSED: tl.constexpr,
):  # fmt: skip
    """Return the offset to add to `at`, which counts along the group from element (T,) of group (T,) on."""
    start = _offset_in(tensor, group, layout, COUNT, WHICH, DG, DE, True)
    if DE == 0:
        start = start + element
        if ACCESS == ALIGNED_ACCESS:
            start = tl.multiple_of(start, 2 if DTYPES == 2 else 8)
        return spread(start, TRANSPOSED)
    else:
        if ACCESS == LONG_GROUPS:
            index = spread(element, TRANSPOSED) + at
        else:
            index = spread(element.to(at.dtype), TRANSPOSED) + at
        return spread(start, TRANSPOSED) + _offset_in(tensor, index, layout, COUNT, WHICH, DG, DE, False) - at


@triton.jit
def get(
    WHICH: tl.constexpr, tensor, group, element, at, left, dtype, addresses, layout, COUNT: tl.constexpr,
    DG: tl.constexpr, DE: tl.constexpr, DTYPES: tl.constexpr, ACCESS: tl.constexpr, TRANSPOSED: tl.constexpr,
):  # fmt: skip
    """Read the elements at address WHICH of a tensor, in the shape of `at`; 0 where `left` (T,) has none."""
    start = _start(WHICH, tensor, group, element, at, layout, COUNT, DG, DE, DTYPES, ACCESS, TRANSPOSED)
    address = select(addresses, tensor, WHICH, ADDRESSES, COUNT)
    return read(address, start, at, spread(left, TRANSPOSED), dtype, DTYPES, ACCESS == ALIGNED_ACCESS)


@triton.jit
def put(
    WHICH: tl.constexpr, v, tensor, group, element, at, left, dtype, addresses, layout, COUNT: tl.constexpr,
    DG: tl.constexpr, DE: tl.constexpr, DTYPES: tl.constexpr, ACCESS: tl.constexpr, TRANSPOSED: tl.constexpr,
):  # fmt: skip
    """Write elements where `get` reads them, if there is such a tensor."""
    address = select(addresses, tensor, WHICH, ADDRESSES, COUNT)
    if address != 0:
        start = _start(WHICH, tensor, group, element, at, layout, COUNT, DG, DE, DTYPES, ACCESS, TRANSPOSED)
        write(address, start, at, spread(left, TRANSPOSED), v, dtype, DTYPES, ACCESS == ALIGNED_ACCESS)


@triton.jit
def _doubles_of(
    WHICH: tl.constexpr, tensor, group, element, at, left, dtype, addresses, layout, COUNT: tl.constexpr,
    DG: tl.constexpr, DE: tl.constexpr, DTYPES: tl.constexpr, ACCESS: tl.constexpr, TRANSPOSED: tl.constexpr,
):  # fmt: skip
    """Return `get` in float64, as (E, T, L) in either layout."""
    v = get(
        WHICH, tensor, group, element, at, left, dtype, addresses, layout, COUNT, DG, DE, DTYPES, ACCESS, TRANSPOSED
    ).to(tl.float64)
    if TRANSPOSED:
        return tl.permute(v, (0, 2, 1))
    else:
        return v


@triton.jit
def tensor_of(program, constants, COUNT: tl.constexpr):
    """Return the index of a program's tensor."""
    k = tl.zeros((), tl.int32)
    for i in tl.static_range(1, COUNT):
        k = tl.where(program >= constants[i * FIELDS + FIRST_PROGRAM], i, k)
    return k


# ---------------------------------------------------------------------------------- sums


@triton.jit
def _add_products(lane, a, b):
    """Add a * b to `lane` (T, L), row after row, each by an fma."""
    if a.shape[0] == 1:
        return tl.fma(tl.reshape(a, lane.shape), tl.reshape(b, lane.shape), lane)
    else:
        a0, a1, a2, a3, a4, a5, a6, a7 = rows_of(a)
        b0, b1, b2, b3, b4, b5, b6, b7 = rows_of(b)
        lane = tl.fma(a3, b3, tl.fma(a2, b2, tl.fma(a1, b1, tl.fma(a0, b0, lane))))
        return tl.fma(a7, b7, tl.fma(a6, b6, tl.fma(a5, b5, tl.fma(a4, b4, lane))))


@triton.jit
def _greatest(lane, v):
    """Return the greatest |v| over rows of lanes, ignoring NaN."""
    v = absolute(v)
    v = tl.max(tl.where(v == v, v, tl.zeros(v.shape, tl.float64)), axis=0)
    return tl.where(v > lane, v, lane)


@triton.jit
def _scale_of(group, there, memory, PASS: tl.constexpr, PSI: tl.constexpr, POWER: tl.constexpr):
    """Return the factor on the elements of these groups before they are summed."""
    scale = tl.full(group.shape, 1.0, tl.float64)
    if PASS == SCALED:
        scale, _ = rescue_scale(over_tensors(memory[GREATEST_OF], group, there, memory, True))
    elif PASS == DOTS:
        norm = tl.load(doubles(memory[NORMS]) + group, mask=there, other=1.0)
        scale, _slope, _bend = group_factors(norm, double(memory[TARGET]), PSI, POWER)
    return scale


@triton.jit
def _sum_items(
    tensor, group, element, left, scale, dtype, addresses, layout, PASS: tl.constexpr, COUNT: tl.constexpr,
    MASKED: tl.constexpr, DG: tl.constexpr, DE: tl.constexpr, DTYPES: tl.constexpr, ACCESS: tl.constexpr,
    TRANSPOSED: tl.constexpr, LANE_ROWS: tl.constexpr, E: tl.constexpr, T: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """Add up T chunks; return the sums, (T,)."""
    whole = left >= CHUNK
    lane = tl.zeros((T, L), tl.float64)
    if PASS == APART:
        lane = empty_lanes(whole, L)
    elif PASS != GREATEST:
        lane = minus_zero(lane)
    for first in range(0, LANE_ROWS, E):
        at = places(E, T, L, TRANSPOSED) + first * 128
        x = _doubles_of(
            X, tensor, group, element, at, left, dtype, addresses, layout, COUNT, DG, DE, DTYPES, ACCESS, TRANSPOSED
        )
        if MASKED:
            OWN: tl.constexpr = 1 if DTYPES == 2 else 0
            mask = _doubles_of(
                MASK, tensor, group, element, at, left, dtype if PASS == APART else OWN, addresses, layout, COUNT,
                DG, DE, DTYPES if PASS == APART else 1 << OWN, ACCESS, TRANSPOSED,
            )  # fmt: skip
        if PASS == DOTS or PASS == APART:
            v = _doubles_of(
                V, tensor, group, element, at, left, dtype, addresses, layout, COUNT, DG, DE, DTYPES, ACCESS,
                TRANSPOSED,
            )  # fmt: skip
        if PASS == APART:
            there = places(E, T, L, False) + first * 128 < left[None, :, None]
            lane = add_rows(lane, mask * (x - v), there)
        else:
            if MASKED:
                x = x * mask
            if PASS == SCALED or PASS == DOTS:
                x = x * scale[None, :, None]
            if PASS == DOTS:
                if MASKED:
                    v = v * mask
                lane = _add_products(lane, v, x)
            elif PASS == GREATEST:
                lane = _greatest(lane, x)
            else:
                lane = _add_products(lane, x, x)
    if PASS == GREATEST:
        return tl.max(lane, axis=1)
    elif PASS == APART:
        return fold(lane)
    else:
        s = fold(lane)
        return tl.where(whole, s, s + 0.0)  # never -0 of a chunk that is not full


@triton.jit
def _store_sums(out, s, there, chunks, PASS: tl.constexpr, WHOLE: tl.constexpr):
    """Store the sums of T chunks, or of the group that they are."""
    if WHOLE:
        if PASS == GREATEST:
            tl.store(out, tl.max(s, axis=0))
        else:
            tl.store(out, top(s, chunks))
    else:
        tl.store(out + tl.arange(0, s.shape[0]), s, mask=there)


@kernel
def group_sums(
    addresses, constants, layout, memory, COUNT: tl.constexpr, PASS: tl.constexpr, PSI: tl.constexpr,
    POWER: tl.constexpr, MASKED: tl.constexpr, DG: tl.constexpr, DE: tl.constexpr, DTYPES: tl.constexpr,
    ACCESS: tl.constexpr, TRANSPOSED: tl.constexpr, LANE_ROWS: tl.constexpr, E: tl.constexpr, T: tl.constexpr,
    L: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Add up all chunks of all groups, a tensor's groups one after another; T chunks per program.

    WHOLE: a program has a group of up to T chunks, and also adds up their sums.
    """
    program = tl.program_id(0).to(tl.int64)
    tensor = tensor_of(program, constants, COUNT)
    length = select(constants, tensor, LENGTH, FIELDS, COUNT)
    dtype = select(constants, tensor, DTYPE, FIELDS, COUNT)
    chunks = (length + (CHUNK - 1)) // CHUNK
    own = program - select(constants, tensor, FIRST_PROGRAM, FIELDS, COUNT)
    first = own
    if WHOLE:
        group = own + tl.zeros((T,), tl.int64)
        there = tl.arange(0, T) < chunks
        element = tl.arange(0, T).to(tl.int64) * CHUNK
    else:
        first = own * T
        item = first + tl.arange(0, T)
        there = item < memory[GROUPS].to(tl.int64) * chunks
        group = tl.where(there, item // chunks, 0)
        element = (item - item // chunks * chunks) * CHUNK
    left = tl.where(there, tl.minimum(length - element, CHUNK), 0).to(tl.int32)
    out = doubles(select(constants, tensor, SUMS, FIELDS, COUNT)) + first
    if PASS == GREATEST or PASS == SCALED:
        # Only groups of doubles whose squares overflowed or underflowed, which are rare.
        square = over_tensors(memory[SQUARES_OF], group, there, memory, False)
        if tl.max((extreme(square) & there).to(tl.int32), axis=0) > 0:
            scale = _scale_of(group, there, memory, PASS, PSI, POWER)
            s = _sum_items(
                tensor, group, element, left, scale, dtype, addresses, layout, PASS, COUNT, MASKED, DG, DE, DTYPES,
                ACCESS, TRANSPOSED, LANE_ROWS, E, T, L,
            )  # fmt: skip
            _store_sums(out, s, there, chunks, PASS, WHOLE)
    else:
        scale = _scale_of(group, there, memory, PASS, PSI, POWER)
        s = _sum_items(
            tensor, group, element, left, scale, dtype, addresses, layout, PASS, COUNT, MASKED, DG, DE, DTYPES,
            ACCESS, TRANSPOSED, LANE_ROWS, E, T, L,
        )  # fmt: skip
        _store_sums(out, s, there, chunks, PASS, WHOLE)


@kernel
def shrink(source, target, lists, n, mean, GREATEST_ONES: tl.constexpr, DEVIATIONS: tl.constexpr, T: tl.constexpr):
    """Compute the next level of the tree.

    Lists of n float64 each at `source` become the sums of their chunks at `target`. GREATEST_ONES: the greatest
    instead. DEVIATIONS: the sums of squared deviations from the number at `mean`.
    """
    n = n.to(tl.int64)
    chunks = (n + (CHUNK - 1)) // CHUNK
    item = tl.program_id(0).to(tl.int64) * T + tl.arange(0, T)
    there = item < lists.to(tl.int64) * chunks
    own = item - item // chunks * chunks
    first = item // chunks * n
    if GREATEST_ONES:
        left = tl.where(there, tl.minimum(n - own * CHUNK, CHUNK), 0).to(tl.int32)
        at = places(8, T, 128, False)
        p = doubles(source) + (first + own * CHUNK)[None, :, None] + at
        v = tl.load(p, mask=at < left[None, :, None], other=0.0)
        s = tl.max(tl.max(v, axis=0), axis=1)
    else:
        middle = tl.zeros((), tl.float64)
        if DEVIATIONS:
            middle = tl.load(doubles(mean))
        s = chunks_at(source, first, tl.where(there, n, 0), own, middle, 8, T, DEVIATIONS)
    tl.store(doubles(target) + item, s, mask=there)
