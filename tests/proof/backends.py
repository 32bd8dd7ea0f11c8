"""The backends that run here, each with what a process needs to have it."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping

import fastgan
from fastgan.backends import native
from tests.proof.claims import Unavailable

HARNESS, INTERPRETER, REFERENCE = "CUDA (host harness)", "Triton (interpreter)", "reference"
CPU = tuple(f"CPU ({isa})" for isa in ("v4", "v3", "generic"))
KERNELS = (*CPU, HARNESS, INTERPRETER)
ENVIRONMENT: Mapping[str, Mapping[str, str]] = {INTERPRETER: {"TRITON_INTERPRET": "1"}}


@contextlib.contextmanager
def serving(name: str) -> Iterator[None]:
    """Calls inside go to a backend; raise Unavailable where it does not run here."""
    if native.native is None:
        raise Unavailable("the extension is not built")
    if name in CPU:
        with _isa(name.removeprefix("CPU (").removesuffix(")")), fastgan.backend("cpu"):
            yield
    elif name == HARNESS:
        from tests.helpers import simulated

        with simulated.serving() as kernels:
            before = kernels.launches
            yield
        assert kernels.launches > before, "no simulated kernel was called"
    elif name == INTERPRETER:
        with _interpreted():
            yield
    else:
        with fastgan.backend(name):
            yield


@contextlib.contextmanager
def _isa(isa: str) -> Iterator[None]:
    module, before = native.native, native.native.isa()
    if isa not in module.isas():
        raise Unavailable(f"this processor has no {isa}")
    module.set_isa(isa)
    try:
        yield
    finally:
        module.set_isa(before)


@contextlib.contextmanager
def _interpreted() -> Iterator[None]:
    if importlib.util.find_spec("triton") is None:
        raise Unavailable("no Triton here")
    from tests.helpers import interpreted

    if not interpreted.fma_is_true():
        raise Unavailable("the interpreter of Triton before 3.9 rounds fma twice")
    with fastgan.backend("triton"):
        yield


def available(name: str) -> bool:
    """Return whether a backend runs here."""
    if name == HARNESS:
        return True
    try:
        with serving(name):
            return True
    except Unavailable:
        return False
