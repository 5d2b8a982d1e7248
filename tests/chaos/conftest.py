"""Every test here runs a mixed cluster: marked `interop`, skipped without the real serf or the right to capture."""

from pathlib import Path

import pytest

from tests.harness import can_sniff, needs_serf

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this directory (the hook is handed all)."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.interop)
            item.add_marker(needs_serf)


@pytest.fixture(autouse=True)
def _needs_capture() -> None:
    if not can_sniff():
        pytest.skip("capturing packets needs Linux and CAP_NET_RAW")
