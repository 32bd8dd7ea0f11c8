"""The machine code (SASS) of CUDA kernels: what cuobjdump prints of an extension or a cubin, parsed."""

from __future__ import annotations

import functools
import os
import re
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ZERO = 255  # the number of RZ and URZ
TRUE = 7  # the number of PT and UPT
EMPTY_SECTION = 8  # ELF's SHT_NOBITS
SIZED, PARAM_CBANK = 4, 10  # in .nv.info: an entry with bytes behind it, and the one about parameters
# Enumerations that are template arguments of kernels; others keep their number, as `DType3`.
ENUMERATORS = {
    "Summand": ("squares", "dots", "apart"),
    "DType": ("float32", "float64", "float16", "bfloat16"),
    "Kind": ("lean", "steady", "full", "general"),
}


class AddressTerm(NamedTuple):
    """A register in an address; `bits` of it count, times `scale`."""

    sign: int
    file: str
    index: int
    bits: int
    scale: int


class Operand(NamedTuple):
    """An operand of an instruction.

    Attributes:
        text: as it is printed.
        kind: R, UR, P or UP for a register; constant or memory for an address; number; name for all else.
        index: the register, or the bank of a constant.
        terms, offset: the address: registers, and a number.
        value: a number: bits as an int, or a float.
        minus, inverted, absolute: what is applied to it: -x, ~x or !x, |x|.
        part: the part of a register that is meant, such as H0_H0.
    """

    text: str
    kind: str
    index: int = 0
    terms: tuple[AddressTerm, ...] = ()
    offset: int = 0
    value: float = 0
    minus: bool = False
    inverted: bool = False
    absolute: bool = False
    part: str = ""


class Instruction(NamedTuple):
    """An instruction: `@guard name.modifiers operands`."""

    address: int
    guard: Operand | None
    name: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    text: str


@dataclass(eq=False)
class Kernel:
    """A kernel's machine code for one architecture.

    Attributes:
        name: readable.
        listing: what cuobjdump prints.
        constants: constant banks that the compiler has filled, from 1 on.
        parameters: where the parameters begin in bank 0.
    """

    name: str
    arch: str
    listing: str
    constants: dict[int, bytes]
    parameters: int

    @functools.cached_property
    def instructions(self) -> list[Instruction]:
        """All of its instructions, in order: 16 bytes each."""
        found = re.findall(r"^\s+/\*([0-9a-f]{4,6})\*/\s+(.*?)\s*;", self.listing, re.MULTILINE)
        return [parse(int(address, 16), text) for address, text in found]


# ---------------------------------------------------------------------------------- parsing


def parse(address: int, text: str) -> Instruction:
    """One line of a listing."""
    text = re.sub(r"\(\*.*?\*\)", "", text).replace(".reuse", "").strip()
    guard, name, rest = re.fullmatch(r"(?:@(!?\w+) )?\s*(\S+)\s*(.*)", text).groups()
    name, *modifiers = name.split(".")
    operands = tuple(operand(part) for part in split(rest))
    return Instruction(address, operand(guard) if guard else None, name, tuple(modifiers), operands, text)


def split(operands: str) -> list[str]:
    """Operands, which commas part, and in one instruction (BRX) a space."""
    return [part for part in re.split(r",\s*|(?<=\w) (?=[-\w])", operands.strip()) if part]


@functools.cache
def operand(text: str) -> Operand:
    """One operand."""
    signs, body, bar = re.fullmatch(r"([-!~|]*)(.*?)(\|?)", text).groups()
    changes = {"minus": "-" in signs, "inverted": "~" in signs or "!" in signs, "absolute": bool(bar)}
    if match := re.fullmatch(r"(UR|UP|R|P)(\d+|Z|T)((?:\.\w+)*)", body):
        last = TRUE if match[2] == "T" else ZERO
        index = int(match[2]) if match[2].isdigit() else last
        return Operand(text, match[1], index, part=match[3].removeprefix("."), **changes)
    if match := re.match(r"c\[0x(\w+)\]\[(.*?)\]", body):
        terms, offset = address_terms(match[2])
        return Operand(text, "constant", int(match[1], 16), terms, offset, **changes)
    if match := re.fullmatch(r"(?:desc\[\w+\])?\[(.*)\](?:\.\w+)?", body):
        return Operand(text, "memory", 0, *address_terms(match[1]))
    value = number(text)
    return Operand(text, "name") if value is None else Operand(text, "number", value=value)


def number(text: str) -> float | None:
    """The bits that a hexadecimal number stands for, or the value of a decimal one."""
    if re.fullmatch(r"-?0x[0-9a-f]+", text):
        return int(text, 16)
    try:
        return float(text.replace("QNAN", "nan").replace("SNAN", "nan"))
    except ValueError:
        return None


def address_terms(text: str) -> tuple[tuple[AddressTerm, ...], int]:
    """The registers that an address adds up, and the number."""
    terms, offset = [], 0
    wide = ".64" in text or ".U32" in text
    for minus, part in re.findall(r"(-?)([^-+]+)", text.replace("+-", "-").replace(" ", "")):
        sign = -1 if minus else 1
        if part.startswith("0x"):
            offset += sign * int(part, 16)
            continue
        file, index, suffix = re.fullmatch(r"(UR|R)(\d+|Z)(?:\.(\w+))?", part).groups()
        bits = 64 if suffix == "64" or (file == "UR" and wide) else 32
        scale = int(suffix[1:]) if suffix and suffix[0] == "X" else 1
        if index != "Z":
            terms.append(AddressTerm(sign, file, int(index), bits, scale))
    return tuple(terms), offset


