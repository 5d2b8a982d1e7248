"""The agent's log in the rpc process: lines from the supervisor's feed, and the clients that watch them.

Rules:

* The last `RING_LINES` lines are kept here, too, so that a new monitor has them at once. A restarted rpc process gets
  them again from the supervisor.
* Numbers of lines rise by one. A gap is what this process was too slow for: it is counted, and a line in its place says
  how many.
* A monitor shows lines from its own level up, whatever the agent's is. It holds at most `MONITOR_LIMIT` records; beyond
  that new ones are dropped and counted. The agent's log tells that once a burst (a line for each would add to what is
  dropped), and the monitor itself says how many, once its client has taken half of what waits.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from serfmp.agent.log_hub import RING_LINES
from serfmp.agent.logging import LEVELS, LINE_BYTES, format_line, level_number
from serfmp.bus import frames
from serfmp.bus.frames import LogLine
from serfmp.bus.packing import pack
from serfmp.io.rpc_streams import QUEUE_LIMIT, EventStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from serfmp.bus.loop import Loop

MONITOR_LIMIT: Final = RING_LINES + QUEUE_LIMIT
"""Records that wait in one monitor: what was there before it, and as many as in any stream."""

MESSAGES_PER_TURN: Final = 16
"""Messages with lines taken from the feed in one turn."""


class LogFeed:
    """The reading end of the supervisor's feed."""

    def __init__(self, loop: Loop, descriptor: int) -> None:
        self._loop = loop
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)
        self._last = 0
        self.ring: deque[LogLine] = deque(maxlen=RING_LINES)
        """The last lines, oldest first."""
        self.on_line: list[Callable[[LogLine], None]] = []
        """Called with each new line, in order."""
        self.lost = 0
        """Lines that did not reach this process."""
        loop.add(self._socket, lambda _events: self._read())

    def _read(self) -> None:
        for _ in range(MESSAGES_PER_TURN):
            try:
                message = self._socket.recv(LINE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                self._loop.remove(self._socket)
                return
            for line in frames.decode(message).lines():
                self._take(line)

    def _take(self, line: LogLine) -> None:
        if line.number <= self._last:
            return
        missed = line.number - self._last - 1 if self._last else 0
        if missed:
            self.lost += missed
            text = f"{missed} log lines did not reach the rpc process: it was not fast enough"
            self._add(LogLine(line.number - 1, line.at, "WARN", "agent", text))
        self._add(line)

    def _add(self, line: LogLine) -> None:
        self._last = line.number
        self.ring.append(line)
        for callback in self.on_line:
            callback(line)


def parse_level(text: str) -> str | None:
    """A log level in any letter case; None if it is none (an empty text is none)."""
    return text.upper() if text.upper() in LEVELS else None


def to_record(line: LogLine) -> bytes:
    """The record of a line, without its header."""
    return pack({"Log": format_line(line)})


class LogMonitor(EventStream):
    """One client's view of the log. It begins with `lines`."""

    __slots__ = ("_threshold", "_untold")

    def __init__(self, sequence: int, level: str, lines: Iterable[LogLine]) -> None:
        super().__init__(sequence, ())
        self._threshold = level_number(level)
        self._untold = 0
        for line in lines:
            if self.wants_level(line.level):
                self.records.append(to_record(line))

    def wants_level(self, level: str) -> bool:
        """Whether lines of this level are shown; those of unknown level always are."""
        return level_number(level) >= self._threshold

    def add(self, record: bytes) -> bool:
        """Queue the record of a line; False if it is the first one of a burst that was dropped."""
        room = MONITOR_LIMIT // 2 if self._untold else MONITOR_LIMIT
        if len(self.records) >= room:
            self.dropped += 1
            self._untold += 1
            return self._untold > 1
        if self._untold:
            text = f"{self._untold} log lines were dropped: this monitor does not read fast enough"
            self.records.append(to_record(LogLine(0, time.time(), "WARN", "agent.ipc", text)))
            self._untold = 0
        self.records.append(record)
        return True
