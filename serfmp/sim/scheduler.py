"""Virtual time: what happens when, and nothing in between.

Rules: actions happen in the order of their times, those of one time in the order in which they were asked for. Time
stands still while an action runs. Nothing here is random.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

START: Final = 1000.0
"""Seconds on the clock when a simulation begins: not 0, so that nothing mistakes a time for "never"."""


class Scheduler:
    """A heap of actions, and the present time in seconds."""

    __slots__ = ("_number", "_queue", "now", "steps")

    def __init__(self) -> None:
        self.now = START
        self.steps = 0
        """Actions that have happened."""
        self._number = 0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Do something at a time; at once, if that has passed."""
        self._number += 1
        heapq.heappush(self._queue, (max(time, self.now), self._number, action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something so much later."""
        self.at(self.now + seconds, action)

    def step(self, end: float) -> bool:
        """Let the next action happen; False, and the time is `end`, if there is none before."""
        if not self._queue or self._queue[0][0] > end:
            self.now = max(self.now, end)
            return False
        self.now, _, action = heapq.heappop(self._queue)
        self.steps += 1
        action()
        return True
