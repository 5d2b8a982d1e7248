from __future__ import annotations

import tracemalloc

import msgpack
import pytest

from serfmp.wire.errors import WireError
from serfmp.wire.serf_state import (
    MAX_EVENTS,
    MAX_MEMBERS,
    MAX_SLOTS,
    EventSlot,
    PushPullState,
    decode_push_pull_state,
    encode_push_pull_state,
)


def state(**fields: object) -> bytes:
    packed: bytes = msgpack.packb(fields, use_bin_type=False)
    return b"\x02" + packed


def test_empty_slots_are_dropped_and_filled_ones_keep_their_order() -> None:
    slot = {"Events": [{"Name": "deploy", "Payload": None}], "LTime": 9}
    decoded = decode_push_pull_state(state(Events=[None, slot, None, {"Events": None, "LTime": 3}], LTime=4))
    assert decoded == PushPullState(4, events=(EventSlot(9, (("deploy", b""),)), EventSlot(3, ())))


def test_a_body_of_nil_is_a_state_of_zeros() -> None:
    assert decode_push_pull_state(b"\x02\xc0") == PushPullState(0)


def test_a_state_of_ten_thousand_members_is_carried() -> None:
    members = tuple(f"node-{number}" for number in range(10_000))
    full = PushPullState(1, {name: number for number, name in enumerate(members)}, members)
    assert decode_push_pull_state(encode_push_pull_state(full)) == full


@pytest.mark.parametrize(
    "fields",
    [
        {"LeftMembers": [None] * (MAX_MEMBERS + 1)},
        {"Events": [None] * (MAX_SLOTS + 1)},
        {"Events": [{"Events": [{}] * 1000, "LTime": time} for time in range(MAX_EVENTS // 1000 + 1)]},
    ],
)
def test_lists_over_their_limits_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(WireError) as caught:
        decode_push_pull_state(state(**fields))
    assert caught.value.kind == "limit"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x03\x80",
        b"\x02",
        b"\x02\x81\xa6Events\x05",
        b"\x02\x81\xa6Events\x91\x05",
        b"\x02\x81\xabLeftMembers\x91\x05",
        b"\x02\x81\xacStatusLTimes\x81\xa1a\xff",
        b"\x02\x81\xabLeftMembers\xdd\xff\xff\xff\xff",
    ],
)
def test_a_state_that_cannot_be_meant_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        decode_push_pull_state(data)


def test_claims_reserve_no_memory() -> None:
    data = b"\x02\x81\xabLeftMembers" + b"\xdd\x00\x01\xff\xff" * 900 + bytes(1 << 18)
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            decode_push_pull_state(data)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
