"""Keys in flags and files: what is accepted, and the errors as Serf words them (spec agent.md 1.7)."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from serfmp.agent.config import AgentConfig
from serfmp.agent.keys import decode_key, read_keyring_file
from serfmp.errors import UserError

KEYS = [bytes(range(length)) for length in (32, 16, 24)]
TEXTS = [base64.b64encode(key).decode() for key in KEYS]


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("!!", 0),
        ("abc", 0),
        ("ab=c", 2),
        ("abcd!", 4),
        ("abcde", 4),
        ("====", 0),
        ("YWJj=", 4),
        ("YWJjZA=", 7),
        ("YW Jj", 2),
        ("YWJjZA==x", 8),
        ("Y", 0),
        ("é", 0),
    ],
)
def test_bad_base64_is_told_with_the_position_that_serf_gives(text: str, position: int) -> None:
    with pytest.raises(UserError, match=f"^illegal base64 data at input byte {position}$"):
        decode_key(text)


@pytest.mark.parametrize("text", ["", "YWJj", "YWJjZB==", "YWJj\nZA==\r\n", *TEXTS])
def test_good_base64_is_taken_with_line_breaks_and_odd_last_bits(text: str) -> None:
    assert decode_key(text) == base64.b64decode(text)


def test_a_keyring_file_gives_its_keys_in_order(tmp_path: Path) -> None:
    path = tmp_path / "keyring.json"
    path.write_text(json.dumps(TEXTS, indent=2))
    assert read_keyring_file(str(path)) == tuple(KEYS)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("[]", "Keyring file contains no keys"),
        ("null", "Keyring file contains no keys"),
        ("", "Failed to decode keyring file: unexpected end of JSON input"),
        ('["a', "Failed to decode keyring file: "),
        ("[] x", "Failed to decode keyring file: Extra data at character 3"),
        ("{}", "Failed to decode keyring file: it holds a map, not a list of keys"),
        ("[1]", "Failed to decode keyring file: entry 0 is a number, not the text of a key"),
        ("[[]]", "Failed to decode keyring file: entry 0 is a list, not the text of a key"),
        ("\udcff", "Failed to decode keyring file: it is not JSON text"),
        ('["!!"]', "Failed to decode key from keyring: illegal base64 data at input byte 0"),
        ('[""]', "Failed to restore keyring: Empty primary key not allowed"),
        ('["aGVsbG8="]', "Failed to restore keyring: key size must be 16, 24 or 32 bytes"),
        (f'["{TEXTS[0]}", "aGVsbG8="]', "Failed to restore keyring: key size must be 16, 24 or 32 bytes"),
    ],
)
def test_a_keyring_file_that_cannot_be_used_says_why(tmp_path: Path, content: str, error: str) -> None:
    path = tmp_path / "keyring.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError) as caught:
        read_keyring_file(str(path))
    assert str(caught.value).startswith(error)
    assert TEXTS[0] not in str(caught.value)


def test_a_keyring_file_that_is_not_there_or_no_file_says_so(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(UserError, match=f"^stat {missing}: no such file or directory$"):
        read_keyring_file(str(missing))
    with pytest.raises(UserError, match=f"^Failed to read keyring file: read {tmp_path}: is a directory$"):
        read_keyring_file(str(tmp_path))


def test_a_configuration_carries_its_keys_to_the_children_and_never_shows_them() -> None:
    for config in (
        AgentConfig("n", encrypt_key=KEYS[0], rpc_auth="hush"),
        AgentConfig("n", keyring=tuple(KEYS), keyring_file="k.json", label="blue"),
    ):
        assert AgentConfig.from_plain(config.to_plain()) == config
        assert config.keys[0] == KEYS[0]
        assert repr(KEYS[0]) not in repr(config)
        assert "hush" not in repr(config)
    assert AgentConfig("n").keys == ()
