"""Collecting member events and user events before they are told (spec serf.md 9, without its bugs: 20.2).

Rules:

* What is collected is told when nothing has come for the quiet period, and at the latest one coalescing period after
  the first of it. Everything else passes at once. The end of the node's life tells what is left.
* Members: what is told of a node is the difference between what was told of it before and what is so now, once. Who
  joined and changed has joined, with its latest data. Who failed and is back is no news, unless its data changed. Who
  goes and is reaped gets both events. Kinds are told in the order join, update, failed, leave, reap, members in the
  order of their names, in events of bounded size.
* User events that allow it: of each name those with the highest Lamport time of the batch are told, names in the order
  in which they came; the others are superseded and counted.
* Rows, replicas, log and snapshot do not wait. What waits is in the journal, and a detector that is started again goes
  on with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from serfmp.detector.effects import EventKind, MemberStatus, Plain, Record
from serfmp.detector.records import RecordKind, SavedMember, SavedUserEvent, UntoldMember
from serfmp.detector.serf.batches import LatestByName
from serfmp.detector.serf.outbox import Outbox
from serfmp.detector.serf.persisting import Persisting
from serfmp.detector.swim.context import Context

EVENT_BYTES: Final = 256 * 1024
"""Names and tags that one member event carries, in bytes. Ours."""

ROW_OVERHEAD: Final = 64
"""Bytes of a member beside its name and tags, about."""

HELD_LIMIT: Final = 1024
"""User events that wait; with one more all of them are told at once, which is counted. Ours."""

_ORDER: Final = (
    EventKind.MEMBER_JOIN,
    EventKind.MEMBER_UPDATE,
    EventKind.MEMBER_FAILED,
    EventKind.MEMBER_LEAVE,
    EventKind.MEMBER_REAP,
)
_GOING: Final = {
    int(MemberStatus.FAILED): EventKind.MEMBER_FAILED,
    int(MemberStatus.LEFT): EventKind.MEMBER_LEAVE,
}


class Window:
    """The time in which events are collected: opened by the first of them, closed by quiet or by its longest time."""

    __slots__ = ("_armed", "_close", "_context", "_first", "_last")

    def __init__(self, context: Context, close: Callable[[], None]) -> None:
        self._context = context
        self._close = close
        self._first: float | None = None
        self._last = 0.0
        self._armed = False

    def extend(self) -> None:
        """Something came."""
        self._last = self._context.now
        if self._first is None:
            self._first = self._last
        if not self._armed:
            self._arm()

    def closed(self) -> None:
        """All that was collected is told."""
        self._first = None

    def _arm(self) -> None:
        if self._first is not None:
            config = self._context.config
            due = min(self._first + config.coalesce_period, self._last + config.quiescent_period)
            self._armed = True
            # One timer at a time, however many events there are: it looks again when it fires.
            self._context.timers.at(due, self._look)

    def _look(self) -> None:
        self._armed = False
        if self._first is None:
            return
        config, now = self._context.config, self._context.now
        if now >= self._first + config.coalesce_period or now >= self._last + config.quiescent_period:
            self._close()
        else:
            self._arm()


class Coalescing:
    """See the module. Without both periods everything passes."""

    __slots__ = (
        "_context",
        "_enabled",
        "_member_window",
        "_members",
        "_outbox",
        "_persisting",
        "_told",
        "_user_window",
        "_users",
    )

    def __init__(
        self,
        context: Context,
        outbox: Outbox,
        persisting: Persisting,
        untold: Iterable[UntoldMember],
        held: LatestByName[SavedUserEvent],
    ) -> None:
        """`untold`, `held`: what waited in a detector that died."""
        self._context = context
        self._outbox = outbox
        self._persisting = persisting
        self._enabled = context.config.coalesce_period > 0 and context.config.quiescent_period > 0
        self._members = {member.row.name: member for member in untold}
        self._users = held
        self._member_window = Window(context, self._tell_members)
        self._user_window = Window(context, self._tell_users)
        self._told: Callable[[SavedUserEvent], None] = _nobody
        if self._members:
            self._member_window.extend()
        if self._users:
            self._user_window.extend()

    # --- members ------------------------------------------------------------------------------------------------------

    def member(self, kind: EventKind, before: SavedMember | None, row: SavedMember) -> None:
        """A member's row, before it changed, or None for a new one, and now."""
        self._persisting.member_event(kind, (row,))
        if not self._enabled:
            self._outbox.member_event(kind, (row,))
            return
        untold = self._members.get(row.name) or UntoldMember(before, row)
        untold = self._members[row.name] = untold.after(kind, row)
        self._context.effects.append(untold.record())
        self._member_window.extend()

    def untold(self) -> Iterator[UntoldMember]:
        """Members of whom something is to be told."""
        yield from self._members.values()

    def _tell_members(self) -> None:
        self._member_window.closed()
        waiting, self._members = self._members, {}
        unchanged: list[Plain] = []
        groups: dict[EventKind, list[SavedMember]] = {kind: [] for kind in _ORDER}
        for name in sorted(waiting):
            kinds = list(news(waiting[name]))
            for kind in kinds:
                groups[kind].append(waiting[name].row)
            if not kinds:
                unchanged.append(name)
        if unchanged:
            self._context.count("serfmp.coalesce.no_news", len(unchanged))
            self._context.effects.append(Record((RecordKind.NO_NEWS.value, unchanged)))
        for kind, rows in groups.items():
            for chunk in _chunks(rows):
                self._outbox.late_member_event(kind, chunk)

    # --- user events --------------------------------------------------------------------------------------------------

    def deliver(self, told: Callable[[SavedUserEvent], None]) -> None:
        """Who is to be given each collected user event, with its number, when it is told, or without when it is not."""
        self._told = told

    def holds(self, coalesce: bool) -> bool:
        """Whether a user event with this flag waits."""
        return coalesce and self._enabled

    def user_event(self, saved: SavedUserEvent) -> None:
        """A user event that waits; its record is written."""
        for superseded in self._users.put(saved.name, saved.ltime, saved):
            self._context.count("serfmp.coalesce.superseded")
            self._told(superseded.as_superseded())
        self._user_window.extend()
        if len(self._users) > HELD_LIMIT:
            self._context.count("serfmp.coalesce.early")
            self._tell_users()

    def held(self) -> Iterator[SavedUserEvent]:
        """User events that wait."""
        return iter(self._users)

    def _tell_users(self) -> None:
        self._user_window.closed()
        for saved in self._users.take():
            told = saved.as_told(self._outbox.next_sequence)
            self._outbox.user_event(told)
            self._told(told)

    # --- the end ------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Tell all that waits, now."""
        self._tell_members()
        self._tell_users()


def news(member: UntoldMember) -> Iterator[EventKind]:
    """What is to be told of a member, in order."""
    before, row = member.before, member.row
    told = None if before is None else MemberStatus(before.status)
    there = told in {MemberStatus.ALIVE, MemberStatus.LEAVING}
    gone = _GOING.get(row.status)
    if gone is None and not member.reaped:
        if not there:
            yield EventKind.MEMBER_JOIN
        elif member.updated or before is None or before.data != row.data:
            yield EventKind.MEMBER_UPDATE
        return
    if gone is not None and told != row.status and (there or not member.reaped):
        yield gone
    if member.reaped:
        yield EventKind.MEMBER_REAP


def _chunks(rows: list[SavedMember]) -> Iterator[tuple[SavedMember, ...]]:
    chunk: list[SavedMember] = []
    size = 0
    for row in rows:
        size += len(row.name) + len(row.meta) + ROW_OVERHEAD
        if chunk and size > EVENT_BYTES:
            yield tuple(chunk)
            chunk, size = [], len(row.name) + len(row.meta) + ROW_OVERHEAD
        chunk.append(row)
    if chunk:
        yield tuple(chunk)


def _nobody(saved: SavedUserEvent) -> None:
    del saved
