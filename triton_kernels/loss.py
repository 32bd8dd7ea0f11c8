"""The kernels of the losses: the calls of csrc/common/loss.h, with the roundings of csrc/cpu/loss.cpp.

A call's terms come as three tuples of integers: addresses (ADDRESSES per term), constants (FIELDS per term) and
memory. Kernel `loss_sums` computes the sums over all chunks of all terms, and `loss_finish` adds them up. For a
call that is small enough (ONE), a single program does both. Kernel `loss_elements` writes the elementwise results.

A table has room for TERMS terms, so that lists of several lengths share a kernel. Behind their constants is the
number of terms that there are. The others have no elements, no programs and no role; they add -0 to the total.
"""

import triton
import triton.language as tl

from .launch import kernel
from .math import double, to_odd
from .memory import FLOAT16, ONLY_FLOAT64, column, doubles, read, select, write
from .phi import PHI_CODE_COUNT, evaluate, evaluate_finely
from .tree import (
    CHUNK,
    LANE_ROW,
    add_rows,
    chunks_at,
    empty_lanes,
    fold,
    lane_rows,
    minus_zero,
    next_level,
    pick,
    top,
    totals,
)

# Per term, in `addresses`: operands, their gradients, their cotangents, an unreduced result and upstream.
# OF_MEAN_OPERAND, the mean operand's, lies where a reduced call has no result.
X, Y, G_X, G_Y, V_X, V_Y, OUT, UPSTREAM = (tl.constexpr(k) for k in range(8))
OF_MEAN_OPERAND = OUT
ADDRESSES = tl.constexpr(8)
# Behind those of all terms, where a call is MASKED: the addresses of each term's factors and labels, or 0.
CONSTANTS_PER_ELEMENT = tl.constexpr(2)
# In `constants`. FIRST_PROGRAM and CHUNKS count the programs and the chunks before the term's.
(
    N, FIRST_PROGRAM, CHUNKS, PHI_CODE, DTYPE, SCALE, SHIFT, LINEAR, WEIGHT, MEMBER, MEAN_OPERAND, MEAN_OPERAND_N,
    MEAN_OPERAND_X, LAST_OF_MEAN, MEAN_OPERAND_DTYPE, NUMBER_X, NUMBER_Y, IS_MEAN_OPERAND_X, IS_MEAN_OPERAND_Y,
    SIDE, THRESHOLD, ROLE, ROLE_X, ROLE_Y, NUMBER,
) = (tl.constexpr(k) for k in range(25))  # fmt: skip
FIELDS = tl.constexpr(25)
# In `memory`: addresses, and PARTIALS, the number of partial sums per slot.
RESULT, SCALAR, MEANS, CONSTANTS, VALUES, STATISTICS, V_MEANS, PARTIAL, PARTIALS, WEIGHTS, CARRY = (
    tl.constexpr(k) for k in range(11)
)
MEMORY = tl.constexpr(11)
# Slots of partial sums. VALUE has the call's first sum: of values, or of an operand where means are computed.
VALUE, GRADIENT, DOT, SUM_X, SUM_Y, SIGN_X, SIGN_Y, RIGHT = (tl.constexpr(k) for k in range(8))
LEVELS = tl.constexpr(3)  # of the tree above a term's chunks, each behind the one before; for 2^50 elements
FILL = (
    PHI_CODE_COUNT  # a PHI_CODE of its own: x is a mean operand and nothing else, with the same gradient everywhere
)
# The passes.
FORWARD, BACKWARD, SECOND, MEAN = (tl.constexpr(k) for k in range(4))


@triton.jit
def _term_of(program, constants, TERMS: tl.constexpr):
    k = tl.zeros((), tl.int32)
    for i in tl.static_range(1, TERMS):
        k = tl.where(program >= constants[i * FIELDS + FIRST_PROGRAM], i, k)
    return k


@triton.jit
def _weight(weights, member, DTYPE_OF: tl.constexpr):
    """Return a member's weight in a tensor, as float64."""
    member = member.to(tl.int32)
    one = member * 0
    return tl.reshape(read(weights, member, one, one + 1, 0, 1 << DTYPE_OF, False), member.shape).to(tl.float64)


@triton.jit
def _coefficient(weight, member, n, memory, WEIGHTED: tl.constexpr, MEAN_OF: tl.constexpr):
    """Return a term's weight, divided by n for a mean.

    If no weight lies on the device, `weight` already includes both.
    """
    c = double(weight)
    if WEIGHTED >= 0:
        c = c * _weight(memory[WEIGHTS], member, WEIGHTED)
        if MEAN_OF:
            c = c / n.to(tl.float64)
    return c


@triton.jit
def _below(x, mean):
    """Return x minus a float64 constant whose part below the last bit of x's type counts as well."""
    hi = mean.to(x.dtype)
    lo = tl.where(mean - mean == 0, (mean - hi.to(tl.float64)).to(x.dtype), hi * 0)
    lo = tl.where(mean - mean == 0, lo, tl.zeros((), x.dtype))
    return (x - hi) - lo


@triton.jit
def _mean_at(address, index):
    return tl.load(doubles(address) + index)


