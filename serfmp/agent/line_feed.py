"""The feed of log lines from the supervisor to a child: to rpc, whose clients watch the log, or to the logger.

Rules:

* The supervisor never waits for the reader: what the socket does not take waits here, `WAITING_LINES` at most; beyond
  that the oldest go. They are counted, and the reader sees the gap in the numbers.
* It is a SEQPACKET socketpair of its own: a flood of lines delays no control frame, and a reader that is behind costs
  the kernel's buffer and no more. Lines leave together, the first ones after a pause of `PACE` at the end of the turn,
  others as soon as that has passed or they are `TOGETHER`: a message costs the reader more than a line.
* Both ends stay with the supervisor, so that a restarted reader finds its end. A new rpc process first gets the hub's
  ring, a new logger goes on where the one before it stopped.
* With a level, lines below it are left out, and the others have numbers of their own.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import TYPE_CHECKING, Final

from serfmp.agent.logging import TOGETHER, TOGETHER_CHARACTERS, level_number
from serfmp.bus import frames
from serfmp.bus.loop import WRITE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from serfmp.bus.loop import Loop

WAITING_LINES: Final = 1024
"""Lines that wait for a reader that does not read: the ring for a new rpc process, and as many again."""

FEED_BUFFER: Final = 256 * 1024
"""Bytes of lines that wait in the kernel."""

PACE: Final = 0.05
"""Seconds for which lines wait for others while many come."""


class LineFeed:
    """See the module. `reader` is what the child inherits."""

    def __init__(self, loop: Loop, level: str | None = None) -> None:
        self._loop = loop
        self._threshold = None if level is None else level_number(level)
        self._last = 0
        self.reader, self._writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, FEED_BUFFER)
        self._writer.setblocking(False)
        self._waiting: deque[frames.LogLine] = deque()
        self._blocked = False
        """The socket has no room: what waits goes on when it has."""
        self._next_at = 0.0
        """Before that few lines do not leave."""
        self._timed = False
        """The loop wakes then."""
        self.dropped = 0
        """Lines lost because the reader was not fast enough."""
        loop.add(self._writer, lambda _events: self._go_on(), 0)
        loop.before_wait.append(self._end_turn)

    def set_level(self, level: str) -> None:
        """From now on only lines of this level and above."""
        self._threshold = level_number(level)

    def begin(self, lines: Iterable[frames.LogLine]) -> None:
        """A new generation of rpc will read: it gets these lines first."""
        while True:
            try:
                self.reader.recv(1, socket.MSG_DONTWAIT)
            except OSError:
                break
        self._waiting = deque(lines, WAITING_LINES)
        self._go_on()

    def add(self, line: frames.LogLine) -> None:
        """Hand on a line, now or later."""
        if self._threshold is not None:
            if level_number(line.level) < self._threshold:
                return
            self._last += 1
            line = frames.LogLine(self._last, line.at, line.level, line.component, line.text)
        if len(self._waiting) >= WAITING_LINES:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(line)
        if len(self._waiting) >= TOGETHER:
            self._flush()

    def close(self) -> None:
        """Forget it."""
        self._loop.before_wait.remove(self._end_turn)
        self._loop.remove(self._writer)
        self._writer.close()
        self.reader.close()

    def _go_on(self) -> None:
        """The socket may have room again."""
        if self._blocked:
            self._blocked = False
            self._loop.change(self._writer, 0)
        self._flush()

    def _end_turn(self) -> None:
        if not self._waiting or self._timed or self._blocked:
            return
        if self._loop.clock() >= self._next_at:
            self._flush()
        else:
            self._timed = True
            self._loop.call_at(self._next_at, self._wake)

    def _wake(self) -> None:
        self._timed = False

    def _flush(self) -> None:
        self._next_at = self._loop.clock() + PACE
        while self._waiting and not self._blocked:
            lines = self._take_some()
            try:
                self._writer.send(frames.encode(frames.LogLines.of(lines)))
            except BlockingIOError:
                self._waiting.extendleft(reversed(lines))
                self._blocked = True
                self._loop.change(self._writer, WRITE)
            except OSError:  # a line that is longer than the socket's room
                self.dropped += len(lines)

    def _take_some(self) -> list[frames.LogLine]:
        """What goes into the next message: a long line goes alone."""
        lines = [self._waiting.popleft()]
        room = TOGETHER_CHARACTERS - len(lines[0].text)
        while self._waiting and len(lines) < TOGETHER and len(self._waiting[0].text) <= room:
            room -= len(self._waiting[0].text)
            lines.append(self._waiting.popleft())
        return lines