# ---------------------------------------------------------------------------------- names


def readable(symbols: list[str]) -> dict[str, str]:
    """Kernels' names with their template arguments, from mangled names."""
    done = subprocess.run(["c++filt"], input="\n".join(symbols), capture_output=True, text=True, check=True)
    return dict(zip(symbols, map(shortened, done.stdout.splitlines()), strict=True))


def shortened(name: str) -> str:
    """No namespaces, no parameters; the first argument, if a bool, says which derivatives a kernel writes."""
    name = re.sub(r"\(anonymous namespace\)::|fastgan::|^void ", "", name)
    name = re.sub(r"\((\w+)\)(\d+)", enumerator, name)
    return name.replace("<false, ", "<first, ").replace("<true, ", "<second, ").split("(")[0]


def enumerator(match: re.Match) -> str:
    """A template argument that is an enumerator."""
    kind, code = match[1], int(match[2])
    return ENUMERATORS[kind][code] if kind in ENUMERATORS else f"{kind}{code}"


# ---------------------------------------------------------------------------------- files


def disassembler() -> str | None:
    """Path of cuobjdump: CUDA's, or the one in Triton's package."""
    homes = [Path(os.environ[v], "bin") for v in ("CUDA_HOME", "CUDA_PATH") if v in os.environ]
    try:
        import triton
    except ImportError:
        pass
    else:
        homes.append(Path(triton.__file__).parent / "backends" / "nvidia" / "bin")
    found = [str(home / "cuobjdump") for home in homes if (home / "cuobjdump").is_file()]
    return shutil.which("cuobjdump") or next(iter(found), None)


def dump(*options: str, folder: str | None = None) -> str:
    """What cuobjdump prints."""
    command = [disassembler(), *options]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout


def architectures(path: str | Path) -> list[str]:
    """Those that a file has machine code for, such as sm_90."""
    found = set(re.findall(r"\.(sm_\d+[af]?)\.", dump("-lelf", str(path))))
    return sorted(found, key=lambda arch: int(re.sub(r"\D", "", arch)))


@functools.cache
def kernels(path: str | Path, arch: str) -> dict[str, Kernel]:
    """All kernels of an extension or a cubin for one architecture, by their readable names."""
    found: dict[str, Kernel] = {}
    with tempfile.TemporaryDirectory() as folder:
        for cubin in cubins(Path(path).resolve(), arch, folder):
            parts = re.split(r"\n\s*Function : (\S+)\n", dump("-sass", str(cubin)))
            beside, names = sections(cubin.read_bytes()), readable(parts[1::2])
            for symbol, listing in zip(parts[1::2], parts[2::2], strict=True):
                banks = {k: beside[name] for k in range(1, 10) if (name := f".nv.constant{k}.{symbol}") in beside}
                first = first_parameter(beside[f".nv.info.{symbol}"])
                found[names[symbol]] = Kernel(names[symbol], arch, listing, banks, first)
    return found


def cubins(path: Path, arch: str, folder: str) -> list[Path]:
    """The cubins in a file; one that is a cubin itself has to be of this architecture."""
    if path.suffix == ".cubin":
        assert architectures(path) == [arch], f"{path} is not for {arch}"
        return [path]
    dump("-xelf", f".{arch}.", str(path), folder=folder)
    return sorted(Path(folder).glob(f"*.{arch}.*"))


def sections(elf: bytes) -> dict[str, bytes]:
    """The sections of a cubin, by their names."""
    start, size, count, names_at = struct.unpack_from("<Q10xHHH", elf, 0x28)
    headers = [struct.unpack_from("<II16xQQ", elf, start + size * k) for k in range(count)]
    names = headers[names_at][2]
    found = {}
    for name_at, kind, offset, length in headers:
        name = elf[names + name_at : elf.index(b"\0", names + name_at)].decode()
        found[name] = b"" if kind == EMPTY_SECTION else elf[offset : offset + length]
    return found


def first_parameter(info: bytes) -> int:
    """Where a kernel's parameters begin: for some architectures that depends on how many bytes they are."""
    at = 0
    while at < len(info):
        form, attribute, size = struct.unpack_from("<BBH", info, at)
        at += 4
        if attribute == PARAM_CBANK:
            return struct.unpack_from("<IHH", info, at)[1]
        at += size if form == SIZED else 0
    raise ValueError("a cubin that does not say where its parameters are")


# ---------------------------------------------------------------------------------- registers


@functools.cache
def registers(path: str | Path) -> dict[tuple[str, str], int]:
    """Registers a thread, of each (kernel, architecture)."""
    symbol, found = "", {}
    arch = architectures(path)[0]  # of a cubin; other files say it
    for line in dump("-res-usage", str(path)).splitlines():
        if match := re.match(r"arch = (sm_\w+)", line):
            arch = match[1]
        elif match := re.match(r"\s*Function (\S+):", line):
            symbol = match[1]
        elif match := re.search(r"\bREG:(\d+)", line):
            found[symbol, arch] = int(match[1])
    names = readable(sorted({symbol for symbol, _ in found}))
    return {(names[symbol], arch): number for (symbol, arch), number in found.items()}
