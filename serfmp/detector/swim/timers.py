"""Timers of the core: what is due when, and what may only fire behind a fence.

Rules:

* A timer is a deadline and a callback. It fires once, at or after its deadline, and not after it was cancelled.
* Timers that **blame** (their firing accuses somebody) stand in a heap of their own: they fire only up to a time by
  which all input was handed in, and a freeze of the process moves all of them together.
* Timers fire in the order of their deadlines; those of one deadline in the order in which they were set. A callback may
  set and cancel timers.
* A ticker keeps its phase: however late a tick comes, the ones missed meanwhile are dropped and the next stands on the
  old grid. One that rests sets no timer until it is woken; then it goes on, on the old grid.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random


class Timer:
    """A deadline with a callback. Made by `Timers.at` only."""

    __slots__ = ("blames", "callback", "deadline")

    def __init__(self, deadline: float, callback: Callable[[], None], blames: bool) -> None:
        self.deadline = deadline
        self.callback: Callable[[], None] | None = callback
        self.blames = blames

    def cancel(self) -> None:
        """Never fire. May be called at any time, also after it fired."""
        self.callback = None


_Heap = list[tuple[float, int, Timer]]


class Timers:
    """All timers of one core."""

    __slots__ = ("_blaming", "_number", "_plain")

    def __init__(self) -> None:
        self._plain: _Heap = []
        self._blaming: _Heap = []
        self._number = 0

    def at(self, deadline: float, callback: Callable[[], None], blames: bool = False) -> Timer:
        """Call back at `deadline`. `blames`: only behind a fence."""
        timer = Timer(deadline, callback, blames)
        self._number += 1
        heapq.heappush(self._blaming if blames else self._plain, (deadline, self._number, timer))
        return timer

    def next_deadline(self) -> float | None:
        """The earliest deadline, None without timers."""
        plain, blaming = _first(self._plain), _first(self._blaming)
        if plain is None or (blaming is not None and blaming < plain):
            return blaming
        return plain

    @property
    def may_blame(self) -> bool:
        """Whether there is a timer that blames, due or not."""
        return _first(self._blaming) is not None

    def blame_due(self, now: float) -> bool:
        """Whether a timer that blames is due."""
        first = _first(self._blaming)
        return first is not None and first <= now

    def fire(self, now: float, blame_until: float) -> None:
        """Call back what is due; of those that blame only what is due at `blame_until`."""
        blame_until = min(blame_until, now)
        while True:
            plain, blaming = _first(self._plain), _first(self._blaming)
            plain_due = plain is not None and plain <= now
            if (
                blaming is not None
                and blaming <= blame_until
                and not (plain_due and plain is not None and plain <= blaming)
            ):
                heap = self._blaming
            elif plain_due:
                heap = self._plain
            else:
                return
            timer = heapq.heappop(heap)[2]
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()

    def postpone_blame(self, seconds: float) -> None:
        """Move all timers that blame into the future, their order unchanged."""
        for _, _, timer in self._blaming:
            timer.deadline += seconds
        self._blaming = [(timer.deadline, number, timer) for _, number, timer in self._blaming]


def _first(heap: _Heap) -> float | None:
    while heap:
        deadline, _, timer = heap[0]
        if timer.callback is not None:
            return deadline
        heapq.heappop(heap)
    return None


class Ticker:
    """Calls back every `period` seconds, with a random phase and some jitter: clusters shall not beat in step (B26)."""

    __slots__ = ("_callback", "_clock", "_grid", "_jitter", "_period", "_rng", "_timer", "_timers")

    def __init__(
        self,
        timers: Timers,
        clock: Callable[[], float],
        rng: Random,
        period: float,
        callback: Callable[[], None],
        jitter: float = 0.0,
    ) -> None:
        """`jitter` is the largest change of the distance between two ticks, as a share of the period."""
        self._timers = timers
        self._clock = clock
        self._rng = rng
        self._period = period
        self._jitter = jitter / 2
        self._callback = callback
        self._grid = clock() + rng.random() * period
        self._timer: Timer | None = self._arm()

    def rest(self) -> None:
        """No tick comes until `wake`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def wake(self) -> None:
        """Tick again; nothing happens to one that does not rest."""
        if self._timer is None:
            now = self._clock()
            if self._grid <= now:
                self._grid += self._period * (1 + (now - self._grid) // self._period)
            self._timer = self._arm()

    def _arm(self) -> Timer:
        offset = self._rng.uniform(-self._jitter, self._jitter) * self._period if self._jitter else 0.0
        return self._timers.at(max(self._grid + offset, self._clock()), self._tick)

    def _tick(self) -> None:
        self._grid += self._period
        earliest = self._clock() + self._jitter * self._period
        if self._grid <= earliest:
            self._grid += self._period * (1 + (earliest - self._grid) // self._period)
        self._timer = self._arm()
        self._callback()
