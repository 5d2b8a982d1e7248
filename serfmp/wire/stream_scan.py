"""Finding the end of a message in a stream while its bytes arrive.

Rules (spec wire.md 6):

* Every byte is looked at once: the parser keeps its place between calls and builds nothing.
* The counts in a header are checked against their limits as soon as the header is there, before anything behind it is waited for.
* `scan` looks through about `budget` bytes and gives the end, or None; then `busy` says whether bytes are left to look through.
"""

from __future__ import annotations

from typing import Any, Final

from msgpack import OutOfData

from serfmp.wire.errors import WireError
from serfmp.wire.messages import MessageType
from serfmp.wire.msgpack_raw import PARSER_ERRORS, Record, new_unpacker, read_record, unparsable
from serfmp.wire.push_pull import MAX_USER, PIECE, claimed, claimed_counts

MAX_HEADER: Final = 64 << 10
"""Longest header, and longest message that is one map, in bytes."""


class MapScanner:
    """Finds the ends of maps that follow the type byte of a message. `limit`: bytes that all of them may take."""

    __slots__ = ("_fed", "_limit", "_unpacker", "busy")

    def __init__(self, limit: int) -> None:
        self.busy = False
        """Whether bytes are at hand that were not yet looked through."""
        self._limit = limit
        self._fed = 1
        self._unpacker: Any = new_unpacker()

    def scan(self, buffer: bytearray, budget: int) -> int | None:
        """The end of the next map in `buffer`, which begins with the type byte and only grows; None if it is not found yet."""
        stop = self._fed + max(budget, 1)
        while True:
            try:
                self._unpacker.skip()
            except OutOfData:
                self.busy = self._fed < len(buffer)
                if not self.busy or self._fed >= stop:
                    self._check()
                    return None
                piece = bytes(buffer[self._fed : min(self._fed + PIECE, stop)])
                self._unpacker.feed(piece)
                self._fed += len(piece)
            except PARSER_ERRORS as error:
                raise unparsable(error) from None
            else:
                self._check()
                self.busy = True
                return 1 + int(self._unpacker.tell())

    def _check(self) -> None:
        if self._unpacker.tell() > self._limit or (self._limit <= MAX_HEADER < self._fed):
            raise WireError(f"a header of a stream is longer than {self._limit} bytes", "limit")


class MessageScanner:
    """Finds the end of one message of a stream, which is not compressed."""

    __slots__ = ("_header", "_maps", "_needed", "_nodes", "_user", "busy")

    def __init__(self) -> None:
        self.busy = False
        """Whether bytes are at hand that were not yet looked through."""
        self._maps = MapScanner(MAX_HEADER)
        self._header: Record | None = None
        self._nodes = 0
        self._user = 0
        self._needed = 0
        """The length of the whole message, once it is known."""
