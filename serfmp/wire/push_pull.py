"""The push/pull message: the member list of one agent, and the state of the layer above behind it.

Rules (spec wire.md 6.3):

* A header map, then one map per member back to back, then the raw user state. The header claims both lengths; both are
  bounded, and nothing is reserved by a claim.
* A member list can have ten thousand entries, so it is read in portions: `take` decodes the next few.
* One bad entry does not spoil the exchange: it is skipped and counted. An entry in an unknown state is treated alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from msgpack import OutOfData

from serfmp.wire.errors import WireError
from serfmp.wire.messages import MessageType, PushPullNode, decode_push_pull_node, encode_push_pull_node
from serfmp.wire.msgpack_raw import (
    PARSER_ERRORS,
    Record,
    flag,
    new_unpacker,
    put_flag,
    put_uint,
    read_record,
    sint,
    unparsable,
)

MAX_NODES: Final = 1_048_576
"""Most entries that a header may claim."""

MAX_USER: Final = 20 << 20
"""Most bytes of user state, or of a user message on a stream, that a header may claim."""

PIECE: Final = 65536
"""Bytes handed to the parser at a time."""

_LAST_STATE: Final = 3
"""States go from 0 to this: alive, suspect, dead, left."""


def encode_push_pull(join: bool, nodes: Iterable[PushPullNode], user_state: bytes) -> bytes:
    """A push/pull message with its type byte."""
    entries = [encode_push_pull_node(node) for node in nodes]
    return b"".join(
        (
            b"\x06\x83\xa4Join",
            put_flag(join),
            b"\xa5Nodes",
            put_uint(len(entries)),
            b"\xacUserStateLen",
            put_uint(len(user_state)),
            *entries,
            user_state,
        )
    )


def claimed_counts(header: Record) -> tuple[int, int]:
    """How many members and bytes of user state a header claims. `WireError` of kind `limit` outside the limits."""
    return claimed(header, b"Nodes", MAX_NODES), claimed(header, b"UserStateLen", MAX_USER)


def claimed(header: Record, key: bytes, limit: int) -> int:
    """A length that a header claims. `WireError` of kind `limit` if it is negative or over the limit."""
    value = header.get(key)
    if type(value) is int and not 0 <= value <= limit:
        raise WireError(f"{key.decode()} is {value}, allowed are 0 to {limit}", "limit")
    return sint(value)


class PushPullReader:
    """Reads a complete push/pull message, type byte included. Raises `WireError` if the header cannot be read.

    `join`: whether a user asked for it. `count`: entries of the list. `user_state`: what lies behind the list.
    """

    __slots__ = ("_at", "_fed", "_message", "_unpacker", "count", "join", "remaining", "skipped", "user_state")

    def __init__(self, message: bytes) -> None:
        if message[:1] != bytes((MessageType.PUSH_PULL,)):
            raise WireError("not a push/pull message", "type")
        self._message = memoryview(message)
        self._unpacker: Any = new_unpacker()
        self._fed = self._at = 1
        start, end = self._next()
        header = read_record(self._message[start:end])
        self.join = flag(header.get(b"Join"))
        self.count, length = claimed_counts(header)
        if length > len(message) - end:
            raise WireError("a push/pull is shorter than its header says")
        self.remaining = self.count
        """Entries not yet taken."""
        self.skipped = 0
        """Entries taken so far that could not be used."""
        self.user_state = message[len(message) - length :] if length else b""

    def take(self, count: int) -> list[PushPullNode]:
        """Decode the next `count` entries, or what is left, and give those that can be used."""
        nodes = []
        for _ in range(min(count, self.remaining)):
            start, end = self._next()
            self.remaining -= 1
            try:
                node = decode_push_pull_node(self._message[start:end])
            except WireError:
                self.skipped += 1
                continue
            if node.state > _LAST_STATE:
                self.skipped += 1
                continue
            nodes.append(node)
        return nodes

    def _next(self) -> tuple[int, int]:
        """Where the next value begins and ends."""
        while True:
            try:
                self._unpacker.skip()
            except OutOfData:
                piece = self._message[self._fed : self._fed + PIECE]
                if not piece:
                    raise WireError("a push/pull ends within its list of members") from None
                self._unpacker.feed(piece)
                self._fed += len(piece)
            except PARSER_ERRORS as error:
                raise unparsable(error) from None
            else:
                start, self._at = self._at, 1 + self._unpacker.tell()
                return start, self._at
