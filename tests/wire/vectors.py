"""The golden vectors, and what each of them means in our own types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from serfmp.wire.coordinate import Coordinate
from serfmp.wire.crypto import Keyring
from serfmp.wire.messages import Ack, Alive, Dead, ErrorReply, IndirectPing, Message, Nack, Ping, PushPullNode, Suspect
from serfmp.wire.packet import PacketFormat
from serfmp.wire.serf_messages import (
    ConflictResponse,
    EventSlot,
    Filter,
    JoinIntent,
    KeyRequest,
    KeyResponse,
    LeaveIntent,
    NodeFilter,
    PushPullState,
    Query,
    QueryResponse,
    Relay,
    SerfMessage,
    TagFilter,
    UserEvent,
)

Json = dict[str, Any]

FOLDER = Path(__file__).resolve().parent.parent / "data" / "vectors"


def load(name: str) -> list[Json]:
    """The vectors of one file."""
    vectors: list[Json] = json.loads((FOLDER / f"{name}.json").read_text())["vectors"]
    return vectors


def named(name: str) -> Json:
    """One of the captured messages."""
    return next(vector for vector in load("messages") if vector["name"] == name)


def packet_format(vector: Json) -> PacketFormat:
    """How the receiver of this vector was configured."""
    keys = [bytes.fromhex(key) for key in vector.get("keys_hex", [])]
    label = vector.get("label") or vector.get("decoded", {}).get("label") or ""
    return PacketFormat(keyring=Keyring(keys), label=label)


def generate(spec: str) -> bytes:
    """The input of an LZW vector."""
    kind, _, rest = spec.partition(":")
    if kind == "rep":
        pattern, _, length = rest.rpartition(":")
        return (pattern.encode("latin-1") * (int(length) // len(pattern) + 1))[: int(length)]
    if kind == "seq":
        return bytes(value & 255 for value in range(int(rest)))
    seed, size, modulus = map(int, rest.split(":"))
    out = bytearray()
    for _ in range(size):
        seed = (seed * 1664525 + 1013904223) & 0xFFFFFFFF
        out.append((seed >> 24) % modulus if modulus else seed >> 24)
    return bytes(out)


def _bytes(value: Json | None) -> bytes:
    return bytes.fromhex(value["hex"]) if value else b""


def message(decoded: Json) -> Message:
    """A message of the gossip layer, other than a push/pull or a user message."""
    body = decoded["body"]
    source = (_bytes(body.get("SourceAddr")), body.get("SourcePort", 0), body.get("SourceNode", ""))
    match decoded["msg"]:
        case "ping":
            return Ping(body["SeqNo"], body["Node"], *source)
        case "indirectPing":
            return IndirectPing(
                body["SeqNo"], _bytes(body["Target"]), body["Port"], body["Node"], body["Nack"], *source
            )
        case "ack":
            return Ack(body["SeqNo"], _bytes(body["Payload"]))
        case "nack":
            return Nack(body["SeqNo"])
        case "suspect":
            return Suspect(body["Incarnation"], body["Node"], body["From"])
        case "dead":
            return Dead(body["Incarnation"], body["Node"], body["From"])
        case "err":
            return ErrorReply(body["Error"])
        case "alive":
            return Alive(
                body["Incarnation"],
                body["Node"],
                _bytes(body["Addr"]),
                body["Port"],
                _bytes(body["Meta"]),
                _bytes(body["Vsn"]),
            )
        case other:
            raise AssertionError(other)


def node(body: Json) -> PushPullNode:
    """An entry of a push/pull."""
    return PushPullNode(
        name=body["Name"],
        address=_bytes(body["Addr"]),
        port=body["Port"],
        meta=_bytes(body["Meta"]),
        incarnation=body["Incarnation"],
        state=body["State"],
        versions=_bytes(body["Vsn"]),
    )


def coordinate(value: Json) -> Coordinate:
    """The coordinate of an ack."""
    return Coordinate(tuple(value["Vec"]), value["Error"], value["Adjustment"], value["Height"])


def filters(decoded: Json) -> list[Filter]:
    """The filters of a query."""
    return [
        NodeFilter(tuple(one["value"]))
        if one["filter"] == "node"
        else TagFilter(one["value"]["Tag"], one["value"]["Expr"])
        for one in decoded.get("filters", [])
    ]


def serf_state(body: Json) -> PushPullState:
    """The user state of a push/pull."""
    return PushPullState(
        ltime=body["LTime"],
        status_ltimes=body["StatusLTimes"],
        left_members=tuple(body["LeftMembers"]),
        event_ltime=body["EventLTime"],
        events=tuple(
            EventSlot(slot["LTime"], tuple((event["Name"], _bytes(event["Payload"])) for event in slot["Events"]))
            for slot in body["Events"]
            if slot
        ),
        query_ltime=body["QueryLTime"],
    )


def serf_message(decoded: Json, inner: bytes = b"") -> SerfMessage:
    """A Serf message; `inner` stands for what a relay carries."""
    if decoded["serf"] == "relay":
        header = decoded["header"]
        target = header["DestAddr"]
        return Relay(_bytes(target["IP"]), target["Port"], header["DestName"], inner)
    body = decoded["body"]
    match decoded["serf"]:
        case "leave":
            return LeaveIntent(body["LTime"], body["Node"], body["Prune"])
        case "join":
            return JoinIntent(body["LTime"], body["Node"])
        case "userEvent":
            return UserEvent(body["LTime"], body["Name"], _bytes(body["Payload"]), body["CC"])
        case "query":
            return Query(
                ltime=body["LTime"],
                id=body["ID"],
                address=_bytes(body["Addr"]),
                port=body["Port"],
                source_node=body["SourceNode"],
                filters=tuple(_bytes(one) for one in body.get("Filters") or ()),
                flags=body["Flags"],
                relay_factor=body["RelayFactor"],
                timeout_ns=body["Timeout"],
                name=body["Name"],
                payload=_bytes(body["Payload"]),
            )
        case "queryResponse":
            return QueryResponse(body["LTime"], body["ID"], body["From"], body["Flags"], _bytes(body["Payload"]))
        case "keyRequest":
            return KeyRequest(_bytes(body["Key"]))
        case "keyResponse":
            return KeyResponse(body["Result"], body["Message"], tuple(body["Keys"] or ()), body["PrimaryKey"])
        case "conflictResponse":
            numbers = [f"{layer}{which}" for layer in ("Protocol", "Delegate") for which in ("Min", "Max", "Cur")]
            low, high, current, serf_low, serf_high, serf_current = (body[number] for number in numbers)
            return ConflictResponse(
                name=body["Name"],
                address=_bytes(body["Addr"]),
                port=body["Port"],
                tags=body["Tags"],
                status=body["Status"],
                versions=(low, high, current, serf_low, serf_high, serf_current),
            )
        case other:
            raise AssertionError(other)
