"""One thread of a kernel, interpreted: what it executes is counted, what it writes can be read.

Its warp's other lanes are taken to hold what this one holds: a shuffle gives its own value, a vote is unanimous. Memory
that it has not written holds a pattern, such as 1.0 in the tensors' dtype; atomics find 0 there. Barriers do nothing.
"""

from __future__ import annotations

import functools
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from . import numbers
from .code import TRUE, ZERO, Instruction, Kernel, Operand
from .operations import EXIT, OPERATIONS, SHARED_WINDOW, Operation, UnknownInstructionError

CONSTANT_WINDOW = 0x7777 << 32


class Layout(NamedTuple):
    """Where an architecture has things in constant bank 0.

    Attributes:
        block, grid: the launch's shape.
        constant_window: the generic address of the bank or, if `of_parameters`, of the parameters in it.
        shared_window: that of shared memory, where it is not in a special register.
    """

    block: int = 0x0
    grid: int = 0xC
    constant_window: int = 0x198
    of_parameters: bool = True
    shared_window: int | None = None


LAYOUTS = {
    "sm_8": Layout(constant_window=0x40, of_parameters=False, shared_window=0x18),
    "sm_9": Layout(),
}

CLASSES = {
    "control": "BRA BRX BSSY BSYNC BREAK BMOV CALL RET EXIT WARPSYNC ENDCOLLECTIVE NOP YIELD NANOSLEEP",
    "synchronization": "BAR MEMBAR ERRBAR CGAERRBAR CCTL DEPBAR LDGDEPBAR FENCE B2R",
    "local": "LDL STL",
    "memory": "LDG LD LDC LDS ST STG STS ULDC LDCU LDGSTS ATOM ATOMG ATOMS RED REDG",
    "exchange": "SHFL VOTE VOTEU REDUX MATCH ELECT",
    "float64": "DADD DMUL DFMA DSETP DMNMX",
    "float32": "FADD FMUL FFMA FSETP FSEL FMNMX FCHK FSET FSWZADD",
    "special": "MUFU",
    "convert": "F2F F2I I2F I2FP F2FP FRND",
    "half": "HADD2 HMUL2 HFMA2 HSETP2 HMNMX2",
}
CLASS_OF = {name: kind for kind, names in CLASSES.items() for name in names.split()}


def class_of(instruction: Instruction) -> str:
    """What an instruction is counted as."""
    kind = CLASS_OF.get(instruction.name, "integer")
    if kind == "convert" and "F64" in instruction.modifiers:
        return "convert64"
    if instruction.name == "HFMA2" and [o.text for o in instruction.operands[1:3]] == ["-RZ", "RZ"]:
        return "integer"  # it puts a constant into a register
    return kind


@functools.cache
def prepared(kernel: Kernel) -> list[tuple[Instruction, str, Operation | None]]:
    """Each instruction with its class and with what it does, if that is known."""
    return [(i, class_of(i), OPERATIONS.get(i.name)) for i in kernel.instructions]


@dataclass
class Counts:
    """What a thread has been through.

    Attributes:
        issued: instructions by their class, those that a predicate switched off among them.
        executed: those that were not switched off.
        branches: jumps that were taken.
    """

    issued: Counter = field(default_factory=Counter)
    executed: Counter = field(default_factory=Counter)
    branches: int = 0

    def __sub__(self, other: Counts) -> Counts:
        def minus(a: Counter, b: Counter) -> Counter:
            return Counter({k: a[k] - b[k] for k in a | b})

        return Counts(
            minus(self.issued, other.issued), minus(self.executed, other.executed), self.branches - other.branches
        )


