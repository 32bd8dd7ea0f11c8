"""Dynamo's settings for penalties in a graph, and the switch that has them traced into the caller's own graphs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Dynamo's settings for penalties in a graph. Two of its defaults leave guards out: with them a hook that is
# registered later, or a parameter that two modules come to share, would go unseen.
SETTINGS = {
    "trace_autograd_ops": True,  # for gradients and backwards of the caller's own
    "allow_rnn": True,
    "allow_unspec_int_on_nn_module": True,  # a lazy penalty counts its calls
    "skip_nnmodule_hook_guards": False,
    "use_numpy_random_stream": True,  # else NumPy's numbers would come from torch's generator
    "skip_no_tensor_aliasing_guards_on_parameters": False,
}


class _Switch:
    """Whether penalties are traced into the graphs of torch.compile; Dynamo guards on `on`."""

    def __init__(self) -> None:
        self.on = False
        self.depth = 0
        self.lock = threading.Lock()

    def turn(self, by: int) -> None:
        """Count one that wants it on, or no longer."""
        with self.lock:
            self.depth += by
            self.on = self.depth > 0


class _RandomObjects:
    """Have Dynamo refuse instances of random.Random: it takes their state for a constant, and numbers would freeze.

    The setting is the process's: the first of several threads makes it and the last takes it back.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.depth = 0
        self.before: Any = None

    def _kind(self) -> Any:
        from torch._dynamo.variables.builder import RandomVariable

        return RandomVariable

    def __enter__(self) -> None:
        kind = self._kind()
        with self.lock:
            if self.depth == 0:
                self.before = kind.is_supported_random_obj
                kind.is_supported_random_obj = staticmethod(lambda _: False)
            self.depth += 1

    def __exit__(self, *exception: Any) -> None:
        with self.lock:
            self.depth -= 1
            if self.depth == 0:
                self._kind().is_supported_random_obj = staticmethod(self.before)


switch = _Switch()
_random_objects = _RandomObjects()


@contextmanager
def settings(**more: int) -> Iterator[None]:
    """Make Dynamo's settings for penalties in a graph, and more."""
    import torch._dynamo

    wanted = {**SETTINGS, **more}
    known = {name: value for name, value in wanted.items() if hasattr(torch._dynamo.config, name)}
    with torch._dynamo.config.patch(known), _random_objects:
        yield


@contextmanager
def compiling() -> Iterator[None]:
    """Have penalties traced into the graph of a compiled step.

        @fastgan.compiling()
        @torch.compile(fullgraph=True)
        def step(real, fake): ...

    Without it, a penalty in a function that torch.compile traces runs eagerly, between the parts of its graph.
    A context or a decorator; it has to be on at each call, as a graph may be recompiled. It sets Dynamo's switches
    for penalties, and takes them back.

    Raises:
        RuntimeError: at the call of such a function, where a discriminator cannot be traced as a whole. So does a
            torch.autograd.Function inside of a penalty (see docs/penalties.md).
    """
    switch.turn(1)
    try:
        with settings():
            yield
    finally:
        switch.turn(-1)
