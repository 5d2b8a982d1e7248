"""Keys as operators give them: base64 in a flag, or a keyring file (spec agent.md 1.7).

Rules:

* A key is the standard base64, padding included, of 16, 24 or 32 bytes; line breaks within are ignored.
* A keyring file is a JSON list of such keys, the primary first. It must hold at least one.
* Errors say what is wrong and where, never what the key is.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from serfmp.errors import UserError
from serfmp.wire.crypto import Keyring

KEYRING_MODE: Final = 0o600
QUANTUM: Final = 4
"""Characters of base64 that belong together."""

_FOREIGN: Final = re.compile(r"[^A-Za-z0-9+/\r\n]")
_TYPES: Final = {dict: "map", str: "text", bool: "boolean", int: "number", float: "number", type(None): "null"}


def decode_key(text: str) -> bytes:
    """The bytes of a key. Raises `UserError` that names the first byte that is wrong."""
    position = _first_fault(text)
    if position is not None:
        raise UserError(f"illegal base64 data at input byte {position}")
    return base64.b64decode(text)


def read_keyring_file(path: str) -> tuple[bytes, ...]:
    """The keys of a keyring file, the primary first. Raises `UserError` as Serf words it."""
    try:
        Path(path).stat()
    except OSError as error:
        raise UserError(f"stat {path}: {_reason(error)}") from None
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        verb = "read" if isinstance(error, IsADirectoryError) else "open"
        raise UserError(f"Failed to read keyring file: {verb} {path}: {_reason(error)}") from None
    texts = _list_of_texts(content)
    try:
        keys = tuple(decode_key(text) for text in texts)
    except UserError as error:
        raise UserError(f"Failed to decode key from keyring: {error}") from None
    if not keys:
        raise UserError("Keyring file contains no keys")
    if not keys[0]:
        raise UserError("Failed to restore keyring: Empty primary key not allowed")
    try:
        Keyring(keys)
    except UserError as error:
        raise UserError(f"Failed to restore keyring: {error}") from None
    return keys


def keyring_file_content(keys: Iterable[bytes]) -> bytes:
    """A keyring file as Serf writes it."""
    return json.dumps([base64.b64encode(key).decode("ascii") for key in keys], indent=2).encode("ascii")


def _list_of_texts(content: bytes) -> list[str]:
    try:
        value = json.loads(content)
    except json.JSONDecodeError as error:
        at_end = not error.doc[error.pos :].strip()
        reason = "unexpected end of JSON input" if at_end else f"{error.msg} at character {error.pos}"
        raise UserError(f"Failed to decode keyring file: {reason}") from None
    except (UnicodeDecodeError, RecursionError):
        raise UserError("Failed to decode keyring file: it is not JSON text") from None
    if value is None:
        return []
    if not isinstance(value, list):
        raise UserError(f"Failed to decode keyring file: it holds a {_TYPES[type(value)]}, not a list of keys")
    for number, item in enumerate(value):
        if not isinstance(item, str):
            kind = _TYPES.get(type(item), "list")
            raise UserError(f"Failed to decode keyring file: entry {number} is a {kind}, not the text of a key")
    return value


def _first_fault(text: str) -> int | None:
    """Where base64 text is wrong, counted in bytes as Serf counts them; None if it is right."""
    padding = text.find("=")
    foreign = _FOREIGN.search(text)
    if padding < 0 or (foreign is not None and foreign.start() < padding):
        if foreign is not None:
            return _bytes_before(text, foreign.start())
        places = [place for place, character in enumerate(text) if character not in "\r\n"]
        rest = len(places) % QUANTUM
        return places[-rest] if rest else None
    digits = [place for place in range(padding) if text[place] not in "\r\n"]
    signs = re.match(r"[\r\n]*=" * (-len(digits) % QUANTUM), text[padding:])
    if len(digits) % QUANTUM < 2:
        return padding
    if signs is None:
        return padding if text[padding + 1 :].strip("\r\n") else len(text)
    rest_at = padding + signs.end()
    return None if not text[rest_at:].strip("\r\n") else _bytes_before(text, rest_at)


def _bytes_before(text: str, place: int) -> int:
    return len(text[:place].encode("utf-8", "surrogateescape"))


def _reason(error: OSError) -> str:
    return os.strerror(error.errno or 0).lower()
