"""Log lines to the host's syslog (spec agent.md 2.4), without ever waiting.

Rules:

* A unix socket that does not block, of datagrams, or a stream where the daemon has one.
* A socket that is full, or that is gone, costs the line: it is counted, and the log tells it once; it tells again, with
  the number, when lines have got through for `CALM` seconds. A socket that is gone is looked for again with each line.
* Identity `serf`; the text is what stands behind the level.
* On a stream a line break ends the line, so those within are written `#012`, as daemons show them; a line of which a
  part was taken is finished before the next one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from serfmp.agent.logging import level_number
from serfmp.errors import UserError

if TYPE_CHECKING:
    from serfmp.bus.frames import LogLine
    from serfmp.bus.loop import Loop

SOCKETS: Final = ("/dev/log", "/var/run/syslog", "/var/run/log")
"""Where syslog daemons listen."""

_NAMES: Final = ("KERN", "USER", "MAIL", "DAEMON", "AUTH", "SYSLOG", "LPR", "NEWS", "UUCP", "CRON", "AUTHPRIV", "FTP")
FACILITIES: Final[Mapping[str, int]] = {
    **{name: number for number, name in enumerate(_NAMES)},
    **{f"LOCAL{number}": 16 + number for number in range(8)},
}

CALM: Final = 5.0
"""Seconds without a loss after which syslog counts as working again."""

IDENTITY: Final = "serf"

_SEVERITIES: Final[Mapping[str, int]] = {"TRACE": 7, "DEBUG": 6, "INFO": 5, "WARN": 4, "ERR": 3, "CRIT": 2}
_NOTICE: Final = 5


def facility_number(name: str) -> int:
    """The number of a facility. Raises `UserError` in Serf's words."""
    try:
        return FACILITIES[name.upper()]
    except KeyError:
        raise UserError(f"Syslog setup failed: invalid syslog facility: {name}") from None


def find_daemon(path: str) -> str:
    """The socket of a syslog daemon that listens: this one, or, for an empty path, the first one that is found.

    Raises `UserError` in Serf's words if there is none.
    """
    for candidate in (path,) if path else SOCKETS:
        with contextlib.suppress(OSError):
            _connect(candidate).close()
            return candidate
    where = f" on '{path}'" if path else ""
    raise UserError(f"Syslog setup failed: Unix syslog delivery error{where}")


def _connect(path: str) -> socket.socket:
    """A socket that does not block, of the kind that the daemon has. Raises OSError."""
    try:
        return _connect_as(socket.SOCK_DGRAM, path)
    except OSError as error:
        if error.errno != errno.EPROTOTYPE:
            raise
    return _connect_as(socket.SOCK_STREAM, path)


def _connect_as(kind: socket.SocketKind, path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, kind)
    made.setblocking(False)
    try:
        made.connect(path)
    except OSError:
        made.close()
        raise
    return made


class Syslog:
    """See the module. `tell(level, component, text)` writes a line of the supervisor."""

    def __init__(self, loop: Loop, path: str, facility: str, level: str, tell: Callable[[str, str, str], None]) -> None:
        self._loop = loop
        self._path = path
        self._facility = facility_number(facility)
        self._threshold = level_number(level)
        self._tell = tell
        self._socket: socket.socket | None = None
        self._rest = b""
        """What a stream has not taken of a line that it has begun."""
        self.dropped = 0
        """Lines that syslog did not take."""
        self._untold = 0
        self._failed_at: float | None = None

    def set_level(self, level: str) -> None:
        """From now on only lines of this level and above are sent."""
        self._threshold = level_number(level)

    def log(self, line: LogLine) -> None:
        """Send a line; nothing if its level is too low."""
        if level_number(line.level) < self._threshold:
            return
        try:
            if self._socket is None:
                self._socket = _connect(self._path)
            self._send(self._socket, line)
        except OSError as error:
            self._lost(error)
        else:
            if self._failed_at is not None and self._loop.clock() - self._failed_at >= CALM:
                self._failed_at = None
                text = f"Syslog takes log lines again; {self._untold} were lost"
                self._untold = 0
                self._loop.call_soon(lambda: self._tell("WARN", "agent", text))

    def close(self) -> None:
        """Close the socket; the next line opens one again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self._rest = b""

    def _send(self, sock: socket.socket, line: LogLine) -> None:
        if sock.type == socket.SOCK_DGRAM:
            sock.send(self._datagram(line))
            return
        if self._rest:
            self._rest = self._rest[sock.send(self._rest) :]
            if self._rest:
                raise BlockingIOError
        data = self._datagram(line)[:-1].replace(b"\n", b"#012") + b"\n"
        self._rest = data[sock.send(data) :]

    def _lost(self, error: OSError) -> None:
        self.dropped += 1
        self._untold += 1
        if not isinstance(error, BlockingIOError):
            self.close()
        if self._failed_at is None:
            reason = "it is not fast enough" if isinstance(error, BlockingIOError) else os.strerror(error.errno or 0)
            text = f"Syslog does not take log lines ({self._path}: {reason.lower()}); what it loses is counted"
            # Not from here: this is called while a line is being handed on.
            self._loop.call_soon(lambda: self._tell("WARN", "agent", text))
        self._failed_at = self._loop.clock()

    def _datagram(self, line: LogLine) -> bytes:
        priority = self._facility * 8 + _SEVERITIES.get(line.level, _NOTICE)
        moment = time.localtime(line.at)
        stamp = f"{time.strftime('%b', moment)} {moment.tm_mday:2} {time.strftime('%H:%M:%S', moment)}"
        text = f"<{priority}>{stamp} {IDENTITY}[{os.getpid()}]: {line.component}: {line.text.removesuffix(chr(10))}\n"
        return text.encode(errors="surrogateescape")
