"""What tests of several folders need."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
