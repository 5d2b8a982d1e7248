"""Starts agents with addresses and directories of their own, and ends them all, the last one first."""

import contextlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.harness.addresses import LoopbackAllocator
from tests.harness.agents import Agent, AgentOptions, start_serf, start_serfmp

needs_serf = pytest.mark.skipif(
    shutil.which("serf") is None, reason="the real serf is not installed (Debian: apt-get install serf)"
)
"""Marks a test that runs the real agent."""


def mark_interop(items: Iterable[pytest.Item], directory: Path) -> None:
    """Mark the tests of a directory as ones that run the real agent; a conftest's hook is handed all."""
    for item in items:
        if item.path.is_relative_to(directory):
            item.add_marker(pytest.mark.interop)
            item.add_marker(needs_serf)


class Launcher:
    """A context manager: agents started through it are ended with it."""

    def __init__(self, directory: Path, loopback: LoopbackAllocator) -> None:
        self._directory = directory
        self._loopback = loopback
        self._stack = contextlib.ExitStack()
        self._started = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def serfmp(self, node: str, *, join: Sequence[Agent | str] = (), **options: Any) -> Agent:
        """Start our agent and wait until it answers. Other keywords: see `AgentOptions`, and `wait=False`."""
        return self._start(start_serfmp, node, join, options)

    def serf(self, node: str, *, join: Sequence[Agent | str] = (), **options: Any) -> Agent:
        """Start the real agent and wait until it answers. Other keywords: see `AgentOptions`, and `wait=False`."""
        return self._start(start_serf, node, join, options)

    def options(self, node: str, **options: Any) -> AgentOptions:
        """Options with addresses and a directory that nobody else has, unless given."""
        self._started += 1
        address = self._loopback.address()
        given = {
            "bind": self._loopback.endpoint(address),
            "rpc": self._loopback.endpoint(address),
            "directory": self._directory / f"{self._started}-{node}",
            **options,
        }
        return AgentOptions(node=node, **given)

    def _start(
        self,
        start: Callable[[AgentOptions], Agent],
        node: str,
        join: Sequence[Agent | str],
        options: dict[str, Any],
    ) -> Agent:
        wait = options.pop("wait", True)
        addresses = [other if isinstance(other, str) else str(other.bind) for other in join]
        agent = self._stack.enter_context(start(self.options(node, join=addresses, **options)))
        return agent.wait_ready() if wait else agent
