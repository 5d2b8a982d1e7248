"""Whatever is encoded decodes to the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serfmp.wire.coordinate import Coordinate, decode_ack_payload, encode_ack_payload
from serfmp.wire.messages import ErrorReply, Message, Ping, PushPullNode, decode_packet_message, encode
from serfmp.wire.push_pull import PushPullReader, encode_push_pull
from serfmp.wire.serf_messages import (
    Filter,
    PushPullState,
    SerfMessage,
    decode_filter,
    decode_push_pull_state,
    decode_serf,
    encode_filter,
    encode_serf,
)
from serfmp.wire.stream import decode_stream_message
from tests.wire import strategies

floats = st.floats(allow_nan=False)


@given(strategies.messages)
def test_a_message_of_a_packet(message: Message) -> None:
    assert decode_packet_message(encode(message)) == message


@given(strategies.pings | strategies.acks)
def test_a_message_that_streams_carry_too(message: Ping) -> None:
    assert decode_stream_message(encode(message)) == message


@given(strategies.names)
def test_an_error_reply(text: str) -> None:
    assert decode_stream_message(encode(ErrorReply(text))) == ErrorReply(text)


@given(strategies.serf_messages)
def test_a_serf_message(message: SerfMessage) -> None:
    assert decode_serf(encode_serf(message)) == message


@given(strategies.states)
def test_the_state_of_serf(state: PushPullState) -> None:
    assert decode_push_pull_state(encode_serf(state)) == state


@given(strategies.filters)
def test_a_filter(one: Filter) -> None:
    assert decode_filter(encode_filter(one)) == one


@given(st.lists(floats, max_size=16).map(tuple), floats, floats, floats)
def test_a_coordinate(vec: tuple[float, ...], error: float, adjustment: float, height: float) -> None:
    coordinate = Coordinate(vec, error, adjustment, height)
    assert decode_ack_payload(encode_ack_payload(coordinate)) == coordinate


@given(st.booleans(), st.lists(strategies.nodes, max_size=8), st.binary(max_size=100), st.integers(1, 5))
def test_a_push_pull(join: bool, nodes: list[PushPullNode], state: bytes, portion: int) -> None:
    reader = decode_stream_message(encode_push_pull(join, nodes, state))
    assert isinstance(reader, PushPullReader)
    assert (reader.join, reader.count, reader.user_state) == (join, len(nodes), state)
    taken = []
    while reader.remaining:
        taken += reader.take(portion)
    assert taken == nodes
    assert reader.skipped == 0
