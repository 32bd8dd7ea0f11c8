"""Trainers' own losses and penalties, on fastgan's kernels: one import line changes.

    from models import discriminator_loss, feature_loss, generator_loss                 # HiFi-GAN's own
    from fastgan.compat.hifigan import discriminator_loss, feature_loss, generator_loss

Each module has the names, signatures, argument order, defaults, results and random draws of the trainer that it is
named after. `patch("hifigan")` puts them in an already imported trainer's place instead, `unpatch` takes them out
again. docs/drop-in.md has the table.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ._patch import TRAINERS, patch, unpatch

__all__ = ["TRAINERS", "patch", "unpatch"]


def __getattr__(name: str) -> Any:
    """An adapter, imported when it is first asked for."""
    if name in TRAINERS:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r} (known: {', '.join(TRAINERS)})")
