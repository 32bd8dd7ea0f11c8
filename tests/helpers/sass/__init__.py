"""Reading machine code without a GPU: the instructions that a thread executes, counted (docs/cuda.md).

`kernels(path, arch)` parses what cuobjdump prints, `recorded(call)` has the launches of a call with their parameters
from the host harness, `Thread` interprets one thread of a launch, and `steady()` takes the difference of two sizes.
"""

from .code import Kernel, architectures, disassembler, kernels, readable, registers
from .launches import Cost, Launch, filling, recorded, steady, thread_of
from .operations import UnknownInstructionError
from .thread import Counts, Thread

__all__ = [
    "Cost",
    "Counts",
    "Kernel",
    "Launch",
    "Thread",
    "UnknownInstructionError",
    "architectures",
    "disassembler",
    "filling",
    "kernels",
    "readable",
    "recorded",
    "registers",
    "steady",
    "thread_of",
]
