from __future__ import annotations

import pytest

from serfmp.errors import InternalError
from serfmp.wire.errors import WireError
from serfmp.wire.serf_messages import (
    LTIME_MAX,
    ConflictResponse,
    JoinIntent,
    KeyRequest,
    LeaveIntent,
    Query,
    Relay,
    UserEvent,
    decode_serf,
    encode_serf,
)


def query(filters: tuple[bytes, ...]) -> Query:
    return Query(1, 2, bytes(4), 7946, "a", filters, 0, 0, 10**9, "q", b"")


@pytest.mark.parametrize("kind", [2, 10, 99, 255])
def test_types_that_are_no_message_are_refused(kind: int) -> None:
    with pytest.raises(WireError) as caught:
        decode_serf(bytes((kind,)) + b"\x80")
    assert caught.value.kind == "type"


def test_nothing_is_refused() -> None:
    with pytest.raises(WireError):
        decode_serf(b"")


def test_the_highest_lamport_time_is_refused_and_the_one_before_is_not() -> None:
    assert decode_serf(encode_serf(JoinIntent(LTIME_MAX, "a"))) == JoinIntent(LTIME_MAX, "a")
    with pytest.raises(WireError) as caught:
        decode_serf(encode_serf(JoinIntent(LTIME_MAX + 1, "a")))
    assert caught.value.kind == "ltime"


def test_a_leave_intent_without_prune_does_not_prune() -> None:
    assert decode_serf(b"\x00\x82\xa5LTime\x05\xa4Node\xa1a") == LeaveIntent(5, "a", prune=False)


def test_empty_payloads_are_written_as_nil_and_keys_are_not() -> None:
    assert encode_serf(UserEvent(1, "e", b"", coalesce=True)).endswith(b"\xa7Payload\xc0")
    assert encode_serf(KeyRequest()) == b"\x07\x81\xa3Key\xa0"


def test_no_filters_are_written_as_nil() -> None:
    assert b"\xa7Filters\xc0" in encode_serf(query(()))


def test_an_empty_filter_is_never_written() -> None:
    with pytest.raises(InternalError):
        encode_serf(query((b"",)))


def test_an_unknown_member_is_a_conflict_answer_of_nil() -> None:
    assert encode_serf(ConflictResponse()) == b"\x06\xc0"
    assert decode_serf(b"\x06\xc0") == ConflictResponse()


@pytest.mark.parametrize("inner", [b"\x04\x80", b"\x09\x80", b"\x03\x80"])
def test_a_relay_of_anything_but_a_response_is_refused(inner: bytes) -> None:
    with pytest.raises(WireError) as caught:
        decode_serf(encode_serf(Relay(bytes(4), 7946, "a", inner)))
    assert caught.value.kind == "relay"


def test_a_relay_of_nothing_is_never_written() -> None:
    with pytest.raises(InternalError):
        encode_serf(Relay(bytes(4), 7946, "a", b""))


@pytest.mark.parametrize("address", [b"", b"abc", bytes(5)])
def test_a_relay_to_no_address_is_refused(address: bytes) -> None:
    with pytest.raises(WireError):
        decode_serf(encode_serf(Relay(address, 7946, "a", b"\x05\x80")))
