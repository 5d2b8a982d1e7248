"""Every test here runs the real serf: marked `interop`, skipped where it is not installed."""

from pathlib import Path

import pytest

from tests.harness.launcher import mark_interop


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this directory."""
    mark_interop(items, Path(__file__).parent)
