"""What internal queries and their answers carry as payload: name conflicts and keys.

Rules (spec wire.md 10.8):

* Each has a Serf type byte of its own in front, although it never travels alone.
* A conflict answer without a body means that the member is not known; an empty name stands for that here.
* Keys are raw bytes in requests and base64 text in answers. The key of a request is written even when it is empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from serfmp.wire.msgpack_raw import (
    NIL,
    U8_MAX,
    U16_MAX,
    flag,
    items,
    mapping,
    put_flag,
    put_map_header,
    put_raw,
    put_sint,
    put_text,
    put_texts,
    put_uint,
    raw,
    read_record,
    sint,
    text,
    uint,
)

INTERNAL: Final = "_serf_"
"""Names with this prefix belong to Serf itself (spec serf.md 11)."""
PING: Final = INTERNAL + "ping"
"""The one that clients may send: a question for acks."""


@dataclass(frozen=True, slots=True)
class ConflictResponse:
    """What a node knows about a member whose name is in dispute. An empty name means that it knows none."""

    name: str = ""
    address: bytes = b""
    port: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)
    status: int = 0
    versions: tuple[int, int, int, int, int, int] = (0, 0, 0, 0, 0, 0)
    """Protocol min, max, current, then Serf's min, max, current."""


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """The payload of an internal key query: raw key bytes, empty for the list of keys."""

    key: bytes = b""


@dataclass(frozen=True, slots=True)
class KeyResponse:
    """The answer to a key query; `keys` and `primary_key` are base64 text and filled only for the list of keys."""

    result: bool
    message: str = ""
    keys: tuple[str, ...] = ()
    primary_key: str = ""


def encode_conflict_response(message: ConflictResponse) -> bytes:
    """The answer to a conflict query; an empty name is written as a body of nil."""
    if not message.name:
        return b"\x06" + NIL
    low, high, current, serf_low, serf_high, serf_current = map(put_uint, message.versions)
    return b"".join(
        (
            b"\x06\x8b\xa4Addr",
            put_raw(message.address),
            b"\xabDelegateCur",
            serf_current,
            b"\xabDelegateMax",
            serf_high,
            b"\xabDelegateMin",
            serf_low,
            b"\xa4Name",
            put_text(message.name),
            b"\xa4Port",
            put_uint(message.port),
            b"\xabProtocolCur",
            current,
            b"\xabProtocolMax",
            high,
            b"\xabProtocolMin",
            low,
            b"\xa6Status",
            put_sint(message.status),
            b"\xa4Tags",
            put_map_header(len(message.tags)),
            *(put_text(key) + put_text(value) for key, value in sorted(message.tags.items())),
        )
    )


def encode_key_request(message: KeyRequest) -> bytes:
    """The payload of a key query."""
    return b"\x07\x81\xa3Key" + put_raw(message.key)


def encode_key_response(message: KeyResponse) -> bytes:
    """The answer to a key query."""
    return b"".join(
        (
            b"\x08\x84\xa4Keys",
            put_texts(message.keys) if message.keys else NIL,
            b"\xa7Message",
            put_text(message.message),
            b"\xaaPrimaryKey",
            put_text(message.primary_key),
            b"\xa6Result",
            put_flag(message.result),
        )
    )


def decode_conflict_response(data: bytes) -> ConflictResponse:
    """Decode the answer to a conflict query, type byte included. Raises `WireError`."""
    body = read_record(data[1:])
    get = body.get
    name = text(get(b"Name"))
    if not name:
        return ConflictResponse()
    return ConflictResponse(
        name=name,
        address=raw(get(b"Addr")),
        port=uint(get(b"Port"), U16_MAX),
        tags={text(key): text(value) for key, value in mapping(get(b"Tags")).items()},
        status=sint(get(b"Status")),
        versions=(
            uint(get(b"ProtocolMin"), U8_MAX),
            uint(get(b"ProtocolMax"), U8_MAX),
            uint(get(b"ProtocolCur"), U8_MAX),
            uint(get(b"DelegateMin"), U8_MAX),
            uint(get(b"DelegateMax"), U8_MAX),
            uint(get(b"DelegateCur"), U8_MAX),
        ),
    )


def decode_key_request(data: bytes) -> KeyRequest:
    """Decode the payload of a key query, type byte included. Raises `WireError`."""
    return KeyRequest(raw(read_record(data[1:]).get(b"Key")))


def decode_key_response(data: bytes) -> KeyResponse:
    """Decode the answer to a key query, type byte included. Raises `WireError`."""
    get = read_record(data[1:]).get
    return KeyResponse(
        result=flag(get(b"Result")),
        message=text(get(b"Message")),
        keys=tuple(map(text, items(get(b"Keys")))),
        primary_key=text(get(b"PrimaryKey")),
    )
