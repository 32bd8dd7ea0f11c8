"""Launches: a kernel is compiled once for each set of constants, saved, and run by its handle.

The run-time arguments of a kernel are integers, in tuples, and always of 64 bits. So the compiled kernel does not
depend on their values, as it would in an ordinary launch: there 1 becomes a constant, and multiples of 16 a case of
their own. Where this Triton cannot run a kernel by its handle, launches are ordinary ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import triton
from triton.runtime.driver import driver

# Options that round unlike the C++ kernels must be off: multiply-adds are written out.
OPTIONS = {"enable_fp_fusion": False}
RUNTIME = ["addresses", "constants", "layout", "memory", "source", "target", "lists", "n", "mean"]
kernel = triton.jit(do_not_specialize=RUNTIME)
Argument = int | tuple[int, ...]
# Whether kernels run in Triton's interpreter (TRITON_INTERPRET=1), on the CPU's memory.
INTERPRETED = bool(triton.knobs.runtime.interpret)


class Handle(NamedTuple):
    """A compiled kernel's handle: the arguments of `run` beside the grid and the stream."""

    run: Any
    function: Any
    metadata: Any
    kernel: Any


_handles: dict[Any, Handle] = {}
# A Triton with another interface for handles raises one of these. Launches are then ordinary ones.
_CHANGED = (AttributeError, TypeError, ValueError)


class _State:
    """How kernels are launched.

    Attributes:
        by_handle: by their handles; else by ordinary launches.
    """

    by_handle = True


_state = _State()


def source(fn: Any, arguments: Sequence[Argument], constants: tuple[Any, ...]) -> Any:
    """Return the compiler's input: the kernel, 64-bit integers for its arguments, and its constants."""
    names = fn.arg_names
    types: list[Any] = ["i64" if isinstance(a, int) else ("i64",) * len(a) for a in arguments]
    own = names[len(types) :]
    signature = dict(zip(names, [*types, *["constexpr"] * len(own)], strict=True))
    return triton.compiler.ASTSource(fn, signature, dict(zip(own, constants, strict=True)))


def compiled(fn: Any, arguments: Sequence[Argument], constants: tuple[Any, ...], warps: int, target: Any) -> Any:
    """Compile a kernel for a target; no device is needed."""
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
    """Compile a kernel for the current device and load it there, if this Triton's compiler has the known interface.

    Raises:
        Exception: the kernel cannot be compiled or loaded.
    """
    with contextlib.suppress(*_CHANGED):
        compiled(fn, arguments, constants, warps, driver.active.get_current_target()).run  # noqa: B018


def hooked() -> bool:
    """Return whether somebody, such as a profiler, wants to be told of launches."""
    hooks = triton.knobs.runtime
    return any(bool(getattr(hook, "calls", hook)) for hook in (hooks.launch_enter_hook, hooks.launch_exit_hook))


def launch(fn: Any, programs: int, arguments: tuple[Argument, ...], constants: tuple[Any, ...], warps: int) -> None:
    """Run `programs` programs of a kernel on the current device's current stream, without waiting."""
    if INTERPRETED:
        fn[(programs,)](*arguments, *constants)
        return
    if _state.by_handle:
        try:
            _launch_by_handle(fn, programs, arguments, constants, warps)
            return
        except _CHANGED:
            pass
    fn[(programs,)](*arguments, *constants, num_warps=warps, **OPTIONS)
    _state.by_handle = False  # only now: an ordinary launch would have raised where the handle was not to blame


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
