"""Every hostile vector is refused, or handled as its right behaviour says."""

from __future__ import annotations

import pytest

from serfmp.wire.coordinate import decode_ack_payload
from serfmp.wire.errors import WireError
from serfmp.wire.messages import Ack, Alive, ErrorReply, Message, User, decode_packet_message
from serfmp.wire.packet import Opened, open_packet
from serfmp.wire.push_pull import PushPullReader
from serfmp.wire.serf_messages import (
    Query,
    SerfMessage,
    TagFilter,
    decode_filter,
    decode_push_pull_state,
    decode_serf,
)
from serfmp.wire.stream import StreamReader, decode_stream_message
from serfmp.wire.tags import decode_tags
from tests.wire import vectors
from tests.wire.vectors import Json

HOSTILE = {vector["name"]: vector for vector in vectors.load("hostile")}

USABLE_PACKETS = {
    "udp-compound-part-overruns",
    "udp-compound-empty-part",
    "udp-alive-meta-bad-tags",
    "serf-empty-filter",
    "serf-unknown-filter",
    "serf-bad-regex",
    "serf-regex-backtracking",
    "serf-install-key-empty",
    "ack-coordinate-nan",
    "ack-coordinate-3-dims",
    "ack-coordinate-version-2",
}
"""Those with a meaning, or with a part that has one; what must not be done with it is tested by name below."""

USABLE_STREAMS = {
    "tcp-pushpull-short-nodes",
    "tcp-pushpull-vsn-missing",
    "tcp-pushpull-vsn-3",
    "tcp-pushpull-pcur-9",
    "tcp-pushpull-bad-user-state",
}

KINDS = {
    "udp-alive-vsn-3": "alive_versions",
    "udp-alive-vsn-zero-pmin": "alive_versions",
    "udp-alive-vsn-pmin-over-pmax": "alive_versions",
    "udp-alive-pcur-out-of-range": "alive_versions",
    "udp-alive-addr-0": "alive_address",
    "udp-alive-addr-3": "alive_address",
    "udp-alive-meta-600": "alive_meta",
    "udp-alive-empty-name": "alive_name",
    "udp-crc-mismatch": "checksum",
    "udp-unknown-type": "type",
    "udp-lzw-bomb": "compress",
    "udp-ping-port-70000": "field",
    "enc-wrong-key": "encrypt",
    "enc-v0-bad-padding": "encrypt",
    "label-unexpected": "label",
    "serf-event-ltime-max": "ltime",
    "serf-relay-no-inner": "relay",
    "tcp-pushpull-nodes-negative": "limit",
    "tcp-pushpull-nodes-huge": "limit",
    "tcp-pushpull-userlen-huge": "limit",
    "tcp-pushpull-userlen-negative": "limit",
    "tcp-user-len-huge": "limit",
    "tcp-encrypted-len-huge": "limit",
}
"""The counter that the refusal goes to, for those where it is worth pinning."""

REFUSED_PACKETS = [name for name, one in HOSTILE.items() if one["transport"] == "udp" and name not in USABLE_PACKETS]
REFUSED_STREAMS = [name for name, one in HOSTILE.items() if one["transport"] == "tcp" and name not in USABLE_STREAMS]


def messages(vector: Json) -> tuple[list[Message], int]:
    opened = open_packet(bytes.fromhex(vector["hex"]), vectors.packet_format(vector), 1 << 22)
    assert isinstance(opened, Opened)
    return [decode_packet_message(part) for part in opened.parts], opened.truncated


def serf_message(name: str) -> SerfMessage:
    ((message,), truncated) = messages(HOSTILE[name])
    assert isinstance(message, User)
    assert truncated == 0
    return decode_serf(message.payload)


def read_stream(vector: Json) -> bytes | None:
    reader = StreamReader(vectors.packet_format(vector), inbound=True)
    reader.feed(bytes.fromhex(vector["hex"]))
    while reader.step(1 << 16):
        pass
    return reader.message


def test_every_hostile_vector_is_covered() -> None:
    assert len(HOSTILE) == 85
    assert set(HOSTILE) >= USABLE_PACKETS | USABLE_STREAMS | set(KINDS)


def decode_all(vector: Json) -> None:
    for message in messages(vector)[0]:
        if isinstance(message, User):
            decode_serf(message.payload)


