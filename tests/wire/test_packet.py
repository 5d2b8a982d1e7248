from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serfmp.errors import InternalError, UserError
from serfmp.wire import lzw
from serfmp.wire.crypto import Keyring
from serfmp.wire.errors import WireError
from serfmp.wire.msgpack_raw import put_raw
from serfmp.wire.packet import (
    MAX_DECOMPRESSED,
    MAX_DEPTH,
    MAX_OPENED,
    Opened,
    PacketFormat,
    PendingPacket,
    open_packet,
    seal_packet,
)

PLAIN = PacketFormat()
BUDGET = 1 << 21

formats = st.builds(
    PacketFormat,
    st.sampled_from([None, Keyring(), Keyring([bytes(16)]), Keyring([bytes(32), bytes(16)])]),
    st.sampled_from(["", "blue", "Grün"]),
    st.booleans(),
    st.integers(0, 300),
)
leaves = st.binary(max_size=600).map(lambda data: b"\x08" + data)


def opened(data: bytes, fmt: PacketFormat = PLAIN) -> Opened:
    result = open_packet(data, fmt, BUDGET)
    assert isinstance(result, Opened)
    return result


def compound(*parts: bytes) -> bytes:
    lengths = b"".join(len(part).to_bytes(2, "big") for part in parts)
    return bytes((7, len(parts))) + lengths + b"".join(parts)


def compressed(message: bytes) -> bytes:
    return b"\x09\x82\xa4Algo\x00\xa3Buf" + put_raw(lzw.compress(message))


@given(st.lists(leaves, min_size=1, max_size=20), st.booleans(), formats)
def test_what_was_sealed_opens_to_the_same_messages(parts: list[bytes], checksum: bool, fmt: PacketFormat) -> None:
    (packet,) = seal_packet(parts, checksum, fmt)
    assert opened(packet, fmt) == Opened(tuple(parts), 0)


def test_one_message_is_sent_bare() -> None:
    assert seal_packet([b"\x08x"], checksum=False, fmt=PLAIN) == [b"\x08x"]


def test_no_messages_make_no_packet() -> None:
    assert seal_packet([], checksum=True, fmt=PLAIN) == []


def test_more_messages_than_a_compound_holds_are_split() -> None:
    parts = [b"\x08" + bytes((number % 256,)) for number in range(600)]
    packets = seal_packet(parts, checksum=True, fmt=PLAIN)
    assert [len(opened(packet).parts) for packet in packets] == [255, 255, 90]
    assert [part for packet in packets for part in opened(packet).parts] == parts


def test_an_empty_message_is_never_sent() -> None:
    with pytest.raises(InternalError):
        seal_packet([b"\x08x", b""], checksum=False, fmt=PLAIN)


def test_compression_is_used_only_above_its_size_and_where_it_is_shorter() -> None:
    assert seal_packet([b"\x08" + bytes(255)], checksum=False, fmt=PLAIN)[0][0] == 8
    assert seal_packet([b"\x08" + bytes(256)], checksum=False, fmt=PLAIN)[0][0] == 9
    assert seal_packet([b"\x08" + bytes(256)], checksum=False, fmt=PacketFormat(compress=False))[0][0] == 8
    assert seal_packet([b"\x08" + bytes(range(256)) + b"tail"], checksum=False, fmt=PLAIN)[0][0] == 8


def test_a_part_that_overruns_and_those_after_it_are_counted() -> None:
    data = compound(b"\x08a", b"\x08b", b"\x08c", b"\x08d")
    assert opened(data[:-3]) == Opened((b"\x08a", b"\x08b"), 2)


def test_bytes_behind_the_last_part_are_ignored() -> None:
    assert opened(compound(b"\x08a", b"\x08b") + b"more") == Opened((b"\x08a", b"\x08b"), 0)


def test_messages_of_nested_compounds_keep_their_order() -> None:
    nested = compound(b"\x08a", compound(b"\x08b", compound(b"\x08c"), b"\x08d"), b"\x08e")
    assert opened(nested).parts == (b"\x08a", b"\x08b", b"\x08c", b"\x08d", b"\x08e")


@pytest.mark.parametrize(("depth", "fine"), [(MAX_DEPTH, True), (MAX_DEPTH + 1, False)])
def test_compounds_are_followed_to_a_fixed_depth(depth: int, fine: bool) -> None:
    data = b"\x08x"
    for _ in range(depth):
        data = compound(data)
    if fine:
        assert opened(data).parts == (b"\x08x",)
    else:
        with pytest.raises(WireError):
            opened(data)


def test_one_layer_of_compression_is_followed_wherever_it_stands() -> None:
    assert opened(compound(b"\x08a", compressed(compound(b"\x08b", b"\x08c")), b"\x08d")).parts == (
        b"\x08a",
        b"\x08b",
        b"\x08c",
        b"\x08d",
    )
    for twice in (compressed(compressed(b"\x08x")), compound(compressed(b"\x08x"), compressed(b"\x08y"))):
        with pytest.raises(WireError, match="more than once"):
            opened(twice)


def test_a_packet_gives_a_bounded_number_of_messages() -> None:
    many = compound(*[compound(*[b"\x08"] * 255)] * 10)
    result = opened(many)
    assert len(result.parts) == MAX_OPENED
    assert result.truncated == 2550 - MAX_OPENED


def test_a_long_decompression_is_handed_back_and_goes_on_in_steps() -> None:
    message = b"\x08" + bytes(MAX_DECOMPRESSED - 1)
    pending = open_packet(compressed(message), PLAIN, 10_000)
    assert isinstance(pending, PendingPacket)
    steps = 1
    while (result := pending.step(10_000)) is None:
        steps += 1
    assert result == Opened((message,), 0)
    assert steps > 50


def test_what_decompresses_to_more_than_the_limit_is_refused() -> None:
    with pytest.raises(WireError) as caught:
        opened(compressed(b"\x08" + bytes(MAX_DECOMPRESSED)))
    assert caught.value.kind == "compress"


@pytest.mark.parametrize(
    ("sent", "configured"), [("blue", ""), ("", "blue"), ("blue", "red"), ("blue", "blu"), ("blu", "blue")]
)
@pytest.mark.parametrize("keys", [[], [bytes(16)]])
def test_another_label_is_refused(sent: str, configured: str, keys: list[bytes]) -> None:
    (packet,) = seal_packet([b"\x08x"], checksum=False, fmt=PacketFormat(Keyring(keys), sent))
    with pytest.raises(WireError):
        opened(packet, PacketFormat(Keyring(keys), configured))


def test_a_label_and_nothing_else_is_refused() -> None:
    with pytest.raises(WireError) as caught:
        opened(b"\xf4\x04blue", PacketFormat(label="blue"))
    assert caught.value.kind == "empty"


def test_a_label_that_is_too_long_is_the_users_error() -> None:
    with pytest.raises(UserError, match="longer than 255 bytes"):
        PacketFormat(label="x" * 256)


def test_an_empty_datagram_is_refused() -> None:
    with pytest.raises(WireError) as caught:
        opened(b"")
    assert caught.value.kind == "empty"


def test_a_checksum_inside_another_layer_is_not_taken_off() -> None:
    (packet,) = seal_packet([b"\x08x"], checksum=True, fmt=PLAIN)
    (twice,) = seal_packet([packet], checksum=True, fmt=PLAIN)
    assert opened(twice).parts == (packet,)
    assert opened(compound(packet)).parts == (packet,)
