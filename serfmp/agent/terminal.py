"""The agent's standard output: the only place that writes to it, and never one that waits.

Rules: a chunk is written only when the descriptor takes it at once (`poll`, and no more than PIPE_BUF bytes, which a
writable pipe takes whole); the descriptor is not made non-blocking, because it may be shared with the shell. What does
not fit waits up to a bound; beyond it log lines are dropped and counted, and the next line that gets through says how
many. Log lines, which come from the log hub, are held back until the banner is out (spec agent.md 2.1); when the start
fails they go to standard error, because then they are the explanation. Those of one turn are written together, at its
end. With `-log-json` every line, the banner's too, is a JSON object.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from serfmp.agent.logging import format_line, json_line, level_number
from serfmp.bus.frames import LogLine
from serfmp.bus.loop import WRITE

if TYPE_CHECKING:
    from serfmp.bus.loop import Loop

WAITING_LIMIT: Final = 1024 * 1024
"""Bytes that wait for a slow terminal or pipe."""

TOGETHER_BYTES: Final = 64 * 1024
"""Bytes of lines that do not wait for the end of the turn."""

HELD_LIMIT: Final = 4096
"""Lines held back before the banner is out."""

INDENT: Final = "    "
_CHUNK: Final = select.PIPE_BUF


class Terminal:
    """See the module. `descriptor` is written to; `level` is the lowest level shown.

    `json_node`: write JSON, with this as the node's name.
    """

    def __init__(self, loop: Loop, descriptor: int = 1, level: str = "INFO", json_node: str | None = None) -> None:
        self._node = json_node
        self._loop = loop
        self._descriptor = descriptor
        self._threshold = level_number(level)
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._waiting = bytearray()
        self._watching = False
        self._held: deque[str] | None = deque(maxlen=HELD_LIMIT)
        self.dropped = 0
        """Log lines lost because the reader of standard output was too slow."""
        self._untold = 0
        loop.before_wait.append(self._end_turn)

    def set_level(self, level: str) -> None:
        """From now on only lines of this level and above are shown."""
        self._threshold = level_number(level)

    def output(self, text: str) -> None:
        """A `==>` line."""
        self._write(f"==> {text}\n" if self._node is None else self._json("INFO", text))

    def raw(self, text: str) -> None:
        """Text as it is, dropped as a whole where too much waits already."""
        if len(self._waiting) <= WAITING_LIMIT:
            self._write(text)

    def info(self, text: str = "") -> None:
        """An indented line of the banner; an empty one stays empty."""
        if self._node is None:
            self._write(f"{INDENT}{text}\n" if text else "\n")
        elif text:
            self._write(self._json("INFO", text.strip()))

    def log(self, line: LogLine) -> None:
        """A log line; nothing if its level is too low."""
        if level_number(line.level) < self._threshold:
            return
        text = f"{INDENT}{format_line(line)}" if self._node is None else json_line(line, self._node)
        if self._held is not None:
            self._held.append(text)
        else:
            self._write_log(text)

    def release(self) -> None:
        """The banner is out: show what was held back, and everything from now on."""
        held, self._held = self._held, None
        for line in held or ():
            self._write_log(line)
        self._flush()

    def explain(self) -> None:
        """The start failed: write what was held back to standard error."""
        held, self._held = self._held, None
        for line in held or ():
            os.write(2, f"{line}\n".encode(errors="replace"))

    def drain(self, seconds: float) -> None:
        """At the end of the agent: wait up to so many seconds for the reader to take what is left."""
        deadline = time.monotonic() + seconds
        while self._waiting and time.monotonic() < deadline:
            self._poll.poll(50)
            self._flush()

    def _write_log(self, line: str) -> None:
        if len(self._waiting) > WAITING_LIMIT:
            self.dropped += 1
            self._untold += 1
            return
        if self._untold:
            untold, self._untold = self._untold, 0
            text = f"{untold} log lines were dropped: standard output is not read fast enough"
            self._add(f"{INDENT}[WARN] agent: {text}\n" if self._node is None else self._json("WARN", text))
        self._add(f"{line}\n")
        if len(self._waiting) >= TOGETHER_BYTES and not self._watching:
            self._flush()

    def _json(self, level: str, text: str) -> str:
        return f"{json_line(LogLine(0, time.time(), level, 'agent', text), self._node or '')}\n"

    def _write(self, text: str) -> None:
        self._add(text)
        self._flush()

    def _add(self, text: str) -> None:
        self._waiting += text.encode(errors="surrogateescape")

    def _end_turn(self) -> None:
        if self._waiting and not self._watching:
            self._flush()

    def _flush(self) -> None:
        while self._waiting:
            ready = self._poll.poll(0)
            if not ready:
                break
            if ready[0][1] & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
                self._waiting.clear()
                break
            try:
                written = os.write(self._descriptor, self._waiting[:_CHUNK])
            except BlockingIOError:
                break
            except OSError:
                self._waiting.clear()
                break
            del self._waiting[:written]
        self._watch(wanted=bool(self._waiting))

    def _watch(self, *, wanted: bool) -> None:
        if wanted == self._watching:
            return
        if wanted:
            try:
                self._loop.add(self._descriptor, lambda _events: self._flush(), WRITE)
            except OSError:  # a regular file: always writable, nothing to wait for
                return
        else:
            self._loop.remove(self._descriptor)
        self._watching = wanted
