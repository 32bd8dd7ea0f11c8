"""What tests of pages and of docstrings share."""

import sys
from types import ModuleType

import pytest

from fastgan.ops.losses import PAIRED, TABLE


@pytest.fixture
def clean(monkeypatch):
    """Losses that a page registers and modules that it imports are gone afterwards."""
    table, paired = dict(TABLE), list(PAIRED)
    monkeypatch.setitem(sys.modules, "tensorflow_gan", ModuleType("tensorflow_gan"))
    yield
    TABLE.clear()
    TABLE.update(table)
    PAIRED[:] = paired
