"""What was built, what is used, and why not the rest."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from . import backends, requirements
from .backends import cpu, nodes
from .backends.native import build_facts, native
from .version import __version__


def info() -> dict[str, Any]:
    """Return versions, build facts, and for each backend "ready" or why it is not."""
    ready = {name: backends.named(name).missing() or "ready" for name in backends.NAMES if name != "auto"}
    # Under its interpreter Triton serves CPU tensors only.
    triton_on_devices = ready["triton"] == "ready" and os.environ.get("TRITON_INTERPRET") != "1"
    chosen = "cpu" if cpu.PREFERRED else "reference"
    return {
        "fastgan": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "build": _build(),
        "extension": native.__name__.rpartition(".")[2] if native else "none",
        "C++ nodes": nodes.state,
        "backends": ready,
        "features": {name: requirements.lacking(name) or "ready" for name in requirements.FEATURES},
        "FASTGAN_BACKEND": backends.CHOSEN.get(),
        "auto uses": {
            "CPU tensors": chosen,
            "CUDA tensors": "cuda" if ready["cuda"] == "ready" else "triton" if triton_on_devices else "reference",
            "other accelerators' tensors": "triton" if triton_on_devices else "reference",
        },
        "instruction set": native.isa() if native else "none",
        "threads": torch.get_num_threads(),
    }


def _build() -> dict[str, str]:
    """Return what the last build recorded; a build that left an earlier extension where it was is no news of it."""
    facts = build_facts() or {"native": "not built: setup.py has not run"}
    if native is not None and facts.get("native", "").startswith("not built"):
        facts["native"] = f"built by an earlier build; the last one: {facts['native']}"
    return facts


def text() -> str:
    """Return `info()` as text for a terminal."""
    lines = []
    for key, value in info().items():
        if isinstance(value, dict):
            lines.append(f"{key}:")
            lines += [f"  {k}: {v}" for k, v in value.items()]
        else:
            lines.append(f"{key}: {value}")
    return "\n".join(lines)
