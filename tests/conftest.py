"""Fixtures and marks for all tests."""

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.harness import Launcher, LoopbackAllocator, Sniffer, can_sniff

# No deadline per example: the machines that run this are shared, and time is not what these tests are about.
settings.register_profile("serfmp", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("serfmp")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs root for everybody else."""
    if item.get_closest_marker("root") is not None and os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture
def loopback() -> Iterator[LoopbackAllocator]:
    """Loopback addresses and ports that nobody else uses."""
    with LoopbackAllocator() as allocator:
        yield allocator


@pytest.fixture
def launch(tmp_path: Path, loopback: LoopbackAllocator) -> Iterator[Launcher]:
    """Starts agents, and ends them after the test."""
    with Launcher(tmp_path / "agents", loopback) as launcher:
        yield launcher


@pytest.fixture
def sniff() -> Iterator[Callable[[Collection[int]], Sniffer]]:
    """Starts captures of UDP ports on the loopback device, and ends them after the test."""
    if not can_sniff():
        pytest.skip("capturing packets needs Linux and CAP_NET_RAW")
    started: list[Sniffer] = []

    def start(ports: Collection[int]) -> Sniffer:
        started.append(Sniffer(ports))
        return started[-1]

    yield start
    for sniffer in started:
        sniffer.close()
