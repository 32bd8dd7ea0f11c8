"""What fastgan needs around it: versions of torch, and the parts of a checkout."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import torch

Version = tuple[int, int]
OLDEST: Version = (2, 6)
# What needs a newer torch than fastgan itself does.
FEATURES: dict[str, Version] = {"engine='compiled'": (2, 8)}


def parsed(version: str) -> Version:
    """Return the first two numbers of a version such as "2.13.0+cpu" or "2.6.0a0+git123"."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def lacking(feature: str) -> str | None:
    """Return why a feature of FEATURES cannot be had from this torch, or None where it can."""
    needed = FEATURES[feature]
    if parsed(torch.__version__) >= needed:
        return None
    return f"needs torch {needed[0]}.{needed[1]} or newer, got {torch.__version__}"


def find_triton_kernels() -> None:
    """Make `fastgan.triton_kernels` importable in a checkout, where it lies beside this folder."""
    name, root = f"{__package__}.triton_kernels", Path(__file__).resolve().parents[1]
    path = root / "triton_kernels" / "__init__.py"
    if importlib.util.find_spec(name) or not path.is_file() or not (root / "setup.py").is_file():
        return
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=[str(path.parent)])
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


if parsed(torch.__version__) < OLDEST:
    raise ImportError(f"fastgan needs torch {OLDEST[0]}.{OLDEST[1]} or newer, got {torch.__version__}")
find_triton_kernels()
