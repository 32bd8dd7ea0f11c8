"""Trainers' own losses and penalties, on fastgan's kernels: one import line changes.

    from models import discriminator_loss, feature_loss, generator_loss                 # HiFi-GAN's own
    from fastgan.compat.hifigan import discriminator_loss, feature_loss, generator_loss

Each module is named after a trainer, and has its names, signatures, argument order, defaults, results and random
draws. Instead of changing the import, call `patch("hifigan")`: it replaces an already imported trainer's own
losses where they are those, `patched` tells which, and `unpatch` puts them back. The table is in
docs/drop-ins/index.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ._patch import TRAINERS, patch, patched, unpatch

__all__ = ["TRAINERS", "patch", "patched", "unpatch"]


def __getattr__(name: str) -> Any:
    """Import an adapter when it is first asked for."""
    if name in TRAINERS:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r} (known: {', '.join(TRAINERS)})")
