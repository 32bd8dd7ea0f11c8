"""Calls that torch.compile does not trace: penalties, which run between the parts of the user's graph.

Imported only under torch.compile, as it brings in the compiler.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

_WHY = "a gradient penalty differentiates twice, which torch.compile does not do"
TAKES_REASON = "reason" in inspect.signature(torch.compiler.disable).parameters  # from torch 2.7 on
_disable = partial(torch.compiler.disable, reason=_WHY) if TAKES_REASON else torch.compiler.disable


@_disable
def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function outside of the graph that is traced."""
    return function(*arguments)
