"""The fixed tree of every sum, as in csrc/cpu/tree.h: chunks of 1,024 elements, each 8 rows of 128 lanes.

A lane adds its rows in order, and neighbouring lanes are added in pairs. Each addition is written out:
`tl.sum` over more than two numbers has an order of its own. Blocks are (8, T, 128): a thread has all rows of
its lanes, and a warp a whole chunk.
"""

import triton
import triton.language as tl

from .math import const
from .memory import doubles

CHUNK = tl.constexpr(1024)


@triton.jit
def minus_zero(like):
    """-0.0, to which another number adds without a trace, in the shape of a block."""
    return tl.full(like.shape, -0x8000000000000000, tl.int64).to(tl.float64, bitcast=True)


@triton.jit
def rows_of(v):
    """The rows of a block (8, T, L), as blocks (T, L)."""
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
    """(T, L) lanes, added two neighbours at a time, as (T,)."""
    T: tl.constexpr = lane.shape[0]
    L: tl.constexpr = lane.shape[1]
    v = lane
    for k in tl.static_range(7):
        if (L >> k) > 1:
            a, b = tl.split(tl.reshape(v, (T, L >> (k + 1), 2)))
            v = a + b
    return tl.reshape(v, (T,))


@triton.jit
def empty_lanes(whole, L: tl.constexpr):
    """Lanes before their first summand: -0 in chunks that are full, else 0, as csrc/cpu/tree.h has them."""
    zero = tl.zeros((whole.shape[0], L), tl.float64)
    return tl.where(whole[:, None], minus_zero(zero), zero)


@triton.jit
def add_rows(lane, v, there):
    """`lane` (T, L) plus the rows of v (8 or 1, T, L) one after another, where there are any."""
    v = v.to(tl.float64)
    v = tl.where(there, v, minus_zero(v))
    if v.shape[0] == 1:
        return lane + tl.reshape(v, lane.shape)
    else:
        r0, r1, r2, r3, r4, r5, r6, r7 = rows_of(v)
        return (((((((lane + r0) + r1) + r2) + r3) + r4) + r5) + r6) + r7


@triton.jit
def pick(v, index):
    """Element `index` of a block (T,) of float64, exactly."""
    return tl.sum(tl.where(tl.arange(0, v.shape[0]) == index, v, minus_zero(v)), axis=0)


@triton.jit
def top(v, count):
    """The sum of the first `count` of T <= 128 chunk sums."""
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
def _chunks_at(address, first, n, c, mean, T: tl.constexpr, SQUARES: tl.constexpr):
    """Sums of the chunks numbered c (T,) of lists of n (T,) numbers that begin at `first` (T,)."""
    at = tl.arange(0, 8)[:, None, None] * 128 + tl.arange(0, 128)[None, None, :]
    left = n - c * CHUNK
    there = at < left[None, :, None]
    # Others have written this memory, perhaps in this launch: nothing of it may be in a cache.
    v = tl.load(doubles(address) + (first + c * CHUNK)[None, :, None] + at, mask=there, other=0.0, volatile=True)
    return fold(add_rows(empty_lanes(left >= CHUNK, 128), _transformed(v, mean, SQUARES), there))


@triton.jit
def totals(address, first, n, mean, K: tl.constexpr, SQUARES: tl.constexpr):
    """The sums, over the tree, of several lists of float64: W of n numbers each that begin at `first`, both (W,).

    SQUARES: of the squares of what they have above `mean`. K chunks of each list are summed at a time. Their sums go to the lanes of the next level as they come, and
    those of 1,024 chunks to the level after. A single number stays as it is, as it does in tree.h.
    """
    W: tl.constexpr = n.shape[0]
    T: tl.constexpr = W * K
    which = tl.arange(0, K)
    lane = tl.arange(0, 128)
    chunks = (n + (CHUNK - 1)) // CHUNK
    groups = (chunks + (CHUNK - 1)) // CHUNK
    own_first = tl.reshape(tl.broadcast_to(first[:, None], (W, K)), (T,))
    own_n = tl.reshape(tl.broadcast_to(n[:, None], (W, K)), (T,))
    own_chunks = (own_n + (CHUNK - 1)) // CHUNK
    number = tl.reshape(tl.broadcast_to(which[None, :], (W, K)), (T,)).to(tl.int64)
    most = tl.max(chunks, axis=0)
    upper = empty_lanes(groups >= CHUNK, 128)
    result = tl.load(doubles(address) + first, mask=n > 0, other=0.0, volatile=True)
    result = tl.where(n > 0, _transformed(result, mean, SQUARES), result)
    for g in range(0, (most + (CHUNK - 1)) // CHUNK):
        acc = empty_lanes(own_chunks - g * CHUNK >= CHUNK, 128)
        for c in range(g * CHUNK, tl.minimum(most, (g + 1) * CHUNK), K):
            own = number + c
            s = _chunks_at(address, own_first, own_n, own, mean, T, SQUARES)
            here = (lane[None, :] == (own % 128)[:, None]) & (own < own_chunks)[:, None]
            acc = tl.where(here, acc + s[:, None], acc)
            if c == 0:
                one = tl.where(number == 0, s, minus_zero(s))
                one = tl.sum(tl.reshape(one, (W, K)), axis=1)
                result = tl.where((chunks == 1) & (n > 1), one, result)
        # A lane's sums were all taken by the same one of the K.
        acc = tl.reshape(acc, (W, K, 128))
        acc = tl.sum(tl.where((lane % K)[None, None, :] == which[None, :, None], acc, minus_zero(acc)), axis=1)
        s = fold(acc)
        result = tl.where((groups == 1) & (chunks > 1), s, result)
        here = (lane[None, :] == g % 128) & (g < groups)[:, None]
        upper = tl.where(here, upper + s[:, None], upper)
    return tl.where(groups > 1, fold(upper), result)