class Thread:
    """A thread of a launch, before or after it has run.

    Args:
        kernel: its machine code.
        parameters: the bytes of the kernel's parameters.
        grid, threads: of the launch; one dimension each.
        block, number: which thread of it.
        fill: what memory holds that nothing has written: 4 or 8 bytes, over and over.
    """

    def __init__(
        self,
        kernel: Kernel,
        parameters: bytes,
        *,
        grid: int,
        threads: int,
        block: int = 0,
        number: int = 0,
        fill: bytes = struct.pack("<f", 1.0),
    ) -> None:
        self.kernel = kernel
        self.registers = {"R": [0] * 256, "UR": [0] * 256}
        self.predicates = {"P": [False] * 7 + [True], "UP": [False] * 7 + [True]}
        if kernel.arch[:4] not in LAYOUTS:
            raise UnknownInstructionError(f"{kernel.name}: code for {kernel.arch}")
        self.banks = {bank: bytes(content) for bank, content in kernel.constants.items()}
        self.banks[0] = self.first_bank(parameters, grid, threads)
        self.special = {"SR_TID.X": number, "SR_CTAID.X": block, "SR_LANEID": number % 32, "SRZ": 0}
        self.special |= dict.fromkeys(("SR_TID.Y", "SR_TID.Z", "SR_CTAID.Y", "SR_CTAID.Z", "SR_CgaCtaId"), 0)
        self.special |= {
            "SR_SWINHI": SHARED_WINDOW >> 32,
            "SR_NTID.X": threads,
            "SR_LTMASK": (1 << number % 32) - 1,
        }
        self.fill = [int.from_bytes((fill * 2)[k : k + 4], "little") for k in (0, 4)]
        self.memory: dict[int, int] = {}  # words of 4 bytes, by their address / 4
        self.counts = Counts()
        self.agreed = False  # what the last BAR.RED found

    def first_bank(self, parameters: bytes, grid: int, threads: int) -> bytes:
        """Constant bank 0: the launch's shape, windows and parameters."""
        at = LAYOUTS[self.kernel.arch[:4]]
        bank = bytearray(self.kernel.parameters) + parameters + bytes(256)
        struct.pack_into("<III", bank, at.block, threads, 1, 1)
        struct.pack_into("<III", bank, at.grid, grid, 1, 1)
        window = CONSTANT_WINDOW + (self.kernel.parameters if at.of_parameters else 0)
        struct.pack_into("<Q", bank, at.constant_window, window)
        if at.shared_window is not None:
            struct.pack_into("<Q", bank, at.shared_window, SHARED_WINDOW)
        return bytes(bank)

    def run(self, limit: int = 2_000_000) -> Thread:
        """Until the thread ends; an error where it executes more than `limit` instructions."""
        code, counts, at = prepared(self.kernel), self.counts, 0
        for _ in range(limit):
            instruction, kind, operation = code[at]
            counts.issued[kind] += 1
            at += 1
            if instruction.guard is not None and not self.predicate(instruction.guard):
                continue
            counts.executed[kind] += 1
            if operation is None:
                raise UnknownInstructionError(f"{self.kernel.name}: {instruction.text}")
            target = operation(self, instruction)
            if target == EXIT:
                return self
            if target is not None:
                counts.branches += 1
                at = target // 16
        raise RuntimeError(f"{self.kernel.name}: no end after {limit} instructions, at {instruction.text}")

    # ------------------------------------------------------------------------------ operands

    def predicate(self, operand: Operand) -> bool:
        """The value of a predicate."""
        return self.predicates[operand.kind][operand.index] != operand.inverted

    def bits(self, operand: Operand, size: int = 4) -> int:
        """What an operand holds, before -, ~ and |x|."""
        if operand.kind in self.registers:
            file, k = self.registers[operand.kind], operand.index
            if size == 4 or k == ZERO:
                return file[k]
            return file[k] | file[k + 1] << 32
        if operand.kind == "constant":
            return self.constant(operand, size)
        if operand.kind == "name":
            raise UnknownInstructionError(f"the operand {operand.text}")
        if isinstance(operand.value, float):
            return numbers.bits64(operand.value) if size == 8 else numbers.bits32(operand.value)
        return operand.value & (numbers.LOW if size == 4 else numbers.ALL)

    def constant(self, operand: Operand, size: int) -> int:
        """What a constant bank holds; an address beyond it is an error."""
        bank, at = self.banks[operand.index], self.address(operand) & numbers.LOW
        if at + size > len(bank):
            raise IndexError(f"{self.kernel.name}: {operand.text} at {at:#x} is beyond the parameters")
        return int.from_bytes(bank[at : at + size], "little")

    def integer(self, operand: Operand, size: int = 4) -> int:
        """An integer operand, as bits."""
        value = self.bits(operand, size)
        if operand.kind == "number":
            return value
        if operand.inverted:
            value = ~value
        if operand.absolute:
            value = abs(numbers.signed(value, 8 * size))
        if operand.minus:
            value = -value
        return value & (numbers.LOW if size == 4 else numbers.ALL)

    def float_bits(self, operand: Operand) -> int:
        """A float32 operand's bits; a NaN keeps its own."""
        value = self.bits(operand)
        if operand.kind == "number":
            return value
        if operand.absolute:
            value &= 0x7FFFFFFF
        return value ^ 0x80000000 if operand.minus else value

    def single(self, operand: Operand) -> float:
        """A float32 operand."""
        return numbers.float32(self.float_bits(operand))

    def double(self, operand: Operand) -> float:
        """A float64 operand; a hexadecimal number is its upper half."""
        if operand.kind == "number":
            value = operand.value
            return value if isinstance(value, float) else numbers.float64((value & numbers.LOW) << 32)
        value = numbers.float64(self.bits(operand, 8))
        value = abs(value) if operand.absolute else value
        return -value if operand.minus else value

    # ------------------------------------------------------------------------------ results

    def write(self, operand: Operand, value: int, words: int = 1) -> None:
        """Put words into a register and those behind it."""
        if operand.index == ZERO:
            return
        file = self.registers[operand.kind]
        for k in range(words):
            file[operand.index + k] = value >> 32 * k & numbers.LOW

    def write_predicate(self, operand: Operand, value: bool) -> None:
        """Set a predicate."""
        if operand.index != TRUE:
            self.predicates[operand.kind][operand.index] = bool(value)

    # ------------------------------------------------------------------------------ memory

    def address(self, operand: Operand) -> int:
        """An address: its registers and its number."""
        total = operand.offset
        for sign, file, index, bits, scale in operand.terms:
            registers = self.registers[file]
            value = registers[index] | (registers[index + 1] << 32 if bits == 64 else 0)
            total += sign * value * scale
        return total & numbers.ALL

    def word(self, at: int) -> int:
        """A word of memory, by its address / 4."""
        found = self.memory.get(at)
        return self.fill[at & 1] if found is None else found

    def load(self, address: int, size: int) -> int:
        """Bytes of memory, or of the parameters by their generic address."""
        if address >> 32 == CONSTANT_WINDOW >> 32:
            start = address & numbers.LOW
            return int.from_bytes(self.banks[0][start : start + size], "little")
        first, shift = address >> 2, 8 * (address & 3)
        value = sum(self.word(first + k) << 32 * k for k in range((size + 3) // 4))
        return value >> shift & ((1 << 8 * size) - 1)

    def store(self, address: int, value: int, size: int) -> None:
        """Write bytes of memory."""
        first, shift = address >> 2, 8 * (address & 3)
        if size >= 4:
            for k in range(size // 4):
                self.memory[first + k] = value >> 32 * k & numbers.LOW
            return
        mask = ((1 << 8 * size) - 1) << shift
        self.memory[first] = self.word(first) & ~mask | value << shift & mask
