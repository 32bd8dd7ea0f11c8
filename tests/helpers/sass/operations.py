"""What each instruction does to a thread: `OPERATIONS` by its name. An operation may return where to go on."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

from . import numbers
from .code import ZERO, Instruction, Operand
from .numbers import ALL, LOW, signed

if TYPE_CHECKING:
    from .thread import Thread

SHARED_WINDOW = 0x5555 << 32
LOCAL_WINDOW = 0x6666 << 32
EXIT = -1


class UnknownInstructionError(NotImplementedError):
    """An instruction, or a form of one, that the interpreter does not know."""


Operation = Callable[["Thread", Instruction], "int | None"]
OPERATIONS: dict[str, Operation] = {}


def operation(*names: str) -> Callable[[Operation], Operation]:
    """Make a function what these instructions do."""

    def put(function: Operation) -> Operation:
        OPERATIONS.update(dict.fromkeys(names, function))
        return function

    return put


def expect(i: Instruction, *modifiers: str) -> None:
    """Refuse an instruction with modifiers other than these."""
    if unknown := set(i.modifiers) - set(modifiers):
        raise UnknownInstructionError(f"{'.'.join(sorted(unknown))} in {i.text}")


def is_predicate(operand: Operand) -> bool:
    """Whether it is one; a register that is PR, all of them, is not."""
    return operand.kind in ("P", "UP")


def parted(i: Instruction) -> tuple[list[Operand], list[Operand], list[Operand]]:
    """The predicates in front of or behind the result, the other operands, and the predicates at the end."""
    operands = list(i.operands)
    first = [o for o in operands[:1] if is_predicate(o)]
    rest = operands[len(first) :]
    result, rest = rest[:1], rest[1:]
    while rest and is_predicate(rest[0]):
        first.append(rest.pop(0))
    last: list[Operand] = []
    while rest and is_predicate(rest[-1]):
        last.insert(0, rest.pop())
    return first, result + rest, last


# ---------------------------------------------------------------------------------- control


@operation(
    *[
        "BSSY",
        "BSYNC",
        "BREAK",
        "BMOV",
        "NOP",
        "WARPSYNC",
        "YIELD",
        "NANOSLEEP",
        "MEMBAR",
        "ERRBAR",
        "CGAERRBAR",
        "CCTL",
        "DEPBAR",
        "LDGDEPBAR",
        "FENCE",
        "PREEXIT",
        "ACQBULK",
        "PMTRIG",
        "CCTLL",
    ]
)
def nothing(thread: Thread, i: Instruction) -> None:
    """What only concerns other threads, or caches; WARPSYNC.COLLECTIVE belongs to diverged warps alone."""
    if "COLLECTIVE" in i.modifiers:
        raise UnknownInstructionError(i.text)


@operation("BRA", "JMP")
def branch(thread: Thread, i: Instruction) -> int | None:
    if "DIV" in i.modifiers:  # for a warp that has diverged
        return None
    *conditions, target = i.operands
    return target.value if all(thread.predicate(c) for c in conditions) else None


@operation("BRX")
def branch_indirectly(thread: Thread, i: Instruction) -> int:
    register, offset = i.operands
    return (i.address + 16 + thread.bits(register) + offset.value) & LOW


@operation("CALL")
def call(thread: Thread, i: Instruction) -> int:
    return i.operands[-1].value


@operation("RET")
def ret(thread: Thread, i: Instruction) -> int:
    return thread.bits(i.operands[0])


@operation("EXIT")
def leave(thread: Thread, i: Instruction) -> int:
    return EXIT


@operation("BAR")
def barrier(thread: Thread, i: Instruction) -> None:
    if "RED" in i.modifiers:
        thread.agreed = thread.predicate(i.operands[-1])


@operation("B2R")
def barrier_result(thread: Thread, i: Instruction) -> None:
    expect(i, "RESULT")
    thread.write(i.operands[0], numbers.LOW if thread.agreed else 0)
    for flag in i.operands[1:]:
        thread.write_predicate(flag, thread.agreed)


# ---------------------------------------------------------------------------------- registers


@operation("MOV", "UMOV", "R2UR", "UR2R", "S2R", "S2UR", "CS2R")
def move(thread: Thread, i: Instruction) -> None:
    result, source = [o for o in i.operands if not is_predicate(o)][:2]
    if source.kind == "name":
        if source.text not in thread.special:
            raise UnknownInstructionError(i.text)
        value = thread.special[source.text]
    else:
        value = thread.integer(source)
    thread.write(result, value, 2 if i.name == "CS2R" and "32" not in i.modifiers else 1)


@operation("SEL", "USEL")
def select(thread: Thread, i: Instruction) -> None:
    result, a, b, which = i.operands
    thread.write(result, thread.integer(a if thread.predicate(which) else b))


@operation("P2R", "UP2UR")
def predicates_to_register(thread: Thread, i: Instruction) -> None:
    result, _, other, mask = i.operands
    chosen = thread.integer(mask)
    packed = sum(p << k for k, p in enumerate(thread.predicates["P" if i.name == "P2R" else "UP"][:7]))
    if i.modifiers:
        raise UnknownInstructionError(i.text)
    thread.write(result, packed & chosen | thread.integer(other) & ~chosen)


@operation("R2P")
def register_to_predicates(thread: Thread, i: Instruction) -> None:
    _, source, mask = i.operands
    shift = 8 * int(source.part[1]) if source.part.startswith("B") else 0
    for k in range(7):
        if thread.integer(mask) >> k & 1:
            thread.predicates["P"][k] = bool(thread.bits(source) >> shift >> k & 1)


@operation("PRMT", "UPRMT")
def permute(thread: Thread, i: Instruction) -> None:
    expect(i)
    result, a, selector, b = i.operands
    both, chosen, value = thread.integer(a) | thread.integer(b) << 32, thread.integer(selector), 0
    for k in range(4):
        code = chosen >> 4 * k & 15
        byte = both >> 8 * (code & 7) & 255
        if code & 8:
            byte = 255 if byte & 128 else 0
        value |= byte << 8 * k
    thread.write(result, value)


# ---------------------------------------------------------------------------------- integers


def addends(thread: Thread, operands: list[Operand], extended: bool) -> list[int]:
    """Operands to add; -x is ~x + 1, where a carry comes in ~x alone."""
    values = []
    for o in operands:
        value = thread.bits(o)
        if o.kind != "number" and (o.minus or o.inverted):
            value = (~value & LOW) + (o.minus and not extended)
        values.append(value)
    return values


@operation("IADD3", "UIADD3", "VIADD", "IADD", "UIADD", "VIADD3")
def add(thread: Thread, i: Instruction) -> None:
    expect(i, "X")
    carries, (result, *operands), carries_in = parted(i)
    total = sum(addends(thread, operands, "X" in i.modifiers)) + sum(map(thread.predicate, carries_in))
    thread.write(result, total)
    for k, flag in enumerate(carries):
        thread.write_predicate(flag, total >> 32 > k)


@operation("IMAD", "UIMAD")
def multiply_add(thread: Thread, i: Instruction) -> None:
    expect(i, "WIDE", "HI", "X", "U32", "MOV", "IADD", "SHL")
    carries, (result, a, b, c), carries_in = parted(i)
    wide = "WIDE" in i.modifiers or "HI" in i.modifiers
    unsigned = "U32" in i.modifiers or not wide
    factors = [thread.integer(o) if unsigned else signed(thread.integer(o)) for o in (a, b)]
    addend = thread.integer(c, 8 if wide else 4)
    if "X" in i.modifiers and (c.minus or c.inverted) and c.kind != "number":
        addend = ~thread.bits(c, 8 if wide else 4) & (ALL if wide else LOW)
    total = factors[0] * factors[1] + addend + sum(map(thread.predicate, carries_in))
    thread.write(result, total >> 32 if "HI" in i.modifiers else total, 2 if "WIDE" in i.modifiers else 1)
    for flag in carries:
        thread.write_predicate(flag, total >> (64 if wide else 32) & 1)


@operation("LEA", "ULEA")
def scaled_add(thread: Thread, i: Instruction) -> None:
    expect(i, "HI", "X", "SX32")
    carries, (result, a, b, *rest), carries_in = parted(i)
    shift, value = thread.integer(rest[-1]), thread.integer(a)
    if "SX32" in i.modifiers:
        value = signed(value) & ALL
    elif "HI" in i.modifiers:
        value |= thread.integer(rest[0]) << 32
    shifted = value << shift >> (32 if "HI" in i.modifiers else 0) & LOW
    total = shifted + addends(thread, [b], "X" in i.modifiers)[0] + sum(map(thread.predicate, carries_in))
    thread.write(result, total)
    for flag in carries:
        thread.write_predicate(flag, total >> 32)


@operation("LOP3", "ULOP3", "LOP", "ULOP")
def logic(thread: Thread, i: Instruction) -> None:
    expect(i, "LUT")
    flags, (result, a, b, c, table), _ = parted(i)
    value = look_up(table.value, thread.integer(a), thread.integer(b), thread.integer(c)) & LOW
    thread.write(result, value)
    for flag in flags:
        thread.write_predicate(flag, value != 0)


def look_up(table: int, a: int, b: int, c: int) -> int:
    """A function of three bits, of each bit."""
    value = 0
    for k in range(8):
        if table >> k & 1:
            value |= (a if k & 4 else ~a) & (b if k & 2 else ~b) & (c if k & 1 else ~c)
    return value


@operation("PLOP3", "UPLOP3")
def predicate_logic(thread: Thread, i: Instruction) -> None:
    expect(i, "LUT")
    *results, a, b, c, first, second = i.operands
    inputs = [int(thread.predicate(o)) for o in (a, b, c)]
    for flag, table in zip(results, (first, second), strict=False):
        thread.write_predicate(flag, look_up(int(table.value), *inputs) & 1)


@operation("SHF", "USHF")
def shift(thread: Thread, i: Instruction) -> None:
    expect(i, "L", "R", "U32", "S32", "U64", "S64", "HI", "W")
    result, low, count, high = i.operands
    both, n = thread.integer(low) | thread.integer(high) << 32, thread.integer(count)
    most = 63 if {"U64", "S64"} & set(i.modifiers) else 32
    n = n & (most if most == 63 else 31) if "W" in i.modifiers else min(n, most)
    if "L" in i.modifiers:
        both = both << n & ALL
    elif {"S32", "S64"} & set(i.modifiers):
        both = signed(both, 64) >> n & ALL
    else:
        both >>= n
    thread.write(result, both >> 32 if "HI" in i.modifiers else both)


@operation("SGXT", "USGXT")
def extend_sign(thread: Thread, i: Instruction) -> None:
    expect(i, "U32")
    result, source, width = i.operands
    n = min(thread.integer(width), 32)
    value = thread.integer(source) & ((1 << n) - 1)
    thread.write(result, value if "U32" in i.modifiers or n == 0 else signed(value, n) & LOW)


@operation("BMSK", "UBMSK")
def bit_mask(thread: Thread, i: Instruction) -> None:
    expect(i)
    result, first, width = i.operands
    thread.write(result, ((1 << min(thread.integer(width), 32)) - 1) << min(thread.integer(first), 32))


@operation("POPC", "UPOPC")
def count_ones(thread: Thread, i: Instruction) -> None:
    expect(i)
    thread.write(i.operands[0], bin(thread.integer(i.operands[-1])).count("1"))


@operation("FLO", "UFLO")
def leading_one(thread: Thread, i: Instruction) -> None:
    expect(i, "U32", "SH")
    result, source = i.operands[0], i.operands[-1]
    value = thread.integer(source)
    if "U32" not in i.modifiers and value >> 31:
        value = ~value & LOW
    found = value.bit_length() - 1
    thread.write(result, LOW if found < 0 else 31 - found if "SH" in i.modifiers else found)


@operation("BREV", "UBREV")
def reverse_bits(thread: Thread, i: Instruction) -> None:
    expect(i)
    thread.write(i.operands[0], int(f"{thread.integer(i.operands[1]):032b}"[::-1], 2))


@operation("IABS")
def absolute(thread: Thread, i: Instruction) -> None:
    thread.write(i.operands[0], abs(signed(thread.integer(i.operands[1]))))


@operation("VIMNMX", "IMNMX", "UIMNMX", "VIADDMNMX", "UVIMNMX")
def extreme(thread: Thread, i: Instruction) -> None:
    expect(i, "U32", "S32")
    result, *operands, least = [o for o in i.operands if not (is_predicate(o) and o is not i.operands[-1])]
    values = [thread.integer(o) for o in operands]
    if i.name == "VIADDMNMX":
        values = [(values[0] + values[1]) & LOW, values[2]]
    order = (lambda v: v) if "U32" in i.modifiers else signed
    thread.write(result, (min if thread.predicate(least) else max)(values, key=order))


COMPARE = {
    "LT": operator.lt, "LE": operator.le, "GT": operator.gt, "GE": operator.ge, "EQ": operator.eq, "NE": operator.ne,
}  # fmt: skip
COMBINE = {"AND": operator.and_, "OR": operator.or_, "XOR": operator.xor}


def write_comparison(thread: Thread, i: Instruction, found: bool, other: Operand) -> None:
    """Set two predicates: what was found and its contrary, each combined with another predicate."""
    combine = next(COMBINE[m] for m in i.modifiers if m in COMBINE)
    given = thread.predicate(other)
    first, second = i.operands[:2]
    thread.write_predicate(first, combine(bool(found), given))
    thread.write_predicate(second, combine(not found, given))


@operation("ISETP", "UISETP")
def compare_integers(thread: Thread, i: Instruction) -> None:
    expect(i, *COMPARE, *COMBINE, "U32", "EX")
    _, _, left, right, other, *below = i.operands
    a, b = thread.integer(left), thread.integer(right)
    if "U32" not in i.modifiers:
        a, b = signed(a), signed(b)
    equal = "EX" in i.modifiers and a == b  # then the halves below decide
    found = thread.predicate(below[0]) if equal else COMPARE[i.modifiers[0]](a, b)
    write_comparison(thread, i, found, other)


# ---------------------------------------------------------------------------------- floating point


def compare_floats(name: str, a: float, b: float) -> bool:
    """An ordered comparison, or one that NaN fulfils (with a U at its end)."""
    unordered = math.isnan(a) or math.isnan(b)
    if name in ("NAN", "NUM"):
        return unordered == (name == "NAN")
    if unordered:
        return len(name) == 3
    return COMPARE[name[:2]](a, b)


@operation("FSETP", "DSETP")
def compare(thread: Thread, i: Instruction) -> None:
    expect(i, *COMPARE, *(f"{c}U" for c in COMPARE), "NAN", "NUM", *COMBINE, "FTZ")
    read = thread.single if i.name == "FSETP" else thread.double
    a, b = (read(o) for o in i.operands[2:4])
    if "FTZ" in i.modifiers:
        a, b = numbers.flushed(a), numbers.flushed(b)
    write_comparison(thread, i, compare_floats(i.modifiers[0], a, b), i.operands[4])


@operation("FSEL")
def select_float(thread: Thread, i: Instruction) -> None:
    result, a, b, which = i.operands
    thread.write(result, thread.float_bits(a if thread.predicate(which) else b))


@operation("FMNMX")
def extreme_float(thread: Thread, i: Instruction) -> None:
    expect(i, "NAN", "FTZ")
    result, *operands, least = [o for o in i.operands if not (is_predicate(o) and o is not i.operands[-1])]
    values = [thread.single(o) for o in operands]
    if "FTZ" in i.modifiers:
        values = [numbers.flushed(v) for v in values]
    kept = [v for v in values if not math.isnan(v)]
    if not kept or ("NAN" in i.modifiers and len(kept) < len(values)):
        return thread.write(result, numbers.bits32(math.nan))
    choose = min if thread.predicate(least) else max
    return thread.write(result, numbers.bits32(choose(kept, key=lambda v: (v, math.copysign(1, v)))))


ROUNDINGS = ("RP", "RM", "RZ")


def arithmetic(name: str, values: list[float], double: bool, mode: str | None) -> float:
    """A sum, product or fused multiply-add, of finite numbers in any rounding."""
    if mode and all(map(math.isfinite, values)):
        a, b, *c = map(Fraction, values)
        exact = a + b if name == "ADD" else a * b + (c[0] if c else 0)
        if exact:
            return numbers.directed(exact, mode, double)
    if name == "ADD":
        return values[0] + values[1]
    if name == "MUL":
        return values[0] * values[1]
    return (numbers.fma if double else numbers.fmaf)(*values)


@operation("FADD", "FMUL", "FFMA")
def float32_arithmetic(thread: Thread, i: Instruction) -> None:
    expect(i, "FTZ", *ROUNDINGS)
    values = [thread.single(o) for o in i.operands[1:]]
    flush = "FTZ" in i.modifiers
    if flush:
        values = [numbers.flushed(v) for v in values]
    mode = next((m for m in i.modifiers if m in ROUNDINGS), None)
    # In float64 one addition or multiplication of two float32 is exact enough to be rounded a second time.
    value = numbers.float32(numbers.bits32(arithmetic(i.name[1:], values, False, mode)))
    thread.write(i.operands[0], numbers.bits32(numbers.flushed(value) if flush else value))


@operation("DADD", "DMUL", "DFMA")
def float64_arithmetic(thread: Thread, i: Instruction) -> None:
    expect(i, *ROUNDINGS)
    mode = i.modifiers[0] if i.modifiers else None
    value = arithmetic(i.name[1:], [thread.double(o) for o in i.operands[1:]], True, mode)
    thread.write(i.operands[0], numbers.bits64(value), 2)


def reciprocal(x: float) -> float:
    """1 / x, of zero too."""
    return 1 / x if x else math.copysign(math.inf, x)


def reciprocal_root(x: float) -> float:
    """1 / sqrt(x), of zero and of negative numbers too."""
    if x == 0:
        return math.copysign(math.inf, x)
    return math.nan if x < 0 or math.isnan(x) else 1 / math.sqrt(x)


SPECIAL = {
    "RCP": reciprocal, "RSQ": reciprocal_root, "EX2": lambda x: math.inf if x >= 1024 else 2.0**x,
    "LG2": lambda x: math.log2(x) if x > 0 else -math.inf if x == 0 else math.nan,
    "SQRT": lambda x: math.sqrt(x) if x >= 0 else math.nan,
}  # fmt: skip


@operation("MUFU")
def special(thread: Thread, i: Instruction) -> None:
    """The nearest number, from which a GPU's own approximation may differ in the last bit."""
    expect(i, *SPECIAL, "RCP64H", "RSQ64H")
    result, source = i.operands
    if i.modifiers[0].endswith("64H"):  # upper halves
        x = numbers.float64(thread.float_bits(source) << 32)
        return thread.write(result, numbers.bits64(SPECIAL[i.modifiers[0][:3]](x)) >> 32)
    return thread.write(result, numbers.bits32(SPECIAL[i.modifiers[0]](thread.single(source))))


