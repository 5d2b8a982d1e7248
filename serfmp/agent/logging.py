"""Log lines from a child to the supervisor, without ever waiting.

Rules: a line is one message on a SEQPACKET socketpair, so that the last lines of a crashing child are whole and survive
it. A full socket drops the line; how many were lost is told by the next line that gets through. Only the supervisor
writes to the terminal.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import msgpack

if TYPE_CHECKING:
    import socket

LEVELS: Final = ("TRACE", "DEBUG", "INFO", "WARN", "ERR")
"""Serf's log levels, lowest first (spec agent.md 2.3)."""

LINE_LIMIT: Final = 12 * 1024
"""Characters of a line, above the 8 KiB of output kept of a script; longer ones are cut, and say so."""


def level_number(level: str) -> int:
    """The rank of a level; unknown levels rank highest, because lines of unknown level are always shown."""
    return LEVELS.index(level) if level in LEVELS else len(LEVELS)


class ChildLog:
    """The child's end of the log socket."""

    def __init__(self, sock: socket.socket, process: str, level: str) -> None:
        self._sock = sock
        sock.setblocking(False)
        self._process = process
        self._threshold = level_number(level)
        self.dropped = 0
        """Lines lost because the supervisor did not read fast enough."""
        self._untold = 0

    def set_level(self, level: str) -> None:
        """From now on only lines of this level and above are sent."""
        self._threshold = level_number(level)

    def enabled(self, level: str) -> bool:
        """Whether a line of this level would be sent: ask before building a costly text."""
        return level_number(level) >= self._threshold

    def write(self, level: str, component: str, text: str) -> None:
        """Send one line. `component` is Serf's name of the part that speaks (`agent`, `serf`, `memberlist`)."""
        if level_number(level) < self._threshold:
            return
        if self._untold and self._send("WARN", "agent", f"{self._process}: {self._untold} log lines were dropped"):
            self._untold = 0
        if len(text) > LINE_LIMIT:
            text = f"{text[:LINE_LIMIT]}… ({len(text)} characters, cut)"
        if not self._send(level, component, text):
            self.dropped += 1
            self._untold += 1

    def _send(self, level: str, component: str, text: str) -> bool:
        line = msgpack.packb([time.time(), level, component, text], unicode_errors="surrogateescape")
        try:
            self._sock.send(line)
        except OSError:
            return False
        return True


def decode_line(message: bytes) -> tuple[float, str, str, str]:
    """Wall time (seconds since the epoch), level, component and text of a line."""
    fields: Any = msgpack.unpackb(message, unicode_errors="surrogateescape")
    return fields[0], fields[1], fields[2], fields[3]
