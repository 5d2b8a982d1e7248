"""Stuck processes are ended; late, starved and stopped ones are not blamed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from serfmp.agent import heartbeat
from serfmp.agent.heartbeat import HeartbeatPage
from serfmp.agent.watchdog import (
    CHECK_OFFSET,
    CHECK_PERIOD,
    CLOSE_PERIOD,
    RAN_LIMIT,
    STACK_TIME,
    STALE_AFTER,
    STARVED_LIMIT,
    TURNED,
    Watchdog,
    processor_time,
    state,
)
from tests.harness import eventually

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


@pytest.fixture
def sleeper() -> Iterator[int]:
    """The pid of a process that waits for nothing of the host."""
    with subprocess.Popen(["sleep", "600"]) as child:
        eventually(lambda: state(child.pid) == "S", 60.0, "it sleeps")
        yield child.pid
        child.kill()


def test_a_slot_keeps_time_and_turns(page: HeartbeatPage) -> None:
    page.stamp(3, 12.5, 7, 0.25)
    assert page.read(3) == (12.5, 7, 0.25)
    assert page.read(2) == (0.0, 0, 0.0)
    page.clear(3)
    assert page.read(3) == (0.0, 0, 0.0)


def test_the_page_tells_all_processes_the_same_phase_and_keeps_it(page: HeartbeatPage) -> None:
    phase = page.phase
    assert 0.0 < phase <= time.monotonic()
    for slot in range(heartbeat.SLOTS - 1):
        page.stamp(slot, 12.5, 7, 0.25)
    assert page.phase == phase


def test_a_loop_that_does_not_turn_gets_abort_then_kill(page: HeartbeatPage, sleeper: int) -> None:
    lines: list[str] = []
    watchdog, row = Watchdog(page, lambda _level, text: lines.append(text)), Row(sleeper)
    page.stamp(3, 100.0, 1, 0.0)
    watchdog.check([row], 100.0, 0.0)  # type: ignore[list-item]
    watchdog.check([row], 101.0, 0.0)  # type: ignore[list-item]
    watchdog.check([row], 100.0 + STALE_AFTER, 0.0)  # type: ignore[list-item]
    assert row.signals == []
    watchdog.check([row], 100.1 + STALE_AFTER, 0.0)  # type: ignore[list-item]
    assert row.signals == [signal.SIGABRT]
    assert "is stuck" in lines[0]
    watchdog.check([row], 100.2 + STALE_AFTER + STACK_TIME, 0.0)  # type: ignore[list-item]
    assert row.signals == [signal.SIGABRT, signal.SIGKILL]


@pytest.mark.parametrize("phase", [0.0, CHECK_OFFSET, 0.5, 0.99])
def test_a_loop_that_stops_turning_is_found_as_soon_as_it_is_stale(
    page: HeartbeatPage, sleeper: int, phase: float
) -> None:
    watchdog, row = Watchdog(page, lambda _level, _text: None), Row(sleeper)
    watchdog.check([row], 99.0 + phase, 0.0)  # type: ignore[list-item]
    page.stamp(3, 100.0, TURNED, 0.0)
    now = 99.0 + phase + CHECK_PERIOD
    while now < 110.0:
        pause = watchdog.check([row], now, 0.0)  # type: ignore[list-item]
        if row.signals:
            break
        now += pause
    assert STALE_AFTER < now - 100.0 < STALE_AFTER + CLOSE_PERIOD


def test_looks_are_rare_while_all_are_in_time(page: HeartbeatPage) -> None:
    watchdog, row = Watchdog(page, lambda _level, _text: None), Row(os.getpid())
    pauses = set()
    for second in range(20):
        page.stamp(3, 100.0 + second, second, 0.0)
        pauses.add(watchdog.check([row], 100.0 + second + CHECK_OFFSET, 0.0))  # type: ignore[list-item]
    assert pauses == {CHECK_PERIOD}


def test_a_turning_loop_and_a_new_generation_are_left_alone(page: HeartbeatPage) -> None:
    watchdog, row = Watchdog(page, lambda _level, _text: None), Row(os.getpid())
    for second in range(20):
        page.stamp(3, 100.0 + second, second, 0.0)
        watchdog.check([row], 100.5 + second, 0.0)  # type: ignore[list-item]
    row.generation = 2
    watchdog.check([row], 140.0, 0.0)  # type: ignore[list-item]
    assert row.signals == []


def test_nobody_is_blamed_when_the_supervisor_itself_was_late(page: HeartbeatPage) -> None:
    watchdog, row = Watchdog(page, lambda _level, _text: None), Row(os.getpid())
    page.stamp(3, 100.0, 1, 0.0)
    watchdog.check([row], 100.0, 0.0)  # type: ignore[list-item]
    watchdog.check([row], 112.0, 12.0)  # type: ignore[list-item]
    watchdog.check([row], 112.5, 0.0)  # type: ignore[list-item]
    assert row.signals == []


def test_nobody_is_blamed_after_a_stop_of_the_whole_tree_that_began_early_in_a_long_wait(
    page: HeartbeatPage, sleeper: int
) -> None:
    watchdog, row = Watchdog(page, lambda _level, _text: None), Row(sleeper)
    page.stamp(3, 100.0, 1, 0.0)
    watchdog.check([row], 100.9, 0.0)  # type: ignore[list-item]
    # Stopped at 100.9; of the supervisor's wait until 101.9 nothing was left.
    for now, lateness in ((103.9, 2.0), (104.15, 0.0)):
        watchdog.check([row], now, lateness)  # type: ignore[list-item]
    assert row.signals == []


def test_a_frozen_child_is_noticed_though_the_supervisor_is_late_again_and_again(
    page: HeartbeatPage, sleeper: int
) -> None:
    watchdog, row = Watchdog(page, lambda _level, _text: None), Row(sleeper)
    now = 100.0
    page.stamp(3, now, 1, 0.0)
    watchdog.check([row], now, 0.0)  # type: ignore[list-item]
    while not row.signals and now < 200.0:
        now += 1.0
        watchdog.check([row], now, 0.6)  # type: ignore[list-item]
    assert row.signals == [signal.SIGABRT]
    assert now < 110.0


@pytest.mark.parametrize(("turns", "blamed"), [(TURNED - 1, False), (TURNED, True)])
def test_who_has_a_processor_for_long_without_turning_is_not_starved_unless_it_just_starts(
    page: HeartbeatPage, turns: int, blamed: bool
) -> None:
    starving = (
        "import os; os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0)); print(flush=True)\nwhile True: pass"
    )
    with contextlib.ExitStack() as stack:
        burners = [
            subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4 * (os.cpu_count() or 1))
        ]
        for burner in burners:
            stack.enter_context(burner)
            stack.callback(burner.kill)
        child = stack.enter_context(subprocess.Popen([sys.executable, "-c", starving], stdout=subprocess.PIPE))
        stack.callback(child.kill)
        assert child.stdout is not None
        child.stdout.readline()
        watchdog, row = Watchdog(page, lambda _level, _text: None), Row(child.pid)
        ran, waited = processor_time(child.pid)
        page.stamp(3, 100.0, turns, ran)
        watchdog.check([row], 100.0, 0.0)  # type: ignore[list-item]
        watchdog.check([row], 101.0, 0.0)  # type: ignore[list-item]
        # The kernel has not counted its present wait yet.
        watchdog.check([row], 100.1 + STALE_AFTER, 0.0)  # type: ignore[list-item]
        assert row.signals == []
        eventually(lambda: processor_time(child.pid)[1] - waited > STALE_AFTER, 60.0, "it waits")
        watchdog.check([row], 100.1 + STALE_AFTER, 0.0)  # type: ignore[list-item]
        assert row.signals == []
        for burner in burners:
            burner.kill()
        eventually(lambda: processor_time(child.pid)[0] - ran > RAN_LIMIT, 60.0, "it has run")
        watchdog.check([row], 100.2 + STALE_AFTER, 0.0)  # type: ignore[list-item]
    assert (row.signals == [signal.SIGABRT]) is blamed


def test_who_begins_a_program_that_finds_no_processor_is_not_stuck_at_once(page: HeartbeatPage, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # The new process opens the pipe before it becomes the program; whoever begins it waits in the kernel until then.
    first = f"[(os.POSIX_SPAWN_OPEN, 0, {str(pipe)!r}, 0, 0)]"
    begin = f"import os; os.posix_spawn('/bin/true', ['true'], {{}}, file_actions={first})"
    with subprocess.Popen([sys.executable, "-c", begin]) as child:
        eventually(lambda: state(child.pid) == "D", 60.0, "it waits")
        watchdog, row = Watchdog(page, lambda _level, _text: None), Row(child.pid)
        page.stamp(3, 100.0, TURNED, 0.0)
        watchdog.check([row], 100.0, 0.0)  # type: ignore[list-item]
        watchdog.check([row], 101.0, 0.0)  # type: ignore[list-item]
        watchdog.check([row], 100.1 + STALE_AFTER, 0.0)  # type: ignore[list-item]
        assert row.signals == []
        watchdog.check([row], 100.1 + STARVED_LIMIT, 0.0)  # type: ignore[list-item]
        assert row.signals == [signal.SIGABRT]
        pipe.open("wb").close()
