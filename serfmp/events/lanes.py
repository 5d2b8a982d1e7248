"""Which invocation runs when and where: pure scheduling, without socket or process; time is passed in.

Rules:

* A lane is a queue per order key, first in, first out. Of a lane at most so many invocations are under way as its
  handler allows (one, unless the handler says otherwise); the next one starts when one of them has finished.
* What belongs to one handler forms a group: it bounds what of the handler is under way at once, and what waits, in
  however many lanes, and also where it shares a lane with others (order `agent`). Queries have groups and lanes of
  their own: they never wait behind events.
* `crc32(key) % workers` names the worker of a lane; a worker has many lanes and runs invocations of each, up to its
  credits. Lanes that wait for credits are served in turn.
* A group holds at most its limit of waiting invocations, and all together `SIZE_LIMIT` bytes. Beyond that the oldest
  waiting one is dropped: of the same group (or the new one, if the handler says so), or of the lane that holds the most
  bytes. What is under way is never dropped.
* A query whose deadline has passed is not started.
* Where order allows one at a time, the next one may be sent *ahead* to the worker, which keeps the order: so a lane
  does not stand still while an end is told and the next one comes. Of a quick handler several small ones are sent
  ahead, so that ends and new ones travel together. None for queries, nor where a failed one is tried again or waiting
  ones are joined.
* An invocation that turns out not to have been run goes back to the head of its lane. One that is to be tried again
  keeps its place in the lane while it rests, but not its worker.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from serfmp.errors import InternalError
from serfmp.events.invocation import Invocation
from serfmp.events.policy import Order, Overflow, QueuePolicy

SIZE_LIMIT: Final = 24 * 1024 * 1024
"""Bytes that wait in all lanes: a quarter of a bank of the ledger."""

AHEAD: Final = 1
"""Invocations of a lane that its worker may hold behind the one that runs."""

AHEAD_QUICK: Final = 32
"""The same, while its scripts are quick."""

AHEAD_SIZE: Final = 16 * 1024
"""Bytes of an invocation that may be further ahead than `AHEAD`."""


_Row: TypeAlias = "OrderedDict[_Lane, None]"
"""Lanes that stand in a row; any of them may step out."""


def worker_of(key: str, workers: int) -> int:
    """The worker that runs the lane of this key."""
    return zlib.crc32(key.encode(errors="surrogateescape")) % workers


@dataclass(slots=True, eq=False)
class _Group:
    """What belongs to one handler, events or queries.

    Invariant: while lanes are blocked, all places are taken, or held by lanes that were called.
    """

    key: str
    policy: QueuePolicy
    waiting: OrderedDict[int, _Lane] = field(default_factory=OrderedDict)
    """By number of the invocation: the lane in which it waits. Oldest first."""
    under_way: int = 0
    in_turn: bool = False
    """One at a time in one lane, of which the worker keeps the order."""
    quick: bool = False
    """Its last script was."""
    blocked: _Row = field(default_factory=OrderedDict)
    """Lanes that could start one if the group were not at its bound, in the order in which they get a place."""
    called: int = 0
    """Lanes that were blocked, and stand in their worker's row again with a place held for them."""

    @property
    def bound(self) -> int:
        """Of what is under way: what runs at once, and what is ahead of that."""
        if not self.in_turn:
            return self.policy.concurrency
        return self.policy.concurrency + (AHEAD_QUICK if self.quick else AHEAD)


@dataclass(slots=True, eq=False)
class _Lane:
    key: str
    worker: int
    group: _Group | None
    """The only one in it, whose bound is the lane's; None: one at a time."""
    waiting: deque[Invocation] = field(default_factory=deque)
    size: int = 0
    """Bytes of what waits."""
    under_way: int = 0
    row: _Row | None = None
    """Where it stands: in its worker's row, or among the blocked of a group. Lanes in which nothing waits do not."""
    called: _Group | None = None
    """The group that holds a place for it."""

    @property
    def limit(self) -> int:
        """Of what is under way."""
        return 1 if self.group is None else self.group.bound


@dataclass(slots=True)
class _UnderWay:
    lane: _Lane
    group: _Group
    invocation: Invocation
    resting: bool = False
    """It waits to be tried again and uses no credit."""


