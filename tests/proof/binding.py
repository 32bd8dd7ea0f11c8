"""Arguments that Python could pass to the native module by mistake: an error, or memory that is written where it may be.

Real calls are recorded, one or two of their arguments are replaced, and they are made again on tensors that lie between
guards. Whatever is accepted may write inside its tensors only, and a sound call afterwards has the bits it had before.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

import fastgan
from fastgan.backends import cpu, nodes
from tests.helpers import calls
from tests.proof.claims import Batch, trying

CASES = 1000  # a batch
GUARD = 64  # bytes before and after a tensor
REFUSALS = (TypeError, ValueError, RuntimeError, OverflowError, AttributeError, IndexError)
Recorded = tuple[str, tuple]


class Recorder:
    """The module, which notes what it is called with."""

    def __init__(self, module: object) -> None:
        self.module, self.found = module, []

    def __getattr__(self, name: str) -> object:
        value = getattr(self.module, name)
        if not callable(value) or name in ("Spec", "isa", "isas", "set_isa", "scan", "learn"):
            return value

        def call(*arguments: object) -> object:
            self.found.append((name, copies(arguments, lambda t: t.detach().clone())))
            return value(*arguments)

        return call


@contextmanager
def recording() -> Iterator[list[Recorded]]:
    """Note the calls of the native module inside."""
    recorder, module = Recorder(cpu.native), cpu.native
    cpu.BACKEND.module = cpu.native = recorder
    try:
        with nodes.off(), fastgan.backend("cpu"):
            yield recorder.found
    finally:
        cpu.BACKEND.module = cpu.native = module


def copies(value: object, of_tensor: Callable[[Tensor], Tensor]) -> object:
    """Return arguments with other tensors; one that comes twice stays one."""
    made: dict[int, Tensor] = {}

    def one(v: object) -> object:
        if isinstance(v, Tensor):
            return made.setdefault(id(v), of_tensor(v))
        if type(v) in (tuple, list):
            return type(v)(one(x) for x in v)
        return v

    return one(value)


def sound_calls() -> list[Recorded]:
    """Return calls of every function of the module as the library makes them."""
    with recording() as found:
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            real, fake = calls.logits(700, dtype=dtype), calls.logits(700, dtype=dtype, seed=1)
            for form in (None, "paired", "average"):
                calls.losses(real, fake, relativistic=form, return_stats=True)()
                calls.losses(real, fake, relativistic=form, reduction="none")()
            calls.losses([real, fake], [fake, real], weights=(0.5, 2.0), loss="hinge")()
            rows = calls.gradients(5, 40, dtype=dtype)
            calls.norms(rows, return_stats=True)()
            calls.norms([rows, rows[:, :7]], "one_sided", reduction="none")()
            calls.norms(rows, weights=torch.ones(5), mask=torch.rand(5, 1))()
            calls.points(rows, rows.flip(0))()
    return list(found)


class Strange:
    """Looks like a tensor, and is none."""

    shape, dtype, device, requires_grad = (3,), torch.float32, torch.device("cpu"), False

    def data_ptr(self) -> int:
        return 0

    def numel(self) -> int:
        return 3


def junk(draw: random.Random) -> object:
    """Draw what Python could pass by mistake."""
    n = draw.choice((1, 3, 40, 200, 699, 701, 1400))
    x = torch.rand(n)
    return draw.choice((
        lambda: None, lambda: True, lambda: -1, lambda: 2**31, lambda: -(2**63), lambda: 2**70, lambda: 0.5,
        lambda: float("nan"), lambda: "text", lambda: b"bytes", lambda: (), lambda: [], lambda: {}, object, Strange,
        lambda: (None,), lambda: (x, None), lambda: (x,) * 3, lambda: ((x,),), lambda: [x], lambda: x,
        lambda: x.double(), lambda: x.half(), lambda: x.bfloat16(), lambda: x.int(), lambda: x.cfloat(),
        lambda: x.to("meta"), lambda: x[:0], lambda: x.view(1, 1, -1), lambda: x[::2], lambda: x.expand(5, n),
        lambda: x.to_sparse(), lambda: torch._neg_view(x), lambda: x.requires_grad_(), lambda: torch.nn.Parameter(x),
        lambda: x.as_strided((n, 3), (0, 1) if n > 3 else (0, 0)), lambda: torch.nested.nested_tensor([x, x]),
        lambda: cpu.native.Spec([(1, 0, -1, -1, 1.0, 0.0, 0.0, 1.0, 0.0, 1, 0, 0, -1, -1)], [0]),
    ))()  # fmt: skip


def spoiled(draw: random.Random, arguments: tuple) -> tuple:
    """Return arguments of which one or two, or what is in them, are junk, swapped, left out or too many."""
    found = list(arguments)
    for _ in range(draw.choice((1, 1, 2))):
        at = draw.randrange(len(found))
        inside = isinstance(found[at], tuple) and found[at] and draw.random() < 0.6
        if inside:
            entries = list(found[at])
            entries[draw.randrange(len(entries))] = junk(draw)
            found[at] = tuple(entries)
        elif draw.random() < 0.1:
            other = draw.randrange(len(found))
            found[at], found[other] = found[other], found[at]
        else:
            found[at] = junk(draw)
    if draw.random() < 0.03:
        found = found[:-1] if draw.random() < 0.5 else [*found, None]
    return tuple(found)


class Guarded:
    """Tensors that lie between guards."""

    def __init__(self) -> None:
        self.memory: list[Tensor] = []

    def __call__(self, t: Tensor) -> Tensor:
        """Return a copy of a strided tensor between guards, others as they are."""
        if t.layout is not torch.strided or t.is_nested or t.device.type != "cpu" or t.requires_grad or t.is_neg():
            return t
        last = sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) if t.numel() else -1
        room = (last + 1) * t.element_size()
        memory = torch.full((room + 2 * GUARD + 16,), 0x5A, dtype=torch.uint8)
        start = GUARD + -(memory.data_ptr() + GUARD) % 16
        inner = memory[start : start + room].view(t.dtype).as_strided(t.shape, t.stride())
        with torch.no_grad():
            if not any(s == 0 for s, n in zip(t.stride(), t.shape, strict=True) if n > 1):
                inner.copy_(t)
        self.memory += [memory[:start], memory[start + room :]]
        return inner

    def whole(self) -> bool:
        """Whether no byte of a guard was written."""
        return all(bool((m == 0x5A).all()) for m in self.memory)


def bits(name: str, arguments: tuple) -> list[Tensor]:
    """Return what a call leaves in its arguments."""
    mine = copies(arguments, lambda t: t.clone())
    getattr(cpu.native, name)(*mine)
    found: list[Tensor] = []
    copies(mine, lambda t: found.append(t) or t)
    return found


def printed(start: int, number: int) -> str:
    """Return a case as a test."""
    return f"from tests.proof import binding\n\n\ndef test_found():\n    binding.check({start}, {number})\n"


def check(start: int, number: int, recorded: list[Recorded] | None = None) -> bool:
    """Make a spoiled call, and say whether it was accepted."""
    trying(printed(start, number))
    draw = random.Random(f"{start} {number}")
    name, arguments = draw.choice(recorded or sound_calls())
    guarded = Guarded()
    given = copies(spoiled(draw, arguments), guarded)
    try:
        getattr(cpu.native, name)(*given)
    except REFUSALS as error:
        accepted, said = False, str(error)
    else:
        accepted, said = True, "accepted"
    assert said, f"{name}: an error without a word\n\n{printed(start, number)}"
    assert guarded.whole(), f"{name} wrote beside a tensor\n\n{printed(start, number)}"
    return accepted


def batch(start: int, count: int = CASES) -> Batch:
    """Make spoiled calls that a seed decides; in between sound ones, whose bits may not change."""
    recorded = sound_calls()
    sound = [(name, arguments, bits(name, arguments)) for name, arguments in recorded]
    accepted = 0
    for number in range(count):
        accepted += check(start, number, recorded)
        if number % 50 == 0:
            name, arguments, want = sound[number // 50 % len(sound)]
            calls.same(bits(name, copy.copy(arguments)), want)
    return Batch(count, text=f"{accepted} of {count:,} in the last batch were sound all the same")
