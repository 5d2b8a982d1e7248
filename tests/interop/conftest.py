"""Every test here runs the real serf: marked `interop`, skipped where it is not installed."""

from pathlib import Path

import pytest

from tests.harness import needs_serf

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this directory (the hook is handed all)."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.interop)
            item.add_marker(needs_serf)
