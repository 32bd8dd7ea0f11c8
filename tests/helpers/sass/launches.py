"""The launches of a call, written down by the host harness, and what a thread of them executes on a GPU."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from tests.helpers import simulated
from tests.helpers.once import once

from .code import Kernel, readable
from .thread import Counts, Thread


class Launch(NamedTuple):
    """A launch: the kernel's readable name, how many blocks of how many threads, and its parameters' bytes."""

    kernel: str
    blocks: int
    threads: int
    parameters: bytes


# ---------------------------------------------------------------------------------- recording


@functools.cache
def host_functions() -> dict[int, str]:
    """Functions of the simulated extension, by their distance from the one that records."""
    library = once("simulated", simulated.build) / simulated.LIBRARY
    done = subprocess.run(["nm", str(library)], capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    found = {name: int(at, 16) for at, kind, name in (line for line in lines if len(line) == 3) if kind in "tTwWiV"}
    origin = found["cusim_record"]
    return {at - origin: name for name, at in found.items()}


def recorded(
    call: Callable[[], object],
    multiprocessors: int = 0,
    *,
    warps: int = 0,
    blocks_per_multi: int = 0,
    run: bool = True,
) -> list[Launch]:
    """The launches of a call by the simulated kernels; zeros: a launch's shape is the device's own.

    Unless they are to run, they are written down only, which is quick whatever there is to do. What the call's parameters point to is gone afterwards, unless the call keeps it.
    """
    with simulated.serving() as kernels, tempfile.NamedTemporaryFile() as file:
        kernels.module.cuda_shape(warps, blocks_per_multi, multiprocessors)
        kernels.shared.cusim_record(file.name.encode())
        kernels.shared.cusim_record_only(not run)
        try:
            call()
        finally:
            kernels.shared.cusim_record_only(False)
            kernels.shared.cusim_record(None)
            kernels.module.cuda_shape(0, 0, 0)
        return read_launches(Path(file.name).read_bytes())


def read_launches(content: bytes) -> list[Launch]:
    """What the harness has written."""
    found, at = [], 0
    while at < len(content):
        end = content.index(b"\n", at)
        distance, blocks, threads, size = map(int, content[at:end].split())
        at = end + 1 + size
        found.append((host_functions()[distance], blocks, threads, content[end + 1 : at]))
    names = readable([symbol for symbol, *_ in found]) if found else {}
    return [Launch(names[symbol], *rest) for symbol, *rest in found]


# ---------------------------------------------------------------------------------- counting


def filling(dtype: torch.dtype) -> bytes:
    """8 bytes of 0.75 in a dtype: a logit that is at no function's kink, and an upstream that is not 1."""
    return bytes(torch.full((8,), 0.75, dtype=dtype).view(torch.uint8)[:8].tolist())


def thread_of(launch: Launch, code: dict[str, Kernel], fill: bytes, *, block: int = 0, number: int = 0) -> Thread:
    """A thread of a launch, not yet run."""
    return Thread(
        code[launch.kernel], launch.parameters, grid=launch.blocks, threads=launch.threads, block=block, number=number,
        fill=fill,
    )  # fmt: skip


@dataclass
class Cost:
    """What an element costs a thread of a kernel in the steady state: instructions, by what they are.

    Attributes:
        instructions: all that are issued, those that a predicate switches off among them.
        float64: float64 arithmetic.
        conversions: to and from float64.
        branches: jumps that are taken.
        local: loads and stores of what had no register.
        counts: the difference of the two threads that were run, and `elements`, by which they differ.
    """

    kernel: str
    counts: Counts
    elements: int

    @property
    def instructions(self) -> float:
        return sum(self.counts.issued.values()) / self.elements

    @property
    def float64(self) -> float:
        return self.counts.executed["float64"] / self.elements

    @property
    def conversions(self) -> float:
        return self.counts.executed["convert64"] / self.elements

    @property
    def local(self) -> float:
        return self.counts.executed["local"] / self.elements

    @property
    def branches(self) -> float:
        return self.counts.branches / self.elements


def steady(small: list[Launch], large: list[Launch], more: int, code: dict[str, Kernel], fill: bytes) -> list[Cost]:
    """The cost of an element in each launch, from those of two calls that are alike.

    Args:
        small, large: their launches; each has the same grid in both.
        more: by how many elements the second call is larger. All threads must get the same share of them.
        code: the machine code.
        fill: what memory holds, such as `filling(dtype)`.
    """
    if [launch[:3] for launch in small] != [launch[:3] for launch in large]:
        raise ValueError(f"the calls differ: {[s[:3] for s in small]}, {[s[:3] for s in large]}")
    found = []
    for before, after in zip(small, large, strict=True):
        first, second = (thread_of(launch, code, fill).run().counts for launch in (before, after))
        share, rest = divmod(more, before.blocks * before.threads)
        if rest:
            raise ValueError(
                f"{more} elements are not the same share for {before.blocks} x {before.threads} threads"
            )
        found.append(Cost(before.kernel, second - first, share))
    return found
