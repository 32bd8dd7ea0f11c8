"""The fixed tree of every sum, as in csrc/cpu/tree.h: chunks of 1,024 elements, each 8 rows of 128 lanes.

A lane adds its rows in order, and neighbouring lanes are added in pairs. Each addition is written out, or is a
`tl.sum` of two numbers; of more, `tl.sum` has an order of its own. Blocks are (8, T, 128): a thread has all rows of
its lanes, and a warp a whole chunk.
"""

import triton
import triton.language as tl

from .math import const
from .memory import doubles

CHUNK = tl.constexpr(1024)
LANE_ROW = tl.constexpr(128)  # elements of a chunk's row of lanes


@triton.jit
def minus_zero(like):
    """Return -0.0, whose addition leaves any number unchanged, in the shape of a block."""
    return tl.full(like.shape, -0x8000000000000000, tl.int64).to(tl.float64, bitcast=True)


@triton.jit
def rows_of(v):
    """Return the rows of a block (8, T, L), as blocks (T, L)."""
    T: tl.constexpr = v.shape[1]
    L: tl.constexpr = v.shape[2]
    v = tl.reshape(tl.permute(v, (1, 2, 0)), (T, L, 2, 2, 2))
    even, odd = tl.split(v)
    r04, r26 = tl.split(even)
    r15, r37 = tl.split(odd)
    r0, r4 = tl.split(r04)
    r1, r5 = tl.split(r15)
    r2, r6 = tl.split(r26)
    r3, r7 = tl.split(r37)
    return r0, r1, r2, r3, r4, r5, r6, r7


@triton.jit
def fold(lane):
    """Add (T, L) lanes, two neighbours at a time; return (T,)."""
    T: tl.constexpr = lane.shape[0]
    L: tl.constexpr = lane.shape[1]
    v = lane
    for k in tl.static_range(7):
        if (L >> k) > 1:
            # Two numbers have one order; and neighbours meet by shuffles, without a change of layout.
            v = tl.sum(tl.reshape(v, (T, L >> (k + 1), 2)), axis=2)
    return tl.reshape(v, (T,))


@triton.jit
def lane_rows(n):
    """Return how many lane rows of a chunk have elements if the chunk has n of them, or all 8 if n is greater."""
    return tl.minimum((n + (LANE_ROW - 1)) // LANE_ROW, 8).to(tl.int32)


@triton.jit
def empty_lanes(whole, L: tl.constexpr):
    """Return lanes before their first summand: -0 in full chunks, else 0, as in csrc/cpu/tree.h."""
    zero = tl.zeros((whole.shape[0], L), tl.float64)
    return tl.where(whole[:, None], minus_zero(zero), zero)


@triton.jit
def add_rows(lane, v, there):
    """Add the rows of v (8 or 1, T, L) to `lane` (T, L), one after another, where `there` is true."""
    v = v.to(tl.float64)
    v = tl.where(there, v, minus_zero(v))
    if v.shape[0] == 1:
        return lane + tl.reshape(v, lane.shape)
    else:
        r0, r1, r2, r3, r4, r5, r6, r7 = rows_of(v)
        return (((((((lane + r0) + r1) + r2) + r3) + r4) + r5) + r6) + r7


@triton.jit
def pick(v, index):
    """Return element `index` of a block (T,) of float64, exactly."""
    return tl.sum(tl.where(tl.arange(0, v.shape[0]) == index, v, minus_zero(v)), axis=0)


@triton.jit
def top(v, count):
    """Add up the first `count` of T <= 128 chunk sums."""
    T: tl.constexpr = v.shape[0]
    lanes = const(0.0, v) + tl.where(tl.arange(0, T) < count, v, minus_zero(v))
    folded = tl.sum(fold(tl.reshape(lanes, (1, T))), axis=0)
    return tl.where(count == 1, pick(v, 0), folded)


@triton.jit
def _transformed(v, mean, SQUARES: tl.constexpr):
    if SQUARES:
        d = v - mean
        return d * d
    else:
        return v


@triton.jit
def chunks_at(address, first, n, c, mean, rows, T: tl.constexpr, SQUARES: tl.constexpr):
    """Add up the chunks numbered c (T,) of lists of n (T,) float64 that begin at `first` (T,).

    SQUARES: add up squared deviations from `mean`. All chunks are empty past their first `rows` lane rows, up to 8.
    """
    left = n - c * CHUNK
    lane = empty_lanes(left >= CHUNK, 128)
    for row in range(0, rows):
        at = tl.arange(0, 128)[None, None, :] + row * 128
        there = at < left[None, :, None]
        p = doubles(address) + (first + c * CHUNK)[None, :, None] + at
        lane = add_rows(lane, _transformed(tl.load(p, mask=there, other=0.0), mean, SQUARES), there)
    return fold(lane)


@triton.jit
def totals(address, first, n, mean, rows, SQUARES: tl.constexpr):
    """Add up W lists of float64 of up to a chunk each: n (W,) numbers that begin at `first` (W,).

    A single number stays as it is, as it does in tree.h, and the sum of none is 0.
    """
    alone = _transformed(tl.load(doubles(address) + first, mask=n == 1, other=0.0), mean, SQUARES)
    return tl.where(n == 1, alone, chunks_at(address, first, n, n * 0, mean, rows, n.shape[0], SQUARES))


@triton.jit
def total(address, n, mean, SQUARES: tl.constexpr):
    """Add up at most a chunk of float64 at an address."""
    two = tl.arange(0, 2)
    return pick(totals(address, two.to(tl.int64) * 0, tl.where(two == 0, n, 0), mean, 8, SQUARES), 0)


@triton.jit
def next_level(first, n):
    """Return where the sums of a list's chunks lie, and how many there are.

    They lie behind the list if it has more than a chunk; else they are the list itself.
    """
    grown = n > CHUNK
    return tl.where(grown, first + n, first), tl.where(grown, (n + (CHUNK - 1)) // CHUNK, n)
