"""Which invocation runs when and where: pure scheduling, without clock, socket or process.

Rules:

* A lane is a queue per order key, first in, first out. One invocation of a lane is under way at a time; the next one
  starts when that one has finished.
* `crc32(key) % workers` names the worker of a lane; a worker has many lanes and runs one invocation of each, up to its
  credits. Lanes that wait for credits are served in turn.
* A lane holds at most `QUEUE_LIMIT` waiting invocations, and all lanes together `SIZE_LIMIT` bytes. Beyond that the
  oldest waiting one is dropped: of the same lane, or of the lane that holds the most bytes. What is under way is never
  dropped.
* An invocation that turns out not to have been run goes back to the head of its lane.
"""

from __future__ import annotations

import zlib
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from serfmp.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from serfmp.events.invocation import Invocation

QUEUE_LIMIT: Final = 8192
"""Invocations that wait in one lane."""

SIZE_LIMIT: Final = 24 * 1024 * 1024
"""Bytes that wait in all lanes: a quarter of a bank of the ledger."""


def worker_of(key: int, workers: int) -> int:
    """The worker that runs the lane of this key."""
    return zlib.crc32(str(key).encode()) % workers


@dataclass(slots=True)
class _Lane:
    key: int
    worker: int
    waiting: deque[Invocation] = field(default_factory=deque)
    size: int = 0
    """Bytes of what waits."""
    under_way: Invocation | None = None
    offered: bool = False
    """It stands in its worker's row of lanes that could start one."""


class Lanes:
    """See the module."""

    def __init__(self, workers: int, queue_limit: int = QUEUE_LIMIT, size_limit: int = SIZE_LIMIT) -> None:
        self._workers = workers
        self._queue_limit = queue_limit
        self._size_limit = size_limit
        self._lanes: dict[int, _Lane] = {}
        self._under_way: dict[int, _Lane] = {}
        self._credits = [0] * workers
        self._used = [0] * workers
        self._rows: list[deque[_Lane]] = [deque() for _ in range(workers)]
        self._size = 0

    @property
    def waiting(self) -> int:
        """Invocations that wait."""
        return sum(len(lane.waiting) for lane in self._lanes.values())

    @property
    def under_way(self) -> int:
        """Invocations that were taken and have not finished."""
        return len(self._under_way)

    def set_credits(self, worker: int, credits: int) -> None:
        """A worker runs at most so many invocations at once from now on; 0: it is not there."""
        self._credits[worker] = credits

    def push(self, invocation: Invocation) -> list[Invocation]:
        """Put an invocation at the end of its lane. Returns those that were dropped for it, oldest first."""
        lane = self._lane(invocation.handler)
        lane.waiting.append(invocation)
        self._resize(lane, invocation.size)
        self._offer(lane)
        dropped = []
        while len(lane.waiting) > self._queue_limit:
            dropped.append(self._drop(lane))
        while self._size > self._size_limit:
            dropped.append(self._drop(max(self._lanes.values(), key=lambda one: one.size)))
        return dropped

    def adopt(self, invocation: Invocation) -> None:
        """An invocation is under way already: it was taken by an earlier dispatcher."""
        self._begin(self._lane(invocation.handler), invocation)

    def take(self) -> list[tuple[int, Invocation]]:
        """All that may start now: worker and invocation. Each is under way until `finished` or `put_back`."""
        return [taken for worker in range(self._workers) for taken in self._take_for(worker)]

    def finished(self, number: int) -> Invocation | None:
        """An invocation has ended: its lane goes on. None if it is not under way."""
        lane = self._under_way.pop(number, None)
        if lane is None:
            return None
        invocation, lane.under_way = lane.under_way, None
        self._used[lane.worker] -= 1
        self._offer(lane)
        return invocation

    def put_back(self, number: int) -> None:
        """An invocation was not run after all: it is the next of its lane."""
        lane = self._under_way.get(number)
        if lane is None or lane.under_way is None:
            raise InternalError(f"invocation {number} is put back but not under way")
        invocation = lane.under_way
        lane.waiting.appendleft(invocation)
        self._resize(lane, invocation.size)
        self.finished(number)

    # --- inner part ---------------------------------------------------------------------------------------------------

    def _lane(self, key: int) -> _Lane:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(key, worker_of(key, self._workers))
        return lane

    def _take_for(self, worker: int) -> Iterable[tuple[int, Invocation]]:
        row = self._rows[worker]
        while row and self._used[worker] < self._credits[worker]:
            lane = row.popleft()
            lane.offered = False
            if lane.waiting:
                invocation = lane.waiting.popleft()
                self._resize(lane, -invocation.size)
                self._begin(lane, invocation)
                yield worker, invocation

    def _begin(self, lane: _Lane, invocation: Invocation) -> None:
        if lane.under_way is not None:
            raise InternalError(f"lane {lane.key} has two invocations under way")
        lane.under_way = invocation
        self._under_way[invocation.number] = lane
        self._used[lane.worker] += 1

    def _offer(self, lane: _Lane) -> None:
        if lane.waiting and lane.under_way is None and not lane.offered:
            lane.offered = True
            self._rows[lane.worker].append(lane)

    def _drop(self, lane: _Lane) -> Invocation:
        invocation = lane.waiting.popleft()
        self._resize(lane, -invocation.size)
        return invocation

    def _resize(self, lane: _Lane, change: int) -> None:
        lane.size += change
        self._size += change
