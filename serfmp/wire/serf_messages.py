"""The messages of Serf: intents, user events, queries and their answers, and the state that a push/pull carries.

Rules (spec wire.md 10):

* One type byte and one body, inside a user message of the gossip layer. Serf messages are gossiped on byte for byte as
  received: whoever keeps one keeps the bytes, not what was decoded.
* Lamport times are 64 bits wide. The highest is refused: whoever witnessed it would wrap its clock (wire.md 12.7).
* Filters are checked when they are decoded, one by one: a query with a filter that nobody understands is still
  gossiped, one with an empty filter must not be (it kills peers).
* Byte fields that are empty are written as nil, as Serf does, except the key of a key request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from serfmp.errors import InternalError
from serfmp.wire.address import V4_LENGTH, V6_LENGTH
from serfmp.wire.errors import WireError
from serfmp.wire.filters import Filter, NodeFilter, TagFilter, decode_filter, encode_filter
from serfmp.wire.internal_queries import (
    ConflictResponse,
    KeyRequest,
    KeyResponse,
    decode_conflict_response,
    decode_key_request,
    decode_key_response,
    encode_conflict_response,
    encode_key_request,
    encode_key_response,
)
from serfmp.wire.msgpack_raw import (
    LTIME_MAX,
    NIL,
    U8_MAX,
    U16_MAX,
    U32_MAX,
    flag,
    items,
    ltime,
    put_array_header,
    put_flag,
    put_raw,
    put_raw_or_nil,
    put_sint,
    put_text,
    put_uint,
    raw,
    read_record,
    record_length,
    sint,
    text,
    uint,
)
from serfmp.wire.serf_state import EventSlot, PushPullState, decode_push_pull_state, encode_push_pull_state

__all__ = [
    "LTIME_MAX",
    "ConflictResponse",
    "EventSlot",
    "Filter",
    "JoinIntent",
    "KeyRequest",
    "KeyResponse",
    "LeaveIntent",
    "NodeFilter",
    "PushPullState",
    "Query",
    "QueryResponse",
    "Relay",
    "SerfMessage",
    "SerfType",
    "TagFilter",
    "UserEvent",
    "decode_filter",
    "decode_push_pull_state",
    "decode_serf",
    "encode_filter",
    "encode_serf",
]


class SerfType(IntEnum):
    """The first byte of a Serf message."""

    LEAVE = 0
    JOIN = 1
    PUSH_PULL = 2
    USER_EVENT = 3
    QUERY = 4
    QUERY_RESPONSE = 5
    CONFLICT_RESPONSE = 6
    KEY_REQUEST = 7
    KEY_RESPONSE = 8
    RELAY = 9


@dataclass(frozen=True, slots=True)
class LeaveIntent:
    """A node is about to leave; with `prune` its row is to be forgotten at once."""

    ltime: int
    node: str
    prune: bool = False


@dataclass(frozen=True, slots=True)
class JoinIntent:
    """A node has joined."""

    ltime: int
    node: str


@dataclass(frozen=True, slots=True)
class UserEvent:
    """An event for the handlers of every node; `coalesce` allows one of a kind to stand for many."""

    ltime: int
    name: str
    payload: bytes
    coalesce: bool


@dataclass(frozen=True, slots=True)
class Query:
    """A question to the nodes that its filters match; answers go to `address` and `port` until `timeout_ns` is over."""

    ltime: int
    id: int
    address: bytes
    port: int
    source_node: str
    filters: tuple[bytes, ...]
    flags: int
    relay_factor: int
    timeout_ns: int
    name: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class QueryResponse:
    """An ack (bit 0 of `flags`) or an answer to a query, known by `ltime` and `id`."""

    ltime: int
    id: int
    sender: str
    flags: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Relay:
    """Pass `inner`, a complete query response, on to `node` at this address."""

    address: bytes
    port: int
    node: str
    inner: bytes


SerfMessage = (
    LeaveIntent
    | JoinIntent
    | UserEvent
    | Query
    | QueryResponse
    | Relay
    | ConflictResponse
    | KeyRequest
    | KeyResponse
    | PushPullState
)


# --- encoding ---------------------------------------------------------------------------------------------------------


def encode_serf(message: SerfMessage) -> bytes:
    """The message with its Serf type byte, as an agent of the first generation would write it."""
    return _ENCODERS[type(message)](message)


def _encode_leave(message: LeaveIntent) -> bytes:
    return b"".join(
        (
            b"\x00\x83\xa5LTime",
            put_uint(message.ltime),
            b"\xa4Node",
            put_text(message.node),
            b"\xa5Prune",
            put_flag(message.prune),
        )
    )


def _encode_join(message: JoinIntent) -> bytes:
    return b"\x01\x82\xa5LTime" + put_uint(message.ltime) + b"\xa4Node" + put_text(message.node)


def _encode_user_event(message: UserEvent) -> bytes:
    return b"".join(
        (
            b"\x03\x84\xa2CC",
            put_flag(message.coalesce),
            b"\xa5LTime",
            put_uint(message.ltime),
            b"\xa4Name",
            put_text(message.name),
            b"\xa7Payload",
            put_raw_or_nil(message.payload),
        )
    )


def _encode_query(message: Query) -> bytes:
    if not all(message.filters):
        raise InternalError("an empty filter would kill peers")
    filters = (
        put_array_header(len(message.filters)) + b"".join(map(put_raw, message.filters)) if message.filters else NIL
    )
    return b"".join(
        (
            b"\x04\x8b\xa4Addr",
            put_raw(message.address),
            b"\xa7Filters",
            filters,
            b"\xa5Flags",
            put_uint(message.flags),
            b"\xa2ID",
            put_uint(message.id),
            b"\xa5LTime",
            put_uint(message.ltime),
            b"\xa4Name",
            put_text(message.name),
            b"\xa7Payload",
            put_raw_or_nil(message.payload),
            b"\xa4Port",
            put_uint(message.port),
            b"\xabRelayFactor",
            put_uint(message.relay_factor),
            b"\xaaSourceNode",
            put_text(message.source_node),
            b"\xa7Timeout",
            put_sint(message.timeout_ns),
        )
    )


def _encode_query_response(message: QueryResponse) -> bytes:
    return b"".join(
        (
            b"\x05\x85\xa5Flags",
            put_uint(message.flags),
            b"\xa4From",
            put_text(message.sender),
            b"\xa2ID",
            put_uint(message.id),
            b"\xa5LTime",
            put_uint(message.ltime),
            b"\xa7Payload",
            put_raw_or_nil(message.payload),
        )
    )


def _encode_relay(message: Relay) -> bytes:
    if not message.inner:
        raise InternalError("a relay without a message inside would become an empty user message")
    return b"".join(
        (
            b"\x09\x82\xa8DestAddr\x83\xa2IP",
            put_raw(message.address),
            b"\xa4Port",
            put_uint(message.port),
            b"\xa4Zone\xa0\xa8DestName",
            put_text(message.node),
            message.inner,
        )
    )


_ENCODERS: Final[dict[type, Callable[[Any], bytes]]] = {
    LeaveIntent: _encode_leave,
    JoinIntent: _encode_join,
    UserEvent: _encode_user_event,
    Query: _encode_query,
    QueryResponse: _encode_query_response,
    Relay: _encode_relay,
    ConflictResponse: encode_conflict_response,
    KeyRequest: encode_key_request,
    KeyResponse: encode_key_response,
    PushPullState: encode_push_pull_state,
}


# --- decoding ---------------------------------------------------------------------------------------------------------


def decode_serf(data: bytes) -> SerfMessage:
    """Decode a Serf message, type byte included; not the state of a push/pull. Raises `WireError`."""
    if not data:
        raise WireError("a Serf message is empty", "empty")
    decoder = _DECODERS.get(data[0])
    if decoder is None:
        raise WireError(f"a Serf message is of type {data[0]}", "type")
    return decoder(data)


def _decode_leave(data: bytes) -> LeaveIntent:
    get = read_record(data[1:]).get
    return LeaveIntent(ltime(get(b"LTime")), text(get(b"Node")), flag(get(b"Prune")))


def _decode_join(data: bytes) -> JoinIntent:
    get = read_record(data[1:]).get
    return JoinIntent(ltime(get(b"LTime")), text(get(b"Node")))


def _decode_user_event(data: bytes) -> UserEvent:
    get = read_record(data[1:]).get
    time, name, payload, coalesce = get(b"LTime"), get(b"Name"), get(b"Payload"), get(b"CC")
    if type(time) is not int or not 0 <= time <= LTIME_MAX:
        time = ltime(time)
    if type(payload) is not bytes:
        payload = raw(payload)
    return UserEvent(time, text(name), payload, flag(coalesce))


def _decode_query(data: bytes) -> Query:
    get = read_record(data[1:]).get
    return Query(
        ltime=ltime(get(b"LTime")),
        id=uint(get(b"ID"), U32_MAX),
        address=raw(get(b"Addr")),
        port=uint(get(b"Port"), U16_MAX),
        source_node=text(get(b"SourceNode")),
        filters=tuple(map(raw, items(get(b"Filters")))),
        flags=uint(get(b"Flags"), U32_MAX),
        relay_factor=uint(get(b"RelayFactor"), U8_MAX),
        timeout_ns=sint(get(b"Timeout")),
        name=text(get(b"Name")),
        payload=raw(get(b"Payload")),
    )


def _decode_query_response(data: bytes) -> QueryResponse:
    get = read_record(data[1:]).get
    return QueryResponse(
        ltime=ltime(get(b"LTime")),
        id=uint(get(b"ID"), U32_MAX),
        sender=text(get(b"From")),
        flags=uint(get(b"Flags"), U32_MAX),
        payload=raw(get(b"Payload")),
    )


def _decode_relay(data: bytes) -> Relay:
    end = 1 + record_length(data[1:])
    header = read_record(data[1:end])
    target = header.get(b"DestAddr")
    if type(target) is not dict:
        raise WireError("a relay has no destination", "relay")
    inner = data[end:]
    if not inner or inner[0] != SerfType.QUERY_RESPONSE:
        raise WireError("a relay carries something else than a query response", "relay")
    address = raw(target.get(b"IP"))
    if len(address) not in {V4_LENGTH, V6_LENGTH}:
        raise WireError(f"a relay goes to an address of {len(address)} bytes instead of 4 or 16", "relay")
    return Relay(address, uint(target.get(b"Port"), U16_MAX), text(header.get(b"DestName")), inner)


_DECODERS: Final[dict[int, Callable[[bytes], SerfMessage]]] = {
    SerfType.LEAVE: _decode_leave,
    SerfType.JOIN: _decode_join,
    SerfType.USER_EVENT: _decode_user_event,
    SerfType.QUERY: _decode_query,
    SerfType.QUERY_RESPONSE: _decode_query_response,
    SerfType.CONFLICT_RESPONSE: decode_conflict_response,
    SerfType.KEY_REQUEST: decode_key_request,
    SerfType.KEY_RESPONSE: decode_key_response,
    SerfType.RELAY: _decode_relay,
}
