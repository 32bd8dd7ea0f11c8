"""What fastgan needs around it: versions of torch, and the folder of a checkout."""

from __future__ import annotations

import re
from pathlib import Path

import torch

Version = tuple[int, int]
OLDEST: Version = (2, 6)
# What needs a newer torch than fastgan itself does.
FEATURES: dict[str, Version] = {"engine='compiled'": (2, 8)}


def parsed(version: str) -> Version:
    """The first two numbers of a version such as "2.13.0+cpu" or "2.6.0a0+git123"."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def lacking(feature: str) -> str | None:
    """Why a feature of FEATURES cannot be had from this torch, or None where it can."""
    needed = FEATURES[feature]
    if parsed(torch.__version__) >= needed:
        return None
    return f"needs torch {needed[0]}.{needed[1]} or newer, got {torch.__version__}"


def checkout() -> Path | None:
    """The root of the source tree that this package lies in, or None where it is installed."""
    root = Path(__file__).resolve().parents[1]
    is_source = (root / "setup.py").is_file() and (root / "triton_kernels" / "launch.py").is_file()
    return root if is_source else None


if parsed(torch.__version__) < OLDEST:
    raise ImportError(f"fastgan needs torch {OLDEST[0]}.{OLDEST[1]} or newer, got {torch.__version__}")
