"""The client's side of the RPC protocol without any input or output (spec agent.md 5).

Rules:

* The protocol has no lengths: whether a body follows a header depends on the command and on the error, so this module
  remembers what was asked under which sequence number. Each number is used once.
* Records of streams come between answers; they are told apart by their number.
* `Authentication required` may come once or twice for one request, without a body; the second one is ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from serfmp.client.errors import ProtocolError
from serfmp.client.fields import field

RPC_VERSION: Final = 1

CHUNK: Final = 256 * 1024
"""Bytes that a client reads at once."""

MESSAGE_LIMIT: Final = 256 * 1024 * 1024
"""Bytes of an unfinished answer beyond which the connection is given up: more than a million members."""

_KEYS: Final = frozenset({"install-key", "use-key", "remove-key", "list-keys"})
_OURS: Final = frozenset({"why", "handlers", "bus", "config", "reload"})
WITH_BODY: Final = _KEYS | _OURS | {"join", "members", "members-filtered", "stats", "get-coordinate"}
"""Commands whose answer has a body."""

BODY_WITH_ERROR: Final = _KEYS | {"join"}
"""Commands whose body follows an error too."""

WITH_RECORDS: Final = frozenset({"stream", "monitor", "query"})
"""Commands after which records come under their number."""

LONE_ERRORS: Final = frozenset({"Authentication required", "Handshake required", "Unsupported command"})
"""Errors of a command that was not looked at: no body, whatever the command."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request."""

    sequence: int
    error: str
    body: Any


@dataclass(frozen=True, slots=True)
class Record:
    """A record of a subscription."""

    sequence: int
    body: Any


class Conversation:
    """One connection. Requests become bytes here, and bytes become replies and records."""

    def __init__(self) -> None:
        self._last = -1
        self._asked: dict[int, str] = {}
        self._subscribed: set[int] = set()
        self._header: Any = None
        self._unpacker = msgpack.Unpacker(
            raw=False, unicode_errors="surrogateescape", strict_map_key=False, max_buffer_size=MESSAGE_LIMIT
        )

    def request(self, command: str, body: Mapping[str, Any] | None = None) -> tuple[int, bytes]:
        """The sequence number and the bytes of a request."""
        self._last += 1
        self._asked[self._last] = command
        if command in WITH_RECORDS:
            self._subscribed.add(self._last)
        header: bytes = msgpack.packb({"Command": command, "Seq": self._last})
        if body is None:
            return self._last, header
        rest: bytes = msgpack.packb(dict(body), unicode_errors="surrogateescape")
        return self._last, header + rest

    def receive(self, data: bytes) -> Iterator[Reply | Record]:
        """What these bytes complete. Raises `ProtocolError`, after which the connection is of no use."""
        try:
            self._unpacker.feed(data)
            for value in self._unpacker:
                done = self._take_header(value) if self._header is None else self._take_body(value)
                if done is not None:
                    yield done
        except (ValueError, msgpack.exceptions.UnpackException) as error:
            raise ProtocolError(f"the agent sent what is no MessagePack: {error}") from error

    def _take_header(self, value: Any) -> Reply | None:
        sequence = field(value, "Seq", int)
        error = field(value, "Error", str)
        command = self._asked.get(sequence)
        if command is None:
            # A record always has a body; a second refusal of one request never has.
            if sequence in self._subscribed and not error:
                self._header = value
            return None
        if command in (BODY_WITH_ERROR if error else WITH_BODY) and error not in LONE_ERRORS:
            self._header = value
            return None
        del self._asked[sequence]
        if error:
            self._subscribed.discard(sequence)
        return Reply(sequence, error, None)

    def _take_body(self, value: Any) -> Reply | Record:
        header, self._header = self._header, None
        sequence = field(header, "Seq", int)
        if self._asked.pop(sequence, None) is None:
            return Record(sequence, value)
        return Reply(sequence, field(header, "Error", str), value)
