from __future__ import annotations

import pytest

from serfmp.errors import InternalError
from serfmp.wire.errors import WireError
from serfmp.wire.messages import (
    Ack,
    Alive,
    ErrorReply,
    Ping,
    User,
    decode_packet_message,
    decode_push_pull_node,
    encode,
    version_fault,
)

VERSIONS = bytes((1, 5, 2, 2, 5, 5))


def test_a_ping_leaves_out_empty_source_fields() -> None:
    assert encode(Ping(1, "a")) == b"\x00\x82\xa4Node\xa1a\xa5SeqNo\x01"
    assert encode(Ping(1, "a", source_port=2)) == b"\x00\x83\xa4Node\xa1a\xa5SeqNo\x01\xaaSourcePort\x02"


def test_pings_of_long_names_are_encoded_alike() -> None:
    name = "n" * 300
    assert decode_packet_message(encode(Ping(1, name))) == Ping(1, name)


def test_an_ack_without_payload_says_nil() -> None:
    assert encode(Ack(1)) == b"\x02\x82\xa7Payload\xc0\xa5SeqNo\x01"


@pytest.mark.parametrize("kind", [6, 7, 9, 10, 12, 13, 14, 244, 255])
def test_types_that_are_no_message_of_a_packet_are_refused(kind: int) -> None:
    with pytest.raises(WireError) as caught:
        decode_packet_message(bytes((kind,)) + b"\x80")
    assert caught.value.kind == "type"


def test_an_error_reply_is_no_message_of_a_packet() -> None:
    with pytest.raises(WireError):
        decode_packet_message(encode(ErrorReply("no")))


@pytest.mark.parametrize("data", [b"", b"\x08"])
def test_nothing_is_refused(data: bytes) -> None:
    with pytest.raises(WireError) as caught:
        decode_packet_message(data)
    assert caught.value.kind == "empty"


def test_an_empty_user_message_is_never_written() -> None:
    with pytest.raises(InternalError):
        encode(User(b""))


@pytest.mark.parametrize(
    ("versions", "fine"),
    [
        ((1, 5, 2, 2, 5, 5), True),
        ((1, 1, 1, 0, 0, 0), True),
        ((0, 5, 2, 2, 5, 5), False),
        ((1, 0, 1, 2, 5, 5), False),
        ((3, 2, 2, 2, 5, 5), False),
        ((1, 5, 6, 2, 5, 5), False),
        ((2, 5, 1, 2, 5, 5), False),
        ((1, 5, 2, 2, 5, 6), False),
        ((1, 5, 2, 2, 5, 1), False),
    ],
)
def test_versions_that_contradict_themselves_are_faulty(versions: tuple[int, ...], fine: bool) -> None:
    assert (version_fault(bytes(versions)) == "") == fine


def test_more_version_bytes_than_six_are_cut_off() -> None:
    longer = encode(Alive(1, "a", bytes(4), 1, b"", VERSIONS))[:-7] + b"\xa8" + VERSIONS + b"\x00\x00"
    assert decode_packet_message(longer) == Alive(1, "a", bytes(4), 1, b"", VERSIONS)


def test_a_name_with_a_newline_is_refused() -> None:
    with pytest.raises(WireError) as caught:
        decode_packet_message(encode(Alive(1, "a\nb", bytes(4), 1, b"", VERSIONS)))
    assert caught.value.kind == "alive_name"


def test_an_entry_of_a_push_pull_that_is_nil_has_no_name() -> None:
    with pytest.raises(WireError) as caught:
        decode_push_pull_node(b"\xc0")
    assert caught.value.kind == "alive_name"


@pytest.mark.parametrize("length", [1, 3, 5, 17])
def test_a_ping_that_could_not_be_answered_is_refused(length: int) -> None:
    with pytest.raises(WireError) as caught:
        decode_packet_message(encode(Ping(1, "a", bytes(length), 7946)))
    assert caught.value.kind == "address"
