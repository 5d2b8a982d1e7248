"""Log lines: their levels and form, and their way from a child to the supervisor, without ever waiting.

Rules:

* Lines go over a SEQPACKET socketpair, each message with one or more of them, so that what a crashing child has sent is
  whole and survives it. A full socket drops lines; how many were lost is told by the next one that gets
  through.
* Lines from DEBUG up are sent whatever the agent's level is: monitors want them (spec agent.md 2.3). Those that only
  monitors want leave half of the socket's room to the others, and are dropped without a word beyond that.
* Lines below WARN are sent together, never behind a later line: a message costs its sender and the supervisor more than
  a line. Those of INFO leave at the end of the turn unless lines have just left, all at most `TOGETHER_S` late, but
  for those that only monitors want: `MONITORS_S`. What waits is lost with a process that is killed; one that fails by
  itself sends it first.
* Only the supervisor writes the log anywhere.
"""

from __future__ import annotations

import fcntl
import json
import math
import socket
import struct
import termios
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgpack

from serfmp.bus.frames import LogLine
from serfmp.bus.packing import pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from serfmp.bus.loop import Timer

LEVELS: Final = ("TRACE", "DEBUG", "INFO", "WARN", "ERR")
"""Serf's log levels, lowest first (spec agent.md 2.3)."""
_RANKS: Final = {level: rank for rank, level in enumerate(LEVELS)}

LINE_LIMIT: Final = 12 * 1024
"""Characters of a line, above the 8 KiB of output kept of a script; longer ones are cut, and say so."""


RING_LEVEL: Final = "DEBUG"
"""Lowest level of lines that reach the supervisor at any level of the agent."""


TOGETHER_S: Final = 0.02
"""Seconds for which lines below WARN may wait for others."""

MONITORS_S: Final = 0.1
"""The same for lines below the agent's level: a busy agent wakes itself and the supervisor for them, and nearly always
nobody looks at them."""

TOGETHER: Final = 32
"""Lines that wait at most."""

TOGETHER_CHARACTERS: Final = LINE_LIMIT
"""Characters of their texts beyond which they wait for no more."""

_INFO: Final = LEVELS.index("INFO")

LINE_BYTES: Final = 4 * (TOGETHER_CHARACTERS + LINE_LIMIT) + 64 * 1024
"""Bytes of a message, at most."""


def format_line(line: LogLine) -> str:
    """A line as people and monitors see it: local time in whole seconds, level, component, text (spec agent.md 2.3)."""
    return f"{_stamp(int(line.at))} [{line.level}] {line.component}: {line.text.removesuffix(chr(10))}"


@lru_cache(maxsize=8)
def _stamp(second: int) -> str:
    """Local time; many lines are of the same second, and the time zone's rules cost more than the rest of a line."""
    return time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(second))


def json_line(line: LogLine, node: str) -> str:
    """A line as one JSON object: time in UTC with milliseconds, level, component, node, message."""
    moment = datetime.fromtimestamp(line.at, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
    fields = {
        "time": f"{moment}Z",
        "level": line.level,
        "component": line.component,
        "node": node,
        "message": line.text.removesuffix(chr(10)),
    }
    # Bytes that are not UTF-8 would make it no JSON.
    text = json.dumps(fields, ensure_ascii=False)
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def level_number(level: str) -> int:
    """The rank of a level; unknown levels rank highest, because lines of unknown level are always shown."""
    return _RANKS.get(level, len(LEVELS))


class ChildLog:
    """The child's end of the log socket."""

    def __init__(self, sock: socket.socket, process: str, level: str) -> None:
        self._sock = sock
        sock.setblocking(False)
        self._process = process
        self._room = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2
        self._threshold = self._lowest = 0
        self.set_level(level)
        self.dropped = 0
        """Lines lost because the supervisor did not read fast enough."""
        self.dropped_for_monitors = 0
        """The same, of lines below the agent's level."""
        self._untold = 0
        self.call_later: Callable[[float, Callable[[], None]], Timer] | None = None
        """Calls back after so many seconds, and `end_turn` is called, too; without it no line waits."""
        self._together: list[tuple[float, str, str, str]] = []
        self._characters = 0
        self._wait = math.inf
        """After so many seconds what waits leaves, counted from a line that waits."""
        self._timer: Timer | None = None
        self._due = False
        """What waits leaves at the end of the turn."""
        self._sent_at = -math.inf
        """When lines were last sent."""

    def set_level(self, level: str) -> None:
        """The agent has this level from now on."""
        self._threshold = level_number(level)
        self._lowest = min(self._threshold, level_number(RING_LEVEL))

    def enabled(self, level: str) -> bool:
        """Whether a line of this level would be sent: ask before building a costly text."""
        return level_number(level) >= self._lowest

    def write(self, level: str, component: str, text: str) -> None:
        """Send one line. `component` is Serf's name of the part that speaks (`agent`, `serf`, `memberlist`)."""
        rank = level_number(level)
        if rank < self._lowest:
            return
        if len(text) > LINE_LIMIT:
            text = f"{text[:LINE_LIMIT]}… ({len(text)} characters, cut)"
        self._together.append((time.time(), level, component, text))
        self._characters += len(text)
        full = len(self._together) >= TOGETHER or self._characters > TOGETHER_CHARACTERS
        if rank > _INFO or full or self.call_later is None:
            self.flush()
            return
        self._due |= rank == _INFO and rank >= self._threshold
        wait = TOGETHER_S if rank >= self._threshold else MONITORS_S
        if wait < self._wait:
            self._wait = wait
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.call_later(wait, self.flush)

    def end_turn(self) -> None:
        """At the end of each turn: send what shall not wait longer."""
        if self._due and time.monotonic() - self._sent_at >= TOGETHER_S:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        self._due = False
        self._wait = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._together, self._characters = self._together, [], 0
        if not lines:
            return
        self._sent_at = time.monotonic()
        wanted = [line for line in lines if level_number(line[1]) >= self._threshold]
        if len(wanted) < len(lines) and self._waiting() > self._room:
            self.dropped_for_monitors += len(lines) - len(wanted)
            lines = wanted
            if not lines:
                return
        if wanted and self._untold:
            told = f"{self._process}: {self._untold} log lines were dropped"
            if self._send([(time.time(), "WARN", "agent", told)]):
                self._untold = 0
        if not self._send(lines):
            self.dropped += len(wanted)
            self._untold += len(wanted)
            self.dropped_for_monitors += len(lines) - len(wanted)

    def _waiting(self) -> int:
        """Bytes of the socket's room that are taken."""
        try:
            (taken,) = struct.unpack("i", fcntl.ioctl(self._sock, termios.TIOCOUTQ, bytes(4)))
        except OSError:
            return 0
        return int(taken)

    def _send(self, lines: list[tuple[float, str, str, str]]) -> bool:
        try:
            self._sock.send(pack(lines))
        except OSError:
            return False
        return True


def decode_lines(message: bytes) -> Iterator[tuple[float, str, str, str]]:
    """Wall time (seconds since the epoch), level, component and text of each line of a message."""
    for line in msgpack.unpackb(message, unicode_errors="surrogateescape"):
        at, level, component, text = line
        yield at, level, component, text
