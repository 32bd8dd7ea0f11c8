"""Processes that a patched one spawns: they import the script, without what it runs under `__main__` alone."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Collection
from typing import Any

from torch.optim.optimizer import register_optimizer_step_pre_hook

__all__ = ["note", "watch"]

_log = logging.getLogger("fastgan")
# A process's number and the trainers that it patched. Children inherit it, whichever way they are started.
_MARK = "FASTGAN_COMPAT_PATCHED"
_INHERITED = os.environ.get(_MARK, "").split()


def note(trainers: Collection[str]) -> None:
    """Tell the children of this process what it has patched."""
    if trainers:
        os.environ[_MARK] = " ".join([str(os.getpid()), *trainers])
    else:
        os.environ.pop(_MARK, None)


def watch(patched: Collection[str]) -> None:
    """Warn at the first step of an optimizer here, if the parent has patched a trainer and this process has not.

    By that step a child has had every occasion to patch, and one that trains nothing (a loader of data) is left
    alone. A forked process inherits the patch, and is not watched: its parent imported this without a mark.

    Args:
        patched: the trainers that are patched in this process, which grows with them.
    """
    if not _INHERITED:
        return

    def first_step(*_: Any) -> None:
        handle.remove()
        _check(patched)

    handle = register_optimizer_step_pre_hook(first_step)


def _check(patched: Collection[str]) -> None:
    """Warn of trainers that the process which spawned this one has patched, and this one has not."""
    parent = multiprocessing.parent_process()
    pid, *trainers = _INHERITED
    lost = [name for name in trainers if name not in patched]
    if parent is None or str(parent.pid) != pid or not lost:
        return
    calls = ", ".join(f"fastgan.compat.patch({name!r})" for name in lost)
    _log.warning(
        "process %d trains with the trainer's own losses: the process that spawned it (%s) has called %s, and this"
        " one has not; move the call from under `if __name__ == '__main__'` to the top level of the script, after"
        " its imports (docs/drop-ins/index.md)",
        os.getpid(), pid, calls,
    )  # fmt: skip
