"""Types of options that the examples share, which refuse what they cannot run with."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """Return an option's value as an integer of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return value
