"""Penalties called from a graph that torch.compile traces: they run outside of it, between its parts.

Imported only then, as it brings in the compiler.
"""

from __future__ import annotations

import inspect
from functools import partial

import torch

from . import penalties
from . import step as steps

_WHY = "a gradient penalty differentiates twice, which torch.compile does not do"
TAKES_REASON = "reason" in inspect.signature(torch.compiler.disable).parameters  # from torch 2.7 on
_disable = partial(torch.compiler.disable, reason=_WHY) if TAKES_REASON else torch.compiler.disable
run = _disable(penalties._run)
step = _disable(steps._run)
