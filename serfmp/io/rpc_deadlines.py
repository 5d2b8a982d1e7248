"""Requests of clients that wait for the detector: each gets its answer once, or an error when it has waited too long.

Rules: there are few limits, and the times of one limit come in the order in which its requests began: they stand in a
queue with one timer. Timers of their own would stay with the loop for all of the limit, thousands behind a busy client.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.bus.loop import Loop

    Answered = Callable[[Any, str], None]


class Waiting:
    """One request: call it with value and error of the answer; a second call does nothing."""

    __slots__ = ("_answered", "_deadlines", "when")

    def __init__(self, deadlines: Deadlines, when: float, answered: Answered) -> None:
        self._deadlines = deadlines
        self.when = when
        """Monotonic time at which it has waited too long."""
        self._answered: Answered | None = answered

    @property
    def done(self) -> bool:
        """Whether it was answered."""
        return self._answered is None

    def __call__(self, value: Any, error: str) -> None:
        """Here is the answer."""
        answered, self._answered = self._answered, None
        if answered is not None:
            self._deadlines.under_way -= 1
            answered(value, error)


class Deadlines:
    """See the module."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._queues: dict[float, deque[Waiting]] = {}
        self._timed: set[float] = set()
        """Limits whose queue has a timer."""
        self.under_way = 0
        """Requests that wait."""

    def begin(self, limit: float, answered: Answered) -> Waiting:
        """A request that may wait for `limit` seconds; `answered(value, error)` is called once."""
        queue = self._queues.get(limit)
        if queue is None:
            queue = self._queues[limit] = deque()
        while queue and queue[0].done:
            queue.popleft()
        waiting = Waiting(self, self._loop.clock() + limit, answered)
        queue.append(waiting)
        self.under_way += 1
        if limit not in self._timed:
            self._look_at(limit, waiting.when)
        return waiting

    def _look_at(self, limit: float, when: float) -> None:
        self._timed.add(limit)
        self._loop.call_at(when, partial(self._look, limit))

    def _look(self, limit: float) -> None:
        self._timed.discard(limit)
        queue, now = self._queues[limit], self._loop.clock()
        while queue and (queue[0].done or queue[0].when <= now):
            queue.popleft()(None, f"the detector did not answer within {limit:g} s")
        if queue and limit not in self._timed:
            self._look_at(limit, queue[0].when)
