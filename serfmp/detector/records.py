"""Journal records, and what a detector that is started again finds in them.

Rules:

* A record is a tuple of plain values; the first is its kind, the others are what the kind lists in `RecordKind`.
* Replaying is a fold over the records in order. Any prefix of a journal replays to a usable state: what belongs
  together stands in one record (an event and the member rows that it tells of, a user event and the request that asked
  for it), and rows of nodes stand before the events that follow from them, so that a torn batch leaves rows without
  their event, never the other way round.
* A record that cannot be understood is skipped and counted; it never stops a recovery.
* Times are seconds of the host's monotonic clock, which goes on while the detector is dead.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final

from serfmp.detector.effects import (
    Event,
    EventKind,
    Lifecycle,
    Member,
    MemberEvent,
    MemberStatus,
    Plain,
    QueryReceived,
    Record,
    RequestId,
    UserEventReceived,
)
from serfmp.detector.serf.batches import LatestByName
from serfmp.wire.coordinate import Coordinate
from serfmp.wire.tags import decode_tags

_TAGS_CACHED: Final = 512
"""Different metadata whose tags are remembered: members are many and much alike."""

CONSUMERS = ("rpc", "dispatcher")
"""Processes that must acknowledge every event."""


class RecordKind(StrEnum):
    """Kinds of records, each with its fields."""

    OWN = "own"
    """Incarnation of the local node."""
    CLOCKS = "clocks"
    """Member, event and query clock."""
    NODE = "node"
    """Fields of a `SavedNode`."""
    NODE_GONE = "node-gone"
    """Name of a node that SWIM dropped."""
    MEMBER = "member"
    """Fields of a `SavedMember`: a change that no event tells of."""
    MEMBER_GONE = "member-gone"
    """Name of a member that Serf forgot."""
    MEMBER_EVENT = "event"
    """Sequence number, kind, and the fields of a `SavedMember` for each member; replaces their rows."""
    PAST_EVENT = "past"
    """Sequence number, kind, and the fields of `Member`s: an event whose rows were recorded before; changes none."""
    UNTOLD = "untold"
    """A row as it was when it was told last or None, and as it is; updated, reaped: an event about it waits."""
    NO_NEWS = "no-news"
    """Names of members of whom nothing is to be told after all."""
    USER_EVENT = "user"
    """Fields of a `SavedUserEvent`."""
    INTENT = "intent"
    """Fields of a `SavedIntent`."""
    QUERY = "query"
    """Lamport time and ID of a query that was received."""
    QUESTION = "question"
    """Fields of a `SavedQuestion`: a query that was published, or may be answered."""
    RESPONDED = "responded"
    """Lamport time and ID of a query that was answered."""
    ASK = "ask"
    """Lamport time, ID, deadline of a client's query, and the request that began it."""
    ASK_DONE = "ask-done"
    """Lamport time and ID of a client's query that has ended."""
    ACKNOWLEDGED = "ack"
    """Consumer, sequence number."""
    SEQUENCE = "sequence"
    """The sequence number of the last event."""
    LIFECYCLE = "life"
    """State of the local node, Lamport time of its leave intent."""
    EVENT_MINIMUM = "minimum"
    """The lowest Lamport time of user events that are delivered."""
    QUERY_MINIMUM = "query-minimum"
    """The lowest Lamport time of queries in which the node takes part."""
    KEYS = "keys"
    """All keys, the primary first."""
    COORDINATE = "coordinate"
    """Vector, error, adjustment and height of the local node."""
    LOST = "lost"
    """Address of a member that was reaped as failed."""
    ANSWERED = "answered"
    """Role, generation and number of a request that was carried out."""


@dataclass(frozen=True, slots=True)
class SavedNode:
    """A row of SWIM's table; `state` has its number on the wire."""

    name: str
    address: bytes
    port: int
    meta: bytes
    versions: bytes
    incarnation: int
    state: int
    changed: float


@dataclass(frozen=True, slots=True)
class SavedMember:
    """A row of Serf's table. `left_at`: when it left or failed, 0 if it did not.

    `prune`: what happens once the node is gone, see `serfmp.detector.serf.members.Prune`.
    """

    name: str
    address: bytes
    port: int
    meta: bytes
    versions: bytes
    status: int
    status_ltime: int
    left_at: float
    prune: int = 0

    @property
    def data(self) -> tuple[bytes, int, bytes]:
        """What an update tells of."""
        return self.address, self.port, self.meta


