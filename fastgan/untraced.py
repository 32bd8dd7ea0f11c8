"""Penalties called from a graph that torch.compile traces: they run outside of it, between its parts.

Imported only then, as it brings in the compiler.
"""

from __future__ import annotations

import torch

from . import penalties

run = torch.compiler.disable(
    penalties._run, reason="a gradient penalty differentiates twice, which torch.compile does not do"
)
