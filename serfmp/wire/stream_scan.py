"""Finding the end of a message in a stream while its bytes arrive.

Rules (spec wire.md 6):

* Every byte is looked at once: the parser keeps its place between calls and builds nothing.
* The counts in a header are checked against their limits as soon as the header is there, before anything behind it is
  waited for.
* `scan` looks through about `budget` bytes and gives the end, or None; then `busy` says whether bytes are left to look
  through.
"""

from __future__ import annotations

from typing import Any, Final

from msgpack import OutOfData

from serfmp.wire.errors import WireError
from serfmp.wire.messages import MessageType
from serfmp.wire.msgpack_raw import PARSER_ERRORS, new_unpacker, read_record, unparsable
from serfmp.wire.push_pull import MAX_USER, PIECE, claimed, claimed_counts

MAX_MAP: Final = 64 << 10
"""Longest header, member or message body that is waited for, in bytes. Real ones stay below two thousand."""


class MapScanner:
    """Finds the ends of the values behind the type byte of a message, each of at most `limit` bytes."""

    __slots__ = ("_end", "_limit", "_unpacker", "busy", "fed")

    def __init__(self, limit: int) -> None:
        self.busy = False
        """Whether bytes are at hand that were not yet looked through."""
        self.fed = 1
        """How far the buffer was looked through."""
        self._end = 1
        self._limit = limit
        self._unpacker: Any = new_unpacker()

    def scan(self, buffer: bytearray, stop: int) -> int | None:
        """The end of the next value in `buffer`, which begins with the type byte and only grows.

        None if it is not complete, or if it does not end before `stop`.
        """
        while True:
            try:
                self._unpacker.skip()
            except OutOfData:
                if self.fed - self._end > self._limit:
                    raise WireError(f"a map in a stream is longer than {self._limit} bytes", "limit") from None
                self.busy = self.fed < len(buffer)
                if not self.busy or self.fed >= stop:
                    return None
                piece = buffer[self.fed : min(self.fed + PIECE, stop)]
                self._unpacker.feed(piece)
                self.fed += len(piece)
            except PARSER_ERRORS as error:
                raise unparsable(error) from None
            else:
                self._end = 1 + int(self._unpacker.tell())
                return self._end


class MessageScanner:
    """Finds the end of one message of a stream, which is not compressed."""

    __slots__ = ("_began", "_maps", "_needed", "_nodes", "_user")

    def __init__(self) -> None:
        self._maps = MapScanner(MAX_MAP)
        self._began = False
        self._nodes = 0
        """Members still to be found."""
        self._user = 0
        self._needed = 0
        """Length of the whole message, once all maps are found."""

    @property
    def busy(self) -> bool:
        """Whether bytes are at hand that were not yet looked through."""
        return not self._needed and self._maps.busy

    def scan(self, buffer: bytearray, budget: int) -> int | None:
        """The end of the message in `buffer`, which begins with its type byte and only grows. Raises `WireError`."""
        stop = self._maps.fed + budget
        while not self._needed:
            end = self._maps.scan(buffer, stop)
            if end is None:
                return None
            if not self._began:
                self._began = True
                self._read_header(buffer, end)
            else:
                self._nodes -= 1
            if not self._nodes:
                self._needed = end + self._user
        return self._needed if len(buffer) >= self._needed else None

    def _read_header(self, buffer: bytearray, end: int) -> None:
        kind = buffer[0]
        if kind == MessageType.PUSH_PULL:
            self._nodes, self._user = claimed_counts(read_record(bytes(buffer[1:end])))
        elif kind == MessageType.USER:
            self._user = claimed(read_record(bytes(buffer[1:end])), b"UserMsgLen", MAX_USER)
