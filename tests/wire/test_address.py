from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serfmp.errors import UserError
from serfmp.wire.address import MAPPED_PREFIX, from_text, is_public, to_text
from serfmp.wire.errors import WireError


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (bytes((127, 0, 0, 1)), "127.0.0.1"),
        (MAPPED_PREFIX + bytes((10, 1, 2, 3)), "10.1.2.3"),
        (bytes(15) + b"\x01", "::1"),
        (bytes.fromhex("20010db8000000000000000000000007"), "2001:db8::7"),
    ],
)
def test_raw_addresses_have_the_usual_text(raw: bytes, text: str) -> None:
    assert to_text(raw) == text


@pytest.mark.parametrize("length", [0, 1, 3, 5, 15, 17])
def test_other_lengths_are_refused(length: int) -> None:
    with pytest.raises(WireError) as caught:
        to_text(bytes(length))
    assert caught.value.kind == "address"


@given(st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16))
def test_text_and_back_gives_the_same_address_in_its_own_form(raw: bytes) -> None:
    assert from_text(to_text(raw)) == (raw[12:] if raw.startswith(MAPPED_PREFIX) and len(raw) == 16 else raw)


@pytest.mark.parametrize("text", ["", "example.net", "1.2.3", "1.2.3.4:7946", "[::1]"])
def test_text_that_is_no_address_is_the_users_error(text: str) -> None:
    with pytest.raises(UserError, match="not an IP address"):
        from_text(text)


@pytest.mark.parametrize(
    ("text", "public"),
    [("8.8.8.8", True), ("10.0.0.1", False), ("127.0.0.1", False), ("192.168.1.1", False), ("::1", False)],
)
def test_public_addresses_are_known(text: str, public: bool) -> None:
    assert is_public(from_text(text)) is public
