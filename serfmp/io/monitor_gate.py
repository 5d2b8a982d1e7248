"""A bound on the connections to a public socket, which ZeroMQ has not: it ends the process at the last descriptor.

Rules:

* ZeroMQ tells of each connection that it accepts and that ends, on a PAIR socket of at most `TOLD_HWM` messages. Its
  I/O thread waits while that is full: so whoever connects as fast as possible gets no further than that before this
  process has seen it.
* Above the limit the socket is unbound, which ends all its connections, and bound again after a pause. Monitors connect
  again by themselves, and see a gap.
* A connection that does not shake hands within `HANDSHAKE_MS` is closed by ZeroMQ.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import zmq

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from serfmp.bus.loop import Loop, Watched

CONNECTION_LIMIT: Final = 256
"""Monitors at once on one socket."""

TOLD_HWM: Final = 1001
"""Connections that ZeroMQ may accept before this process sees them: its default of 1000, and one here."""

DESCRIPTORS: Final = 2 * (CONNECTION_LIMIT + TOLD_HWM)
"""Open files that two gates may need at the worst."""

HANDSHAKE_MS: Final = 3000
"""Milliseconds for the first exchange of a connection."""

PAUSE: Final = 1.0
"""Seconds for which a socket that was overrun takes nobody."""

EVENTS_PER_TURN: Final = 256
"""News of connections taken in one turn."""

_KIND: Final = struct.Struct("=h")


class MonitorGate:
    """See the module. `bind()` binds the watched socket to `address`, and sets the rights of its path."""

    def __init__(
        self,
        loop: Loop,
        context: zmq.Context[zmq.Socket[bytes]],
        watched: Watched,
        address: str,
        bind: Callable[[], None],
        counters: Counter[str],
        on_news: Callable[[], object] | None = None,
    ) -> None:
        self._loop = loop
        self._watched = watched
        self._address = address
        self._bind = bind
        self._counters = counters
        self._on_news = on_news
        self.connected = 0
        self.open = True
        """Whether the socket is bound."""
        socket = watched.socket
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        place = f"inproc://gate-{address}"
        socket.monitor(place, zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._news = context.socket(zmq.PAIR)
        self._news.setsockopt(zmq.LINGER, 0)
        self._news.setsockopt(zmq.RCVHWM, 1)
        self._news.connect(place)
        loop.add_socket(self._news, self._read, told=True)
        bind()

    def _read(self) -> None:
        for _ in range(EVENTS_PER_TURN):
            try:
                event, *_ = self._news.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            (kind,) = _KIND.unpack_from(event)
            # Ends of connections from before the last pause may come late.
            self.connected = max(0, self.connected + (1 if kind == zmq.EVENT_ACCEPTED else -1))
        if self.connected > CONNECTION_LIMIT:
            self.send_away()
        if self._on_news is not None:
            self._on_news()

    def send_away(self) -> None:
        """End all connections, and take nobody for a while."""
        if self.open:
            self._counters["serfmp.monitors.overruns"] += 1
            self._watched.used = True
            self._watched.socket.unbind(self._address)
            self.open = False
            self._loop.call_later(PAUSE, self._bind_again)

    def _bind_again(self) -> None:
        self.connected = 0
        self._watched.used = True
        self._bind()
        self.open = True
