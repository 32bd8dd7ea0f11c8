"""fastgan._nodes, the C++ nodes of autograd over the kernels of fastgan._native: found, checked and loaded.

It is optional: without it the same kernels run under autograd Functions in Python, with the same results.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .. import nodes_build as building
from .native import native
from .native import scan as _scan


class _UnfitError(ImportError):
    """Nodes that are there and cannot be used."""


def _loaded(folder: Path) -> Any:
    """Return the nodes in a folder, or None where there are none.

    What was built for another torch is not even opened: its symbols may be missing.
    """
    path = folder / building.NAME
    if not path.exists():
        return None
    record, here = building.recorded(folder), building.tag(torch.version)
    if record.get("torch") != here:
        raise _UnfitError(f"built for torch {record.get('torch')}, and this is torch {here}")
    if record.get("headers") != native.headers:
        raise _UnfitError("built from other sources than the kernels")
    found = importlib.util.spec_from_file_location("fastgan._nodes", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    if module.torch != here or module.headers != native.headers:
        raise _UnfitError(f"its record says torch {here}, and it was built for torch {module.torch}")
    return module


def _find() -> tuple[Any, str]:
    """Return the nodes, or None and why they are not used."""
    if os.environ.get("FASTGAN_NODES") == "0":
        return None, "not used: FASTGAN_NODES=0"
    if native is None:
        return None, "not used: the compiled extension is not there"
    why = []
    for folder in (building.PACKAGE, building.cache(torch.version)):
        try:
            module = _loaded(folder)
        except (ImportError, OSError) as error:
            why.append(f"not used: {error}")
            continue
        if module is not None:
            return module, "ready"
    return None, f"{why[0] if why else 'not built'}; python -m fastgan build"


module, state = _find()
# As `native.scan`.
scan: Any = _scan if module is None else module.scan


@contextmanager
def off() -> Iterator[None]:
    """Take Python's way inside a `with` block, in all threads: for tests and measurements."""
    global module, scan
    before = module, scan
    module, scan = None, _scan
    try:
        yield
    finally:
        module, scan = before
