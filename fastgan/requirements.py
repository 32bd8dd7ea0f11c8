"""The versions of torch that fastgan, and single features of it, need."""

from __future__ import annotations

import re

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


def check_torch() -> None:
    """Raise ImportError where torch is older than fastgan can use."""
    if parsed(torch.__version__) < OLDEST:
        raise ImportError(f"fastgan needs torch {OLDEST[0]}.{OLDEST[1]} or newer, got {torch.__version__}")
