"""Telling a stuck process from a starved, a stopped and a dead one.

A child is *stale* when its main loop has not stamped the heartbeat page for `STALE_AFTER`. Before a stale child is
blamed:

* time by which the supervisor itself was late (the whole tree was stopped, the host slept) does not count;
* if the child spent most of the time since it was first found late waiting for a processor (`/proc/PID/schedstat`), it
  is starved, not stuck: it is excused, but not beyond `STARVED_LIMIT`, and not once a loop that had turned before has
  had a processor for `RAN_LIMIT` without turning;
* likewise if it is runnable and has hardly run (the kernel counts a wait when it is over), or waits in the kernel
  without being interruptible: for a disk, or, a worker, for a script that it begins and that finds no processor.

A child that is to blame gets SIGABRT (faulthandler writes its stack to standard error), and after `STACK_TIME` SIGKILL.
Looks are far apart while everybody is in time, and close as soon as somebody is late. Times in seconds.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.agent.heartbeat import HeartbeatPage, Stamp
    from serfmp.agent.process import Process

CHECK_PERIOD: Final = 1.0
"""How often the page is read while all are in time."""

CHECK_OFFSET: Final = 0.05
"""By how much later than the children's periodic turns that is."""

CLOSE_PERIOD: Final = 0.25
"""How often it is read while somebody is late."""

LATE_AFTER: Final = 0.25
"""A stamp that is so old when it is looked at belongs to a process that is late, or whose turn takes long."""

STALE_AFTER: Final = 2.0
"""A main loop that has not turned for so long is suspect. An idle loop turns once a second."""

STARVED_LIMIT: Final = 10.0
"""A starved child is excused for so long."""

STARVED_SHARE: Final = 0.5
"""Share of the time that a starved child spent waiting for a processor."""

RAN_LIMIT: Final = 0.5
"""Processor time in which every loop turns, however starved it is: turns take milliseconds."""

WAITING_STATES: Final = frozenset("RD")
"""Runnable, or in the kernel and not to be interrupted: the process waits for the host."""

TURNED: Final = 3
"""Stamps of a loop that has turned: at the start, and with the first two turns."""

SOON: Final = 0.01
"""Beyond the time at which a child becomes stale."""

BEYOND_MENDING: Final = 15.0
"""A process whose main loop has not turned for so long was not ended by what ends stuck ones."""

OWN_LATENESS: Final = 0.5
"""The supervisor's own lateness from which on nobody else is blamed for that time."""

STACK_TIME: Final = 0.5
"""Between SIGABRT and SIGKILL."""


@dataclass(slots=True)
class _Observation:
    generation: int
    fresh_at: float
    """When the child was last known to turn; later by what the supervisor has lost since."""
    stamped: float
    """Its last stamp."""
    late_since: float = 0.0
    """When it was first found late after that; 0.0: it was not."""
    waited: float = 0.0
    """Seconds for which it had waited for a processor at that time."""
    aborted_at: float = 0.0


class Watchdog:
    """Call `check` when the call before said so, or sooner."""

    def __init__(self, page: HeartbeatPage, log: Callable[[str, str], None]) -> None:
        self._page = page
        self._log = log
        self._seen: dict[str, _Observation] = {}
        self._checked_at: float | None = None

    def check(self, processes: list[Process], now: float, lateness: float) -> float:
        """Look at every running process; returns the seconds after which to look again, at the latest.

        `lateness` is by how much the supervisor's own loop was late since the last look.
        """
        lost = 0.0
        if lateness > OWN_LATENESS:
            # A tree that was stopped may have been so since the last look, and not only since a wait should have ended.
            lost = max(lateness, now - (now if self._checked_at is None else self._checked_at) - CLOSE_PERIOD)
        self._checked_at = now
        pause = CHECK_PERIOD
        for process in processes:
            if not process.running:
                self._seen.pop(process.name, None)
                continue
            stamp = self._page.read(process.slot)
            seen = self._seen.get(process.name)
            if seen is None or seen.generation != process.generation:
                self._seen[process.name] = _Observation(process.generation, now, stamp.when)
                continue
            if stamp.when > seen.stamped:
                seen.stamped = seen.fresh_at = stamp.when
                seen.late_since = seen.aborted_at = 0.0
            if lost:
                seen.fresh_at = min(now, seen.fresh_at + lost)
            age = now - seen.fresh_at
            if age < LATE_AFTER:
                continue
            if not seen.late_since:
                seen.late_since, seen.waited = now, processor_time(process.pid)[1]
            left = STALE_AFTER - age
            if left >= 0:
                pause = min(pause, CLOSE_PERIOD, left + SOON)
                continue
            pause = min(pause, CLOSE_PERIOD)
            if now - seen.late_since >= CLOSE_PERIOD:
                self._blame(process, seen, now, stamp)
        return pause

    def beyond_mending(self, now: float) -> list[str]:
        """Names of running processes that should have been ended long ago, and were not."""
        return [name for name, seen in self._seen.items() if now - seen.fresh_at > BEYOND_MENDING]

    def _blame(self, process: Process, seen: _Observation, now: float, stamp: Stamp) -> None:
        age = now - seen.fresh_at
        if seen.aborted_at:
            if now - seen.aborted_at >= STACK_TIME:
                process.signal(signal.SIGKILL)
            return
        ran, waited = processor_time(process.pid)
        has_run = ran - stamp.ran >= RAN_LIMIT
        starved = waited - seen.waited >= STARVED_SHARE * (now - seen.late_since) or (
            not has_run and state(process.pid) in WAITING_STATES
        )
        if starved and age < STARVED_LIMIT and not (stamp.turns >= TURNED and has_run):
            return
        seen.aborted_at = now
        process.kill_reason = f"its main loop had not turned for {age:.1f} s"
        self._log("ERR", f"{process.name} (pid {process.pid}) is stuck: {process.kill_reason}; ending it")
        process.signal(signal.SIGABRT)


def processor_time(pid: int) -> tuple[float, float]:
    """Seconds for which a process has had a processor, and waited for one; 0.0 where the kernel does not tell."""
    # Asked again and again while a host has no time to spare: no file object.
    try:
        descriptor = os.open(f"/proc/{pid}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0.0, 0.0
    try:
        ran, waited = os.read(descriptor, 128).split()[:2]
        return int(ran) / 1e9, int(waited) / 1e9
    except (OSError, ValueError):
        return 0.0, 0.0
    finally:
        os.close(descriptor)


def state(pid: int) -> str:
    """The letter of a process' state, as in /proc/PID/stat; empty when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[0]
