"""The messages of the gossip layer below Serf: probes, suspicions, deaths, births, opaque user messages.

Rules (spec wire.md 1 and 3):

* A message is one type byte and one body. `encode` gives both; decoding takes both.
* Fields are in range when a message exists: decoding enforces types and widths, so the core never checks them again.
* An `Alive` that no agent could use (no name, an address that is none, metadata over the limit, versions that are
  missing or contradict themselves) is refused here, with the broken rule as the error's kind, so that it is never
  gossiped on (wire.md 12.6).
* Addresses, metadata and versions are kept byte for byte, because peers compare them so.
* Ping and Ack are the hot path: their encoders put cached pieces together, and their decoders read fields without
  helpers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from serfmp.errors import InternalError
from serfmp.wire.address import V4_LENGTH, V6_LENGTH
from serfmp.wire.errors import Kind, WireError
from serfmp.wire.message_types import (
    META_MAX,
    VERSIONS_LENGTH,
    Ack,
    Alive,
    Dead,
    ErrorReply,
    IndirectPing,
    Message,
    MessageType,
    Nack,
    Ping,
    PushPullNode,
    Suspect,
    User,
)
from serfmp.wire.msgpack_raw import (
    CACHED_TEXT,
    NIL,
    U8_MAX,
    U16_MAX,
    U32_MAX,
    Record,
    flag,
    put_flag,
    put_raw,
    put_sint,
    put_text,
    put_uint,
    raw,
    read_record,
    text,
    uint,
)

__all__ = [
    "META_MAX",
    "VERSIONS_LENGTH",
    "Ack",
    "Alive",
    "Dead",
    "ErrorReply",
    "IndirectPing",
    "Message",
    "MessageType",
    "Nack",
    "Ping",
    "PushPullNode",
    "Suspect",
    "User",
    "checked_identity",
    "decode_ack",
    "decode_error",
    "decode_packet_message",
    "decode_ping",
    "decode_push_pull_node",
    "encode",
    "encode_push_pull_node",
    "version_fault",
]

_ADDRESS_LENGTHS: Final = frozenset({V4_LENGTH, V6_LENGTH})


# --- encoding ---------------------------------------------------------------------------------------------------------

_CACHED: Final = 1024


def encode(message: Message) -> bytes:
    """The message with its type byte, as an agent of the first generation would write it."""
    return _ENCODERS[type(message)](message)


@lru_cache(maxsize=_CACHED)
def _source_fields(address: bytes, port: int, node: str) -> tuple[int, bytes]:
    """How many of the three source fields are set, and their pairs. Empty ones are left out (wire.md 3.1)."""
    pairs = []
    if address:
        pairs.append(b"\xaaSourceAddr" + put_raw(address))
    if node:
        pairs.append(b"\xaaSourceNode" + put_text(node))
    if port:
        pairs.append(b"\xaaSourcePort" + put_uint(port))
    return len(pairs), b"".join(pairs)


@lru_cache(maxsize=_CACHED)
def _ping_around_sequence(address: bytes, port: int, source: str, node: str) -> tuple[bytes, bytes]:
    count, pairs = _source_fields(address, port, source)
    return bytes((MessageType.PING, 0x82 + count)) + b"\xa4Node" + put_text(node) + b"\xa5SeqNo", pairs


def _encode_ping(message: Ping) -> bytes:
    around = _ping_around_sequence if len(message.node) <= CACHED_TEXT else _ping_around_sequence.__wrapped__
    head, tail = around(message.source_address, message.source_port, message.source_node, message.node)
    return head + put_uint(message.sequence) + tail


def _encode_indirect_ping(message: IndirectPing) -> bytes:
    count, pairs = _source_fields(message.source_address, message.source_port, message.source_node)
    return b"".join(
        (
            bytes((MessageType.INDIRECT_PING, 0x85 + count)),
            b"\xa4Nack",
            put_flag(message.nack),
            b"\xa4Node",
            put_text(message.node),
            b"\xa4Port",
            put_uint(message.port),
            b"\xa5SeqNo",
            put_uint(message.sequence),
            pairs,
            b"\xa6Target",
            put_raw(message.target),
        )
    )


def _encode_ack(message: Ack) -> bytes:
    payload = message.payload
    return b"\x02\x82\xa7Payload" + (put_raw(payload) if payload else NIL) + b"\xa5SeqNo" + put_uint(message.sequence)


def _encode_nack(message: Nack) -> bytes:
    return b"\x0b\x81\xa5SeqNo" + put_uint(message.sequence)


def _encode_accusation(message: Suspect | Dead) -> bytes:
    return b"".join(
        (
            b"\x03\x83\xa4From" if type(message) is Suspect else b"\x05\x83\xa4From",
            put_text(message.sender),
            b"\xabIncarnation",
            put_uint(message.incarnation),
            b"\xa4Node",
            put_text(message.node),
        )
    )


def _encode_alive(message: Alive) -> bytes:
    if len(message.versions) != VERSIONS_LENGTH:
        raise InternalError(
            f"the versions of {message.node!r} are {len(message.versions)} bytes, which can kill old peers"
        )
    return b"".join(
        (
            b"\x04\x86\xa4Addr",
            put_raw(message.address),
            b"\xabIncarnation",
            put_uint(message.incarnation),
            b"\xa4Meta",
            put_raw(message.meta),
            b"\xa4Node",
            put_text(message.node),
            b"\xa4Port",
            put_uint(message.port),
            b"\xa3Vsn",
            put_raw(message.versions),
        )
    )


def _encode_user(message: User) -> bytes:
    if not message.payload:
        raise InternalError("an empty user message would kill old peers")
    return b"\x08" + message.payload


def _encode_error(message: ErrorReply) -> bytes:
    return b"\x0d\x81\xa5Error" + put_text(message.text)


def encode_push_pull_node(node: PushPullNode) -> bytes:
    """One node map of a push/pull; it has no type byte of its own."""
    if len(node.versions) != VERSIONS_LENGTH:
        raise InternalError(f"the versions of {node.name!r} are {len(node.versions)} bytes, which can kill old peers")
    return b"".join(
        (
            b"\x87\xa4Addr",
            put_raw(node.address),
            b"\xabIncarnation",
            put_uint(node.incarnation),
            b"\xa4Meta",
            put_raw(node.meta),
            b"\xa4Name",
            put_text(node.name),
            b"\xa4Port",
            put_uint(node.port),
            b"\xa5State",
            put_sint(node.state),
            b"\xa3Vsn",
            put_raw(node.versions),
        )
    )


_ENCODERS: Final[dict[type, Callable[[Any], bytes]]] = {
    Ping: _encode_ping,
    IndirectPing: _encode_indirect_ping,
    Ack: _encode_ack,
    Nack: _encode_nack,
    Suspect: _encode_accusation,
    Dead: _encode_accusation,
    Alive: _encode_alive,
    User: _encode_user,
    ErrorReply: _encode_error,
}


# --- decoding ---------------------------------------------------------------------------------------------------------


def decode_packet_message(data: bytes) -> Message:
    """Decode one leaf message of a UDP packet, type byte included. Raises `WireError`."""
    if not data:
        raise WireError("a message is empty", "empty")
    decoder = _PACKET_DECODERS.get(data[0])
    if decoder is None:
        raise WireError(f"a packet holds a message of type {data[0]}", "type")
    return decoder(data)


def decode_ping(data: bytes) -> Ping:
    """Decode a ping, type byte included."""
    body = read_record(data[1:])
    get = body.get
    sequence = get(b"SeqNo")
    port = get(b"SourcePort")
    if type(sequence) is not int or not 0 <= sequence <= U32_MAX:
        sequence = uint(sequence, U32_MAX)
    if type(port) is not int or not 0 <= port <= U16_MAX:
        port = uint(port, U16_MAX)
    return Ping(sequence, text(get(b"Node")), _address_or_none(get(b"SourceAddr")), port, text(get(b"SourceNode")))


def _address_or_none(value: Any) -> bytes:
    """An address, or nothing; any other length could not be answered (wire.md 3.1)."""
    address = value if type(value) is bytes else raw(value)
    if len(address) in _ADDRESS_LENGTHS or not address:
        return address
    raise WireError(f"an address has {len(address)} bytes instead of 4 or 16", "address")


def decode_ack(data: bytes) -> Ack:
    """Decode an ack, type byte included."""
    body = read_record(data[1:])
    sequence = body.get(b"SeqNo")
    payload = body.get(b"Payload")
    if type(sequence) is not int or not 0 <= sequence <= U32_MAX:
        sequence = uint(sequence, U32_MAX)
    return Ack(sequence, payload if type(payload) is bytes else raw(payload))


def decode_error(data: bytes) -> ErrorReply:
    """Decode an error reply of a stream, type byte included."""
    return ErrorReply(text(read_record(data[1:]).get(b"Error")))


def _decode_indirect_ping(data: bytes) -> IndirectPing:
    get = read_record(data[1:]).get
    return IndirectPing(
        sequence=uint(get(b"SeqNo"), U32_MAX),
        target=_address_or_none(get(b"Target")),
        port=uint(get(b"Port"), U16_MAX),
        node=text(get(b"Node")),
        nack=flag(get(b"Nack")),
        source_address=_address_or_none(get(b"SourceAddr")),
        source_port=uint(get(b"SourcePort"), U16_MAX),
        source_node=text(get(b"SourceNode")),
    )


def _decode_nack(data: bytes) -> Nack:
    return Nack(uint(read_record(data[1:]).get(b"SeqNo"), U32_MAX))


def _decode_suspect(data: bytes) -> Suspect:
    get = read_record(data[1:]).get
    return Suspect(uint(get(b"Incarnation"), U32_MAX), text(get(b"Node")), text(get(b"From")))


def _decode_dead(data: bytes) -> Dead:
    get = read_record(data[1:]).get
    return Dead(uint(get(b"Incarnation"), U32_MAX), text(get(b"Node")), text(get(b"From")))


def _decode_alive(data: bytes) -> Alive:
    body = read_record(data[1:])
    name, address, meta, versions = checked_identity(body, b"Node")
    fault = version_fault(versions)
    if fault:
        raise WireError(f"alive of {name!r}: {fault}", "alive_versions")
    return Alive(
        incarnation=uint(body.get(b"Incarnation"), U32_MAX),
        node=name,
        address=address,
        port=uint(body.get(b"Port"), U16_MAX),
        meta=meta,
        versions=versions,
    )


def _decode_user(data: bytes) -> User:
    if len(data) < 2:
        raise WireError("a user message is empty", "empty")
    return User(data[1:])


def checked_identity(body: Record, name_key: bytes) -> tuple[str, bytes, bytes, bytes]:
    """Name, address, metadata and versions of a member, refused with `WireError` where no agent could use them."""
    name = text(body.get(name_key))
    if not name or "\n" in name:
        raise _unusable(name, "the name is empty or holds a newline", "alive_name")
    address = raw(body.get(b"Addr"))
    if len(address) not in _ADDRESS_LENGTHS:
        raise _unusable(name, f"the address has {len(address)} bytes instead of 4 or 16", "alive_address")
    meta = raw(body.get(b"Meta"))
    if len(meta) > META_MAX:
        raise _unusable(name, f"{len(meta)} bytes of metadata are over the limit of {META_MAX}", "alive_meta")
    versions = raw(body.get(b"Vsn"))[:VERSIONS_LENGTH]
    if len(versions) < VERSIONS_LENGTH:
        raise _unusable(name, f"{len(versions)} version bytes instead of {VERSIONS_LENGTH}", "alive_versions")
    return name, address, meta, versions


def version_fault(versions: bytes) -> str:
    """What contradicts itself in six version bytes, or nothing (wire.md 7 and 12.6)."""
    low, high, current, serf_low, serf_high, serf_current = versions
    if not 0 < low <= high:
        return f"protocol versions from {low} to {high} are no range"
    if not low <= current <= high:
        return f"protocol version {current} is outside its own range from {low} to {high}"
    if not serf_low <= serf_current <= serf_high:
        return f"Serf protocol version {serf_current} is outside its own range from {serf_low} to {serf_high}"
    return ""


def decode_push_pull_node(data: bytes | memoryview) -> PushPullNode:
    """Decode one node map of a push/pull. `WireError` if it cannot be used; the others of the list still can."""
    body = read_record(data)
    name, address, meta, versions = checked_identity(body, b"Name")
    return PushPullNode(
        name=name,
        address=address,
        port=uint(body.get(b"Port"), U16_MAX),
        meta=meta,
        incarnation=uint(body.get(b"Incarnation"), U32_MAX),
        state=uint(body.get(b"State"), U8_MAX),
        versions=versions,
    )


def _unusable(name: str, fault: str, kind: Kind) -> WireError:
    return WireError(f"member {name!r}: {fault}", kind)


_PACKET_DECODERS: Final[dict[int, Callable[[bytes], Message]]] = {
    MessageType.PING: decode_ping,
    MessageType.INDIRECT_PING: _decode_indirect_ping,
    MessageType.ACK: decode_ack,
    MessageType.SUSPECT: _decode_suspect,
    MessageType.ALIVE: _decode_alive,
    MessageType.DEAD: _decode_dead,
    MessageType.USER: _decode_user,
    MessageType.NACK: _decode_nack,
}
