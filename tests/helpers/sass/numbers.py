"""Numbers as a GPU has them: bits to values, and values to bits with IEEE 754's roundings."""

from __future__ import annotations

import ctypes
import math
import struct
from fractions import Fraction

LOW = 0xFFFFFFFF
ALL = (1 << 64) - 1

_math = ctypes.CDLL(None)
fma = _math.fma
fma.argtypes, fma.restype = [ctypes.c_double] * 3, ctypes.c_double
fmaf = _math.fmaf
fmaf.argtypes, fmaf.restype = [ctypes.c_float] * 3, ctypes.c_float


def signed(bits: int, width: int = 32) -> int:
    """The integer that a two's complement stands for."""
    bits &= (1 << width) - 1
    return bits - (1 << width) if bits >> (width - 1) else bits


def float32(bits: int) -> float:
    """The float32 that 32 bits are."""
    return struct.unpack("<f", struct.pack("<I", bits & LOW))[0]


def float64(bits: int) -> float:
    """The float64 that 64 bits are."""
    return struct.unpack("<d", struct.pack("<Q", bits & ALL))[0]


def float16(bits: int) -> float:
    """The float16 that 16 bits are."""
    return struct.unpack("<e", struct.pack("<H", bits & 0xFFFF))[0]


def bfloat16(bits: int) -> float:
    """The bfloat16 that 16 bits are."""
    return float32((bits & 0xFFFF) << 16)


def bits32(value: float) -> int:
    """The nearest float32; NaN is the one that GPUs make."""
    if math.isnan(value):
        return 0x7FFFFFFF
    try:
        return struct.unpack("<I", struct.pack("<f", value))[0]
    except OverflowError:
        return 0x7F800000 if value > 0 else 0xFF800000


def bits64(value: float) -> int:
    """The bits of a float64."""
    return 0x7FF8000000000000 if math.isnan(value) else struct.unpack("<Q", struct.pack("<d", value))[0]


def bits16(value: float) -> int:
    """The nearest float16."""
    if math.isnan(value):
        return 0x7FFF
    try:
        return struct.unpack("<H", struct.pack("<e", value))[0]
    except OverflowError:
        return 0x7C00 if value > 0 else 0xFC00


def bits_bfloat16(value: float) -> int:
    """The nearest bfloat16 of a float32."""
    bits = bits32(value)
    return 0x7FFF if math.isnan(value) else (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def flushed(value: float) -> float:
    """Zero in the place of a float32 below the normal ones."""
    return math.copysign(0.0, value) if abs(value) < 2.0**-126 else value


def directed(exact: Fraction, mode: str, double: bool) -> float:
    """A number rounded up (RP), down (RM) or towards zero (RZ); it must not overflow."""
    nearest = float(exact) if double else float32(bits32(float(exact)))
    up = mode == "RP" or (mode == "RZ" and exact < 0)
    while Fraction(nearest) != exact and (Fraction(nearest) < exact) == up:
        nearest = neighbour(nearest, up, double)
    return nearest


def neighbour(value: float, up: bool, double: bool) -> float:
    """The next float64 or float32 above or below."""
    if double:
        return math.nextafter(value, math.inf if up else -math.inf)
    if value == 0:
        return float32(1 if up else 0x80000001)
    return float32(bits32(value) + (1 if (value > 0) == up else -1))