@operation("FCHK")
def check_division(thread: Thread, i: Instruction) -> None:
    """Whether a / b needs more care than the usual way takes."""
    flag, a, b = i.operands[0], thread.single(i.operands[1]), thread.single(i.operands[2])
    usual = all(math.isfinite(v) and abs(v) >= 2.0**-100 for v in (a, b)) and 2.0**-120 < abs(a / b) < 2.0**120
    thread.write_predicate(flag, not usual and not (a == 0 and usual))


# ---------------------------------------------------------------------------------- halves


def halves(thread: Thread, operand: Operand, brain: bool) -> list[float]:
    """The low and the high half of an operand."""
    read = numbers.bfloat16 if brain else numbers.float16
    if operand.kind == "number" and isinstance(operand.value, float):
        return [operand.value] * 2
    bits = thread.bits(operand)
    if operand.part == "F32":
        return [thread.single(operand)] * 2
    both = {"": (0, 16), "H1_H0": (0, 16), "H0_H0": (0, 0), "H1_H1": (16, 16)}[operand.part]
    values = [read(bits >> at) for at in both]
    values = [abs(v) for v in values] if operand.absolute else values
    return [-v for v in values] if operand.minus else values


@operation("HADD2", "HMUL2", "HFMA2")
def half_arithmetic(thread: Thread, i: Instruction) -> None:
    expect(i, "F32", "MMA", "BF16", "BF16_V2")
    brain = any(m.startswith("BF16") for m in i.modifiers)
    operands = [o for o in i.operands[1:] if not is_predicate(o)]
    count = {"HADD2": 2, "HMUL2": 2, "HFMA2": 3}[i.name]
    values = [halves(thread, o, brain) for o in operands[:count]]
    if len(operands) == count + 1:  # the last is two numbers, the high half first
        values[-1] = [operands[-1].value, operands[-2].value]
    name = {"HADD2": "ADD", "HMUL2": "MUL", "HFMA2": "FMA"}[i.name]
    results = [arithmetic(name, [v[k] for v in values], True, None) for k in (0, 1)]
    if "F32" in i.modifiers:
        return thread.write(i.operands[0], numbers.bits32(results[0]))
    narrow = numbers.bits_bfloat16 if brain else numbers.bits16
    return thread.write(i.operands[0], narrow(results[0]) | narrow(results[1]) << 16)


