"""Which of a test's parameters the fast run takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def slow_if(condition: Callable[[Any], bool], values: Iterable[Any]) -> list[Any]:
    """Parameters, of which those that meet the condition are slow; tuples are several of a case."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
        if condition(value)
        else value
        for value in values
    ]


def slow_but(kept: Iterable[Any], values: Iterable[Any]) -> list[Any]:
    """Parameters, of which all but those that are kept are slow."""
    kept = list(kept)
    return slow_if(lambda value: value not in kept, values)
