"""Cutting what an RPC client sends into MessagePack values, as it comes.

Rules:

* Every byte is looked at once, and nothing is built from a value before all of it is there: a claimed length reserves
  no memory. Nesting is bounded by the parser's own stack of 1024.
* A value may have `VALUE_LIMIT` bytes. Whoever sends a longer one, or what is no MessagePack, is refused for good.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

from serfmp.errors import RemoteError

VALUE_LIMIT: Final = 1024 * 1024
"""Longest header or body, in bytes."""

_BUFFER_LIMIT: Final = 2 * VALUE_LIMIT
_READ_SIZE: Final = 4096
"""Bytes that a client's buffer has at first; it grows with what comes. (By default it has a whole MiB at once.)"""


class MalformedError(RemoteError):
    """What a client sent cannot be a request; the connection is of no further use."""


class ValueReader:
    """See the module. Whoever feeds it takes the values before feeding more than `VALUE_LIMIT` bytes."""

    __slots__ = ("_buffer", "_start", "_unpacker", "_unpacker_start", "dry")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._start = 0
        """Where the next value begins."""
        self._unpacker: Any = msgpack.Unpacker(max_buffer_size=_BUFFER_LIMIT, read_size=_READ_SIZE)
        self._unpacker_start = 0
        """How many bytes the unpacker had skipped when the buffer began."""
        self.dry = True
        """There is no whole value until more is fed."""

    @property
    def unfinished(self) -> bool:
        """Whether a part of a value is there."""
        return self._start < len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take bytes. Raises `MalformedError` where values were not taken."""
        if self._start:
            del self._buffer[: self._start]
            self._unpacker_start += self._start
            self._start = 0
        self._buffer += data
        self.dry = False
        try:
            self._unpacker.feed(data)
        except msgpack.BufferFull:
            raise MalformedError(f"a request is longer than {VALUE_LIMIT} bytes") from None

    def take(self) -> tuple[bool, Any]:
        """Whether a value is complete, and the value. Raises `MalformedError`."""
        if self.dry:
            return False, None
        try:
            self._unpacker.skip()
        except msgpack.OutOfData:
            if len(self._buffer) - self._start > VALUE_LIMIT:
                raise MalformedError(f"a request is longer than {VALUE_LIMIT} bytes") from None
            self.dry = True
            return False, None
        except (ValueError, msgpack.UnpackException) as error:
            raise MalformedError(f"no MessagePack: {error}") from None
        end = int(self._unpacker.tell()) - self._unpacker_start
        if end - self._start > VALUE_LIMIT:
            raise MalformedError(f"a request is longer than {VALUE_LIMIT} bytes")
        data = self._buffer[self._start : end]
        self._start = end
        self.dry = end == len(self._buffer)
        try:
            return True, msgpack.unpackb(data, unicode_errors="surrogateescape", strict_map_key=False)
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise MalformedError(f"no usable MessagePack: {error}") from None
