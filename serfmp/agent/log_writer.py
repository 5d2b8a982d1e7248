"""The logger process, which writes the agent's log to a file: disks may be slow, and the supervisor must not be.

Rules:

* Lines come over a feed like that of rpc (`serfmp.agent.line_feed`); a thread writes them, one batch at a time. While
  `WAITING_BYTES` wait for the disk nothing more is taken from the feed, which then drops lines and counts them; a gap
  in their numbers is told in the file.
* The file is opened anew when its path names another file (a log that was rotated), looked at before a batch, at most
  every `LOOK_PERIOD`; and at a SIGHUP of the agent. So programs that rotate need not know of the agent, and those that
  send the usual signal get what they expect.
* What cannot be written (a full disk) is lost and counted. The log tells it once, and again with the number when the
  disk takes lines again; so does the file.
* When the agent ends, this process ends last.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from serfmp.agent.logging import LINE_BYTES, format_line, json_line
from serfmp.bus import frames
from serfmp.bus.frames import LogLine
from serfmp.detector.disk import Disk
from serfmp.errors import UserError

if TYPE_CHECKING:
    from serfmp.agent.child import Child

WAITING_BYTES: Final = 1024 * 1024
"""Bytes that wait for the disk."""

LOOK_PERIOD: Final = 1.0
"""Seconds between two looks at whether the file is still the one of its path."""

MESSAGES_PER_TURN: Final = 16
"""Messages with lines taken from the feed in one turn."""

END_QUIET: Final = 0.05
"""Seconds without a line after which an agent that ends has said all."""

FILE_MODE: Final = 0o640


def open_log_file(path: str) -> int:
    """The descriptor of a log file, which is made if there is none. Raises OSError."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, FILE_MODE)


def require_log_file(path: str) -> None:
    """Raise `UserError` if a log file cannot be written."""
    try:
        os.close(open_log_file(path))
    except OSError as error:
        raise UserError(f"Failed to open the log file: {path}: {(error.strerror or str(error)).lower()}") from None


def check_log_file(path: str) -> None:
    """Raise `UserError` if a log file could not be written, without making it."""
    place = Path(path)
    target = place if place.exists() else place.parent
    if place.is_dir() or not os.access(target, os.W_OK):
        reason = os.strerror(
            errno.EISDIR if place.is_dir() else errno.EACCES if target.exists() else errno.ENOENT
        ).lower()
        raise UserError(f"Failed to open the log file: {path}: {reason}")


class _File:
    """The file as the thread sees it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._looked_at = 0.0
        self._torn = False
        self.stale = False
        """It shall be opened anew."""

    def write(self, data: bytes) -> None:
        """Append whole lines. Raises OSError; a line of which a part was written is ended first next time."""
        self._look()
        if self._descriptor is None:
            self._descriptor = open_log_file(self._path)
        left = b"\n" + data if self._torn else data
        while left:
            written = os.write(self._descriptor, left)
            self._torn = left[written - 1 : written] != b"\n"
            left = left[written:]

    def _look(self) -> None:
        now = time.monotonic()
        if self._descriptor is None or (not self.stale and now - self._looked_at < LOOK_PERIOD):
            return
        self._looked_at = now
        own = os.fstat(self._descriptor)
        try:
            there = Path(self._path).stat()
        except OSError:
            there = None
        if self.stale or there is None or (there.st_dev, there.st_ino) != (own.st_dev, own.st_ino):
            os.close(self._descriptor)
            self._descriptor = None
            self.stale = self._torn = False


class LogWriter:
    """See the module."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._loop = child.loop
        self._json = child.config.log_json
        self._file = _File(child.config.log_file)
        self._disk = Disk(child.loop)
        self._socket = socket.socket(fileno=child.descriptors["lines"])
        self._socket.setblocking(False)
        self._reading = True
        self._last = 0
        self._waiting: list[bytes] = []
        self._size = 0
        self._writing = 0
        """Lines that are being written."""
        self.dropped = 0
        """Lines that the disk did not take, or that did not reach this process."""
        self._untold = 0
        self._stop_at: float | None = None
        self._last_line_at = 0.0
        self._loop.add(self._socket, lambda _events: self._read())
        child.on_reopen = self._reopen
        child.on_stop = self._stop

    # --- lines in -----------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        for _ in range(MESSAGES_PER_TURN):
            if self._size >= WAITING_BYTES:
                self._reading = False
                self._loop.remove(self._socket)
                break
            try:
                message = self._socket.recv(LINE_BYTES)
            except BlockingIOError:
                break
            except OSError:
                message = b""
            if not message:
                self._loop.remove(self._socket)
                break
            for line in frames.decode(message).lines():
                self._take(line)
        self._write()

    def _take(self, line: LogLine) -> None:
        missed = line.number - self._last - 1 if self._last else 0
        self._last = line.number
        self._last_line_at = self._loop.clock()
        if missed > 0:
            self.dropped += missed
            self._say(line.at, f"{missed} log lines did not reach the log file: it is not fast enough")
        self._add(line)

    def _say(self, at: float, text: str) -> None:
        self._add(LogLine(0, at, "WARN", "agent", text))

    def _add(self, line: LogLine) -> None:
        text = json_line(line, self._child.config.node) if self._json else format_line(line)
        data = f"{text}\n".encode(errors="surrogateescape")
        self._waiting.append(data)
        self._size += len(data)

    # --- lines out ----------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        if self._writing or not self._waiting:
            return
        data, self._writing = b"".join(self._waiting), len(self._waiting)
        self._waiting.clear()
        self._size = 0
        self._disk.submit(lambda: self._file.write(data), self._written)
        if not self._reading:
            self._reading = True
            self._loop.add(self._socket, lambda _events: self._read())

    def _written(self, error: str) -> None:
        count, self._writing = self._writing, 0
        if error:
            self.dropped += count
            self._child.metrics.counters["serfmp.log.dropped.disk"] += count
            if not self._untold:
                text = f"Failed to write the log file: {self._child.config.log_file}: {error}; what is lost is counted"
                self._child.log("ERR", "agent", text)
            self._untold += count
        elif self._untold:
            text = f"The log file is written again; {self._untold} log lines were lost"
            self._untold = 0
            self._child.log("WARN", "agent", text)
        self._write()

    def _reopen(self) -> None:
        self._file.stale = True

    # --- the end ------------------------------------------------------------------------------------------------------

    def _stop(self, grace: float) -> None:
        self._stop_at = self._loop.clock() + grace
        self._last_line_at = self._loop.clock()
        self._look_at_end()

    def _look_at_end(self) -> None:
        now = self._loop.clock()
        said_all = not self._writing and not self._waiting and now - self._last_line_at >= END_QUIET
        if said_all or self._stop_at is None or now >= self._stop_at:
            self._loop.stop()
        else:
            self._loop.call_later(END_QUIET / 2, self._look_at_end)


def main(child: Child) -> None:
    """Be the logger process."""
    LogWriter(child)
    child.ready()
    child.loop.run()
