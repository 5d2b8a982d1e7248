"""Stuck processes are ended; late, starved and stopped ones are not blamed."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from serfmp.agent import heartbeat
from serfmp.agent.heartbeat import HeartbeatPage
from serfmp.agent.watchdog import STACK_TIME, STALE_AFTER, Watchdog

if TYPE_CHECKING:
    from collections.abc import Iterator


class Row:
    """A row of the process table, as far as the watchdog looks at it."""

    def __init__(self, pid: int) -> None:
        self.name, self.slot, self.generation, self.pid = "detector", 3, 1, pid
        self.running = True
        self.kill_reason = ""
        self.signals: list[int] = []

    def signal(self, number: int) -> None:
        self.signals.append(number)


@pytest.fixture
def page() -> Iterator[HeartbeatPage]:
    descriptor = heartbeat.create()
    yield HeartbeatPage(descriptor)
    os.close(descriptor)


def test_a_slot_keeps_time_and_turns(page: HeartbeatPage) -> None:
    page.stamp(3, 12.5, 7)
    assert page.read(3) == (12.5, 7)
    assert page.read(2) == (0.0, 0)
    page.clear(3)
    assert page.read(3) == (0.0, 0)


def test_a_loop_that_does_not_turn_gets_abort_then_kill(page: HeartbeatPage) -> None:
    lines: list[str] = []
    watchdog, row = Watchdog(page, lambda _level, text: lines.append(text)), Row(os.getpid())
    page.stamp(3, 100.0, 1)
    watchdog.check([row], 100.0, 0.0)  # type: ignore[list-item]
    watchdog.check([row], 100.0 + STALE_AFTER, 0.0)  # type: ignore[list-item]
    assert row.signals == []
    watchdog.check([row], 100.1 + STALE_AFTER, 0.0)  # type: ignore[list-item]
    assert row.signals == [signal.SIGABRT]
    assert "is stuck" in lines[0]
    watchdog.check([row], 100.2 + STALE_AFTER + STACK_TIME, 0.0)  # type: ignore[list-item]
    assert row.signals == [signal.SIGABRT, signal.SIGKILL]


def test_a_turning_loop_and_a_new_generation_are_left_alone(page: HeartbeatPage) -> None:
    watchdog, row = Watchdog(page, lambda _level, _text: None), Row(os.getpid())
    for second in range(20):
        page.stamp(3, 100.0 + second, second)
        watchdog.check([row], 100.5 + second, 0.0)  # type: ignore[list-item]
    row.generation = 2
    watchdog.check([row], 140.0, 0.0)  # type: ignore[list-item]
    assert row.signals == []


def test_nobody_is_blamed_when_the_supervisor_itself_was_late(page: HeartbeatPage) -> None:
    watchdog, row = Watchdog(page, lambda _level, _text: None), Row(os.getpid())
    page.stamp(3, 100.0, 1)
    watchdog.check([row], 100.0, 0.0)  # type: ignore[list-item]
    watchdog.check([row], 112.0, 12.0)  # type: ignore[list-item]
    watchdog.check([row], 112.5, 0.0)  # type: ignore[list-item]
    assert row.signals == []
