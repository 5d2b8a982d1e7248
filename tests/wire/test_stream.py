from __future__ import annotations

import time

import pytest

from serfmp.wire import lzw
from serfmp.wire.crypto import Keyring
from serfmp.wire.errors import WireError
from serfmp.wire.messages import Ack, ErrorReply, Ping, PushPullNode, User, encode
from serfmp.wire.msgpack_raw import put_raw
from serfmp.wire.packet import PacketFormat
from serfmp.wire.stream import (
    COMPRESS_UP_TO,
    MAX_FRAME,
    MAX_RECEIVED,
    StreamReader,
    decode_stream_message,
    encode_push_pull,
    seal_stream,
)

PLAIN = PacketFormat()
BLUE = PacketFormat(label="blue")
KEYED = PacketFormat(Keyring([bytes(16)]))
KEYED_BLUE = PacketFormat(Keyring([bytes(16)]), "blue")
PING = encode(Ping(1, "beta"))
NODE = PushPullNode("node", bytes(4), 7946, bytes(100), 1, 0, bytes((1, 5, 2, 2, 5, 5)))


def read(data: bytes, fmt: PacketFormat, inbound: bool = True) -> bytes | None:
    reader = StreamReader(fmt, inbound)
    reader.feed(data)
    while reader.step(1 << 20):
        pass
    return reader.message


def refused(data: bytes, fmt: PacketFormat, inbound: bool = True) -> WireError:
    with pytest.raises(WireError) as caught:
        read(data, fmt, inbound)
    return caught.value


@pytest.mark.parametrize("fmt", [PLAIN, BLUE, KEYED, KEYED_BLUE])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_request_and_reply_arrive(fmt: PacketFormat, count: int) -> None:
    message = encode_push_pull(True, [NODE] * count, b"state")
    assert read(seal_stream(message, fmt, dialling=True), fmt) == message
    assert read(seal_stream(message, fmt, dialling=False), fmt, inbound=False) == message


def test_only_the_dialling_side_writes_a_label() -> None:
    assert seal_stream(PING, BLUE, dialling=True) == b"\xf4\x04blue" + PING
    assert seal_stream(PING, BLUE, dialling=False) == PING


def test_a_reply_without_label_is_authenticated_with_it() -> None:
    reply = seal_stream(encode(Ack(1)), KEYED_BLUE, dialling=False)
    assert read(reply, KEYED_BLUE, inbound=False) == encode(Ack(1))
    assert refused(reply, KEYED, inbound=False).kind == "encrypt"


@pytest.mark.parametrize(
    ("sent", "configured"), [(BLUE, PLAIN), (PLAIN, BLUE), (KEYED_BLUE, KEYED), (KEYED, KEYED_BLUE)]
)
def test_another_label_is_refused_without_an_answer(sent: PacketFormat, configured: PacketFormat) -> None:
    error = refused(seal_stream(PING, sent, dialling=True), configured)
    assert (error.kind, error.reply) == ("label", None)


@pytest.mark.parametrize(("sent", "configured"), [(PLAIN, KEYED), (KEYED, PLAIN)])
def test_a_dialler_is_told_of_a_failure_of_the_outer_layers_and_an_acceptor_is_not(
    sent: PacketFormat, configured: PacketFormat
) -> None:
    told = refused(seal_stream(PING, sent, dialling=True), configured)
    assert told.reply is not None
    reply = read(told.reply, configured, inbound=False)
    assert reply is not None
    assert decode_stream_message(reply) == ErrorReply(str(told))
    assert refused(seal_stream(encode(Ack(1)), sent, dialling=False), configured, inbound=False).reply is None


@pytest.mark.parametrize(
    ("message", "inbound"), [(encode(Ack(1)), True), (encode(ErrorReply("no")), True), (PING, False)]
)
@pytest.mark.parametrize("fmt", [PLAIN, KEYED])
def test_messages_that_this_side_does_not_expect_are_refused_without_an_answer(
    message: bytes, inbound: bool, fmt: PacketFormat
) -> None:
    error = refused(seal_stream(message, fmt, dialling=True), fmt, inbound)
    assert (error.kind, error.reply) == ("type", None)