@operation("F2FP")
def pack_halves(thread: Thread, i: Instruction) -> None:
    expect(i, "BF16", "F16", "F32", "PACK_AB")
    result, high, low = i.operands
    narrow = numbers.bits_bfloat16 if "BF16" in i.modifiers else numbers.bits16
    thread.write(result, narrow(thread.single(high)) << 16 | narrow(thread.single(low)))


# ---------------------------------------------------------------------------------- conversions


@operation("F2F")
def convert_float(thread: Thread, i: Instruction) -> None:
    expect(i, "F64", "F32", "F16", "BF16")
    to, source = i.modifiers
    result, operand = i.operands
    if source in ("F16", "BF16"):
        value = halves(thread, operand, source == "BF16")[1 if operand.part == "H1_H1" else 0]
    else:
        value = thread.double(operand) if source == "F64" else thread.single(operand)
    if to == "F64":
        return thread.write(result, numbers.bits64(value), 2)
    narrow = {"F32": numbers.bits32, "F16": numbers.bits16, "BF16": numbers.bits_bfloat16}[to]
    return thread.write(result, narrow(value))


WIDTHS = {"8": 8, "16": 16, "32": 32, "64": 64}


@operation("I2F", "I2FP")
def from_integer(thread: Thread, i: Instruction) -> None:
    expect(i, "F64", "F32", "F16", *(f"{s}{w}" for s in "US" for w in WIDTHS), *ROUNDINGS)
    result, source = i.operands
    kind = next((m for m in i.modifiers if m[0] in "US" and m[1:] in WIDTHS), "S32")
    width = WIDTHS[kind[1:]]
    shift = 8 * int(source.part[1]) if source.part[:1] == "B" else 16 if source.part in ("H1", "H1_H1") else 0
    bits = thread.integer(source, 8 if width == 64 else 4) >> shift & ((1 << width) - 1)
    value = bits if kind[0] == "U" else signed(bits, width)
    mode = next((m for m in i.modifiers if m in ROUNDINGS), None)
    if "F64" in i.modifiers:
        return thread.write(result, numbers.bits64(float(value)), 2)
    if "F16" in i.modifiers:
        return thread.write(result, numbers.bits16(float(value)))
    rounded = numbers.directed(Fraction(value), mode, False) if mode and value else float(value)
    return thread.write(result, numbers.bits32(rounded))


