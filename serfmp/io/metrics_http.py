"""A small HTTP server for Prometheus and for health checks: GET and HEAD of `/metrics`, `/health`, `/ready`.

Rules:

* It listens on a loopback address or a unix socket, bound by the supervisor, and serves one request a connection.
* Everything is bounded: `CLIENT_LIMIT` connections, `HEAD_LIMIT` bytes of a request, `TIME_LIMIT` seconds from its
  first byte to the last of the answer; no body is read. Nothing blocks.
* The text of `/metrics` is made anew at most every `TEXT_AGE` seconds, however often it is asked for.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from serfmp.bus.loop import READ, WRITE

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Mapping

    from serfmp.bus.loop import Loop

CLIENT_LIMIT: Final = 32
"""Connections at once; further ones are closed."""

HEAD_LIMIT: Final = 8192
"""Bytes of a request line with its headers."""

TIME_LIMIT: Final = 10.0
"""Seconds for a request and its answer."""

TEXT_AGE: Final = 0.5
"""Seconds for which a text answers all who ask."""

ACCEPTS_PER_TURN: Final = 16
"""Connections accepted in one turn."""

ACCEPT_PAUSE: Final = 0.1
"""Seconds without accepting after the system had no descriptor left."""

PLAIN: Final = "text/plain; charset=utf-8"

_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class Page:
    """An answer."""

    status: int
    body: str
    kind: str = PLAIN


class MetricsServer:
    """See the module. `pages` gives the page of each path when it is asked for."""

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        pages: Mapping[str, Callable[[], Page]],
        counters: Counter[str],
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._pages = pages
        self.counters = counters
        self._kept: dict[str, tuple[float, Page]] = {}
        self._clients: set[_Client] = set()
        listener.setblocking(False)
        loop.add(listener, lambda _events: self._accept())

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:
                # No descriptor or memory left: the connection still waits, so the loop would spin.
                self._loop.remove(self._listener)
                self._loop.call_later(
                    ACCEPT_PAUSE, lambda: self._loop.add(self._listener, lambda _events: self._accept())
                )
                return
            if len(self._clients) >= CLIENT_LIMIT:
                self.counters["serfmp.http.refused"] += 1
                sock.close()
                continue
            self._clients.add(_Client(self._loop, sock, self.answer, self._clients.discard))

    def answer(self, head: bytes) -> bytes:
        """The answer to a request."""
        self.counters["serfmp.http.requests"] += 1
        method, page = self._page(head)
        return _response(page.status, page.kind, page.body.encode("utf-8", "replace"), head_only=method == "HEAD")

    def _page(self, head: bytes) -> tuple[str, Page]:
        words = head.split(b"\r\n", 1)[0].split(b"\n", 1)[0].decode("ascii", "replace").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return "", Page(400, "This is no HTTP request.\n")
        method, target, _ = words
        path = target.partition("?")[0]
        if method not in {"GET", "HEAD"}:
            return method, Page(405, "Only GET and HEAD are served here.\n")
        make = self._pages.get(path)
        if make is None:
            return method, Page(404, f"There is {', '.join(self._pages)}.\n")
        now = self._loop.clock()
        kept = self._kept.get(path)
        if kept is None or now - kept[0] > TEXT_AGE:
            kept = self._kept[path] = (now, make())
        return method, kept[1]


class _Client:
    """One connection."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        answer: Callable[[bytes], bytes],
        ended: Callable[[_Client], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._answer = answer
        self._ended = ended
        self._in = bytearray()
        self._out = b""
        self._answered = False
        sock.setblocking(False)
        loop.add(sock, self._handle)
        self._timer = loop.call_later(TIME_LIMIT, self._close)

    def _handle(self, _events: int) -> None:
        try:
            if self._out:
                self._write()
            else:
                self._read()
        except BlockingIOError:
            return
        except OSError:
            self._close()

    def _read(self) -> None:
        data = self._sock.recv(HEAD_LIMIT)
        if not data:
            self._close()
        elif not self._answered:
            self._in += data
            if b"\r\n\r\n" in self._in or b"\n\n" in self._in:
                self._begin_answer(self._answer(bytes(self._in)))
            elif len(self._in) > HEAD_LIMIT:
                self._begin_answer(TOO_LONG)

    def _begin_answer(self, answer: bytes) -> None:
        self._answered = True
        self._in.clear()
        self._out = answer
        self._loop.change(self._sock, WRITE)
        self._write()

    def _write(self) -> None:
        self._out = self._out[self._sock.send(self._out) :]
        if not self._out:
            # The client closes: what it still sends is read away, or a reset could overtake the answer.
            self._sock.shutdown(socket.SHUT_WR)
            self._loop.change(self._sock, READ)

    def _close(self) -> None:
        self._timer.cancel()
        self._loop.remove(self._sock)
        self._sock.close()
        self._ended(self)


def _response(status: int, kind: str, body: bytes, *, head_only: bool = False) -> bytes:
    headers = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return headers.encode() + (b"" if head_only else body)


TOO_LONG: Final = _response(431, PLAIN, b"The request is too long.\n")