@pytest.mark.parametrize("name", REFUSED_PACKETS)
def test_a_hostile_packet_is_refused(name: str) -> None:
    with pytest.raises(WireError) as caught:
        decode_all(HOSTILE[name])
    assert caught.value.kind == KINDS.get(name, caught.value.kind)
    assert caught.value.reply is None


@pytest.mark.parametrize("name", REFUSED_STREAMS)
def test_a_hostile_stream_is_refused_and_answered_only_where_the_outer_layers_failed(name: str) -> None:
    vector = HOSTILE[name]
    with pytest.raises(WireError) as caught:
        read_stream(vector)
    assert caught.value.kind == KINDS.get(name, caught.value.kind)
    assert (caught.value.reply is not None) == ("err message" in vector["right_behaviour"])
    if caught.value.reply is not None:
        dialler = StreamReader(vectors.packet_format(vector), inbound=False)
        dialler.feed(caught.value.reply)
        assert dialler.message is not None
        assert decode_stream_message(dialler.message) == ErrorReply(str(caught.value))


@pytest.mark.parametrize(("name", "truncated"), [("udp-compound-part-overruns", 1), ("udp-compound-empty-part", 0)])
def test_good_parts_of_a_bad_compound_are_kept(name: str, truncated: int) -> None:
    found, lost = messages(HOSTILE[name])
    assert len(found) == 1
    assert lost == truncated


def test_a_member_with_undecodable_tags_has_none() -> None:
    ((alive,), _) = messages(HOSTILE["udp-alive-meta-bad-tags"])
    assert isinstance(alive, Alive)
    assert decode_tags(alive.meta) == {}


@pytest.mark.parametrize(("name", "empty"), [("serf-empty-filter", True), ("serf-unknown-filter", False)])
def test_a_filter_that_nobody_understands_is_an_error_of_the_filter_only(name: str, empty: bool) -> None:
    query = serf_message(name)
    assert isinstance(query, Query)
    (data,) = query.filters
    assert (data == b"") == empty
    with pytest.raises(WireError):
        decode_filter(data)


@pytest.mark.parametrize("name", ["serf-bad-regex", "serf-regex-backtracking"])
def test_expressions_are_not_judged_by_the_codec(name: str) -> None:
    query = serf_message(name)
    assert isinstance(query, Query)
    assert isinstance(decode_filter(query.filters[0]), TagFilter)


def test_a_key_query_without_payload_is_a_query_without_payload() -> None:
    query = serf_message("serf-install-key-empty")
    assert isinstance(query, Query)
    assert query.payload == b""


@pytest.mark.parametrize("name", ["ack-coordinate-nan", "ack-coordinate-3-dims"])
def test_an_ack_with_an_unusable_coordinate_counts_as_an_ack(name: str) -> None:
    ((ack,), _) = messages(HOSTILE[name])
    assert isinstance(ack, Ack)
    assert decode_ack_payload(ack.payload).fault()


def test_an_ack_with_a_payload_of_another_version_counts_as_an_ack() -> None:
    ((ack,), _) = messages(HOSTILE["ack-coordinate-version-2"])
    assert isinstance(ack, Ack)
    with pytest.raises(WireError, match="version 2"):
        decode_ack_payload(ack.payload)


def test_a_push_pull_with_fewer_nodes_than_announced_waits_for_more() -> None:
    assert read_stream(HOSTILE["tcp-pushpull-short-nodes"]) is None


@pytest.mark.parametrize(
    ("name", "usable"),
    [
        ("tcp-pushpull-vsn-missing", 0),
        ("tcp-pushpull-vsn-3", 0),
        ("tcp-pushpull-pcur-9", 1),
        ("tcp-pushpull-bad-user-state", 1),
    ],
)
def test_bad_entries_of_a_push_pull_are_skipped_and_counted(name: str, usable: int) -> None:
    message = read_stream(HOSTILE[name])
    assert message is not None
    reader = PushPullReader(message)
    assert len(reader.take(1 << 20)) == usable
    assert reader.skipped == reader.count - usable


def test_the_user_state_of_another_layer_is_refused_on_its_own() -> None:
    message = read_stream(HOSTILE["tcp-pushpull-bad-user-state"])
    assert message is not None
    with pytest.raises(WireError):
        decode_push_pull_state(PushPullReader(message).user_state)
