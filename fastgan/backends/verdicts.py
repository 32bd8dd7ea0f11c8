"""Verdicts on devices: why a backend cannot run there, kept only where that cannot change."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

Check = Callable[..., str | None]


class PassingError(Exception):
    """A verdict for this call alone: memory ran out, say, or a stream is being captured.

    Attributes:
        why: why the backend cannot run now, or None where it can.
    """

    def __init__(self, why: str | None) -> None:
        super().__init__(why)
        self.why = why


def lasting(check: Check) -> Check:
    """Keep what `check` returns for each device; a PassingError holds for one call, and the next checks again."""
    kept: dict[tuple[Any, ...], str | None] = {}

    @wraps(check)
    def verdict(*device: Any) -> str | None:
        try:
            return kept[device]
        except KeyError:
            pass
        try:
            why = check(*device)
        except PassingError as error:
            return error.why
        kept[device] = why
        return why

    return verdict
