"""Tests of the suite as the work of a claim: how many passed, in a process of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.helpers import ROOT
from tests.proof.claims import Batch, Unavailable

EVERY = ("-m", "")  # those that are slow too
ORDINARY = ("-m", "not slow and not alone")


def counts(
    *arguments: str,
    before: Sequence[str] = (),
    python: str = sys.executable,
    folder: Path = ROOT,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, int]:
    """Return how many tests passed and were skipped; raise AssertionError where one failed or none was selected."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        [*before, python, "-m", "pytest", "-q", *arguments], cwd=folder, capture_output=True, text=True,
        env={**inherited, **(environment or {})}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"exit status {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    last = done.stdout[-300:]
    passed, skipped = (re.search(rf"(\d+) {word}", last) for word in ("passed", "skipped"))
    return int(passed.group(1)) if passed else 0, int(skipped.group(1)) if skipped else 0


def passing(*arguments: str) -> Batch:
    """Run tests of which at least one must be able to run here."""
    passed, skipped = counts(*arguments)
    if not passed:
        raise Unavailable(f"all of {skipped} tests were skipped")
    return Batch(passed, text=f"{skipped} skipped" if skipped else "")
