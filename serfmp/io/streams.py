"""Gossip streams over TCP: one request a connection, with a deadline for all of it (spec wire.md 6, swim.md 8).

Rules: nothing blocks; bytes are parsed as they come (`serfmp.wire.stream`), long decompressions in slices between
turns; every connection has one deadline from its first moment; inbound ones are bounded in number. Whoever is not
answered in time is closed. Text for the operator names the other side, and says what to look at where the two agents'
settings (keys, label) do not fit together.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import Counter
from typing import TYPE_CHECKING, Final

from serfmp.bus.loop import ERROR, READ, WRITE
from serfmp.wire.errors import WireError
from serfmp.wire.host_port import join_host_port
from serfmp.wire.stream import StreamReader, seal_stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.bus import frames
    from serfmp.bus.loop import Loop, Timer
    from serfmp.io.refusals import Refusals
    from serfmp.wire.packet import PacketFormat

INBOUND_LIMIT: Final = 127
"""Inbound streams at once (spec swim.md 8.3); further ones are closed."""

READ_SIZE: Final = 64 * 1024
"""Bytes read from one stream in one turn."""

DECODE_BUDGET: Final = 64 * 1024
"""Bytes decompressed for one stream in one turn."""

ACCEPTS_PER_TURN: Final = 16
"""Connections accepted in one turn."""

ACCEPT_PAUSE: Final = 0.1
"""Seconds without accepting after the system had no descriptor left; connections wait in the kernel's queue."""


class _Stream:
    """One connection: writes what it has to, reads one message if it shall, ends by calling `finish` once."""

    def __init__(self, loop: Loop, sock: socket.socket, reader: StreamReader, timeout: float) -> None:
        self._loop = loop
        self._sock = sock
        self._reader = reader
        self._out = bytearray()
        self._after_write: Callable[[], None] | None = None
        self._on_message: Callable[[bytes], None] | None = None
        self.on_failure: Callable[[str, bool], None] = _nothing
        """Called once with an error text and whether the other side is to blame."""
        self.on_end: Callable[[], None] = _nothing
        """Called once, whatever the end was."""
        self.fault: WireError | None = None
        """What was wrong with the other side's bytes, when that is why it ends."""
        self._open = True
        self._timer: Timer = loop.call_later(timeout, lambda: self.fail("i/o timeout", remote=True))
        sock.setblocking(False)
        loop.add(sock, self._handle, 0)

    def write(self, data: bytes, then: Callable[[], None]) -> None:
        """Send all of `data`, then call `then`."""
        self._out += data
        self._after_write = then
        self._watch()

    def read(self, on_message: Callable[[bytes], None]) -> None:
        """Read one message."""
        self._on_message = on_message
        self._watch()

    def fail(self, error: str, *, remote: bool) -> None:
        """End it with an error."""
        if self._open:
            on_failure = self.on_failure
            self.close()
            on_failure(error, remote)

    def close(self) -> None:
        """End it."""
        if self._open:
            self._open = False
            self._timer.cancel()
            self._loop.remove(self._sock)
            self._sock.close()
            on_end = self.on_end
            # What it calls refers to it. Left to the collector of cycles, which counts objects and not bytes, ended
            # streams would keep their buffers for half an hour.
            self.on_end = self.on_failure = _nothing
            self._on_message = self._after_write = None
            on_end()

    def _watch(self) -> None:
        wanted = (READ if self._on_message is not None else 0) | (WRITE if self._after_write is not None else 0)
        self._loop.change(self._sock, wanted)

    def _handle(self, events: int) -> None:
        if self._after_write is not None and events & (WRITE | ERROR):
            self._write_some()
        if self._open and events & (READ | ERROR) and self._on_message is not None:
            self._read_some()
        elif self._open and events & ERROR and self._after_write is None:
            # The other side is gone while the detector thinks about its answer.
            self.fail("the connection was closed", remote=True)

    def _write_some(self) -> None:
        problem = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if problem:
            self.fail(f"connect: {os.strerror(problem).lower()}", remote=True)
            return
        try:
            while self._out:
                del self._out[: self._sock.send(self._out)]
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno == errno.ENOTCONN:
                return
            self.fail(f"write: {_reason(error)}", remote=True)
            return
        then, self._after_write = self._after_write, None
        self._watch()
        if then is not None:
            then()

    def _read_some(self) -> None:
        try:
            data = self._sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self.fail(f"read: {_reason(error)}", remote=True)
            return
        if not data:
            self.fail("EOF", remote=True)
            return
        self._guarded(lambda: self._reader.feed(data))

    def _guarded(self, step: Callable[[], object]) -> None:
        try:
            step()
            more = self._reader.step(DECODE_BUDGET)
        except WireError as error:
            reply: bytes | None = getattr(error, "reply", None)
            text = str(error)
            # Its traceback would hold this stream, and the stream it.
            self.fault = error.with_traceback(None)
            self._on_message = None
            if reply:
                self.write(reply, lambda: self.fail(text, remote=True))
            else:
                self.fail(text, remote=True)
            return
        message = self._reader.message
        if message is not None:
            on_message, self._on_message = self._on_message, None
            self._watch()
            if on_message is not None:
                on_message(message)
        elif more:
            self._loop.call_soon(lambda: self._guarded(lambda: None) if self._open else None)