def test_a_user_message_is_read_to_its_length() -> None:
    message = b"\x08\x81\xaaUserMsgLen\x05hello"
    assert read(message[:-1], PLAIN) is None
    assert read(message + b"more", PLAIN) == message
    assert decode_stream_message(message) == User(b"hello")
    with pytest.raises(WireError):
        decode_stream_message(message[:-1])


def test_a_message_cut_short_inside_a_frame_is_refused_at_once() -> None:
    assert refused(seal_stream(PING[:-3], KEYED, dialling=True), KEYED).reply is None


def test_compression_is_used_for_middling_messages_that_get_shorter() -> None:
    small, middling, large = (encode_push_pull(True, [NODE], bytes(size)) for size in (0, 500, COMPRESS_UP_TO))
    assert [seal_stream(one, PLAIN, dialling=True)[0] for one in (small, middling, large)] == [6, 9, 6]


def test_compression_in_compression_is_refused() -> None:
    once = b"\x09\x82\xa4Algo\x00\xa3Buf" + put_raw(lzw.compress(PING))
    assert read(once, PLAIN) == PING
    twice = b"\x09\x82\xa4Algo\x00\xa3Buf" + put_raw(lzw.compress(once))
    assert refused(twice, PLAIN).kind == "type"


def test_a_feed_does_a_bounded_amount_of_work_and_steps_do_the_rest() -> None:
    message = encode_push_pull(True, [], bytes(10_000_000))
    reader = StreamReader(PLAIN, inbound=True)
    reader.feed(b"\x09\x82\xa4Algo\x00\xa3Buf" + put_raw(lzw.compress(message)))
    assert reader.message is None
    steps = 1
    while reader.step(1 << 16):
        steps += 1
    assert reader.message == message
    assert steps > 100


def feed_often(reader: StreamReader, data: bytes, times: int) -> None:
    for _ in range(times):
        reader.feed(data)


def test_a_stream_that_never_ends_is_refused_at_the_limit() -> None:
    reader = StreamReader(PLAIN, inbound=True)
    chunk = (b"\xda\x7f\xf0" + bytes(0x7FF0)) * 32
    # Members of 32 KiB each, far more than the limit of a stream has room for.
    reader.feed(b"\x06\x82\xa5Nodes\xce\x00\x10\x00\x00\xacUserStateLen\xce\x01\x40\x00\x00")
    with pytest.raises(WireError) as caught:
        feed_often(reader, chunk, MAX_RECEIVED // len(chunk) + 1)
    assert caught.value.kind == "limit"


def test_one_map_that_never_ends_is_refused_early() -> None:
    reader = StreamReader(PLAIN, inbound=True)
    reader.feed(b"\x00\xdf\xff\xff\xff\xff")
    with pytest.raises(WireError) as caught:
        feed_often(reader, b"\xa1a\x01" * 10_000, 20)
    assert caught.value.kind == "limit"


def test_the_length_of_a_frame_is_judged_before_anything_of_it_is_there() -> None:
    assert refused(b"\x0a" + (MAX_FRAME + 1).to_bytes(4, "big"), KEYED).reply is not None
    assert read(b"\x0a" + MAX_FRAME.to_bytes(4, "big"), KEYED) is None


def test_time_to_find_the_end_grows_with_the_length_and_not_with_its_square() -> None:
    def seconds(count: int) -> float:
        message = encode_push_pull(True, [NODE] * count, b"")
        reader = StreamReader(PLAIN, inbound=True)
        began = time.process_time()
        for at in range(0, len(message), 100):
            reader.feed(message[at : at + 100])
        assert reader.message == message
        return time.process_time() - began

    # Sixteen times the input would take 256 times as long if every feed began anew.
    assert min(seconds(4000) for _ in range(3)) < 80 * max(seconds(250) for _ in range(3))


def test_what_comes_after_the_message_is_ignored() -> None:
    reader = StreamReader(PLAIN, inbound=True)
    reader.feed(PING)
    reader.feed(PING)
    assert reader.message == PING
    assert not reader.step(1)


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\x01\x80", b"\x07\x80", b"\x09\x80", b"\x06\xc1", b"\x08\x81\xaaUserMsgLen\xff"]
)
def test_what_is_no_message_of_a_stream_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        decode_stream_message(data)
