"""What the RPC writes: headers, bodies and records as bytes (spec agent.md 5.1, 5.3, 5.4).

Rules: keys in alphabetical order; shortest integers; text as str, bytes as bin, empty payloads as nil. A member is
encoded once, when its row changes; lists of members are joined from these bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, Final

import msgpack

from serfmp.bus.packing import pack
from serfmp.detector.effects import Event, EventKind, Member, MemberEvent, MemberStatus, QueryReceived
from serfmp.errors import InternalError

_EVENT_MEMBERS: Final = b"\x82\xa5Event"
_MEMBERS_KEY: Final = b"\xa7Members"
_USER: Final = EventKind.USER.label
_QUERY: Final = EventKind.QUERY.label
_SHORT_ARRAY: Final = 16
_MEDIUM_ARRAY: Final = 0x1_0000


def header(sequence: int, error: str = "") -> bytes:
    """The header of an answer or a record."""
    return pack({"Error": error, "Seq": sequence})


def member(row: Member) -> bytes:
    """One member."""
    low, high, current, serf_low, serf_high, serf_current = row.versions
    return pack(
        {
            "Addr": row.address,
            "DelegateCur": serf_current,
            "DelegateMax": serf_high,
            "DelegateMin": serf_low,
            "Name": row.name,
            "Port": row.port,
            "ProtocolCur": current,
            "ProtocolMax": high,
            "ProtocolMin": low,
            "Status": row.status.label,
            "Tags": dict(sorted(row.tags.items())),
        }
    )


def member_of(encoded: bytes) -> Member:
    """The inverse of `member`."""
    found = _unpack(encoded)
    return Member(
        found["Name"],
        found["Addr"],
        found["Port"],
        found["Tags"],
        MemberStatus[found["Status"].upper()],
        (
            found["ProtocolMin"],
            found["ProtocolMax"],
            found["ProtocolCur"],
            found["DelegateMin"],
            found["DelegateMax"],
            found["DelegateCur"],
        ),
    )


def tags(row: Member) -> bytes:
    """The tags of a member as they stand at the end of what `member` gives."""
    return pack(dict(sorted(row.tags.items())))


def tags_of(encoded: bytes) -> dict[str, str]:
    """The inverse of `tags`."""
    found: dict[str, str] = _unpack(encoded)
    return found


def members(encoded: Iterable[bytes], count: int) -> bytes:
    """The body of `members`, from so many encoded members."""
    return b"".join((b"\x81", _MEMBERS_KEY, _array(count), *encoded))


def event(happened: Event) -> bytes:
    """The record of an event, without its header."""
    if isinstance(happened, MemberEvent):
        rows = [member(row) for row in happened.members]
        return _EVENT_MEMBERS + pack(happened.kind.label) + _MEMBERS_KEY + _array(len(rows)) + b"".join(rows)
    if isinstance(happened, QueryReceived):
        raise InternalError("a query's record has an ID of its connection: see query")
    return pack(
        {
            "Coalesce": happened.coalesce,
            "Event": _USER,
            "LTime": happened.ltime,
            "Name": happened.name,
            "Payload": happened.payload or None,
        }
    )


def query(happened: QueryReceived, id: int) -> bytes:
    """The record of a query that arrived, without its header; `id` is what an answer names."""
    return pack(
        {
            "Event": _QUERY,
            "ID": id,
            "LTime": happened.ltime,
            "Name": happened.name,
            "Payload": happened.payload or None,
        }
    )


def answer(kind: str, node: str, payload: bytes) -> bytes:
    """The record of an ack, a response or the end of a query, without its header."""
    return pack({"From": node, "Payload": payload or None, "Type": kind})


def _unpack(encoded: bytes) -> Any:
    return msgpack.unpackb(encoded, unicode_errors="surrogateescape")


def _array(count: int) -> bytes:
    if count < _SHORT_ARRAY:
        return bytes((0x90 | count,))
    return struct.pack(">BH", 0xDC, count) if count < _MEDIUM_ARRAY else struct.pack(">BI", 0xDD, count)
