"""Any bytes parse or raise `WireError`, and how they are cut into pieces makes no difference."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serfmp.wire.coordinate import decode_ack_payload
from serfmp.wire.crypto import Keyring
from serfmp.wire.errors import WireError
from serfmp.wire.messages import Ack, Alive, User, decode_packet_message, encode
from serfmp.wire.packet import Opened, PacketFormat, open_packet
from serfmp.wire.push_pull import PushPullReader
from serfmp.wire.serf_messages import (
    PushPullState,
    Query,
    decode_filter,
    decode_push_pull_state,
    decode_serf,
    encode_serf,
)
from serfmp.wire.stream import StreamReader, decode_stream_message, seal_stream
from serfmp.wire.tags import decode_tags
from tests.wire import vectors
from tests.wire.strategies import wire_bytes

PLAIN = PacketFormat()
KEYED = PacketFormat(Keyring([bytes(16)]), "blue")

formats = st.sampled_from([PLAIN, PacketFormat(label="blue"), KEYED])


@given(wire_bytes, formats)
def test_any_packet_opens_or_is_refused(data: bytes, fmt: PacketFormat) -> None:
    with contextlib.suppress(WireError):
        opened = open_packet(data, fmt, 100)
        while not isinstance(opened, Opened):
            opened = opened.step(100) or opened
        assert all(opened.parts)


@given(wire_bytes)
def test_any_message_of_a_packet_decodes_or_is_refused_and_survives_a_second_round(data: bytes) -> None:
    with contextlib.suppress(WireError):
        message = decode_packet_message(data)
        assert decode_packet_message(encode(message)) == message
        if isinstance(message, Ack):
            decode_ack_payload(message.payload)
        elif isinstance(message, Alive):
            decode_tags(message.meta)
        elif isinstance(message, User):
            serf = decode_serf(message.payload)
            if isinstance(serf, Query):
                for one in serf.filters:
                    decode_filter(one)


@given(wire_bytes)
def test_any_serf_message_decodes_or_is_refused_and_survives_a_second_round(data: bytes) -> None:
    with contextlib.suppress(WireError):
        message = decode_serf(data)
        if not isinstance(message, Query) or all(message.filters):
            assert decode_serf(encode_serf(message)) == message


@given(wire_bytes)
def test_any_state_decodes_or_is_refused(data: bytes) -> None:
    with contextlib.suppress(WireError):
        state = decode_push_pull_state(b"\x02" + data)
        assert isinstance(state, PushPullState)
        assert decode_push_pull_state(encode_serf(state)) == state


@given(wire_bytes)
def test_any_metadata_gives_tags(data: bytes) -> None:
    for meta in (data, b"\xff" + data):
        tags = decode_tags(meta)
        assert all(isinstance(text, str) for pair in tags.items() for text in pair)


@given(wire_bytes)
def test_any_payload_of_an_ack_decodes_or_is_refused(data: bytes) -> None:
    with contextlib.suppress(WireError):
        decode_ack_payload(b"\x01" + data).fault()


@given(wire_bytes)
def test_any_filter_decodes_or_is_refused(data: bytes) -> None:
    for kind in (b"\x00", b"\x01"):
        with contextlib.suppress(WireError):
            decode_filter(kind + data)


@given(wire_bytes)
def test_any_push_pull_reads_to_its_end_or_is_refused(data: bytes) -> None:
    with contextlib.suppress(WireError):
        reader = PushPullReader(b"\x06" + data)
        while reader.remaining:
            reader.take(3)


def read(pieces: Iterable[bytes], fmt: PacketFormat, inbound: bool, budget: int = 1 << 16) -> bytes | str | None:
    """What a reader makes of these pieces: the message, the kind of the error, or nothing yet."""
    reader = StreamReader(fmt, inbound)
    try:
        for piece in pieces:
            reader.feed(piece)
            while reader.step(budget):
                pass
    except WireError as error:
        return error.kind
    return reader.message


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@given(wire_bytes, formats, st.booleans())
def test_any_stream_gives_the_same_whole_and_byte_by_byte(data: bytes, fmt: PacketFormat, inbound: bool) -> None:
    whole = read([data], fmt, inbound)
    assert read(bytewise(data), fmt, inbound) == whole
    if isinstance(whole, bytes):
        with contextlib.suppress(WireError):
            decode_stream_message(whole)


@given(st.binary(max_size=3000), st.booleans(), st.integers(1, 3000))
def test_the_budget_of_a_step_makes_no_difference(state: bytes, compress: bool, budget: int) -> None:
    fmt = PacketFormat(KEYED.keyring, "blue", compress, 0)
    message = b"\x06\x82\xa5Nodes\x00\xacUserStateLen\xcd" + len(state).to_bytes(2, "big") + state
    sealed = seal_stream(message, fmt, dialling=True)
    assert read([sealed], fmt, inbound=True, budget=budget) == message


@pytest.mark.parametrize("vector", [one for one in vectors.load("messages") if one["transport"] == "tcp"])
def test_a_captured_stream_gives_its_message_byte_by_byte_and_not_before_its_last_byte(vector: vectors.Json) -> None:
    data = bytes.fromhex(vector["hex"])
    inbound = "label" in vector["decoded"]["layers"]
    fmt = vectors.packet_format(vector)
    whole = read([data], fmt, inbound)
    if not isinstance(whole, bytes):
        inbound = not inbound
        whole = read([data], fmt, inbound)
    assert isinstance(whole, bytes)
    assert read(bytewise(data), fmt, inbound) == whole
    assert read([data[:-1]], fmt, inbound) is None
    assert read([data + b"more"], fmt, inbound) == whole
