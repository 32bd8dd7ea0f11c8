"""Where a trainer keeps the losses that its adapter replaces."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["SCRIPT", "Origin"]

SCRIPT = ("train", "__main__", "__mp_main__")  # of a script; the last while a spawned process imports it


class Origin(NamedTuple):
    """Where a trainer's own losses are.

    Attributes:
        modules: the modules that define them, as the trainer's code imports them; a script's are also `__main__`.
        registries: (module, attribute) of registries from which the trainer builds losses by name.
        methods: (method, names of the adapter) of methods to replace in any class of those modules, each by the
            first of the adapter's that does the same.
        kept: names of the adapter that are left as the trainer has them.
    """

    modules: tuple[str, ...] = ()
    registries: tuple[tuple[str, str], ...] = ()
    methods: tuple[tuple[str, tuple[str, ...]], ...] = ()
    kept: tuple[str, ...] = ()
