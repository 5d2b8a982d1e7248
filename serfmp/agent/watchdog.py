"""Telling a stuck process from a starved, a stopped and a dead one.

A child is *stale* when its main loop has not stamped the heartbeat page for `STALE_AFTER`. Before a stale child is
blamed:

* if the supervisor itself was late (the whole tree was stopped, the host slept), everybody gets a fresh start;
* if the child spent most of the time waiting for a processor (`/proc/PID/schedstat`), it is starved, not stuck: it is
  excused, but not beyond `STARVED_LIMIT`.

A child that is to blame gets SIGABRT (faulthandler writes its stack to standard error), and after `STACK_TIME` SIGKILL.
Times in seconds.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.agent.heartbeat import HeartbeatPage
    from serfmp.agent.process import Process

CHECK_PERIOD: Final = 0.25
"""How often the page is read."""

STALE_AFTER: Final = 2.0
"""A main loop that has not turned for so long is suspect. An idle loop turns four times a second."""

STARVED_LIMIT: Final = 10.0
"""A starved child is excused for so long."""

STARVED_SHARE: Final = 0.5
"""Share of the time that a starved child spent waiting for a processor."""

BEYOND_MENDING: Final = 15.0
"""A process whose main loop has not turned for so long was not ended by what ends stuck ones."""

OWN_LATENESS: Final = 0.5
"""The supervisor's own lateness from which on nobody else is blamed."""

STACK_TIME: Final = 0.5
"""Between SIGABRT and SIGKILL."""


@dataclass(slots=True)
class _Observation:
    generation: int
    fresh_at: float
    """When the child was last known to turn, or was given a fresh start."""
    run_delay: float
    """Seconds it had waited for a processor at that time."""
    aborted_at: float = 0.0


class Watchdog:
    """Call `check` every `CHECK_PERIOD`."""

    def __init__(self, page: HeartbeatPage, log: Callable[[str, str], None]) -> None:
        self._page = page
        self._log = log
        self._seen: dict[str, _Observation] = {}

    def check(self, processes: list[Process], now: float, lateness: float) -> None:
        """Look at every running process. `lateness` is by how much the supervisor's own loop was late."""
        for process in processes:
            if not process.running:
                self._seen.pop(process.name, None)
                continue
            stamped, _turns = self._page.read(process.slot)
            seen = self._seen.get(process.name)
            if seen is None or seen.generation != process.generation or lateness > OWN_LATENESS:
                self._seen[process.name] = _Observation(process.generation, now, run_delay(process.pid))
            elif stamped > seen.fresh_at:
                seen.fresh_at = stamped
                seen.run_delay = run_delay(process.pid)
                seen.aborted_at = 0.0
            elif now - seen.fresh_at > STALE_AFTER:
                self._blame(process, seen, now)

    def beyond_mending(self, now: float) -> list[str]:
        """Names of running processes that should have been ended long ago, and were not."""
        return [name for name, seen in self._seen.items() if now - seen.fresh_at > BEYOND_MENDING]

    def _blame(self, process: Process, seen: _Observation, now: float) -> None:
        age = now - seen.fresh_at
        if seen.aborted_at:
            if now - seen.aborted_at >= STACK_TIME:
                process.signal(signal.SIGKILL)
            return
        waited = run_delay(process.pid) - seen.run_delay
        if waited >= STARVED_SHARE * age and age < STARVED_LIMIT:
            return
        seen.aborted_at = now
        process.kill_reason = f"its main loop had not turned for {age:.1f} s"
        self._log("ERR", f"{process.name} (pid {process.pid}) is stuck: {process.kill_reason}; ending it")
        process.signal(signal.SIGABRT)


def run_delay(pid: int) -> float:
    """Seconds that a process has waited for a processor so far; 0.0 where the kernel does not tell."""
    # Asked of each child four times a second for as long as the agent lives: no file object.
    try:
        descriptor = os.open(f"/proc/{pid}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0.0
    try:
        return int(os.read(descriptor, 128).split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
    finally:
        os.close(descriptor)