@dataclass(frozen=True, slots=True)
class UntoldMember:
    """A member of whom events wait (see `serfmp.detector.serf.coalescing`). `before`: the row that was told last."""

    before: SavedMember | None
    row: SavedMember
    updated: bool = False
    reaped: bool = False

    def after(self, kind: EventKind, row: SavedMember) -> UntoldMember:
        """The same with one more event, and the row as it is then."""
        updated = self.updated or kind is EventKind.MEMBER_UPDATE
        return UntoldMember(self.before, row, updated, kind is EventKind.MEMBER_REAP)

    def record(self) -> Record:
        """The record."""
        before: Plain = None if self.before is None else list(_values(self.before))
        row: Plain = list(_values(self.row))
        return Record((RecordKind.UNTOLD.value, before, row, self.updated, self.reaped))


HELD: Final = -1
"""Sequence number of a user event that waits to be told."""


@dataclass(frozen=True, slots=True)
class SavedUserEvent:
    """A user event; `request` is None for one that another node sent.

    `sequence` is 0 if it was not delivered here, `HELD` if it may still be.
    """

    sequence: int
    ltime: int
    name: str
    payload: bytes
    coalesce: bool
    own: bool
    time: float
    request: RequestId | None

    def event(self) -> UserEventReceived:
        """As it is published."""
        return UserEventReceived(self.sequence, self.ltime, self.name, self.payload, self.coalesce)

    def as_told(self, sequence: int) -> SavedUserEvent:
        """The same, delivered under this number."""
        return replace(self, sequence=sequence)

    def as_superseded(self) -> SavedUserEvent:
        """The same, never to be delivered: a newer one of its name came first."""
        return replace(self, sequence=0)


@dataclass(frozen=True, slots=True)
class SavedQuestion:
    """A query that this node may answer. Sequence number 0: it is not published. Port 0: it cannot be answered."""

    sequence: int
    ltime: int
    id: int
    name: str
    payload: bytes
    source_node: str
    address: bytes
    port: int
    relay_factor: int
    deadline: float
    answered: bool = False

    def event(self) -> QueryReceived:
        """As it is published."""
        return QueryReceived(
            self.sequence, self.ltime, self.id, self.name, self.payload, self.source_node, self.deadline
        )

    def as_answered(self) -> SavedQuestion:
        """The same query once it was answered; its payload is not needed any more."""
        return replace(self, answered=True)

    @classmethod
    def of_event(cls, event: QueryReceived) -> SavedQuestion:
        """A published query of which only the event is left."""
        return cls(
            event.sequence,
            event.ltime,
            event.id,
            event.name,
            event.payload,
            event.source_node,
            b"",
            0,
            0,
            event.deadline,
        )


@dataclass(frozen=True, slots=True)
class SavedAsk:
    """A client's query that runs."""

    ltime: int
    id: int
    deadline: float
    request: RequestId

    def fields(self) -> tuple[Plain, ...]:
        """The record."""
        return (RecordKind.ASK.value, self.ltime, self.id, self.deadline, list(self.request))


@dataclass(frozen=True, slots=True)
class SavedIntent:
    """A remembered intent about an unknown node."""

    node: str
    leaving: bool
    ltime: int
    time: float


def fields(kind: RecordKind, saved: SavedNode | SavedMember | SavedIntent | SavedQuestion) -> tuple[Plain, ...]:
    """A record of one of the flat dataclasses above."""
    return (kind.value, *_values(saved))


_GETTERS: Final = {
    kind: attrgetter(*(each.name for each in dataclasses.fields(kind)))
    for kind in (SavedNode, SavedMember, SavedIntent, SavedQuestion)
}


def _values(saved: SavedNode | SavedMember | SavedIntent | SavedQuestion) -> tuple[Plain, ...]:
    """All fields in their order. `dataclasses.astuple` would copy each value deeply: 11 µs instead of 0.4."""
    found: tuple[Plain, ...] = _GETTERS[type(saved)](saved)
    return found


def member_event_fields(sequence: int, kind: EventKind, rows: Iterable[SavedMember]) -> tuple[Plain, ...]:
    """The record of a member event."""
    return (RecordKind.MEMBER_EVENT.value, sequence, int(kind), [list(_values(row)) for row in rows])


def past_event_fields(event: MemberEvent) -> tuple[Plain, ...]:
    """The record of a member event that a compaction keeps because somebody has not acknowledged it."""
    rows: list[Plain] = [
        [member.name, member.address, member.port, dict(member.tags), int(member.status), list(member.versions)]
        for member in event.members
    ]
    return (RecordKind.PAST_EVENT.value, event.sequence, int(event.kind), rows)


_USER_EVENT: Final[str] = RecordKind.USER_EVENT.value
"""Looked up once: that of an enumeration costs as much as the rest of a record."""


