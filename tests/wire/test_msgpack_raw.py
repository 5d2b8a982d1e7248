"""The table of accepted input in spec wire.md 2.2, and the dialect that is written."""

from __future__ import annotations

import tracemalloc

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serfmp.errors import InternalError, UserError
from serfmp.wire.errors import WireError
from serfmp.wire.messages import Alive, Ping, decode_packet_message, encode
from serfmp.wire.msgpack_raw import (
    I64_MAX,
    U64_MAX,
    put_array_header,
    put_flag,
    put_map_header,
    put_raw,
    put_real,
    put_sint,
    put_text,
    put_uint,
)

PING = Ping(7, "beta")


def old(value: object) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=False)
    return packed


def ping(body: bytes) -> Ping:
    message = decode_packet_message(b"\x00" + body)
    assert isinstance(message, Ping)
    return message


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\x82\xa4Node\xa4beta\xa5SeqNo\x07", id="fixraw"),
        pytest.param(b"\x82\xa4Node\xda\x00\x04beta\xa5SeqNo\x07", id="raw16"),
        pytest.param(b"\x82\xa4Node\xdb\x00\x00\x00\x04beta\xa5SeqNo\x07", id="raw32"),
        pytest.param(b"\x82\xa4Node\xd9\x04beta\xa5SeqNo\x07", id="str8"),
        pytest.param(b"\x82\xc4\x04Node\xc4\x04beta\xa5SeqNo\x07", id="bin8 for text and key"),
        pytest.param(b"\x82\xa5SeqNo\x07\xa4Node\xa4beta", id="other order"),
        pytest.param(b"\x83\xa5SeqNo\x01\xa4Node\xa4beta\xa5SeqNo\x07", id="repeated key"),
        pytest.param(b"\xde\x00\x02\xa4Node\xa4beta\xa5SeqNo\x07", id="map16"),
        pytest.param(b"\xdf\x00\x00\x00\x02\xa4Node\xa4beta\xa5SeqNo\x07", id="map32"),
        pytest.param(b"\x82\xa4Node\xa4beta\xa5SeqNo\x07trailing", id="bytes behind the body"),
        pytest.param(b"\x82\xa4Node\xa4beta\xa5SeqNo\xcc\x07", id="u8"),
        pytest.param(b"\x82\xa4Node\xa4beta\xa5SeqNo\xcf" + bytes(7) + b"\x07", id="u64"),
        pytest.param(b"\x82\xa4Node\xa4beta\xa5SeqNo\xd3" + bytes(7) + b"\x07", id="i64"),
        pytest.param(b"\x83\xa4Node\xa4beta\xa5SeqNo\x07\xa3odd\xd6\x05abcd", id="unknown field with ext"),
        pytest.param(b"\x83\xa4Node\xa4beta\xa5SeqNo\x07\xa3odd\xd4\xff\x00", id="unknown field with a bad timestamp"),
        pytest.param(b"\x83\xa4Node\xa4beta\xa5SeqNo\x07\xa3odd\x81\x05\x06", id="unknown field with integer keys"),
        pytest.param(b"\x83\xa4Node\xa4beta\xa5SeqNo\x07\xa3odd\x81\x90\x06", id="unknown field with a list as key"),
        pytest.param(b"\x83\xa4Node\xa4beta\xa5SeqNo\x07\xa3odd\xdc\x20\x00" + bytes(0x2000), id="unknown long array"),
        pytest.param(b"\x83\xa4Node\xa4beta\xa5SeqNo\x07\xa5seqno\x08", id="other case is unknown"),
    ],
)
def test_every_accepted_form_of_a_body_means_the_same(body: bytes) -> None:
    assert ping(body) == PING


def test_missing_and_nil_are_zero() -> None:
    assert ping(b"\x80") == ping(b"\xc0") == ping(b"\x82\xa4Node\xc0\xa5SeqNo\xc0") == Ping(0, "")


@pytest.mark.parametrize("value", [b"\xa4\x7f\x00\x00\x01", b"\xc4\x04\x7f\x00\x00\x01", b"\xd9\x04\x7f\x00\x00\x01"])
def test_bytes_are_accepted_as_raw_bin_and_str8(value: bytes) -> None:
    assert ping(b"\x81\xaaSourceAddr" + value).source_address == b"\x7f\x00\x00\x01"


def test_bytes_are_accepted_as_an_array_of_small_integers() -> None:
    assert ping(b"\x81\xaaSourceAddr\x94\x7f\x00\x00\x01").source_address == b"\x7f\x00\x00\x01"


