"""Event streams of RPC clients: which events they want, and the records that wait for a client to read.

Rules:

* Filters (spec agent.md 4.1) are joined by commas, without blanks; an empty text is `*`. `user:NAME` and `query:NAME`
  want exactly that name, `user:` any. An event goes to a stream once, however many filters it matches.
* A stream holds at most `QUEUE_LIMIT` records; beyond that new ones are dropped, counted and logged (spec agent.md
  5.4). A record is encoded once and shared by all streams.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from serfmp.detector.effects import Event, EventKind, MemberEvent
from serfmp.io import rpc_records

QUEUE_LIMIT: Final = 512
"""Records that wait in one stream."""

_KINDS: Final = {kind.label: kind for kind in EventKind}
_NAMED: Final = frozenset({EventKind.USER, EventKind.QUERY})


@dataclass(frozen=True, slots=True)
class EventFilter:
    """A kind of events (None: any) and a name (empty: any)."""

    kind: EventKind | None = None
    name: str = ""

    def matches(self, event: Event) -> bool:
        """Whether this event is wanted."""
        if self.kind is None:
            return True
        if self.kind is not event.kind:
            return False
        return not self.name or isinstance(event, MemberEvent) or self.name == event.name


def parse_filters(text: str) -> tuple[EventFilter, ...] | None:
    """The filters of a stream; None if one of them is none."""
    found = [_parse(part) for part in (text or "*").split(",")]
    known = tuple(item for item in found if item is not None)
    return known if len(known) == len(found) else None


def _parse(text: str) -> EventFilter | None:
    if text == "*":
        return EventFilter()
    label, colon, name = text.partition(":")
    kind = _KINDS.get(label)
    if kind is None or (colon and kind not in _NAMED):
        return None
    return EventFilter(kind, name)


class EventStream:
    """One subscription of one client."""

    __slots__ = ("_filters", "dropped", "ended", "header", "records", "sequence")

    def __init__(self, sequence: int, filters: tuple[EventFilter, ...]) -> None:
        self.sequence = sequence
        self._filters = filters
        self.header = rpc_records.header(sequence)
        """Stands before each record."""
        self.records: deque[bytes] = deque()
        """Records that wait, without their headers."""
        self.dropped = 0
        self.ended = False
        """Nothing more will be added: it goes once its records are written."""

    def wants(self, event: Event) -> bool:
        """Whether a filter matches the event."""
        for wanted in self._filters:  # noqa: SIM110  a generator for each event and stream costs more than the look
            if wanted.matches(event):
                return True
        return False

    def add(self, record: bytes) -> bool:
        """Queue a record; False if it was dropped."""
        if len(self.records) >= QUEUE_LIMIT:
            self.dropped += 1
            return False
        self.records.append(record)
        return True
