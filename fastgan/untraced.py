"""Penalties called from a graph that torch.compile traces: they run outside of it, between its parts.

Imported only then, as it brings in the compiler.
"""

from __future__ import annotations

import torch

from . import penalties
from . import step as steps

_WHY = "a gradient penalty differentiates twice, which torch.compile does not do"
run = torch.compiler.disable(penalties._run, reason=_WHY)
step = torch.compiler.disable(steps._run, reason=_WHY)