class Streams:
    """All streams of the gossip process.

    `on_arrived(stream, host, port, message)` gets inbound requests, `on_answered(token, message, error, remote)` the
    ends of outbound ones, `log(level, text)` and `refusals` what the operator should know.
    """

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        format_: PacketFormat,
        timeout: float,
        generation: int,
        on_arrived: Callable[[int, str, int, bytes], None],
        on_answered: Callable[[int, bytes | None, str, bool], None],
        log: Callable[[str, str], None],
        refusals: Refusals,
        counters: Counter[str],
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._format = format_
        self._timeout = timeout
        self._on_arrived = on_arrived
        self._on_answered = on_answered
        self._log = log
        self._refusals = refusals
        self._counters = counters
        self._number = generation << 40
        self._inbound: dict[int, _Stream] = {}
        self._unanswered: dict[int, tuple[str, int, bytes]] = {}
        self._short = False
        """The last accept failed, and the log has said so."""
        listener.setblocking(False)
        loop.add(listener, self._accept)

    def repeat_unanswered(self) -> None:
        """A new detector gets the requests that the old one did not answer."""
        for stream, (host, port, message) in self._unanswered.items():
            self._on_arrived(stream, host, port, message)

    def open(self, frame: frames.StreamOpen) -> None:
        """Connect, send, and read one message if one is wanted."""
        token = frame.token
        where = join_host_port(frame.host, frame.port)
        try:
            sock = socket.socket(socket.AF_INET6 if ":" in frame.host else socket.AF_INET, socket.SOCK_STREAM)
        except OSError as error:
            self._on_answered(token, None, f"dial tcp {where}: socket: {_reason(error)}", False)
            return
        reader = StreamReader(self._format, inbound=False)
        stream = _Stream(self._loop, sock, reader, frame.timeout)

        def failed(error: str, remote: bool) -> None:
            text = f"dial tcp {where}: {error}"
            if stream.fault is not None:
                text = f"the answer of {where} is refused: {error}"
            elif error == "EOF":
                text += "; the other side closed without an answer, which its log explains; is -label the same on both?"
            self._on_answered(token, None, text, remote)

        stream.on_failure = failed

        def answered(message: bytes | None) -> None:
            stream.close()
            self._on_answered(token, message, "", False)

        def written() -> None:
            if frame.reply:
                stream.read(answered)
            else:
                answered(None)

        try:
            sock.connect((frame.host, frame.port))
        except BlockingIOError:
            pass
        except OSError as error:
            stream.fail(f"connect: {_reason(error)}", remote=error.errno == errno.ECONNREFUSED)
            return
        sealed = seal_stream(frame.request, self._format, dialling=True)
        self._counters["memberlist.tcp.sent"] += len(sealed)
        stream.write(sealed, written)

    def answer(self, number: int, reply: bytes) -> None:
        """Answer an inbound stream and close it; an unknown one has met its deadline."""
        self._unanswered.pop(number, None)
        stream = self._inbound.get(number)
        if stream is not None:
            sealed = seal_stream(reply, self._format, dialling=False)
            self._counters["memberlist.tcp.sent"] += len(sealed)
            stream.write(sealed, stream.close)

    def close(self, number: int) -> None:
        """Close an inbound stream without an answer."""
        stream = self._inbound.get(number)
        if stream is not None:
            stream.close()

    def _accept(self, _events: int) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, source = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._wait_for_means(error)
                return
            if self._short:
                self._short = False
                self._log("INFO", "TCP connections are accepted again")
            if len(self._inbound) >= INBOUND_LIMIT:
                self._counters["serfmp.tcp.refused"] += 1
                sock.close()
                self._log("ERR", f"Too many pending push/pull requests: {INBOUND_LIMIT}")
                continue
            self._begin(sock, source[0], source[1])

    def _wait_for_means(self, error: OSError) -> None:
        """No descriptor or memory left: the connection still waits, so the loop would spin."""
        if not self._short:
            self._short = True
            self._log("ERR", f"Error accepting TCP connection: {_reason(error)}; those that come wait")
        self._loop.change(self._listener, 0)
        self._loop.call_later(ACCEPT_PAUSE, lambda: self._loop.change(self._listener, READ))

    def _begin(self, sock: socket.socket, host: str, port: int) -> None:
        self._counters["memberlist.tcp.accept"] += 1
        self._number += 1
        number = self._number
        stream = _Stream(self._loop, sock, StreamReader(self._format, inbound=True), self._timeout)
        self._inbound[number] = stream

        def ended() -> None:
            self._inbound.pop(number, None)
            self._unanswered.pop(number, None)

        def failed(error: str, _remote: bool) -> None:
            if stream.fault is not None:
                self._refusals.stream(stream.fault, host, join_host_port(host, port))
            elif error != "EOF":
                self._log("ERR", f"failed to receive: {error} from={join_host_port(host, port)}")

        def arrived(message: bytes) -> None:
            self._unanswered[number] = (host, port, message)
            self._on_arrived(number, host, port, message)

        stream.on_end = ended
        stream.on_failure = failed
        self._log("DEBUG", f"Stream connection from={join_host_port(host, port)}")
        stream.read(arrived)


def _reason(error: OSError) -> str:
    return os.strerror(error.errno or 0).lower()


def _nothing(*_arguments: object) -> None:
    """Where nobody wants to hear of it."""