@pytest.mark.parametrize("value", [0, 1, False, True, None])
def test_truth_is_accepted_as_zero_and_one(value: object) -> None:
    body = {"Nack": value, "Node": "a", "Port": 1, "SeqNo": 1, "Target": bytes(4)}
    assert getattr(decode_packet_message(b"\x01" + old(body)), "nack", None) is bool(value)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xc1", id="reserved byte"),
        pytest.param(b"\x05", id="an integer as body"),
        pytest.param(b"\x92\xa4beta\x07", id="an array as body"),
        pytest.param(b"\x81\x05\x06", id="integer key"),
        pytest.param(b"\x81\xc0\x06", id="nil key"),
        pytest.param(b"\x81\xa5SeqNo\xa17", id="text for an integer"),
        pytest.param(b"\x81\xa5SeqNo\xc3", id="truth for an integer"),
        pytest.param(b"\x81\xa5SeqNo\xcb" + bytes(8), id="float for an integer"),
        pytest.param(b"\x81\xa5SeqNo\xff", id="negative"),
        pytest.param(b"\x81\xa5SeqNo\xcf\x00\x00\x00\x01" + bytes(4), id="too large"),
        pytest.param(b"\x81\xa4Node\x07", id="integer for text"),
        pytest.param(b"\x81\xa4Node\xd4\x05a", id="ext for text"),
        pytest.param(b"\x81\xa4Node\xd4\xff\x00", id="bad timestamp for text"),
        pytest.param(b"\x81\xaaSourceAddr\x94\x7f\x00\x00\xcd\x01\x00", id="large integers for bytes"),
        pytest.param(b"\x81\xa3odd" + b"\x91" * 3000, id="nested too deep"),
        pytest.param(b"\xdf\xff\xff\xff\xff\xa4Node\xa1x", id="claims many pairs"),
        pytest.param(b"\x81\xa4Node\xdb\xff\xff\xff\xffab", id="claims a long text"),
        pytest.param(b"\x81\xa3odd\xdd\xff\xff\xff\xff", id="claims a long array"),
    ],
)
def test_what_cannot_be_meant_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        ping(body)


def test_claims_reserve_no_memory() -> None:
    nested = b"\x81\xa3odd" + b"\xdd\x00\x0f\xff\xff" * 1000 + bytes(1 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            ping(nested)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_text_that_is_not_utf8_survives_byte_for_byte() -> None:
    message = ping(b"\x82\xa4Node\xa3\xff\xfe\x80\xa5SeqNo\x07")
    assert encode(message) == b"\x00\x82\xa4Node\xa3\xff\xfe\x80\xa5SeqNo\x07"


@given(st.integers(-I64_MAX - 1, U64_MAX))
def test_integers_are_read_back(number: int) -> None:
    assert msgpack.unpackb(put_sint(number) if number < 0 else put_uint(number)) == number


@pytest.mark.parametrize("number", [0, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, U64_MAX])
def test_unsigned_integers_are_written_in_their_shortest_form(number: int) -> None:
    assert put_uint(number) == old(number)
    assert put_sint(number) == old(number)


@pytest.mark.parametrize("number", [-1, U64_MAX + 1])
def test_an_integer_that_does_not_fit_is_our_own_error(number: int) -> None:
    with pytest.raises(InternalError):
        put_uint(number)


@pytest.mark.parametrize("length", [0, 31, 32, 255, 65535, 65536])
def test_bytes_and_text_are_written_as_raw(length: int) -> None:
    assert put_raw(bytes(length)) == old(bytes(length))
    assert put_text("x" * length) == old("x" * length)


@pytest.mark.parametrize("count", [0, 15, 16, 65535, 65536])
def test_headers_are_written_in_their_shortest_form(count: int) -> None:
    packer = msgpack.Packer()
    assert put_array_header(count) == packer.pack_array_header(count)
    assert put_map_header(count) == packer.pack_map_header(count)


def test_truth_and_floats_are_written_as_the_library_does() -> None:
    assert put_flag(True) + put_flag(False) + put_real(0.25) == old(True) + old(False) + old(0.25)


def test_a_lone_surrogate_is_the_users_error() -> None:
    with pytest.raises(UserError, match="lone surrogate"):
        put_text("\ud800")


def test_a_member_without_six_version_bytes_is_never_written() -> None:
    with pytest.raises(InternalError):
        encode(Alive(1, "a", bytes(4), 1, b"", b"\x01\x05\x02"))
