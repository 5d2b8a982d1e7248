"""The agent's log: every line of every process passes here once, is numbered, remembered, and handed on.

Rules: only the supervisor has a hub. Who takes lines (terminal, feed of rpc, files) is called for each line, of every
level, and never waits. The last `RING_LINES` lines of all levels are kept for those who come later (spec agent.md 2.3).
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final

from serfmp.bus.frames import LogLine

if TYPE_CHECKING:
    from collections.abc import Callable

RING_LINES: Final = 512
"""Lines kept for monitors (spec agent.md 2.3)."""


class LogHub:
    """See the module."""

    def __init__(self) -> None:
        self.ring: deque[LogLine] = deque(maxlen=RING_LINES)
        """The last lines, oldest first."""
        self.takers: list[Callable[[LogLine], None]] = []
        """Called with each line, in order."""
        self._last = 0

    def add(self, at: float, level: str, component: str, text: str) -> None:
        """A line came; `at` is its wall time in seconds since the epoch."""
        self._last += 1
        line = LogLine(self._last, at, level, component, text)
        self.ring.append(line)
        for taker in self.takers:
            taker(line)

    def say(self, level: str, component: str, text: str) -> None:
        """A line of the supervisor itself."""
        self.add(time.time(), level, component, text)
