"""The state of Serf that rides at the end of a push/pull: clocks, intents, recent events.

Rules (spec wire.md 10.3):

* The event ring may come with empty slots; only the filled ones are given, since a slot's place follows from its
  Lamport time.
* Ours is written without empty slots, which every agent accepts.
* The lists can be long and are a stranger's: each is walked element by element, counted against a limit, never built by
  its claim.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from serfmp.wire.errors import WireError
from serfmp.wire.msgpack_raw import (
    NIL,
    PARSER_ERRORS,
    items,
    ltime,
    mapping,
    new_unpacker,
    put_array_header,
    put_map_header,
    put_raw_or_nil,
    put_text,
    put_texts,
    put_uint,
    raw,
    read_extents,
    read_value,
    text,
    unparsable,
)

STATE_TYPE: Final = 2
"""The Serf type byte of this message."""

MAX_MEMBERS: Final = 131_072
"""Most members in one of the lists."""

MAX_SLOTS: Final = 65_536
"""Most slots of the event ring; the default ring has 512."""

MAX_EVENTS: Final = 65_536
"""Most events in all slots together."""


@dataclass(frozen=True, slots=True)
class EventSlot:
    """The events, as (name, payload), that happened at one Lamport time."""

    ltime: int
    events: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class PushPullState:
    """The three clocks, the last intent time of each member, who has left, and the ring of recent events."""

    ltime: int
    status_ltimes: Mapping[str, int] = field(default_factory=dict)
    left_members: tuple[str, ...] = ()
    event_ltime: int = 0
    events: tuple[EventSlot, ...] = ()
    query_ltime: int = 0


def encode_push_pull_state(state: PushPullState) -> bytes:
    """The state with its Serf type byte."""
    return b"".join(
        (
            b"\x02\x86\xaaEventLTime",
            put_uint(state.event_ltime),
            b"\xa6Events",
            put_array_header(len(state.events)),
            *map(_put_slot, state.events),
            b"\xa5LTime",
            put_uint(state.ltime),
            b"\xabLeftMembers",
            put_texts(state.left_members),
            b"\xaaQueryLTime",
            put_uint(state.query_ltime),
            b"\xacStatusLTimes",
            put_map_header(len(state.status_ltimes)),
            *(put_text(name) + put_uint(time) for name, time in sorted(state.status_ltimes.items())),
        )
    )


def _put_slot(slot: EventSlot) -> bytes:
    events = (
        b"\x82\xa4Name" + put_text(name) + b"\xa7Payload" + put_raw_or_nil(payload) for name, payload in slot.events
    )
    return (
        b"\x82\xa6Events" + put_array_header(len(slot.events)) + b"".join(events) + b"\xa5LTime" + put_uint(slot.ltime)
    )


def decode_push_pull_state(data: bytes) -> PushPullState:
    """Decode the user state of a push/pull, type byte included. Raises `WireError`."""
    if not data or data[0] != STATE_TYPE:
        raise WireError("the user state of a push/pull is not Serf's", "type")
    body = memoryview(data)[1:]
    extents = read_extents(body)

    def field_bytes(key: bytes) -> memoryview:
        start, end = extents.get(key, (0, 0))
        return body[start:end] if end else memoryview(NIL)

    return PushPullState(
        ltime=ltime(read_value(field_bytes(b"LTime"))),
        status_ltimes={text(key): ltime(value) for key, value in _pairs(field_bytes(b"StatusLTimes"), MAX_MEMBERS)},
        left_members=tuple(text(name) for name in _elements(field_bytes(b"LeftMembers"), MAX_MEMBERS)),
        event_ltime=ltime(read_value(field_bytes(b"EventLTime"))),
        events=_slots(field_bytes(b"Events")),
        query_ltime=ltime(read_value(field_bytes(b"QueryLTime"))),
    )


def _slots(data: memoryview) -> tuple[EventSlot, ...]:
    slots = []
    count = 0
    for slot in _elements(data, MAX_SLOTS):
        if slot is None:
            continue
        body = mapping(slot)
        events = items(body.get(b"Events"))
        count += len(events)
        if count > MAX_EVENTS:
            raise WireError(f"a push/pull carries more than {MAX_EVENTS} events", "limit")
        slots.append(EventSlot(ltime(body.get(b"LTime")), tuple(map(_event, events))))
    return tuple(slots)


def _event(value: Any) -> tuple[str, bytes]:
    body = mapping(value)
    return text(body.get(b"Name")), raw(body.get(b"Payload"))


def _elements(data: memoryview, limit: int) -> Iterator[Any]:
    """The elements of an array, one by one; none for nil."""
    if data[0] == NIL[0]:
        return
    unpacker = new_unpacker()
    try:
        unpacker.feed(data)
        for _ in range(_within(unpacker.read_array_header(), limit)):
            yield unpacker.unpack()
    except PARSER_ERRORS as error:
        raise unparsable(error) from None


def _pairs(data: memoryview, limit: int) -> Iterator[tuple[Any, Any]]:
    """The pairs of a map, one by one; none for nil."""
    if data[0] == NIL[0]:
        return
    unpacker = new_unpacker()
    try:
        unpacker.feed(data)
        for _ in range(_within(unpacker.read_map_header(), limit)):
            yield unpacker.unpack(), unpacker.unpack()
    except PARSER_ERRORS as error:
        raise unparsable(error) from None


def _within(count: int, limit: int) -> int:
    if count > limit:
        raise WireError(f"a list of {count} entries is over the limit of {limit}", "limit")
    return count
