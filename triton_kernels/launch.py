"""Launches: a kernel is compiled once for each set of constants, kept, and run by its handle.

All that a kernel is given at run time are integers, in tuples, and always of 64 bits: so what it was compiled
for does not depend on their values, as it would in an ordinary launch (1 becomes a constant there, and
multiples of 16 a case of their own). An ordinary launch is what remains where this Triton has no such way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import triton
from triton.runtime.driver import driver

# What rounds otherwise than the C++ kernels must be off: multiply-adds are written as such.
OPTIONS = {"enable_fp_fusion": False}
RUNTIME = ["addresses", "constants", "layout", "memory", "source", "target", "lists", "n", "mean"]
kernel = triton.jit(do_not_specialize=RUNTIME)
Argument = int | tuple[int, ...]
# Whether kernels run in Triton's interpreter (TRITON_INTERPRET=1), on the CPU's memory.
INTERPRETED = bool(triton.knobs.runtime.interpret)


class Handle(NamedTuple):
    """A compiled kernel's handle: what `run` takes beside the grid and the stream."""

    run: Any
    function: Any
    metadata: Any
    kernel: Any


_handles: dict[Any, Handle] = {}
# A Triton in which a handle is made or run otherwise raises one of these. Then launches are ordinary ones.
_CHANGED = (AttributeError, TypeError, ValueError)
_by_handle = True


def source(fn: Any, arguments: Sequence[Argument], constants: tuple[Any, ...]) -> Any:
    """What is compiled: the kernel, 64-bit integers for its arguments, and its constants."""
    names = fn.arg_names
    types: list[Any] = ["i64" if isinstance(a, int) else ("i64",) * len(a) for a in arguments]
    own = names[len(types) :]
    signature = dict(zip(names, [*types, *["constexpr"] * len(own)], strict=True))
    return triton.compiler.ASTSource(fn, signature, dict(zip(own, constants, strict=True)))


def compiled(fn: Any, arguments: Sequence[Argument], constants: tuple[Any, ...], warps: int, target: Any) -> Any:
    """The kernel compiled for a target; no device is needed."""
    options = {"num_warps": warps, **OPTIONS}
    return triton.compile(source(fn, arguments, constants), target=target, options=options)


def _make_handle(
    key: Any, fn: Any, arguments: Sequence[Argument], constants: tuple[Any, ...], warps: int
) -> Handle:
    made = compiled(fn, arguments, constants, warps, driver.active.get_current_target())
    run = made.run  # loads it
    _handles[key] = Handle(run, made.function, made.packed_metadata, made)
    return _handles[key]


def load(fn: Any, arguments: Sequence[Argument], constants: tuple[Any, ...], warps: int) -> None:
    """Compile a kernel for the current device and load it there, if this Triton's compiler is called so.

    Raises:
        Exception: the kernel cannot be compiled or loaded.
    """
    with contextlib.suppress(*_CHANGED):
        compiled(fn, arguments, constants, warps, driver.active.get_current_target()).run  # noqa: B018


def hooked() -> bool:
    """Whether somebody, a profiler say, wants to be told of launches."""
    hooks = triton.knobs.runtime
    return any(bool(getattr(hook, "calls", hook)) for hook in (hooks.launch_enter_hook, hooks.launch_exit_hook))


def launch(fn: Any, programs: int, arguments: tuple[Argument, ...], constants: tuple[Any, ...], warps: int) -> None:
    """Runs `programs` programs of a kernel on the current device's current stream, and waits for nothing."""
    global _by_handle
    if INTERPRETED:
        fn[(programs,)](*arguments, *constants)
        return
    if _by_handle:
        try:
            _launch_by_handle(fn, programs, arguments, constants, warps)
            return
        except _CHANGED:
            pass
    fn[(programs,)](*arguments, *constants, num_warps=warps, **OPTIONS)
    _by_handle = False  # only now: an ordinary launch would have raised where the handle was not to blame


def _launch_by_handle(
    fn: Any, programs: int, arguments: tuple[Argument, ...], constants: tuple[Any, ...], warps: int
) -> None:
    active = driver.active
    device = active.get_current_device()
    key = (fn, device, warps, constants)
    handle = _handles.get(key) or _make_handle(key, fn, arguments, constants, warps)
    if hooked():
        handle.kernel[(programs, 1, 1)](*arguments, *constants)
        return
    handle.run(
        programs,
        1,
        1,
        active.get_current_stream(device),
        handle.function,
        handle.metadata,
        None,
        None,
        None,
        *arguments,
        *constants,
    )
