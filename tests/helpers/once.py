"""What several of pytest-xdist's workers need is made once: by the first that asks."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

SHARED = "FASTGAN_TEST_SHARED"  # tests/conftest.py sets it, for the workers too


def once(name: str, make: Callable[[Path], object]) -> Path:
    """A folder that lasts as long as the run, filled by `make` at the first call in any of its processes."""
    folder = Path(os.environ[SHARED], name)
    making = folder.with_name(f"{name}.part")
    with open(folder.with_name(f"{name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            make(making)
            making.rename(folder)
    return folder
