"""Every captured message means what its vector says, and is written back byte for byte by our own encoders."""

from __future__ import annotations

import pytest

from serfmp.wire.coordinate import decode_ack_payload, encode_ack_payload
from serfmp.wire.crypto import Keyring
from serfmp.wire.messages import Ack, Alive, Message, PushPullNode, User, decode_packet_message, encode
from serfmp.wire.packet import Opened, PacketFormat, open_packet, seal_packet
from serfmp.wire.push_pull import PushPullReader, encode_push_pull
from serfmp.wire.serf_messages import (
    ConflictResponse,
    Query,
    QueryResponse,
    Relay,
    decode_filter,
    decode_push_pull_state,
    decode_serf,
    encode_filter,
    encode_serf,
)
from serfmp.wire.stream import StreamReader, decode_stream_message, seal_stream
from serfmp.wire.tags import decode_tags
from tests.wire import vectors
from tests.wire.vectors import Json

MESSAGES = vectors.load("messages")
PACKETS = [pytest.param(vector, id=vector["name"]) for vector in MESSAGES if vector["transport"] == "udp"]
WRITABLE_PACKETS = [param for param in PACKETS if "-v0" not in str(param.id)]
"""Without the old encryption, which is only read."""
STREAMS = [pytest.param(vector, id=vector["name"]) for vector in MESSAGES if vector["transport"] == "tcp"]
WRITABLE_STREAMS = [param for param in STREAMS if "-v0" not in str(param.id)]


def opened(vector: Json) -> tuple[bytes, ...]:
    result = open_packet(bytes.fromhex(vector["hex"]), vectors.packet_format(vector), 1 << 20)
    assert isinstance(result, Opened)
    assert result.truncated == 0
    return result.parts


def inbound(vector: Json) -> bool:
    """Whether the vector was sent by the side that dialled."""
    return "label" in vector["decoded"]["layers"] or (
        vector["decoded"]["messages"][0]["msg"] not in {"ack", "err"} and "label" not in vector
    )


def received(vector: Json) -> bytes:
    reader = StreamReader(vectors.packet_format(vector), inbound(vector))
    reader.feed(bytes.fromhex(vector["hex"]))
    assert not reader.step(1 << 20)
    assert reader.message is not None
    return reader.message


def check_serf(payload: bytes, wanted: Json, exact: bool) -> None:
    message = decode_serf(payload)
    inner = message.inner if isinstance(message, Relay) else b""
    assert message == vectors.serf_message(wanted, inner)
    if isinstance(message, Relay):
        check_serf(inner, wanted["inner"], exact)
    if isinstance(message, Query):
        assert list(map(decode_filter, message.filters)) == vectors.filters(wanted)
        assert tuple(map(encode_filter, vectors.filters(wanted))) == message.filters
    if isinstance(message, (Query, QueryResponse)) and "payload" in wanted:
        check_serf(message.payload, wanted["payload"], exact)
    # The order of tags is free, and a conflict answer carries some.
    if exact and not isinstance(message, ConflictResponse):
        assert encode_serf(message) == payload


def check_message(message: Message, raw: bytes, wanted: Json, vector: Json) -> None:
    if isinstance(message, User):
        if vector.get("opaque_user"):
            assert message.payload.hex() == wanted["user_hex"]
        else:
            check_serf(message.payload, wanted["user"], vector["reencode"])
    else:
        assert message == vectors.message(wanted)
    if isinstance(message, Ack) and message.payload:
        where = decode_ack_payload(message.payload)
        assert where == vectors.coordinate(wanted["payload"]["coordinate"])
        assert encode_ack_payload(where) == message.payload
    if isinstance(message, Alive) and "tags" in wanted:
        assert decode_tags(message.meta) == wanted["tags"]
    if vector["reencode"]:
        assert encode(message) == raw


@pytest.mark.parametrize("vector", PACKETS)
def test_the_messages_of_a_captured_packet_mean_what_they_should_and_encode_to_the_same_bytes(vector: Json) -> None:
    parts = opened(vector)
    wanted = vector["decoded"]["messages"]
    assert len(parts) == len(wanted)
    for part, one in zip(parts, wanted, strict=True):
        check_message(decode_packet_message(part), part, one, vector)


@pytest.mark.parametrize("vector", WRITABLE_PACKETS)
def test_sealing_the_messages_of_a_captured_packet_gives_the_same_packet(vector: Json) -> None:
    layers = vector["decoded"]["layers"]
    assert seal_packet(opened(vector), "crc" in layers, same_format(vector)) == [bytes.fromhex(vector["hex"])]


def same_format(vector: Json) -> PacketFormat:
    """The format of the vector's sender, with the nonce that it drew."""
    fmt = vectors.packet_format(vector)
    layers = vector["decoded"]["layers"]
    keys = [bytes.fromhex(key) for key in vector.get("keys_hex", [])]
    at = 1 + (2 + len(fmt.label) if "label" in layers else 0) + (5 if vector["transport"] == "tcp" else 0)
    nonce = bytes.fromhex(vector["hex"])[at : at + 12]
    ring = Keyring(keys[vector["decoded"]["key_index"] :], nonces=lambda _length: nonce) if keys else None
    return PacketFormat(ring, fmt.label, compress="compress" in layers, compress_over=0)


def check_nodes(nodes: list[PushPullNode], wanted: list[Json]) -> None:
    assert nodes == [vectors.node(one["body"]) for one in wanted]
    for one, node in zip(wanted, nodes, strict=True):
        if "tags" in one:
            assert decode_tags(node.meta) == one["tags"]


@pytest.mark.parametrize("vector", STREAMS)
def test_the_message_of_a_captured_stream_means_what_it_should_and_encodes_to_the_same_bytes(vector: Json) -> None:
    raw = received(vector)
    (wanted,) = vector["decoded"]["messages"]
    message = decode_stream_message(raw)
    if isinstance(message, User):
        assert message.payload.hex() == wanted["user_hex"]
        return
    if not isinstance(message, PushPullReader):
        check_message(message, raw, wanted, vector)
        return
    assert message.join == wanted["header"]["Join"]
    assert message.count == wanted["header"]["Nodes"]
    nodes = message.take(message.count)
    assert (message.remaining, message.skipped) == (0, 0)
    check_nodes(nodes, wanted["nodes"])
    if vector.get("opaque_user"):
        assert message.user_state.hex() == wanted["user_hex"]
    else:
        state = decode_push_pull_state(message.user_state)
        assert state == vectors.serf_state(wanted["user"]["body"])
        assert decode_push_pull_state(encode_serf(state)) == state
    if vector["reencode"]:
        assert encode_push_pull(message.join, nodes, message.user_state) == raw


@pytest.mark.parametrize("vector", WRITABLE_STREAMS)
def test_sealing_the_message_of_a_captured_stream_gives_the_same_bytes(vector: Json) -> None:
    sealed = seal_stream(received(vector), same_format(vector), inbound(vector))
    assert sealed == bytes.fromhex(vector["hex"])
