"""In which order the processes end when the agent does, and for how long they may take.

Rules: workers and dispatcher get the grace of scripts, others a moment. The network and the core end when the others
have ended: until then clients get their answers and peers their acks. What writes the log ends when all have ended and
have said so. Who takes longer than that is killed. The loop ends with the last of them.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

from serfmp.bus import frames

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from serfmp.agent.process import Process
    from serfmp.bus.loop import Loop

STOP_GRACE: Final = 1.0
"""Seconds that the other children get to finish what they hold."""

CORE_ROLES: Final = frozenset({"gossip", "detector"})
"""They end when the others have ended."""

LAST_ROLE: Final = "logger"
"""It ends when all have ended and have said so."""

END_TIME: Final = 3.0
"""Seconds that workers need to end scripts when their grace is over: TERM, and KILL for those that ignore it."""

STOP_MARGIN: Final = 4.0
"""Seconds beyond the grace of scripts within which all children must have ended after a stop; then they are killed."""


class Stopping:
    """See the module."""

    def __init__(self, loop: Loop, processes: Sequence[Process], log: Callable[[str, str], None]) -> None:
        self._loop = loop
        self._processes = processes
        self._log = log
        self.begun = False
        self._complete = False
        """All has ended but what writes the log."""

    def begin(self, grace: float) -> None:
        """Tell all processes to end; scripts may take `grace` seconds."""
        self.begun = True
        # The dispatcher stays for the ends of all scripts, so that the log tells them.
        graces = {"worker": grace, "dispatcher": grace + END_TIME}
        for process in self._processes:
            if process.role not in CORE_ROLES and process.role != LAST_ROLE:
                process.send(frames.Stop(graces.get(process.role, STOP_GRACE)))
        self._loop.call_later(grace + STOP_MARGIN, lambda: self._kill_rest(grace + STOP_MARGIN))
        self.go_on()

    def go_on(self) -> None:
        """One has ended: it may be the turn of others."""
        last = [process for process in self._processes if process.running and process.role == LAST_ROLE]
        running = [process for process in self._processes if process.running and process.role != LAST_ROLE]
        if not running and not self._complete:
            self._complete = True
            self._log("INFO", "shutdown complete")
            for process in last:
                process.send(frames.Stop(STOP_GRACE))
        if not running:
            if not last:
                self._loop.stop()
        elif all(process.role in CORE_ROLES for process in running):
            for process in running:
                process.send(frames.Stop(STOP_GRACE))

    def _kill_rest(self, limit: float) -> None:
        for process in self._processes:
            if process.running:
                self._log("WARN", f"{process.name} did not stop within {limit:.0f} s and was killed")
                process.signal(signal.SIGKILL)
        # A process that hangs in the kernel does not even end by that.
        self._loop.call_later(STOP_GRACE, self._loop.stop)
