"""Reading and writing tensors by their addresses, several neighbours at a time.

An address is a 64-bit integer. ALIGNED says that all tensors of a call (and their groups) begin at a multiple of 16
bytes. Whole groups of 16 bytes are then moved at once, and only the last few elements one by one.
"""

import triton
import triton.language as tl

from .math import narrow_bfloat16, widen_bfloat16

# As fastgan numbers them: float32, float64, float16, bfloat16 (whose bits are moved as integers).
DTYPE_COUNT = tl.constexpr(4)
ONLY_FLOAT64 = tl.constexpr(2)  # of DTYPES, bits
FLOAT64 = tl.constexpr(1)
FLOAT16 = tl.constexpr(2)
BFLOAT16 = tl.constexpr(3)


@triton.jit
def doubles(address):
    """Return an address as a pointer to float64."""
    return address.to(tl.int64).to(tl.pointer_type(tl.float64))


@triton.jit
def _pointers(address, start, TYPE: tl.constexpr, ALIGNED: tl.constexpr):
    p = address.to(tl.int64).to(tl.pointer_type(TYPE))
    if ALIGNED:
        if len(p.shape) == 3:  # an address per item of a block
            p = tl.multiple_of(p, [16, 16, 16])
        else:
            p = tl.multiple_of(p, 16)
    return p + start


@triton.jit
def _load(p, at, left, WIDTH: tl.constexpr, ALIGNED: tl.constexpr):
    if ALIGNED:
        group = at // WIDTH * WIDTH + (WIDTH - 1) < left
        several = tl.load(p + at, mask=group, other=0)
        return tl.where(group, several, tl.load(p + at, mask=(at < left) & (group == 0), other=0))
    else:
        return tl.load(p + at, mask=at < left, other=0)


@triton.jit
def _store(p, at, left, v, WIDTH: tl.constexpr, ALIGNED: tl.constexpr):
    if ALIGNED:
        group = at // WIDTH * WIDTH + (WIDTH - 1) < left
        tl.store(p + at, v, mask=group)
        tl.store(p + at, v, mask=(at < left) & (group == 0))
    else:
        tl.store(p + at, v, mask=at < left)


@triton.jit
def _read_as(dtype: tl.constexpr, address, start, at, left, ALIGNED: tl.constexpr):
    if dtype == FLOAT64:
        return _load(_pointers(address, start, tl.float64, ALIGNED), at, left, 2, ALIGNED)
    elif dtype == FLOAT16:
        return _load(_pointers(address, start, tl.float16, ALIGNED), at, left, 8, ALIGNED).to(tl.float32)
    elif dtype == BFLOAT16:
        return widen_bfloat16(_load(_pointers(address, start, tl.int16, ALIGNED), at, left, 8, ALIGNED))
    else:
        return _load(_pointers(address, start, tl.float32, ALIGNED), at, left, 4, ALIGNED)


@triton.jit
def read(address, start, at, left, dtype, DTYPES: tl.constexpr, ALIGNED: tl.constexpr):
    """Read elements start + at of a tensor, as float32 or float64; 0 where at >= left.

    DTYPES has one bit per dtype of the call; float64 never occurs beside another.
    """
    if DTYPES == ONLY_FLOAT64:
        v = tl.zeros(at.shape, tl.float64)
    else:
        v = tl.zeros(at.shape, tl.float32)
    for d in tl.static_range(DTYPE_COUNT):
        if DTYPES == 1 << d:
            v = _read_as(d, address, start, at, left, ALIGNED)
        elif (DTYPES >> d) % 2 == 1:
            if dtype == d:
                v = _read_as(d, address, start, at, left, ALIGNED)
    return v


@triton.jit
def _write_as(dtype: tl.constexpr, address, start, at, left, v, ALIGNED: tl.constexpr):
    if dtype == FLOAT64:
        _store(_pointers(address, start, tl.float64, ALIGNED), at, left, v, 2, ALIGNED)
    elif dtype == FLOAT16:
        _store(_pointers(address, start, tl.float16, ALIGNED), at, left, v.to(tl.float16), 8, ALIGNED)
    elif dtype == BFLOAT16:
        _store(_pointers(address, start, tl.int16, ALIGNED), at, left, narrow_bfloat16(v), 8, ALIGNED)
    else:
        _store(_pointers(address, start, tl.float32, ALIGNED), at, left, v, 4, ALIGNED)


@triton.jit
def write(address, start, at, left, v, dtype, DTYPES: tl.constexpr, ALIGNED: tl.constexpr):
    """Write elements where `read` reads them, rounded to the tensor's dtype."""
    for d in tl.static_range(DTYPE_COUNT):
        if DTYPES == 1 << d:
            _write_as(d, address, start, at, left, v, ALIGNED)
        elif (DTYPES >> d) % 2 == 1:
            if dtype == d:
                _write_as(d, address, start, at, left, v, ALIGNED)


@triton.jit
def select(table, index, FIELD: tl.constexpr, FIELDS: tl.constexpr, COUNT: tl.constexpr):
    """Return field FIELD of entry `index` of a table: a tuple of COUNT entries of FIELDS integers."""
    v = table[FIELD].to(tl.int64)
    for i in tl.static_range(1, COUNT):
        v = tl.where(index == i, table[i * FIELDS + FIELD].to(tl.int64), v)
    return v


@triton.jit
def column(table, FIELD: tl.constexpr, FIELDS: tl.constexpr, COUNT: tl.constexpr, WIDTH: tl.constexpr):
    """Return field FIELD of each entry of a table, as a block of WIDTH; 0 past the last entry."""
    at = tl.arange(0, WIDTH)
    v = tl.zeros((WIDTH,), tl.int64)
    for i in tl.static_range(COUNT):
        v = tl.where(at == i, table[i * FIELDS + FIELD].to(tl.int64), v)
    return v