@operation("F2I")
def to_integer(thread: Thread, i: Instruction) -> None:
    expect(i, "FTZ", "U32", "S32", "U64", "S64", "F64", "F32", "TRUNC", "FLOOR", "CEIL", "NTZ")
    result, source = i.operands
    kind = next((m for m in i.modifiers if m[1:] in ("32", "64") and m[0] in "US"), "S32")
    width, value = int(kind[1:]), thread.double(source) if "F64" in i.modifiers else thread.single(source)
    low, high = (0, (1 << width) - 1) if kind[0] == "U" else (-(1 << width - 1), (1 << width - 1) - 1)
    if math.isnan(value):
        whole = 1 << 63 if width == 64 else 0
    elif math.isinf(value):
        whole = high if value > 0 else low
    else:
        whole = max(low, min(high, rounding(i)(value)))
    thread.write(result, whole, width // 32)


def rounding(i: Instruction) -> Callable[[float], int]:
    """To a whole number, as an instruction says."""
    names = {"TRUNC": math.trunc, "FLOOR": math.floor, "CEIL": math.ceil}
    return next((names[m] for m in i.modifiers if m in names), round)


@operation("FRND")
def round_float(thread: Thread, i: Instruction) -> None:
    expect(i, "F64", "TRUNC", "FLOOR", "CEIL")
    double = "F64" in i.modifiers
    value = thread.double(i.operands[1]) if double else thread.single(i.operands[1])
    if math.isfinite(value):
        value = math.copysign(float(rounding(i)(value)), value)
    thread.write(i.operands[0], numbers.bits64(value) if double else numbers.bits32(value), 2 if double else 1)


# ---------------------------------------------------------------------------------- memory

SIZES = {"128": 16, "64": 8, "32": 4, "U16": 2, "S16": 2, "16": 2, "U8": 1, "S8": 1, "8": 1}
WINDOWS = {
    "LDS": SHARED_WINDOW,
    "STS": SHARED_WINDOW,
    "ATOMS": SHARED_WINDOW,
    "LDL": LOCAL_WINDOW,
    "STL": LOCAL_WINDOW,
}


def size_of(i: Instruction) -> int:
    """How many bytes an instruction moves."""
    return next((SIZES[m] for m in i.modifiers if m in SIZES), 4)


def place(thread: Thread, i: Instruction, operand: Operand) -> int:
    """An address in the one space that all memory has here."""
    address = thread.address(operand)
    return WINDOWS[i.name] | address & LOW if i.name in WINDOWS else address


def widened(value: int, i: Instruction) -> int:
    """With its sign, where the instruction says so."""
    narrow = next((int(m[1:]) for m in i.modifiers if m in ("S8", "S16")), 0)
    return signed(value, narrow) & LOW if narrow else value


@operation("LDC", "ULDC", "LDCU")
def load_constant(thread: Thread, i: Instruction) -> None:
    expect(i, *SIZES)
    result, source = i.operands
    size = size_of(i)
    thread.write(result, widened(thread.constant(source, size), i), max(1, size // 4))


@operation("LDG", "LD", "LDS", "LDL")
def load(thread: Thread, i: Instruction) -> None:
    operands = [o for o in i.operands if not is_predicate(o)]
    result, source = operands[0], next(o for o in operands if o.kind == "memory")
    size = size_of(i)
    thread.write(result, widened(thread.load(place(thread, i, source), size), i), max(1, size // 4))


@operation("STG", "ST", "STS", "STL")
def store(thread: Thread, i: Instruction) -> None:
    target, source = i.operands
    size = size_of(i)
    value = thread.integer(source)
    if size > 4 and source.index != ZERO:
        file = thread.registers[source.kind]
        value = sum(file[source.index + k] << 32 * k for k in range(size // 4))
    thread.store(place(thread, i, target), value, size)


@operation("LDGSTS")
def copy_to_shared(thread: Thread, i: Instruction) -> None:
    target, source = [o for o in i.operands if o.kind == "memory"]
    given = [o for o in i.operands if is_predicate(o)]
    there = all(map(thread.predicate, given))
    size = size_of(i)
    value = thread.load(thread.address(source), size) if there else 0
    thread.store(SHARED_WINDOW | thread.address(target) & LOW, value, size)


ATOMICS: dict[str, Callable[[int, int], int]] = {
    "ADD": lambda old, new: old + new, "EXCH": lambda old, new: new, "MIN": min, "MAX": max,
    "AND": operator.and_, "OR": operator.or_, "XOR": operator.xor, "INC": lambda old, new: 0 if old >= new else old + 1,
}  # fmt: skip


@operation("ATOM", "ATOMG", "ATOMS", "RED", "REDG")
def atomic(thread: Thread, i: Instruction) -> None:
    """Unsigned integers only; what nothing has written is 0."""
    if set(i.modifiers) & {"F32", "F64", "F16x2", "S32", "S64"}:
        raise UnknownInstructionError(i.text)
    operands = [o for o in i.operands if not is_predicate(o)]
    at = next(k for k, o in enumerate(operands) if o.kind == "memory")
    size = 8 if "64" in i.modifiers else 4
    address, given = place(thread, i, operands[at]), [thread.integer(o, size) for o in operands[at + 1 :]]
    old = thread.load(address, size) if address >> 2 in thread.memory else 0
    if "CAS" in i.modifiers:
        new = given[1] if old == given[0] else old
    else:
        new = next(f for name, f in ATOMICS.items() if name in i.modifiers)(old, given[0])
    thread.store(address, new & ((1 << 8 * size) - 1), size)
    for result in operands[:at]:
        thread.write(result, old, size // 4)


# ---------------------------------------------------------------------------------- a warp's other lanes


@operation("SHFL")
def shuffle(thread: Thread, i: Instruction) -> None:
    flags, (result, source, *_), _ = parted(i)
    thread.write(result, thread.integer(source))
    for flag in flags:
        thread.write_predicate(flag, True)


@operation("VOTE", "VOTEU")
def vote(thread: Thread, i: Instruction) -> None:
    expect(i, "ANY", "ALL", "EQ")
    *results, source = i.operands
    agreed = thread.predicate(source)
    for result in results:
        if is_predicate(result):
            thread.write_predicate(result, agreed or "EQ" in i.modifiers)
        else:
            thread.write(result, LOW if agreed else 0)


@operation("REDUX")
def reduce(thread: Thread, i: Instruction) -> None:
    expect(i, "SUM", "MIN", "MAX", "AND", "OR", "XOR", "S32", "U32")
    result, source = i.operands
    value = thread.integer(source)
    thread.write(result, 32 * value if "SUM" in i.modifiers else 0 if "XOR" in i.modifiers else value)


@operation("ELECT")
def elect(thread: Thread, i: Instruction) -> None:
    for operand in i.operands[:-1] if len(i.operands) > 1 else i.operands:
        if is_predicate(operand):
            thread.write_predicate(operand, thread.special["SR_LANEID"] == 0)
        else:
            thread.write(operand, 0)