class Lanes:
    """See the module."""

    def __init__(self, workers: int, size_limit: int = SIZE_LIMIT, *, ahead: bool = False) -> None:
        """`ahead`: whether workers may hold what cannot run yet."""
        self._workers = workers
        self._may_be_ahead = ahead
        self._size_limit = size_limit
        self._groups: dict[str, _Group] = {}
        self._lanes: dict[str, _Lane] = {}
        self._under_way: dict[int, _UnderWay] = {}
        self._credits = [0] * workers
        self._used = [0] * workers
        self._rows: list[_Row] = [OrderedDict() for _ in range(workers)]
        self._size = 0
        self._woken = False
        self.late: list[Invocation] = []
        """Queries that were not started because their deadline had passed, until `take_late`."""

    @property
    def waiting(self) -> int:
        """Invocations that wait."""
        return sum(len(group.waiting) for group in self._groups.values())

    @property
    def under_way(self) -> int:
        """Invocations that were taken and have not finished."""
        return len(self._under_way)

    def in_turn(self, invocation: Invocation) -> str:
        """The lane whose order the worker has to keep; empty if no other one of it can be there."""
        return invocation.lane if self._groups[invocation.group].in_turn else ""

    @property
    def busy(self) -> bool:
        """Whether a worker has one of them."""
        return any(self._used)

    def counts(self, group: str) -> tuple[int, int]:
        """How many invocations of a group wait, and how many are under way."""
        found = self._groups.get(group)
        if found is None:
            return 0, 0
        running = min(found.under_way, found.policy.concurrency)
        return len(found.waiting) + found.under_way - running, running

    def set_credits(self, worker: int, credits: int) -> None:
        """A worker runs at most so many invocations at once from now on; 0: it is not there."""
        self._credits[worker] = credits

    def push(self, invocation: Invocation, policy: QueuePolicy) -> list[Invocation]:
        """Put an invocation at the end of its lane. Returns those that were dropped for it, oldest first."""
        lane, group = self._place(invocation, policy)
        if len(group.waiting) >= policy.limit and policy.overflow is Overflow.DROP_NEWEST:
            self._forget_if_idle(lane, group)
            return [invocation]
        lane.waiting.append(invocation)
        group.waiting[invocation.number] = lane
        self._resize(lane, invocation.size)
        self._offer(lane)
        dropped = []
        while len(group.waiting) > policy.limit:
            dropped.append(self._drop_oldest(group))
        while self._size > self._size_limit:
            dropped.append(self._drop(max(self._lanes.values(), key=lambda one: one.size), 0))
        return dropped

    def last_waiting(self, invocation: Invocation) -> Invocation | None:
        """The last one that waits in the lane of this invocation."""
        lane = self._lanes.get(invocation.lane)
        return lane.waiting[-1] if lane is not None and lane.waiting else None

    def replace_last(self, invocation: Invocation) -> None:
        """Put this one in the place of the last one that waits in its lane."""
        lane = self._lanes[invocation.lane]
        old = lane.waiting.pop()
        if old.number != invocation.number:
            raise InternalError(f"invocation {old.number} is replaced by another one, {invocation.number}")
        lane.waiting.append(invocation)
        self._resize(lane, invocation.size - old.size)

    def adopt(self, invocation: Invocation, policy: QueuePolicy) -> None:
        """An invocation is under way already: it was taken by an earlier dispatcher."""
        self._begin(*self._place(invocation, policy), invocation)

    def take(self, now: float) -> list[tuple[int, Invocation]]:
        """All that may start now: worker and invocation. Each is under way until `finished` or `put_back`."""
        taken: list[tuple[int, Invocation]] = []
        self._woken = True
        while self._woken:
            # A lane that had nothing to start after all may give its place to one of a worker that had its turn.
            self._woken = False
            for worker in range(self._workers):
                taken.extend(self._take_for(worker, now))
        return taken

    def take_late(self) -> list[Invocation]:
        """Queries that came too late since the last call."""
        late, self.late = self.late, []
        return late

    def finished(self, number: int, *, quick: bool = False) -> Invocation | None:
        """An invocation has ended, maybe soon after its begin: its lane goes on. None if it is not under way."""
        entry = self._under_way.pop(number, None)
        if entry is None:
            return None
        lane, group = entry.lane, entry.group
        lane.under_way -= 1
        group.under_way -= 1
        group.quick = quick
        if not entry.resting:
            self._used[lane.worker] -= 1
        self._offer(lane)
        self._call(group)
        self._forget_if_idle(lane, group)
        return entry.invocation

    def rest(self, number: int) -> None:
        """An invocation has ended and is to be tried again later: it keeps its place until `put_back`."""
        entry = self._under_way[number]
        if not entry.resting:
            entry.resting = True
            self._used[entry.lane.worker] -= 1

    def put_back(self, number: int, invocation: Invocation | None = None) -> None:
        """An invocation was not run after all, or is tried again (as `invocation`): it is the next of its lane."""
        entry = self._under_way.get(number)
        if entry is None:
            raise InternalError(f"invocation {number} is put back but not under way")
        lane, back = entry.lane, invocation or entry.invocation
        lane.waiting.appendleft(back)
        entry.group.waiting[back.number] = lane
        entry.group.waiting.move_to_end(back.number, last=False)
        self._resize(lane, back.size)
        self.finished(number)

    # --- inner part ---------------------------------------------------------------------------------------------------

    def _place(self, invocation: Invocation, policy: QueuePolicy) -> tuple[_Lane, _Group]:
        """Its lane and its group; both follow the policy from now on."""
        group, changed = self._groups.get(invocation.group), False
        if group is None:
            group = self._groups[invocation.group] = _Group(
                invocation.group, policy, in_turn=self._in_turn(invocation, policy)
            )
        elif changed := group.policy is not policy and group.policy != policy:
            group.policy, group.in_turn = policy, self._in_turn(invocation, policy)
            for _ in range(group.bound):
                self._call(group)
        only = group if policy.order is Order.HANDLER else None
        lane = self._lanes.get(invocation.lane)
        if lane is None:
            lane = self._lanes[invocation.lane] = _Lane(
                invocation.lane, worker_of(invocation.lane, self._workers), only
            )
        elif lane.group is not only or changed:
            lane.group = only
            self._offer(lane)
        return lane, group

    def _pop(self, lane: _Lane) -> Invocation:
        invocation = lane.waiting.popleft()
        del self._groups[invocation.group].waiting[invocation.number]
        self._resize(lane, -invocation.size)
        return invocation

    def _drop_oldest(self, group: _Group) -> Invocation:
        number, lane = next(iter(group.waiting.items()))
        # Only in a lane that several handlers share is it not the first.
        return self._drop(lane, next(place for place, one in enumerate(lane.waiting) if one.number == number))

    def _drop(self, lane: _Lane, place: int) -> Invocation:
        invocation = lane.waiting[place]
        del lane.waiting[place]
        group = self._groups[invocation.group]
        del group.waiting[invocation.number]
        self._resize(lane, -invocation.size)
        if lane.row is not None and not lane.waiting:
            del lane.row[lane]
            lane.row = None
            self._release(lane)
        self._forget_if_idle(lane, group)
        return invocation

    def _take_for(self, worker: int, now: float) -> Iterator[tuple[int, Invocation]]:
        row = self._rows[worker]
        while row and self._used[worker] < self._credits[worker]:
            lane, _ = row.popitem(last=False)
            lane.row = None
            caller, lane.called = lane.called, None
            if caller is not None:
                caller.called -= 1
            while lane.waiting and 0.0 < lane.waiting[0].deadline < now:
                late = self._pop(lane)
                self.late.append(late)
                self._forget_if_idle(lane, self._groups[late.group])
            group = self._groups[lane.waiting[0].group] if lane.waiting else None
            if group is not None and lane.under_way < lane.limit and not self._too_far_ahead(lane, group):
                if group.under_way + group.called < group.bound:
                    invocation = self._pop(lane)
                    self._begin(lane, group, invocation)
                    self._offer(lane)
                    yield worker, invocation
                else:
                    self._stand(lane, group.blocked, first=caller is group)
            if caller is not None:
                self._call(caller)
                self._forget_if_idle(lane, caller)
            self._forget_if_idle(lane, group)

    def _in_turn(self, invocation: Invocation, policy: QueuePolicy) -> bool:
        one_by_one = policy.order is Order.HANDLER and policy.concurrency == 1
        lost = policy.retries or policy.overflow is Overflow.COALESCE or invocation.query is not None
        return self._may_be_ahead and one_by_one and not lost

    def _too_far_ahead(self, lane: _Lane, group: _Group) -> bool:
        """Whether the next one would only lie at its worker, in the place of one that could run, or is too large.

        That is looked at again at each end.
        """
        ahead = lane.under_way - group.policy.concurrency
        if ahead < 0:
            return False
        too_large = ahead >= AHEAD and lane.waiting[0].size > AHEAD_SIZE
        return too_large or 2 * self._used[lane.worker] >= self._credits[lane.worker]

    def _begin(self, lane: _Lane, group: _Group, invocation: Invocation) -> None:
        if invocation.number in self._under_way:
            raise InternalError(f"invocation {invocation.number} is under way twice")
        lane.under_way += 1
        group.under_way += 1
        self._under_way[invocation.number] = _UnderWay(lane, group, invocation)
        self._used[lane.worker] += 1

    def _offer(self, lane: _Lane) -> None:
        if lane.row is None and lane.waiting and lane.under_way < lane.limit:
            self._stand(lane, self._rows[lane.worker])

    def _stand(self, lane: _Lane, row: _Row, *, first: bool = False) -> None:
        lane.row = row
        row[lane] = None
        if first:
            row.move_to_end(lane, last=False)

    def _release(self, lane: _Lane) -> None:
        """Give the place that is held for a lane to the next one."""
        caller, lane.called = lane.called, None
        if caller is not None:
            caller.called -= 1
            self._call(caller)
            self._forget_if_idle(lane, caller)

    def _call(self, group: _Group) -> None:
        """Let the next blocked lane stand in its worker's row again, if there is a place for it."""
        if group.blocked and group.under_way + group.called < group.bound:
            lane, _ = group.blocked.popitem(last=False)
            lane.called = group
            group.called += 1
            self._stand(lane, self._rows[lane.worker])
            self._woken = True

    def _forget_if_idle(self, lane: _Lane, group: _Group | None) -> None:
        """Lanes come and go with nodes and events: an idle one leaves nothing."""
        if not (lane.waiting or lane.under_way or lane.row is not None):
            self._lanes.pop(lane.key, None)
        if group is not None and not (group.waiting or group.under_way or group.blocked or group.called):
            self._groups.pop(group.key, None)

    def _resize(self, lane: _Lane, change: int) -> None:
        lane.size += change
        self._size += change
