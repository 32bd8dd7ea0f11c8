"""What becomes of a penalty that a function calls while torch.compile traces it.

Imported only then, as it brings in the compiler.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch

from . import dynamo, forward, frozen, traced

_WHY = "penalties and steps run between the parts of a graph; fastgan.compiling() has them traced into it"
TAKES_REASON = "reason" in inspect.signature(torch.compiler.disable).parameters  # from torch 2.7 on
_disable = partial(torch.compiler.disable, reason=_WHY) if TAKES_REASON else torch.compiler.disable
_log = logging.getLogger("fastgan")


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function as a part of the graph under `fastgan.compiling`, else between the graph's parts."""
    if dynamo.switch.on:
        return function(traced, *arguments)
    return _between(function, forward, *arguments)


def generator(run: Callable[..., Any], discriminator: Any, inputs: Any, options: Any) -> Any:
    """Run a generator's step as a part of the graph under `fastgan.compiling`, else between the graph's parts.

    In a graph a module's parameters are replaced for the call, which wrappers and functions do not let through, and
    which takes those for constants that the generator shares. Gradients are not taken within a part of a graph.
    """
    if dynamo.switch.on and options.balance is None and traced.can_replace_parameters(discriminator):
        return run(traced, discriminator, inputs, options)
    return _frozen_between(run, discriminator, inputs, options)


@_disable
def _frozen_between(run: Callable[..., Any], *arguments: Any) -> Any:
    return run(frozen, *arguments)


@_disable
def _between(function: Callable[..., Any], *arguments: Any) -> Any:
    _say()
    return function(*arguments)


@cache  # once
def _say() -> None:
    _log.warning(
        "a gradient penalty inside of a function for torch.compile runs eagerly, between the parts of its graph;"
        " with fastgan.compiling() it is traced into the graph"
    )
