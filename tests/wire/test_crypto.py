from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serfmp.errors import UserError
from serfmp.wire.crypto import OVERHEAD, OVERHEAD_V0, Keyring
from serfmp.wire.errors import WireError

FIRST, SECOND, THIRD = bytes(16), bytes(24), bytes(32)


def test_the_first_key_is_the_primary_and_no_keys_mean_no_encryption() -> None:
    assert Keyring([SECOND, FIRST]).primary == SECOND
    assert Keyring().primary is None
    assert not Keyring()


def test_add_appends_and_a_key_that_is_there_stays_in_place() -> None:
    ring = Keyring([FIRST])
    ring.add(SECOND)
    ring.add(FIRST)
    assert ring.keys == (FIRST, SECOND)


def test_add_makes_the_primary_of_an_empty_ring() -> None:
    ring = Keyring()
    ring.add(THIRD)
    assert ring.primary == THIRD


def test_use_moves_a_key_to_the_front() -> None:
    ring = Keyring([FIRST, SECOND, THIRD])
    ring.use(THIRD)
    assert ring.keys == (THIRD, FIRST, SECOND)


def test_remove_takes_a_key_out_and_an_unknown_one_is_no_error() -> None:
    ring = Keyring([FIRST, SECOND])
    ring.remove(SECOND)
    ring.remove(THIRD)
    assert ring.keys == (FIRST,)


def test_the_users_errors_have_serfs_texts() -> None:
    ring = Keyring([FIRST, SECOND])
    with pytest.raises(UserError, match=r"^Requested key is not in the keyring$"):
        ring.use(THIRD)
    with pytest.raises(UserError, match=r"^Removing the primary key is not allowed$"):
        ring.remove(FIRST)
    with pytest.raises(UserError, match=r"^key size must be 16, 24 or 32 bytes$"):
        ring.add(bytes(15))
    assert ring.keys == (FIRST, SECOND)


@given(st.binary(min_size=1, max_size=200), st.binary(max_size=10), st.integers(0, 1))
def test_what_was_sealed_opens_with_any_installed_key(plaintext: bytes, aad: bytes, version: int) -> None:
    blob = Keyring([SECOND]).seal(plaintext, aad, version)
    assert Keyring([FIRST, SECOND]).open(blob, aad) == plaintext
    assert len(plaintext) + OVERHEAD <= len(blob) <= len(plaintext) + (OVERHEAD if version else OVERHEAD_V0)


def test_each_seal_has_a_new_nonce() -> None:
    ring = Keyring([FIRST])
    assert len({ring.seal(b"same", b"") for _ in range(100)}) == 100


@pytest.mark.parametrize("version", [0, 1])
def test_anything_changed_does_not_open(version: int) -> None:
    ring = Keyring([FIRST, SECOND])
    blob = ring.seal(b"text", b"aad", version)
    for at in range(1, len(blob)):
        damaged = blob[:at] + bytes((blob[at] ^ 1,)) + blob[at + 1 :]
        with pytest.raises(WireError):
            ring.open(damaged, b"aad")
    with pytest.raises(WireError):
        ring.open(blob, b"")
    with pytest.raises(WireError):
        Keyring([THIRD]).open(blob, b"aad")


@pytest.mark.parametrize("version", [0, 1])
def test_nothing_inside_is_refused(version: int) -> None:
    ring = Keyring([FIRST])
    with pytest.raises(WireError, match="holds nothing"):
        ring.open(ring.seal(b"", b"", version), b"")


@pytest.mark.parametrize("padding", [b"\x00", b"\x11", b"\xff", b"\x01\x02", b"\x02\x03\x03"])
def test_padding_that_is_wrong_anywhere_is_refused(padding: bytes) -> None:
    ring = Keyring([FIRST])
    sealed = ring.seal(bytes(16 - len(padding)) + padding, b"")
    # The version is not authenticated, so a blob of one version can be passed off as the other.
    with pytest.raises(WireError, match="bad padding"):
        ring.open(b"\x00" + sealed[1:], b"")


def test_the_library_is_not_imported_before_there_is_a_key() -> None:
    script = (
        "import sys, serfmp.wire.stream, serfmp.wire.crypto as c; c.Keyring(); print('cryptography' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
