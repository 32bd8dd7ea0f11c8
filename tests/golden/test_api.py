"""The public API stays: names, parameters, defaults (tests/golden/api.txt)."""

from tests.golden import api


def test_the_public_api_is_the_stored_one():
    """After an addition: python -m tests.golden.api, and read the difference."""
    assert api.lines() == api.STORED.read_text().splitlines()
