"""What tests of dispatcher and workers as processes share."""

from collections.abc import Callable, Iterator

import pytest

from serfmp.agent.config import AgentConfig
from tests.events.stage import Stage


@pytest.fixture
def stage() -> Iterator[Callable[..., Stage]]:
    """Starts stages, and ends them after the test."""
    started: list[Stage] = []

    def start(config: AgentConfig, method: str = "fork") -> Stage:
        started.append(Stage(config, method))
        return started[-1]

    yield start
    for one in started:
        one.close()
