from __future__ import annotations

import pytest

from serfmp.wire.errors import WireError
from serfmp.wire.messages import PushPullNode
from serfmp.wire.push_pull import MAX_NODES, MAX_USER, PushPullReader, encode_push_pull

VERSIONS = bytes((1, 5, 2, 2, 5, 5))


def node(number: int, **other: object) -> PushPullNode:
    fields: dict[str, object] = {
        "name": f"node-{number}",
        "address": bytes((127, 0, 0, 1)),
        "port": 7946,
        "meta": b"\xff\x80",
        "incarnation": number,
        "state": number % 4,
        "versions": VERSIONS,
    }
    return PushPullNode(**{**fields, **other})  # type: ignore[arg-type]


def header(nodes: bytes, user: bytes) -> bytes:
    return b"\x06\x83\xa4Join\xc3\xa5Nodes" + nodes + b"\xacUserStateLen" + user


def test_entries_are_taken_in_portions_across_the_pieces_that_are_parsed() -> None:
    nodes = [node(number, meta=bytes(500)) for number in range(1000)]
    reader = PushPullReader(encode_push_pull(True, nodes, b"state"))
    taken = []
    while reader.remaining:
        portion = reader.take(7)
        assert len(portion) <= 7
        taken += portion
    assert taken == nodes
    assert reader.user_state == b"state"
    assert reader.take(7) == []


@pytest.mark.parametrize(
    "bad",
    [
        {"name": ""},
        {"name": "two\nlines"},
        {"address": b"abc"},
        {"meta": bytes(513)},
        {"state": 4},
        {"state": -1},
        {"port": 65536},
        {"incarnation": 2**32},
    ],
)
def test_a_bad_entry_is_skipped_and_counted_and_the_others_are_given(bad: dict[str, object]) -> None:
    reader = PushPullReader(encode_push_pull(False, [node(0), node(1, **bad), node(2)], b""))
    assert reader.take(10) == [node(0), node(2)]
    assert (reader.count, reader.remaining, reader.skipped) == (3, 0, 1)


@pytest.mark.parametrize("entry", [b"\xc0", b"\x05", b"\x80", b"\x90", b"\x81\x05\x06", b"\xd4\xff\x00"])
def test_an_entry_that_is_none_is_skipped_and_counted(entry: bytes) -> None:
    good = encode_push_pull(True, [node(1)], b"")
    body = good[good.index(b"\x87") :]
    reader = PushPullReader(header(b"\x03", b"\x00") + body + entry + body)
    assert reader.take(3) == [node(1)] * 2
    assert reader.skipped == 1


@pytest.mark.parametrize(
    ("nodes", "user"), [(b"\xff", b"\x00"), (b"\x00", b"\xff"), (b"\xce\xff\xff\xff\xff", b"\x00")]
)
def test_claims_outside_the_limits_are_refused(nodes: bytes, user: bytes) -> None:
    with pytest.raises(WireError) as caught:
        PushPullReader(header(nodes, user))
    assert caught.value.kind == "limit"


def test_the_limits_are_those_of_the_reference() -> None:
    assert (MAX_NODES, MAX_USER) == (1_048_576, 20_971_520)
    just_over = header(b"\x00", b"\xce" + (MAX_USER + 1).to_bytes(4, "big"))
    with pytest.raises(WireError):
        PushPullReader(just_over)


def test_a_list_that_ends_early_is_refused_when_its_end_is_reached() -> None:
    message = encode_push_pull(True, [node(1), node(2)], b"")
    reader = PushPullReader(message[:-5])
    assert reader.take(1) == [node(1)]
    with pytest.raises(WireError):
        reader.take(1)


@pytest.mark.parametrize("data", [b"", b"\x06", b"\x06\xc1", b"\x05\x80", header(b"\x00", b"\x05") + b"four"])
def test_what_is_no_push_pull_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        PushPullReader(data)
