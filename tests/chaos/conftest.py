"""Every test here runs a mixed cluster: marked `interop`, skipped without the real serf or the right to capture."""

from pathlib import Path

import pytest

from tests.harness import can_sniff
from tests.harness.launcher import mark_interop


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this directory."""
    mark_interop(items, Path(__file__).parent)


@pytest.fixture(autouse=True)
def _needs_capture() -> None:
    if not can_sniff():
        pytest.skip("capturing packets needs Linux and CAP_NET_RAW")