def user_event_fields(saved: SavedUserEvent) -> tuple[Plain, ...]:
    """The record of a user event."""
    request: Plain = None if saved.request is None else list(saved.request)
    return (
        _USER_EVENT,
        saved.sequence,
        saved.ltime,
        saved.name,
        saved.payload,
        saved.coalesce,
        saved.own,
        saved.time,
        request,
    )


def member_of(row: SavedMember) -> Member:
    """A row as users see it."""
    low, high, spoken, serf_low, serf_high, serf_spoken = row.versions
    versions = (low, high, spoken, serf_low, serf_high, serf_spoken)
    return Member(row.name, row.address, row.port, _tags(row.meta), MemberStatus(row.status), versions)


@lru_cache(maxsize=_TAGS_CACHED)
def _tags(meta: bytes) -> Mapping[str, str]:
    return MappingProxyType(decode_tags(meta))


@dataclass(slots=True)
class Recovered:
    """What the records of a journal add up to."""

    incarnation: int = 0
    clocks: tuple[int, int, int] = (0, 0, 0)
    nodes: dict[str, SavedNode] = field(default_factory=dict)
    members: dict[str, SavedMember] = field(default_factory=dict)
    intents: dict[str, SavedIntent] = field(default_factory=dict)
    user_events: dict[int, list[SavedUserEvent]] = field(default_factory=dict)
    """All user events of the journal by Lamport time; the ring takes those of its window."""
    events: list[Event] = field(default_factory=list)
    """Events in the order of their sequence numbers."""
    untold: dict[str, UntoldMember] = field(default_factory=dict)
    """Members of whom events waited, by name."""
    held: LatestByName[SavedUserEvent] = field(default_factory=LatestByName)
    """User events that waited."""
    queries: list[tuple[int, int]] = field(default_factory=list)
    questions: dict[tuple[int, int], SavedQuestion] = field(default_factory=dict)
    """Queries that were published or may be answered, by Lamport time and ID, in the order of their records."""
    asks: dict[tuple[int, int], SavedAsk] = field(default_factory=dict)
    """Clients' queries that run, by Lamport time and ID."""
    acknowledged: dict[str, int] = field(default_factory=dict)
    sequence: int = 0
    lost: list[str] = field(default_factory=list)
    lifecycle: Lifecycle = Lifecycle.ALIVE
    leave_ltime: int = 0
    event_minimum: int = 0
    query_minimum: int = 0
    coordinate: Coordinate | None = None
    keys: tuple[bytes, ...] | None = None
    """The ring, if it was changed."""
    answered: OrderedDict[RequestId, None] = field(default_factory=OrderedDict)
    skipped: int = 0
    """Records that could not be understood."""

    @classmethod
    def replay(cls, records: Iterable[tuple[Any, ...]]) -> Recovered:
        """Fold the records of a journal, or of any prefix of it."""
        recovered = cls()
        for record in records:
            try:
                recovered._apply(*record)
            except (TypeError, ValueError, KeyError, AttributeError, IndexError):
                recovered.skipped += 1
        return recovered

    def _apply(self, kind: str, *values: Any) -> None:
        match RecordKind(kind):
            case RecordKind.NODE:
                self.nodes[values[0]] = SavedNode(*values)
            case RecordKind.NODE_GONE:
                self.nodes.pop(values[0], None)
            case RecordKind.MEMBER:
                self.members[values[0]] = SavedMember(*values)
            case RecordKind.MEMBER_GONE:
                self.members.pop(values[0], None)
            case RecordKind.MEMBER_EVENT:
                self._member_event(*values)
            case RecordKind.PAST_EVENT:
                sequence, number, rows = values
                event = MemberEvent(sequence, EventKind(number), tuple(_member_from(row) for row in rows))
                self._keep(event)
                self._told(event)
            case RecordKind.UNTOLD:
                self._untold(*values)
            case RecordKind.NO_NEWS:
                for name in values[0]:
                    self.untold.pop(name, None)
            case RecordKind.USER_EVENT:
                self._user_event(*values)
            case RecordKind.INTENT:
                self.intents[values[0]] = SavedIntent(*values)
            case RecordKind.ANSWERED:
                role, generation, number = values
                self.answered[role, generation, number] = None
            case RecordKind.QUERY | RecordKind.QUESTION | RecordKind.RESPONDED | RecordKind.ASK | RecordKind.ASK_DONE:
                self._apply_query(RecordKind(kind), *values)
            case other:
                self._apply_figure(other, *values)

    def _apply_query(self, kind: RecordKind, *values: Any) -> None:
        match kind:
            case RecordKind.QUERY:
                ltime, query_id = values
                self.queries.append((ltime, query_id))
            case RecordKind.QUESTION:
                question = SavedQuestion(*values)
                self.questions[question.ltime, question.id] = question
                if question.sequence:
                    self._keep(question.event())
            case RecordKind.RESPONDED:
                ltime, query_id = values
                question = self.questions[ltime, query_id]
                self.questions[ltime, query_id] = question.as_answered()
            case RecordKind.ASK:
                ltime, query_id, deadline, asked = values
                request = (asked[0], asked[1], asked[2])
                self.asks[ltime, query_id] = SavedAsk(ltime, query_id, deadline, request)
                self.answered[request] = None
            case RecordKind.ASK_DONE:
                ltime, query_id = values
                self.asks.pop((ltime, query_id), None)

    def _apply_figure(self, kind: RecordKind, *values: Any) -> None:
        match kind:
            case RecordKind.OWN:
                self.incarnation = max(self.incarnation, *values)
            case RecordKind.CLOCKS:
                member, event, query = values
                self.clocks = (member, event, query)
            case RecordKind.ACKNOWLEDGED:
                consumer, sequence = values
                self.acknowledged[consumer] = max(sequence, self.acknowledged.get(consumer, 0))
            case RecordKind.SEQUENCE:
                self.sequence = max(self.sequence, *values)
            case RecordKind.LIFECYCLE:
                state, self.leave_ltime = values
                self.lifecycle = Lifecycle(state)
            case RecordKind.QUERY_MINIMUM:
                self.query_minimum = max(self.query_minimum, *values)
            case RecordKind.KEYS:
                self.keys = tuple(values[0])
            case RecordKind.COORDINATE:
                vec, error, adjustment, height = values
                self.coordinate = Coordinate(tuple(vec), error, adjustment, height)
            case RecordKind.LOST:
                self.lost.extend(values)
            case RecordKind.EVENT_MINIMUM:
                self.event_minimum = max(self.event_minimum, *values)

    def _member_event(self, sequence: int, number: int, rows: list[list[Any]]) -> None:
        kind = EventKind(number)
        saved = [SavedMember(*row) for row in rows]
        for row in saved:
            if kind is EventKind.MEMBER_REAP:
                self.members.pop(row.name, None)
            else:
                self.members[row.name] = row
            self.untold.pop(row.name, None)
        self._keep(MemberEvent(sequence, kind, tuple(member_of(row) for row in saved)))

    def _untold(self, before: list[Any] | None, row: list[Any], updated: bool, reaped: bool) -> None:
        saved = SavedMember(*row)
        self.untold[saved.name] = UntoldMember(None if before is None else SavedMember(*before), saved, updated, reaped)
        if reaped:
            self.members.pop(saved.name, None)
        else:
            self.members[saved.name] = saved

    def _told(self, event: MemberEvent) -> None:
        for member in event.members:
            waiting = self.untold.pop(member.name, None)
            if waiting is not None and waiting.reaped and event.kind is not EventKind.MEMBER_REAP:
                # The reap of the same batch is told by the next record, or by whoever reads this.
                self.untold[member.name] = replace(waiting, before=waiting.row)

    def _user_event(self, *values: Any) -> None:
        sequence, ltime, name, payload, coalesce, own, time, asked = values
        request = None if asked is None else (asked[0], asked[1], asked[2])
        saved = SavedUserEvent(sequence, ltime, name, payload, coalesce, own, time, request)
        of_its_time = self.user_events.setdefault(saved.ltime, [])
        for place, other in enumerate(of_its_time):
            if (other.name, other.payload) == (saved.name, saved.payload):
                of_its_time[place] = saved
                self.held.drop(other.name, other)
                break
        else:
            of_its_time.append(saved)
        if saved.request is not None:
            self.answered[saved.request] = None
        if saved.sequence > 0:
            self._keep(saved.event())
        elif saved.sequence == HELD:
            for superseded in self.held.put(saved.name, saved.ltime, saved):
                self._supersede(superseded)

    def _supersede(self, saved: SavedUserEvent) -> None:
        of_its_time = self.user_events[saved.ltime]
        of_its_time[of_its_time.index(saved)] = saved.as_superseded()

    def _keep(self, event: Event) -> None:
        self.sequence = max(self.sequence, event.sequence)
        self.events.append(event)


def _member_from(row: list[Any]) -> Member:
    name, address, port, tags, status, versions = row
    return Member(name, address, port, tags, MemberStatus(status), tuple(versions))
