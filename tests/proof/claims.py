"""What a proof is made of: claims, each with the work that tries it.

A module of this package is a part of the table, and has a list `CLAIMS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

CASE = "FASTGAN_PROOF_CASE"  # a file for the case that is being tried


class Batch(NamedTuple):
    """What the work of a claim found: how many cases it tried, and the largest error or a text about them."""

    cases: int
    worst: float | None = None
    text: str = ""


class Unavailable(Exception):
    """Raised where this machine lacks what a claim needs; says what."""


@dataclass(frozen=True)
class Claim:
    """A statement that work can refute.

    Args:
        name: the statement, short; with the part's name it is the claim's key.
        work: called with a seed; tries a batch of cases that the seed decides. Raises AssertionError, with a failing
            case as text, where the statement is false.
        target: what must hold, in words, for the table.
        limit: what `worst` of a batch may be at most; None where the work raises by itself.
        batches: how many batches a run of minutes tries, with seeds from 0 on.
        endless: whether later seeds are other cases, so that a run of hours goes on with them.
        timeout: after how many seconds a batch counts as hanging.
        environment: variables of the process that works.
        long: whether only a run of hours tries it.
        unmet: why the statement is known to be false; it stays in the table, and the run does not fail for it.
    """

    name: str
    work: Callable[[int], Batch]
    target: str
    limit: float | None = None
    batches: int = 1
    endless: bool = False
    timeout: float = 900
    environment: Mapping[str, str] = field(default_factory=dict)
    long: bool = False
    unmet: str = ""


def trying(case: str) -> None:
    """Leave the case that comes next where it can be found if the process dies of it."""
    if CASE in os.environ:
        with open(os.environ[CASE], "w") as file:
            file.write(case)
