"""Lamport clocks (spec serf.md 2)."""

from __future__ import annotations

from serfmp.wire.serf_messages import LTIME_MAX


class LamportClock:
    """Holds the next Lamport time to issue; the largest ever seen is one below. Never goes back, never wraps."""

    __slots__ = ("time",)

    def __init__(self, time: int = 1) -> None:
        self.time = time

    def increment(self) -> int:
        """Take the present time: it is issued, and the clock moves on."""
        issued = self.time
        self.time = min(issued + 1, LTIME_MAX)
        return issued

    def witness(self, ltime: int) -> None:
        """Somebody issued this time."""
        if ltime >= self.time:
            self.time = min(ltime + 1, LTIME_MAX)
