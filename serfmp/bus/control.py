"""The control socket between supervisor and child: a stream of frames both ways over a socketpair.

Rules: sending never blocks; what the socket does not take waits here, up to a bound, beyond which the other side counts
as gone. The end of the stream is how each side learns of the other's death. Frames are those of `serfmp.bus.frames`,
length-prefixed.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from serfmp.bus import frames
from serfmp.bus.loop import READ, WRITE

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from serfmp.bus.loop import Loop

_LENGTH: Final = struct.Struct(">I")

BACKLOG_LIMIT: Final = 8 * 1024 * 1024
"""Bytes that wait for a peer that does not read; beyond it the connection is given up."""

OFFER_LIMIT: Final = 64 * 1024
"""Bytes that wait, beyond which frames that are only offered are refused."""

READ_SIZE: Final = 256 * 1024
"""Bytes read in one turn."""


class ControlSocket:
    """One end of the pair, attached to a loop."""

    def __init__(
        self,
        sock: socket.socket,
        loop: Loop,
        on_frame: Callable[[Any], None],
        on_end: Callable[[], None],
    ) -> None:
        self.sock = sock
        sock.setblocking(False)
        self._loop = loop
        self._on_frame = on_frame
        self._on_end = on_end
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._closed = False
        loop.add(sock, self._handle)

    def send(self, frame: object) -> None:
        """Send a frame, now or when the socket takes it.

        A closed socket swallows it: its end is reported by `on_end`.
        """
        if self._closed:
            return
        body = frames.encode(frame)
        self._outgoing += _LENGTH.pack(len(body)) + body
        self.flush()

    def offer(self, frame: object) -> bool:
        """Send a frame only if nothing much waits; whether it was taken. For what nobody depends on."""
        if self._closed or len(self._outgoing) > OFFER_LIMIT:
            return False
        self.send(frame)
        return True

    def flush(self) -> None:
        """Write what waits, without blocking."""
        try:
            while self._outgoing:
                written = self.sock.send(self._outgoing)
                del self._outgoing[:written]
        except BlockingIOError:
            if len(self._outgoing) > BACKLOG_LIMIT:
                self._end()
                return
        except OSError:
            self._end()
            return
        self._loop.change(self.sock, READ | WRITE if self._outgoing else READ)

    def close(self) -> None:
        """Forget the socket and close it; `on_end` is not called."""
        if not self._closed:
            self._closed = True
            self._loop.remove(self.sock)
            self.sock.close()

    def _end(self) -> None:
        if not self._closed:
            self.close()
            self._on_end()

    def _handle(self, events: int) -> None:
        if events & WRITE:
            self.flush()
        if self._closed:
            return
        try:
            data = self.sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end()
            return
        self._incoming += data
        while len(self._incoming) >= _LENGTH.size and not self._closed:
            (length,) = _LENGTH.unpack_from(self._incoming)
            end = _LENGTH.size + length
            if len(self._incoming) < end:
                break
            body = bytes(self._incoming[_LENGTH.size : end])
            del self._incoming[:end]
            self._on_frame(frames.decode(body))


def send_blocking(sock: socket.socket, frame: object) -> None:
    """Send one frame before any loop runs. Raises OSError."""
    body = frames.encode(frame)
    sock.sendall(_LENGTH.pack(len(body)) + body)


def receive_blocking(sock: socket.socket) -> Any:
    """Read exactly one frame before any loop runs. Raises EOFError if the other side is gone."""
    (length,) = _LENGTH.unpack(_exactly(sock, _LENGTH.size))
    return frames.decode(_exactly(sock, length))


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = sock.recv(size - len(data))
        if not chunk:
            raise EOFError("the control socket ended")
        data += chunk
    return data
