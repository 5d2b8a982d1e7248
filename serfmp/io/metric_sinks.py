"""Metrics for statsd (UDP) and statsite (TCP), in the lines that Serf's agent sends (spec agent.md 2.7).

Rules:

* `NAME:VALUE|c` for counters, `|g` for gauges, `|ms` for each value of a sample. Names begin with `serf-agent.`; the
  host's name follows in gauges only, as in Serf. Characters that would break the line become `_`.
* A process tells its metrics once a second: a counter is the sum of that second. Of a sample at most
  `serfmp.bus.metrics.VALUES` values a second are sent; statsd is told their share (`|@0.25`).
* Nothing waits. What the UDP socket does not take is counted and lost. For statsite at most `BUFFER_LIMIT` bytes wait
  while there is no connection, then new lines are counted and lost; it is tried again with growing pauses.
"""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, Final

from serfmp.bus.loop import READ, WRITE, Loop

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator

    from serfmp.bus.frames import Report

SERVICE: Final = "serf-agent"
"""What all names begin with."""

DATAGRAM: Final = 1400
"""Bytes of one datagram."""

BUFFER_LIMIT: Final = 256 * 1024
"""Bytes that wait for statsite."""

RETRY_FIRST: Final = 0.5
"""Seconds before statsite is tried again, doubled each time."""

RETRY_LIMIT: Final = 30.0
"""Longest pause, in seconds."""

_BREAKING: Final = re.compile(r"[\s:|@#\x00-\x1f\x7f]")


def lines(report: Report, host: str, *, rates: bool) -> Iterator[bytes]:
    """The lines of a report. `rates`: whether a sample tells which share of its values it gives."""
    for name, amount in report.counters.items():
        yield _line(name, f"{amount:f}|c")
    for name, value in report.gauges.items():
        yield _line(f"{host}.{name}", f"{value:f}|g")
    for name, plain in report.samples.items():
        count, values = plain[0], plain[6]
        share = f"|@{len(values) / count:.4f}" if rates and len(values) < count else ""
        for value in values:
            yield _line(name, f"{value:f}|ms{share}")


def _line(name: str, rest: str) -> bytes:
    return f"{SERVICE}.{_BREAKING.sub('_', name)}:{rest}\n".encode("utf-8", "replace")


class StatsdSink:
    """See the module. `address`: IP address and port."""

    def __init__(self, address: tuple[str, int], host: str, counters: Counter[str]) -> None:
        self._address = address
        self._host = host
        self._counters = counters
        self._socket = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def take(self, report: Report) -> None:
        """Send a report."""
        datagram = bytearray()
        for line in lines(report, self._host, rates=True):
            if datagram and len(datagram) + len(line) > DATAGRAM:
                self._send(datagram)
                datagram = bytearray()
            datagram += line
        if datagram:
            self._send(datagram)

    def _send(self, datagram: bytearray) -> None:
        try:
            self._socket.sendto(datagram, self._address)
        except OSError:
            self._counters["serfmp.statsd.lost"] += 1


class StatsiteSink:
    """See the module. `address`: IP address and port."""

    def __init__(self, loop: Loop, address: tuple[str, int], host: str, counters: Counter[str]) -> None:
        self._loop = loop
        self._address = address
        self._host = host
        self._counters = counters
        self._waiting = bytearray()
        self._cut = False
        """The first bytes that wait are the rest of a line whose begin went over a lost connection."""
        self._socket: socket.socket | None = None
        self._pause = RETRY_FIRST
        self._connect()

    def take(self, report: Report) -> None:
        """Send a report, now or when the connection takes it."""
        for line in lines(report, self._host, rates=False):
            if len(self._waiting) + len(line) > BUFFER_LIMIT:
                self._counters["serfmp.statsite.lost"] += 1
            else:
                self._waiting += line
        if self._socket is not None and self._waiting:
            self._loop.change(self._socket, READ | WRITE)

    def _connect(self) -> None:
        made = socket.socket(socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET, socket.SOCK_STREAM)
        made.setblocking(False)
        self._socket = made
        self._loop.add(made, self._handle, READ | WRITE)
        try:
            made.connect(self._address)
        except BlockingIOError:
            pass
        except OSError:
            self._lose()

    def _handle(self, events: int) -> None:
        sock = self._socket
        if sock is None:
            return
        try:
            if events & READ and not sock.recv(4096):
                self._lose()
                return
        except BlockingIOError:
            pass
        except OSError:
            self._lose()
            return
        try:
            while self._waiting:
                written = sock.send(self._waiting)
                self._cut = self._waiting[written - 1] != ord("\n")
                del self._waiting[:written]
                self._pause = RETRY_FIRST
        except BlockingIOError:
            return
        except OSError:
            self._lose()
            return
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or not _connected(sock):
            self._lose()
            return
        self._loop.change(sock, READ)

    def _lose(self) -> None:
        """The connection is gone or never came."""
        if self._socket is None:
            return
        self._loop.remove(self._socket)
        self._socket.close()
        self._socket = None
        if self._cut:
            end = self._waiting.find(b"\n")
            del self._waiting[: end + 1 if end >= 0 else len(self._waiting)]
            self._cut = False
        self._counters["serfmp.statsite.connections_lost"] += 1
        self._loop.call_later(self._pause, self._connect)
        self._pause = min(2 * self._pause, RETRY_LIMIT)


def _connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