@triton.jit
def _cotangent(
    v_x, v_y, mean_operand, start, at, left, dtype, memory, PAIRED: tl.constexpr, SUBTRACTS_MEAN: tl.constexpr,
    DTYPES: tl.constexpr, ALIGNED: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """Return v_x - v_y, or v_x minus the mean of the mean operand's cotangent, as numbers of type T."""
    w = tl.zeros(at.shape, T)
    if v_x != 0:
        w = read(v_x, start, at, left, dtype, DTYPES, ALIGNED).to(T)
    if PAIRED:
        if v_y != 0:
            w = w - read(v_y, start, at, left, dtype, DTYPES, ALIGNED).to(T)
    if SUBTRACTS_MEAN:
        if mean_operand >= 0:
            w = _below(w, _mean_at(memory[V_MEANS], mean_operand))
    return w


@triton.jit
def _elementwise_upstream(address, start, at, left, DTYPES: tl.constexpr, ALIGNED: tl.constexpr, T: tl.constexpr):
    if DTYPES == ONLY_FLOAT64:
        return read(address, start, at, left, 1, 2, ALIGNED)
    else:
        return read(address, start, at, left, 0, 1, ALIGNED).to(T)


@triton.jit
def _per_element(
    addresses, k, start, at, left, TERMS: tl.constexpr, DTYPES: tl.constexpr, ALIGNED: tl.constexpr
):  # fmt: skip
    """Return a term's factors and labels in the type of the operands' arithmetic; 1 and -inf where it has none."""
    F: tl.constexpr = tl.float64 if DTYPES == ONLY_FLOAT64 else tl.float32
    factor = tl.full(at.shape, 1.0, F)
    label = tl.full(at.shape, float("-inf"), F)
    of_factor = select(addresses, k, ADDRESSES * TERMS, CONSTANTS_PER_ELEMENT, TERMS)
    of_label = select(addresses, k, ADDRESSES * TERMS + 1, CONSTANTS_PER_ELEMENT, TERMS)
    if of_factor != 0:
        factor = _elementwise_upstream(of_factor, start, at, left, DTYPES, ALIGNED, F)
    if of_label != 0:
        label = _elementwise_upstream(of_label, start, at, left, DTYPES, ALIGNED, F)
    return factor, label


@triton.jit
def _argument(x, y, mean, address_y, mean_operand, PAIRED: tl.constexpr, SUBTRACTS_MEAN: tl.constexpr):
    """Return x, x - y or x - mean."""
    z = x
    if PAIRED:
        if address_y != 0:
            z = x - y
    if SUBTRACTS_MEAN:
        if mean_operand >= 0:
            z = _below(x, mean)
    return z


@triton.jit
def _signs(x):
    return (x > 0).to(tl.float64) - (x < 0).to(tl.float64)


@triton.jit
def _own_mean(address, n, dtype, DTYPES: tl.constexpr, ALIGNED: tl.constexpr, T: tl.constexpr):
    """Return the mean of an operand of at most T chunks."""
    c = tl.arange(0, T)
    at = tl.arange(0, 8)[:, None, None] * 128 + c[None, :, None] * CHUNK + tl.arange(0, 128)[None, None, :]
    left = n.to(tl.int32)
    x = read(address, 0, at, left, dtype, DTYPES, ALIGNED)
    s = fold(add_rows(empty_lanes((c + 1) * CHUNK <= left, 128), x, at < left))
    return top(s, (left + (CHUNK - 1)) // CHUNK) / n.to(tl.float64)


@triton.jit
def _keep(memory, SLOT: tl.constexpr, first, chunk, chunks, s):
    at = memory[PARTIALS].to(tl.int64) * SLOT + first + chunk
    tl.store(doubles(memory[PARTIAL]) + at, s, mask=chunk < chunks)


@triton.jit
def _slopes(
    u, d, k, start, at, left, dtype, addresses, constants, memory, TERMS: tl.constexpr, DTYPES: tl.constexpr,
    ALIGNED: tl.constexpr, PASS: tl.constexpr, PAIRED: tl.constexpr, SUBTRACTS_MEAN: tl.constexpr,
    SLOPES: tl.constexpr, ELEMENTWISE: tl.constexpr,
):  # fmt: skip
    """Return summands of DOT and GRADIENT from a term's derivatives u and d, in their type."""
    dot = u
    if PASS == SECOND:
        w = _cotangent(
            select(addresses, k, V_X, ADDRESSES, TERMS), select(addresses, k, V_Y, ADDRESSES, TERMS),
            select(constants, k, MEAN_OPERAND, FIELDS, TERMS), start, at, left, dtype, memory, PAIRED,
            SUBTRACTS_MEAN, DTYPES, ALIGNED, u.dtype,
        )  # fmt: skip
        dot = u * w
        u = d * w
    if SLOPES and ELEMENTWISE:
        address = select(addresses, k, UPSTREAM, ADDRESSES, TERMS)
        u = _elementwise_upstream(address, start, at, left, DTYPES, False, u.dtype) * u
    return dot.to(tl.float64), u.to(tl.float64)


@triton.jit
def _fine_slopes(
    x, y, mean, phi_code, scale, shift, linear, coefficient, factor, label, k, start, at, left, dtype, addresses,
    constants, memory, TERMS: tl.constexpr, PHI_CODES: tl.constexpr, DTYPES: tl.constexpr, ALIGNED: tl.constexpr,
    PASS: tl.constexpr, PAIRED: tl.constexpr, SUBTRACTS_MEAN: tl.constexpr, SLOPES: tl.constexpr,
    ELEMENTWISE: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Do as `_slopes` for a term of 16-bit tensors."""
    z = _argument(
        x.to(tl.float64), y.to(tl.float64), mean, select(addresses, k, Y, ADDRESSES, TERMS),
        select(constants, k, MEAN_OPERAND, FIELDS, TERMS), PAIRED, SUBTRACTS_MEAN,
    )  # fmt: skip
    u, d = evaluate_finely(
        phi_code, z, scale, shift, linear, coefficient, factor, label, PHI_CODES, PASS == SECOND, MASKED
    )
    return _slopes(
        u, d, k, start, at, left, dtype, addresses, constants, memory, TERMS, DTYPES, ALIGNED, PASS, PAIRED,
        SUBTRACTS_MEAN, SLOPES, ELEMENTWISE,
    )  # fmt: skip


@triton.jit
def _sums_of_chunks(
    program, addresses, constants, memory, TERMS: tl.constexpr, PHI_CODES: tl.constexpr, DTYPES: tl.constexpr,
    ALIGNED: tl.constexpr, PASS: tl.constexpr, PAIRED: tl.constexpr, SUBTRACTS_MEAN: tl.constexpr,
    SLOPES: tl.constexpr, STATS: tl.constexpr, ELEMENTWISE: tl.constexpr, WEIGHTED: tl.constexpr,
    MEAN_OF: tl.constexpr, ONE: tl.constexpr, T: tl.constexpr, E: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Add up T chunks of a term; return the sums, each (T,), in the order of the slots."""
    k = _term_of(program, constants, TERMS)
    n = select(constants, k, N, FIELDS, TERMS)
    dtype = select(constants, k, DTYPE, FIELDS, TERMS)
    phi_code = select(constants, k, PHI_CODE, FIELDS, TERMS)
    scale = double(select(constants, k, SCALE, FIELDS, TERMS))
    shift = double(select(constants, k, SHIFT, FIELDS, TERMS))
    linear = double(select(constants, k, LINEAR, FIELDS, TERMS))
    weight = select(constants, k, WEIGHT, FIELDS, TERMS)
    member = select(constants, k, MEMBER, FIELDS, TERMS)
    coefficient = _coefficient(weight, member, n, memory, WEIGHTED, MEAN_OF)
    mean_operand = select(constants, k, MEAN_OPERAND, FIELDS, TERMS)
    address_x = select(addresses, k, X, ADDRESSES, TERMS)
    address_y = select(addresses, k, Y, ADDRESSES, TERMS)
    mean = tl.zeros((), tl.float64)
    if SUBTRACTS_MEAN:
        if mean_operand >= 0:
            if ONE and PASS == FORWARD:
                its_n = select(constants, k, MEAN_OPERAND_N, FIELDS, TERMS)
                its_dtype = select(constants, k, MEAN_OPERAND_DTYPE, FIELDS, TERMS)
                mean = _own_mean(
                    select(addresses, k, OF_MEAN_OPERAND, ADDRESSES, TERMS), its_n, its_dtype, DTYPES, ALIGNED, T
                )
                tl.store(doubles(memory[MEANS]) + mean_operand, mean)
            else:
                mean = _mean_at(memory[MEANS], mean_operand)

    DERIVATIVES: tl.constexpr = SLOPES or PASS == SECOND
    HAS_16_BITS: tl.constexpr = DTYPES >= 4  # terms whose derivatives are formed in float64
    ONLY_16_BITS: tl.constexpr = DTYPES % 4 == 0
    start = (program - select(constants, k, FIRST_PROGRAM, FIELDS, TERMS)) * (T * CHUNK)
    left = tl.minimum(n - start, T * CHUNK).to(tl.int32)
    c = tl.arange(0, T)
    whole = (c + 1) * CHUNK <= left
    value = empty_lanes(whole, 128)
    gradient = value
    dot = value
    sum_x = value
    sum_y = value
    sign_x = value
    sign_y = value
    right = value
    rows = 8
    if E < 8:  # lane rows without elements change nothing
        rows = lane_rows(left)
    for row in range(0, rows, E):
        lanes = c[None, :, None] * CHUNK + (tl.arange(0, E)[:, None, None] + row) * 128
        at = lanes + tl.arange(0, 128)[None, None, :]
        there = at < left
        x = read(address_x, start, at, left, dtype, DTYPES, ALIGNED)
        y = x
        if PAIRED:
            if address_y != 0:
                y = read(address_y, start, at, left, dtype, DTYPES, ALIGNED)
        z = _argument(x, y, mean, address_y, mean_operand, PAIRED, SUBTRACTS_MEAN)
        if PASS == MEAN:
            value = add_rows(value, x, there)
        else:
            factor = x
            label = x
            if MASKED:
                factor, label = _per_element(addresses, k, start, at, left, TERMS, DTYPES, ALIGNED)
            v, u, d = evaluate(
                phi_code, z, scale, shift, linear, coefficient, factor, label, PHI_CODES, PASS == FORWARD,
                DERIVATIVES and not ONLY_16_BITS, PASS == SECOND and not ONLY_16_BITS, MASKED,
            )  # fmt: skip
            if PASS == FORWARD:
                value = add_rows(value, v, there)
            if DERIVATIVES:
                dots, slopes = _slopes(
                    u, d, k, start, at, left, dtype, addresses, constants, memory, TERMS, DTYPES, ALIGNED, PASS,
                    PAIRED, SUBTRACTS_MEAN, SLOPES, ELEMENTWISE,
                )  # fmt: skip
                if HAS_16_BITS:
                    if ONLY_16_BITS:
                        dots, slopes = _fine_slopes(
                            x, y, mean, phi_code, scale, shift, linear, coefficient, factor, label, k, start, at,
                            left, dtype, addresses, constants, memory, TERMS, PHI_CODES, DTYPES, ALIGNED, PASS,
                            PAIRED, SUBTRACTS_MEAN, SLOPES, ELEMENTWISE, MASKED,
                        )  # fmt: skip
                    elif dtype >= FLOAT16:
                        dots, slopes = _fine_slopes(
                            x, y, mean, phi_code, scale, shift, linear, coefficient, factor, label, k, start, at,
                            left, dtype, addresses, constants, memory, TERMS, PHI_CODES, DTYPES, ALIGNED, PASS,
                            PAIRED, SUBTRACTS_MEAN, SLOPES, ELEMENTWISE, MASKED,
                        )  # fmt: skip
                if PASS == SECOND:
                    dot = add_rows(dot, dots, there)
                if SLOPES:
                    gradient = add_rows(gradient, slopes, there)
        if STATS:
            side = select(constants, k, SIDE, FIELDS, TERMS).to(z.dtype)
            threshold = double(select(constants, k, THRESHOLD, FIELDS, TERMS)).to(z.dtype)
            sum_x = add_rows(sum_x, x, there)
            sign_x = add_rows(sign_x, _signs(x), there)
            right = add_rows(right, (side * (z - threshold) > 0).to(tl.float64), there)
            if PAIRED:
                sum_y = add_rows(sum_y, y, there)
                sign_y = add_rows(sign_y, _signs(y), there)
    return fold(value), fold(gradient), fold(dot), fold(sum_x), fold(sum_y), fold(sign_x), fold(sign_y), fold(right)


@triton.jit
def _add_role(
    role, wanted: tl.constexpr, sum_of, sign_of, n_of, right_of, counted_of, total, sign, n, right, counts
):
    """Add an operand's numbers to those of its role."""
    its = role == wanted
    sum_of = tl.where(its, sum_of + total, sum_of)
    sign_of = tl.where(its, sign_of + sign, sign_of)
    n_of = tl.where(its, n_of + n, n_of)
    right_of = tl.where(its & counts, right_of + right, right_of)
    counted_of = tl.where(its & counts, counted_of + n, counted_of)
    return sum_of, sign_of, n_of, right_of, counted_of


@triton.jit
def _statistics(
    role: tl.constexpr, value, sum_x, sum_y, sign_x, sign_y, right, constants, memory, TERMS: tl.constexpr,
    PAIRED: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Compute loss, mean, sign and accuracy of the operands of a role, 1 or 2, carried from table to table."""
    zero = tl.zeros((), tl.float64)
    loss = zero
    mean = zero
    sign = zero
    n_of = zero
    right_of = zero
    counted = zero
    carry = doubles(memory[CARRY]) + (1 + 6 * (role - 1))
    if not FIRST:
        loss = tl.load(carry)
        mean = tl.load(carry + 1)
        sign = tl.load(carry + 2)
        n_of = tl.load(carry + 3)
        right_of = tl.load(carry + 4)
        counted = tl.load(carry + 5)
    for k in tl.static_range(TERMS):
        n = constants[k * FIELDS + N].to(tl.int64).to(tl.float64)
        counts = constants[k * FIELDS + SIDE] != 0
        its = constants[k * FIELDS + ROLE] == role
        loss = tl.where(its, loss + pick(value, k), loss)
        r = pick(right, k)
        mean, sign, n_of, right_of, counted = _add_role(
            constants[k * FIELDS + ROLE_X], role, mean, sign, n_of, right_of, counted, pick(sum_x, k), pick(sign_x,
            k), n, r, counts,
        )  # fmt: skip
        if PAIRED:
            paired = constants[k * FIELDS + NUMBER_Y] >= 0
            role_y = tl.where(paired, constants[k * FIELDS + ROLE_Y], 0)
            mean, sign, n_of, right_of, counted = _add_role(
                role_y, role, mean, sign, n_of, right_of, counted, pick(sum_y, k), pick(sign_y, k), n, r, counts
            )
    if LAST:
        out = doubles(memory[STATISTICS]) + (role - 1)
        tl.store(out, loss)
        tl.store(out + 2, mean / n_of)
        tl.store(out + 4, sign / n_of)
        tl.store(out + 6, right_of / counted)
    else:
        tl.store(carry, loss)
        tl.store(carry + 1, mean)
        tl.store(carry + 2, sign)
        tl.store(carry + 3, n_of)
        tl.store(carry + 4, right_of)
        tl.store(carry + 5, counted)


@triton.jit
def _mean_constants(gradient, constants, memory, TERMS: tl.constexpr, FIRST: tl.constexpr, OPERANDS: tl.constexpr):
    """Store -(1/n) times the sum of its terms' gradients for each mean operand, in the order of the terms."""
    operand = tl.arange(0, OPERANDS)
    here = tl.zeros((OPERANDS,), tl.int32)
    k_of = tl.zeros((OPERANDS,), tl.float64)
    n_of = tl.full((OPERANDS,), 1.0, tl.float64)
    for k in tl.static_range(TERMS):
        here = tl.where(operand == constants[k * FIELDS + MEAN_OPERAND], 1, here)
    p = doubles(memory[CONSTANTS]) + operand
    if not FIRST:
        seen = here * 0
        for k in tl.static_range(TERMS):
            seen = tl.where(operand == constants[k * FIELDS + MEAN_OPERAND_X], 1, seen)
        k_of = tl.load(p, mask=seen > 0, other=0.0)
    for k in tl.static_range(TERMS):
        its = operand == constants[k * FIELDS + MEAN_OPERAND]
        k_of = tl.where(its, k_of - pick(gradient, k), k_of)
        last = its & (constants[k * FIELDS + LAST_OF_MEAN] != 0)
        n_of = tl.where(last, constants[k * FIELDS + MEAN_OPERAND_N].to(tl.int64).to(tl.float64), n_of)
    tl.store(p, k_of / n_of, mask=here > 0)


@triton.jit
def _finish(
    value, gradient, dot, sum_x, sum_y, sign_x, sign_y, right, constants, memory, TERMS: tl.constexpr,
    PASS: tl.constexpr, IS_FLOAT64: tl.constexpr, PAIRED: tl.constexpr, SLOPES: tl.constexpr, STATS: tl.constexpr,
    KEEP: tl.constexpr, WEIGHTED: tl.constexpr, MEAN_OF: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr,
    OPERANDS: tl.constexpr,
):  # fmt: skip
    """Turn the totals of a table's terms, (W,) each, into results; by one program, in the order of the terms."""
    W: tl.constexpr = value.shape[0]
    n = column(constants, N, FIELDS, TERMS, W)
    there = tl.arange(0, W) < constants[TERMS * FIELDS]
    if PASS == MEAN:
        mean_operand = column(constants, MEAN_OPERAND, FIELDS, TERMS, W)
        mean = tl.where(column(constants, NUMBER, FIELDS, TERMS, W) > 0, value / n.to(tl.float64), 0.0)
        tl.store(doubles(memory[MEANS]) + mean_operand, mean, mask=there)
    else:
        if SLOPES:
            _mean_constants(gradient, constants, memory, TERMS, FIRST, OPERANDS)
        summed = dot
        if PASS == FORWARD:
            weight = column(constants, WEIGHT, FIELDS, TERMS, W)
            member = column(constants, MEMBER, FIELDS, TERMS, W)
            summed = _coefficient(weight, member, n, memory, WEIGHTED, MEAN_OF) * value
            if KEEP:
                number = column(constants, NUMBER, FIELDS, TERMS, W)
                tl.store(doubles(memory[VALUES]) + number, summed, mask=there)
            if STATS:
                _statistics(
                    1, summed, sum_x, sum_y, sign_x, sign_y, right, constants, memory, TERMS, PAIRED, FIRST, LAST
                )
                _statistics(
                    2, summed, sum_x, sum_y, sign_x, sign_y, right, constants, memory, TERMS, PAIRED, FIRST, LAST
                )
        total = tl.zeros((), tl.float64)
        if not FIRST:
            total = tl.load(doubles(memory[CARRY]))
        summed = tl.where(there, summed, minus_zero(summed))
        for k in tl.static_range(TERMS):
            total = total + pick(summed, k)
        if not LAST:
            tl.store(doubles(memory[CARRY]), total)
        elif PASS == FORWARD or PASS == SECOND:
            result = memory[RESULT].to(tl.int64)
            if result != 0:
                if IS_FLOAT64:
                    tl.store(doubles(result), total)
                else:
                    tl.store(result.to(tl.pointer_type(tl.float32)), total.to(tl.float32))


@triton.jit
def _sums_one_by_one(
    addresses, constants, memory, TERMS: tl.constexpr, PHI_CODES: tl.constexpr, DTYPES: tl.constexpr,
    ALIGNED: tl.constexpr, PASS: tl.constexpr, PAIRED: tl.constexpr, SUBTRACTS_MEAN: tl.constexpr,
    SLOPES: tl.constexpr, STATS: tl.constexpr, ELEMENTWISE: tl.constexpr, WEIGHTED: tl.constexpr,
    MEAN_OF: tl.constexpr, T: tl.constexpr, E: tl.constexpr, MASKED: tl.constexpr, SHORT_ONES: tl.constexpr,
):  # fmt: skip
    """Add up each term of a table of up to T chunks a term; return the sums, each (W,), in the order of the slots.

    SHORT_ONES: of a term of up to a lane row, that row only.
    """
    W: tl.constexpr = triton.next_power_of_2(max(TERMS, 2))
    at = tl.arange(0, W)
    value = tl.zeros((W,), tl.float64)
    gradient = value
    dot = value
    sum_x = value
    sum_y = value
    sign_x = value
    sign_y = value
    right = value
    terms = TERMS
    if TERMS > 2:  # a table of 1 or 2 is full
        terms = constants[TERMS * FIELDS].to(tl.int32)
    for k in range(terms):
        if SHORT_ONES:
            if select(constants, k, N, FIELDS, TERMS) <= LANE_ROW:
                a, b, c, d, e, f, g, h = _sums_of_chunks(
                    k, addresses, constants, memory, TERMS, PHI_CODES, DTYPES, ALIGNED, PASS, PAIRED,
                    SUBTRACTS_MEAN, SLOPES, STATS, ELEMENTWISE, WEIGHTED, MEAN_OF, True, T, 1, MASKED,
                )  # fmt: skip
            else:
                a, b, c, d, e, f, g, h = _sums_of_chunks(
                    k, addresses, constants, memory, TERMS, PHI_CODES, DTYPES, ALIGNED, PASS, PAIRED,
                    SUBTRACTS_MEAN, SLOPES, STATS, ELEMENTWISE, WEIGHTED, MEAN_OF, True, T, E, MASKED,
                )  # fmt: skip
        else:
            a, b, c, d, e, f, g, h = _sums_of_chunks(
                k, addresses, constants, memory, TERMS, PHI_CODES, DTYPES, ALIGNED, PASS, PAIRED, SUBTRACTS_MEAN,
                SLOPES, STATS, ELEMENTWISE, WEIGHTED, MEAN_OF, True, T, E, MASKED,
            )  # fmt: skip
        chunks = (select(constants, k, N, FIELDS, TERMS) + (CHUNK - 1)) // CHUNK
        value = tl.where(at == k, top(a, chunks), value)
        if SLOPES:
            gradient = tl.where(at == k, top(b, chunks), gradient)
        if PASS == SECOND:
            dot = tl.where(at == k, top(c, chunks), dot)
        if STATS:
            sum_x = tl.where(at == k, top(d, chunks), sum_x)
            sign_x = tl.where(at == k, top(f, chunks), sign_x)
            right = tl.where(at == k, top(h, chunks), right)
            if PAIRED:
                sum_y = tl.where(at == k, top(e, chunks), sum_y)
                sign_y = tl.where(at == k, top(g, chunks), sign_y)
    return value, gradient, dot, sum_x, sum_y, sign_x, sign_y, right


@triton.jit
def _add_lane_row(v, there, W: tl.constexpr):
    """Add up a row of lanes of each term, v (1, V, 128); return the sums, (W,)."""
    s = fold(add_rows(tl.zeros((v.shape[1], v.shape[2]), tl.float64), v, there))
    return tl.broadcast_to(s, (W,))


@triton.jit
def _sums_side_by_side(
    addresses, constants, TERMS: tl.constexpr, PHI_CODES: tl.constexpr, DTYPES: tl.constexpr,
    ALIGNED: tl.constexpr, PAIRED: tl.constexpr, STATS: tl.constexpr,
):  # fmt: skip
    """Do as `_sums_one_by_one` for values of terms of up to a lane row each, of one dtype and phi: all at once."""
    W: tl.constexpr = triton.next_power_of_2(max(TERMS, 2))
    k = tl.arange(0, triton.next_power_of_2(TERMS))[None, :, None]
    at = tl.arange(0, LANE_ROW)[None, None, :]
    left = select(constants, k, N, FIELDS, TERMS).to(tl.int32)
    there = at < left
    x = read(select(addresses, k, X, ADDRESSES, TERMS), 0, at + k * 0, left, 0, DTYPES, ALIGNED)
    y = x
    z = x
    if PAIRED:
        address_y = select(addresses, k, Y, ADDRESSES, TERMS)
        y = read(address_y, 0, at + k * 0, tl.where(address_y != 0, left, 0), 0, DTYPES, ALIGNED)
        y = tl.where(address_y != 0, y, x)
        z = tl.where(address_y != 0, x - y, x)
    one = tl.full(k.shape, 1.0, tl.float64)  # of slopes, which are not computed
    v, _u, _d = evaluate(
        select(constants, 0, PHI_CODE, FIELDS, TERMS), z, double(select(constants, k, SCALE, FIELDS, TERMS)),
        double(select(constants, k, SHIFT, FIELDS, TERMS)), double(select(constants, k, LINEAR, FIELDS, TERMS)),
        one, x, x, PHI_CODES, True, False, False, False,
    )  # fmt: skip
    value = _add_lane_row(v, there, W)
    gradient = tl.zeros((W,), tl.float64)
    sum_x = gradient
    sum_y = gradient
    sign_x = gradient
    sign_y = gradient
    right = gradient
    if STATS:
        side = select(constants, k, SIDE, FIELDS, TERMS).to(z.dtype)
        threshold = double(select(constants, k, THRESHOLD, FIELDS, TERMS)).to(z.dtype)
        sum_x = _add_lane_row(x, there, W)
        sign_x = _add_lane_row(_signs(x), there, W)
        right = _add_lane_row((side * (z - threshold) > 0).to(tl.float64), there, W)
        if PAIRED:
            sum_y = _add_lane_row(y, there, W)
            sign_y = _add_lane_row(_signs(y), there, W)
    return value, gradient, gradient, sum_x, sum_y, sign_x, sign_y, right


@kernel
def loss_sums(
    addresses, constants, memory, TERMS: tl.constexpr, PHI_CODES: tl.constexpr, DTYPES: tl.constexpr,
    ALIGNED: tl.constexpr, PASS: tl.constexpr, PAIRED: tl.constexpr, SUBTRACTS_MEAN: tl.constexpr,
    SLOPES: tl.constexpr, STATS: tl.constexpr, KEEP: tl.constexpr, ELEMENTWISE: tl.constexpr,
    WEIGHTED: tl.constexpr, MEAN_OF: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr, OPERANDS: tl.constexpr,
    ONE: tl.constexpr, T: tl.constexpr, E: tl.constexpr, MASKED: tl.constexpr, SIDE_BY_SIDE: tl.constexpr,
):  # fmt: skip
    """Add up the chunks of all terms of a table; ONE: also compute the results.

    PASS: FORWARD sums values, SECOND products with cotangents, MEAN operands. SLOPES: also the gradients for the
    constants of mean operands (BACKWARD and SECOND: times their upstream). STATS: also the numbers for LossStats. T
    chunks per program, E rows at a time. SIDE_BY_SIDE: terms of up to a lane row each are taken all at once.
    """
    if ONE:
        if SIDE_BY_SIDE:
            longest = constants[N].to(tl.int64)
            for i in tl.static_range(1, TERMS):
                longest = tl.maximum(longest, constants[i * FIELDS + N].to(tl.int64))
            if longest <= LANE_ROW:
                value, gradient, dot, sum_x, sum_y, sign_x, sign_y, right = _sums_side_by_side(
                    addresses, constants, TERMS, PHI_CODES, DTYPES, ALIGNED, PAIRED, STATS
                )
            else:
                value, gradient, dot, sum_x, sum_y, sign_x, sign_y, right = _sums_one_by_one(
                    addresses, constants, memory, TERMS, PHI_CODES, DTYPES, ALIGNED, PASS, PAIRED, SUBTRACTS_MEAN,
                    SLOPES, STATS, ELEMENTWISE, WEIGHTED, MEAN_OF, T, E, MASKED, False,
                )  # fmt: skip
        else:
            value, gradient, dot, sum_x, sum_y, sign_x, sign_y, right = _sums_one_by_one(
                addresses, constants, memory, TERMS, PHI_CODES, DTYPES, ALIGNED, PASS, PAIRED, SUBTRACTS_MEAN,
                SLOPES, STATS, ELEMENTWISE, WEIGHTED, MEAN_OF, T, E, MASKED, T == 1 and E == 8,
            )  # fmt: skip
        _finish(
            value, gradient, dot, sum_x, sum_y, sign_x, sign_y, right, constants, memory, TERMS, PASS, DTYPES == 2,
            PAIRED, SLOPES, STATS, KEEP, WEIGHTED, MEAN_OF, FIRST, LAST, OPERANDS,
        )  # fmt: skip
    else:
        program = tl.program_id(0).to(tl.int64)
        a, b, c, d, e, f, g, h = _sums_of_chunks(
            program, addresses, constants, memory, TERMS, PHI_CODES, DTYPES, ALIGNED, PASS, PAIRED, SUBTRACTS_MEAN,
            SLOPES, STATS, ELEMENTWISE, WEIGHTED, MEAN_OF, ONE, T, E, MASKED,
        )  # fmt: skip
        k = _term_of(program, constants, TERMS)
        chunk = (program - select(constants, k, FIRST_PROGRAM, FIELDS, TERMS)) * T + tl.arange(0, T)
        chunks = (select(constants, k, N, FIELDS, TERMS) + (CHUNK - 1)) // CHUNK
        first = select(constants, k, CHUNKS, FIELDS, TERMS)
        if PASS == FORWARD or PASS == MEAN:
            _keep(memory, VALUE, first, chunk, chunks, a)
        if SLOPES:
            _keep(memory, GRADIENT, first, chunk, chunks, b)
        if PASS == SECOND:
            _keep(memory, DOT, first, chunk, chunks, c)
        if STATS:
            _keep(memory, SUM_X, first, chunk, chunks, d)
            _keep(memory, SIGN_X, first, chunk, chunks, f)
            _keep(memory, RIGHT, first, chunk, chunks, h)
            if PAIRED:
                _keep(memory, SUM_Y, first, chunk, chunks, e)
                _keep(memory, SIGN_Y, first, chunk, chunks, g)


@triton.jit
def _row(block, index: tl.constexpr):
    """Return row `index` of a block (8, W) of float64."""
    return tl.sum(tl.where(tl.arange(0, 8)[:, None] == index, block, minus_zero(block)), axis=0)


@kernel
def loss_shrink(
    constants, memory, TERMS: tl.constexpr, LEVEL: tl.constexpr, BEGIN: tl.constexpr, END: tl.constexpr,
    T: tl.constexpr,
):  # fmt: skip
    """Compute the next level of the tree for terms with more than a chunk of sums; T chunks per program."""
    program = tl.program_id(0).to(tl.int64)
    before = program * 0
    start = before
    own_first = before
    own_n = before
    for i in tl.static_range(TERMS):
        first = constants[i * FIELDS + CHUNKS].to(tl.int64)
        n = (constants[i * FIELDS + N].to(tl.int64) + (CHUNK - 1)) // CHUNK
        for _ in tl.static_range(LEVEL):
            first, n = next_level(first, n)
        programs = tl.where(n > CHUNK, ((n + (CHUNK - 1)) // CHUNK + (T - 1)) // T, 0)
        here = (program >= before) & (program < before + programs)
        start = tl.where(here, before, start)
        own_first = tl.where(here, first, own_first)
        own_n = tl.where(here, n, own_n)
        before += programs
    c = (program - start) * T + tl.arange(0, T)
    for slot in range(BEGIN, END):
        first = own_first + memory[PARTIALS].to(tl.int64) * slot
        s = chunks_at(memory[PARTIAL], first + c * 0, own_n + c * 0, c, 0.0, 8, T, False)
        tl.store(doubles(memory[PARTIAL]) + first + own_n + c, s, mask=c * CHUNK < own_n)


@kernel
def loss_finish(
    constants, memory, TERMS: tl.constexpr, PASS: tl.constexpr, IS_FLOAT64: tl.constexpr, PAIRED: tl.constexpr,
    SLOPES: tl.constexpr, STATS: tl.constexpr, KEEP: tl.constexpr, WEIGHTED: tl.constexpr, MEAN_OF: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr, OPERANDS: tl.constexpr, BEGIN: tl.constexpr, END: tl.constexpr,
):  # fmt: skip
    """Add up the remaining sums of `loss_sums`, and compute the results; one program."""
    W: tl.constexpr = triton.next_power_of_2(max(TERMS, 2))
    first = column(constants, CHUNKS, FIELDS, TERMS, W)
    chunks = (column(constants, N, FIELDS, TERMS, W) + (CHUNK - 1)) // CHUNK
    if PASS == MEAN:
        # An operand without a cotangent has no sum, and its mean is 0.
        chunks = tl.where(column(constants, NUMBER, FIELDS, TERMS, W) > 0, chunks, 0)
    for _ in tl.static_range(LEVELS):
        first, chunks = next_level(first, chunks)
    found = tl.zeros((8, W), tl.float64)
    for slot in range(BEGIN, END):
        totals_of = totals(memory[PARTIAL], first + memory[PARTIALS].to(tl.int64) * slot, chunks, 0.0, 8, False)
        found = tl.where(tl.arange(0, 8)[:, None] == slot, totals_of[None, :], found)
    _finish(
        _row(found, VALUE), _row(found, GRADIENT), _row(found, DOT), _row(found, SUM_X), _row(found, SUM_Y),
        _row(found, SIGN_X), _row(found, SIGN_Y), _row(found, RIGHT), constants, memory, TERMS, PASS, IS_FLOAT64,
        PAIRED, SLOPES, STATS, KEEP, WEIGHTED, MEAN_OF, FIRST, LAST, OPERANDS,
    )  # fmt: skip


@triton.jit
def _write_gradient(
    g, number, is_mean_operand, start, at, left, unit_gradient, upstream, dtype, memory,
    SUBTRACTS_MEAN: tl.constexpr, ELEMENTWISE: tl.constexpr, DTYPES: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Write a gradient if it is wanted: upstream * (unit + K), or upstream_i * unit_i + K, from unit gradients."""
    if g != 0:
        if SUBTRACTS_MEAN:
            k = unit_gradient
            if is_mean_operand != 0:
                k = tl.broadcast_to(
                    _mean_at(memory[CONSTANTS], number).to(unit_gradient.dtype), unit_gradient.shape
                )
            if ELEMENTWISE:
                out = upstream * unit_gradient
                out = tl.where(is_mean_operand != 0, out + k, out)
            else:
                out = upstream * tl.where(is_mean_operand != 0, unit_gradient + k, unit_gradient)
        else:
            out = upstream * unit_gradient
        if DTYPES != ONLY_FLOAT64 and out.dtype == tl.float64:
            out = to_odd(out)
        write(g, start, at, left, out, dtype, DTYPES, ALIGNED)


@triton.jit
def _write_derivatives(
    unit_gradient, curvature, k, phi_code, start, at, left, dtype, addresses, constants, memory,
    TERMS: tl.constexpr, DTYPES: tl.constexpr, ALIGNED: tl.constexpr, PASS: tl.constexpr, PAIRED: tl.constexpr,
    SUBTRACTS_MEAN: tl.constexpr, ELEMENTWISE: tl.constexpr,
):  # fmt: skip
    """Write a term's gradients from its derivatives, in their type."""
    F: tl.constexpr = unit_gradient.dtype
    OWN: tl.constexpr = 1 if DTYPES == ONLY_FLOAT64 else 0  # the dtype of the results
    if PASS == SECOND:
        w = _cotangent(
            select(addresses, k, V_X, ADDRESSES, TERMS), select(addresses, k, V_Y, ADDRESSES, TERMS),
            select(constants, k, MEAN_OPERAND, FIELDS, TERMS), start, at, left, dtype, memory, PAIRED,
            SUBTRACTS_MEAN, DTYPES, ALIGNED, F,
        )  # fmt: skip
        out = select(addresses, k, OUT, ADDRESSES, TERMS)
        if out != 0:
            product = unit_gradient * w
            if OWN == 0:
                product = product.to(tl.float32)
            write(out, start, at, left, product, OWN, 1 << OWN, ALIGNED)
        unit_gradient = curvature * w
    if SUBTRACTS_MEAN:
        none = tl.full(at.shape, -0x80000000, tl.int32).to(tl.float32, bitcast=True).to(F)
        unit_gradient = tl.where(phi_code == FILL, none, unit_gradient)
    if ELEMENTWISE:
        upstream = tl.full(at.shape, 1.0, F)
        if phi_code != FILL:
            address = select(addresses, k, UPSTREAM, ADDRESSES, TERMS)
            upstream = _elementwise_upstream(address, start, at, left, DTYPES, ALIGNED, F)
    elif OWN == 1:
        upstream = tl.load(memory[SCALAR].to(tl.int64).to(tl.pointer_type(tl.float64)))
    else:
        upstream = tl.load(memory[SCALAR].to(tl.int64).to(tl.pointer_type(tl.float32))).to(F)
    _write_gradient(
        select(addresses, k, G_X, ADDRESSES, TERMS), select(constants, k, NUMBER_X, FIELDS, TERMS),
        select(constants, k, IS_MEAN_OPERAND_X, FIELDS, TERMS), start, at, left, unit_gradient, upstream, dtype,
        memory, SUBTRACTS_MEAN, ELEMENTWISE, DTYPES, ALIGNED,
    )  # fmt: skip
    if PAIRED:
        _write_gradient(
            select(addresses, k, G_Y, ADDRESSES, TERMS), select(constants, k, NUMBER_Y, FIELDS, TERMS),
            select(constants, k, IS_MEAN_OPERAND_Y, FIELDS, TERMS), start, at, left, unit_gradient * -1.0,
            upstream, dtype, memory, SUBTRACTS_MEAN, ELEMENTWISE, DTYPES, ALIGNED,
        )  # fmt: skip


@triton.jit
def _write_plainly(
    x, y, mean, phi_code, scale, shift, linear, coefficient, factor, label, k, start, at, left, dtype, addresses,
    constants, memory, TERMS: tl.constexpr, PHI_CODES: tl.constexpr, DTYPES: tl.constexpr, ALIGNED: tl.constexpr,
    PASS: tl.constexpr, PAIRED: tl.constexpr, SUBTRACTS_MEAN: tl.constexpr, ELEMENTWISE: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """Write a term's elementwise results, in the type of the operands' arithmetic."""
    z = _argument(
        x, y, mean, select(addresses, k, Y, ADDRESSES, TERMS), select(constants, k, MEAN_OPERAND, FIELDS, TERMS),
        PAIRED, SUBTRACTS_MEAN,
    )  # fmt: skip
    value, unit_gradient, curvature = evaluate(
        phi_code, z, scale, shift, linear, coefficient, factor, label, PHI_CODES, PASS == FORWARD, PASS != FORWARD,
        PASS == SECOND, MASKED,
    )  # fmt: skip
    if PASS == FORWARD:
        OWN: tl.constexpr = 1 if DTYPES == ONLY_FLOAT64 else 0
        out = select(addresses, k, OUT, ADDRESSES, TERMS)
        write(out, start, at, left, coefficient.to(z.dtype) * value, OWN, 1 << OWN, ALIGNED)
    else:
        _write_derivatives(
            unit_gradient, curvature, k, phi_code, start, at, left, dtype, addresses, constants, memory, TERMS,
            DTYPES, ALIGNED, PASS, PAIRED, SUBTRACTS_MEAN, ELEMENTWISE,
        )  # fmt: skip


@triton.jit
def _write_finely(
    x, y, mean, phi_code, scale, shift, linear, coefficient, factor, label, k, start, at, left, dtype, addresses,
    constants, memory, TERMS: tl.constexpr, PHI_CODES: tl.constexpr, DTYPES: tl.constexpr, ALIGNED: tl.constexpr,
    PASS: tl.constexpr, PAIRED: tl.constexpr, SUBTRACTS_MEAN: tl.constexpr, ELEMENTWISE: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """Write the gradients of a term of 16-bit tensors: formed in float64, and rounded once."""
    z = _argument(
        x.to(tl.float64), y.to(tl.float64), mean, select(addresses, k, Y, ADDRESSES, TERMS),
        select(constants, k, MEAN_OPERAND, FIELDS, TERMS), PAIRED, SUBTRACTS_MEAN,
    )  # fmt: skip
    unit_gradient, curvature = evaluate_finely(
        phi_code, z, scale, shift, linear, coefficient, factor, label, PHI_CODES, PASS == SECOND, MASKED
    )
    _write_derivatives(
        unit_gradient, curvature, k, phi_code, start, at, left, dtype, addresses, constants, memory, TERMS, DTYPES,
        ALIGNED, PASS, PAIRED, SUBTRACTS_MEAN, ELEMENTWISE,
    )  # fmt: skip


@kernel
def loss_elements(
    addresses, constants, memory, TERMS: tl.constexpr, PHI_CODES: tl.constexpr, DTYPES: tl.constexpr,
    ALIGNED: tl.constexpr, PASS: tl.constexpr, PAIRED: tl.constexpr, SUBTRACTS_MEAN: tl.constexpr,
    ELEMENTWISE: tl.constexpr, WEIGHTED: tl.constexpr, MEAN_OF: tl.constexpr, BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """Write elementwise results.

    FORWARD: unreduced values; BACKWARD: gradients; SECOND: gradients of the gradients, and of the upstream.
    """
    program = tl.program_id(0).to(tl.int64)
    k = _term_of(program, constants, TERMS)
    n = select(constants, k, N, FIELDS, TERMS)
    dtype = select(constants, k, DTYPE, FIELDS, TERMS)
    phi_code = select(constants, k, PHI_CODE, FIELDS, TERMS)
    mean_operand = select(constants, k, MEAN_OPERAND, FIELDS, TERMS)
    address_y = select(addresses, k, Y, ADDRESSES, TERMS)
    start = (program - select(constants, k, FIRST_PROGRAM, FIELDS, TERMS)) * BLOCK
    left = tl.minimum(n - start, BLOCK).to(tl.int32)
    at = tl.arange(0, BLOCK)
    x = read(select(addresses, k, X, ADDRESSES, TERMS), start, at, left, dtype, DTYPES, ALIGNED)
    y = x
    mean = tl.zeros((), tl.float64)
    if PAIRED:
        if address_y != 0:
            y = read(address_y, start, at, left, dtype, DTYPES, ALIGNED)
    if SUBTRACTS_MEAN:
        if mean_operand >= 0:
            mean = _mean_at(memory[MEANS], mean_operand)
    weight = select(constants, k, WEIGHT, FIELDS, TERMS)
    member = select(constants, k, MEMBER, FIELDS, TERMS)
    coefficient = _coefficient(weight, member, n, memory, WEIGHTED, MEAN_OF)
    scale = double(select(constants, k, SCALE, FIELDS, TERMS))
    shift = double(select(constants, k, SHIFT, FIELDS, TERMS))
    linear = double(select(constants, k, LINEAR, FIELDS, TERMS))
    factor = x
    label = x
    if MASKED:
        factor, label = _per_element(addresses, k, start, at, left, TERMS, DTYPES, ALIGNED)
    if PASS == FORWARD or DTYPES < 4:
        _write_plainly(
            x, y, mean, phi_code, scale, shift, linear, coefficient, factor, label, k, start, at, left, dtype,
            addresses, constants, memory, TERMS, PHI_CODES, DTYPES, ALIGNED, PASS, PAIRED, SUBTRACTS_MEAN,
            ELEMENTWISE, MASKED,
        )  # fmt: skip
    elif DTYPES % 4 == 0:
        _write_finely(
            x, y, mean, phi_code, scale, shift, linear, coefficient, factor, label, k, start, at, left, dtype,
            addresses, constants, memory, TERMS, PHI_CODES, DTYPES, ALIGNED, PASS, PAIRED, SUBTRACTS_MEAN,
            ELEMENTWISE, MASKED,
        )  # fmt: skip
    elif dtype >= FLOAT16:
        _write_finely(
            x, y, mean, phi_code, scale, shift, linear, coefficient, factor, label, k, start, at, left, dtype,
            addresses, constants, memory, TERMS, PHI_CODES, DTYPES, ALIGNED, PASS, PAIRED, SUBTRACTS_MEAN,
            ELEMENTWISE, MASKED,
        )  # fmt: skip
    else:
        _write_plainly(
            x, y, mean, phi_code, scale, shift, linear, coefficient, factor, label, k, start, at, left, dtype,
            addresses, constants, memory, TERMS, PHI_CODES, DTYPES, ALIGNED, PASS, PAIRED, SUBTRACTS_MEAN,
            ELEMENTWISE, MASKED,
        )  # fmt: skip
