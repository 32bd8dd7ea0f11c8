"""Process groups of gloo on the CPU: several ranks, or this process alone.

A thread of gloo's own can crash (docs/reliability.md tells of it). No code of fastgan runs there: a rank has one thread,
and its kernels run in that one. Such a run is repeated once, with a warning; any other crash fails.

In torch 2.13 the end of a group can wait for ever. A DDP wrapper that lives longer than the group takes the group
along when it ends, and then holds Python's lock while it joins a thread of gloo that waits for that lock. Here no
rank ends its group: a rank says that it is through, waits until all are, and leaves without any destructor.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.multiprocessing import ProcessExitedException

RANKS = 2
PATIENCE = 300  # seconds; then a rank prints where its threads are, and ends
needs_gloo = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="this torch has no gloo"
)
# The oldest releases lack a part of FSDP2 on the CPU, and fail without a penalty too.
needs_fsdp = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available() or not hasattr(torch.cpu.Stream, "record_event"),
    reason="this torch has no fully_shard on the CPU",
)


def run_ranks(work: Callable[..., Any], *args: Any) -> list[Any]:
    """What `work(rank, *args)` returns on each of two ranks, each a process of one thread."""
    try:
        return _run(work, args)
    except ProcessExitedException as error:
        if not _crashed_in_gloo(error):
            raise
        warnings.warn(f"{error}: in a thread of gloo's own; it runs once more", stacklevel=2)
        return _run(work, args)


def _run(work: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:
    with TemporaryDirectory() as folder:
        try:
            mp.spawn(_be_rank, (folder, work, args), nprocs=RANKS)
        except ProcessExitedException as error:
            error.where = "".join(p.read_text() for p in sorted(Path(folder).glob("crash*")))
            sys.stderr.write(error.where)
            raise
        return [torch.load(Path(folder, str(rank))) for rank in range(RANKS)]


def _crashed_in_gloo(error: ProcessExitedException) -> bool:
    """Whether a signal came to a thread that has never run Python: else it is the current one of the report."""
    return (
        error.signal_name is not None
        and "Fatal Python error" in error.where
        and "Current thread" not in error.where
    )


def _be_rank(rank: int, folder: str, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    report = open(f"{folder}/crash{rank}", "w")  # noqa: SIM115 (where the threads of a rank that crashes are)
    faulthandler.enable(report)
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    torch.save(work(rank, *args), Path(folder, str(rank)))
    store.set(f"through {rank}", "")
    store.wait([f"through {other}" for other in range(RANKS)])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@contextmanager
def group_of_one(folder: Path) -> Iterator[None]:
    """A process group of this process alone, whose store is in `folder`."""
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), 1), rank=0, world_size=1)
    try:
        yield
    finally:
        gc.collect()  # of DDP wrappers
        dist.destroy_process_group()
