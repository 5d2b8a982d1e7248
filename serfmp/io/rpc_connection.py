"""One RPC client: its socket, its requests in order, its answers and streams, and its limits.

Rules:

* Requests are carried out strictly one after another; while one is under way the next ones wait. At `PENDING_LIMIT`
  waiting requests, or while `OUT_LIMIT` bytes of answers were not taken by the client, nothing more is read from it: it
  holds up itself and nobody else.
* Records of streams go out between answers, each whole, and only while the client takes what it gets; otherwise they
  wait in their streams, which drop what is too much.
* Nothing blocks. All that a turn produced is written at its end.
* What cannot be a request ends the connection, after everything before it was carried out and answered.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from serfmp.bus.loop import ERROR, READ, WRITE
from serfmp.io import rpc_records
from serfmp.io.rpc_logs import LogMonitor
from serfmp.io.rpc_protocol import Request, RequestReader
from serfmp.io.rpc_queries import AnswerableQueries
from serfmp.io.rpc_reader import MalformedError
from serfmp.io.rpc_streams import EventStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.bus.loop import Loop, Timer
    from serfmp.io.rpc_channel import Channel

PENDING_LIMIT: Final = 64
"""Requests that wait behind the one under way."""

OUT_LIMIT: Final = 1024 * 1024
"""Bytes of answers that wait for the client before its next request is carried out."""

STREAM_ROOM: Final = 64 * 1024
"""Bytes in the output up to which records of streams are added to it."""

READ_SIZE: Final = 64 * 1024
"""Bytes read in one turn."""

WRITE_SIZE: Final = 1024 * 1024
"""Bytes written in one turn."""

REQUESTS_PER_TURN: Final = 16
"""Requests carried out in one turn."""

LAST_WRITE_LIMIT: Final = 5.0
"""Seconds that a client has to take the last answers of a connection that ends."""

_BUFFERS: Final = 64
_TLS_HELLO: Final = b"\x16\x03"
"""No request begins so: it would be a number."""


@dataclass(frozen=True, slots=True)
class _Broken:
    """Behind the last good request: what is wrong, as the log says it; empty for a plain end."""

    log: str


class Connection:
    """See the module.

    `channel` is its socket, perhaps with TLS around it. `execute(connection, request)` carries out a request and calls
    `done`; `mark(connection)` is told that there is something to write; `closed(connection)` that it has ended;
    `log(level, text)` writes a line.
    """

    def __init__(
        self,
        loop: Loop,
        channel: Channel,
        name: str,
        execute: Callable[[Connection, Request], None],
        mark: Callable[[Connection], None],
        closed: Callable[[Connection], None],
        log: Callable[[str, str], None],
    ) -> None:
        self.name = name
        """IP and port of the client."""
        self.handshaken = False
        self.authenticated = False
        self.streams: dict[int, EventStream] = {}
        """Subscriptions to events, by the number of their requests."""
        self.queries: dict[int, EventStream] = {}
        """Records of running queries, by the number of their requests."""
        self.monitor: LogMonitor | None = None
        """Subscription to the log, of which there is one at most."""
        self.answerable = AnswerableQueries()
        self.open = True
        self._loop = loop
        self._channel = channel
        self._execute = execute
        self._mark = mark
        self._closed = closed
        self._log = log
        self._reader = RequestReader()
        self._pending: deque[Request | _Broken] = deque()
        self._busy = False
        self._ending = False
        self._overdue: Timer | None = None
        """Closes it when the client does not take the last answers."""
        self._input_ended = False
        self._working = False
        self._out: deque[memoryview] = deque()
        self._out_size = 0
        self._interest = READ
        loop.add(channel, self._handle, READ)

    # --- for the commands ---------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether nothing is under way and nothing waits to be written."""
        waits = self._out or self._channel.unsent or any(stream.records for stream in self._all_streams())
        return not self._busy and not waits

    def _all_streams(self) -> list[EventStream]:
        found = [*self.streams.values(), *self.queries.values()] if self.queries else list(self.streams.values())
        if self.monitor is not None:
            found.append(self.monitor)
        return found

    def answer(self, request: Request, error: str = "", body: bytes = b"") -> None:
        """Answer a request, and go on with the next one."""
        self.write(rpc_records.header(request.sequence, error), body)
        self.done()

    def done(self) -> None:
        """The request under way was answered."""
        self._busy = False
        # Where none waits none can be in the reader (`_parse`), and the next that comes does not wait for a turn.
        if self._pending and not self._working:
            self._loop.call_soon(self._work)

    def write(self, *parts: bytes) -> None:
        """Queue bytes that belong together."""
        if not self.open:
            return
        for part in parts:
            if part:
                self._out.append(memoryview(part))
                self._out_size += len(part)
        self._mark(self)

    def add_record(self, stream: EventStream, record: bytes) -> bool:
        """Queue a record of a stream; False if it was dropped."""
        if not stream.add(record):
            return False
        self._mark(self)
        return True

    def end(self) -> None:
        """Take no more requests, and close once everything was written."""
        if self._ending or not self.open:
            return
        self._ending = True
        self._pending.clear()
        self._unsubscribe()
        self._overdue = self._loop.call_later(LAST_WRITE_LIMIT, self.close)
        self._mark(self)

    def _unsubscribe(self) -> None:
        self.streams.clear()
        self.queries.clear()
        self.monitor = None

    def close(self) -> None:
        """End the connection at once."""
        if self.open:
            self.open = False
            if self._overdue is not None:
                self._overdue.cancel()
            self._loop.remove(self._channel)
            self._channel.close()
            self._out.clear()
            self._pending.clear()
            self._unsubscribe()
            self._closed(self)

    def flush(self) -> None:
        """Write what the socket takes, and wait for what is still to come."""
        if not self.open:
            return
        left = WRITE_SIZE
        full, records = False, True
        while left > 0:
            records = records and self._fill()
            if not self._out and not self._channel.unsent:
                break
            try:
                sent = self._channel.send(list(islice(self._out, _BUFFERS)))
            except BlockingIOError:
                full = True
                break
            except OSError as error:
                self._failed(error)
                return
            self._sent(sent)
            left -= sent
        waits = bool(self._out) or self._channel.unsent
        if self._ending and not waits:
            self.close()
            return
        self._watch(writing=waits or full)
        if not self._busy and self._pending and self._out_size < OUT_LIMIT:
            self._loop.call_soon(self._work)

    def look(self) -> None:
        """Take what has come already, and send what is left, of which no descriptor may tell."""
        self._mark(self)
        self._handle(READ)

    # --- input --------------------------------------------------------------------------------------------------------

    def _handle(self, events: int) -> None:
        if events & WRITE:
            self.flush()
        if self.open and events & READ and self._reads():
            self._read()
        elif self.open and events & ERROR:
            self.close()

    def _read(self) -> None:
        try:
            data = self._channel.receive(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(error)
            return
        if data.startswith(_TLS_HELLO) and not self.handshaken and not self._reader.unfinished:
            self._broken("the client begins TLS, which this RPC does not speak (rpc_tls_cert)")
        elif data:
            try:
                self._reader.feed(data)
            except MalformedError as error:
                self._broken(str(error))
            self._parse()
        else:
            self._input_ended = True
            if self._reader.in_body:
                self._pending.append(_Broken("Failed to evaluate request: decode failed: EOF"))
            elif self._reader.unfinished:
                self._pending.append(_Broken("failed to decode request header: unexpected EOF"))
            else:
                self._pending.append(_Broken(""))
        if self._channel.unsent:
            self._mark(self)
        self._work()

    def _parse(self) -> bool:
        """Take requests out of what was read, up to the limit: then either that is reached or no whole one is left.

        Gives whether there are any.
        """
        while not self._reader.dry and not self._input_ended and len(self._pending) < PENDING_LIMIT:
            try:
                request = self._reader.take()
            except MalformedError as error:
                self._broken(str(error))
                break
            if request is None:
                break
            self._pending.append(request)
        return bool(self._pending)

    def _broken(self, reason: str) -> None:
        self._input_ended = True
        part = (
            "Failed to evaluate request: decode failed" if self._reader.in_body else "failed to decode request header"
        )
        self._pending.append(_Broken(f"{part}: {reason}"))

    def _work(self) -> None:
        """Carry out requests, as far as the limits allow."""
        self._working = True
        left = REQUESTS_PER_TURN
        while self.open and not self._busy and not self._ending and self._out_size < OUT_LIMIT:
            if not (self._pending or self._parse()):
                break
            if not left:
                self._loop.call_soon(self._work)
                break
            left -= 1
            item = self._pending.popleft()
            if isinstance(item, _Broken):
                if item.log:
                    self._log("ERR", item.log)
                self.end()
                break
            self._busy = True
            self._execute(self, item)
        self._working = False
        if self.open:
            self._parse()
            self._watch(writing=bool(self._interest & WRITE))

    # --- output -------------------------------------------------------------------------------------------------------

    def _fill(self) -> bool:
        """Move records of streams, one from each in turn, to the output while there is room; whether some are left."""
        waiting = [stream for stream in self._all_streams() if stream.records]
        while waiting and self._out_size < STREAM_ROOM:
            for stream in waiting:
                for part in (stream.header, stream.records.popleft()):
                    self._out.append(memoryview(part))
                    self._out_size += len(part)
            waiting = [stream for stream in waiting if stream.records]
        if self.queries:
            for sequence in [number for number, stream in self.queries.items() if stream.ended and not stream.records]:
                del self.queries[sequence]
        return bool(waiting)

    def _sent(self, count: int) -> None:
        self._out_size -= count
        if not self._out_size:
            self._out.clear()
            return
        while count:
            first = self._out[0]
            if count < len(first):
                self._out[0] = first[count:]
                return
            count -= len(first)
            self._out.popleft()

    def _failed(self, error: OSError) -> None:
        waiting = next((stream for stream in self._all_streams() if stream.records), None)
        if waiting is not None:
            reason = os.strerror(error.errno or 0).lower()
            what = "log" if waiting is self.monitor else "event"
            self._log("ERR", f"Failed to stream {what} to ipc.client: {self.name}: {reason}")
        self.close()

    # --- interest -----------------------------------------------------------------------------------------------------

    def _reads(self) -> bool:
        return (
            not self._input_ended
            and not self._ending
            and len(self._pending) < PENDING_LIMIT
            and self._out_size < OUT_LIMIT
        )

    def _watch(self, *, writing: bool) -> None:
        wanted = (READ if self._reads() else 0) | (WRITE if writing else 0)
        if wanted != self._interest:
            self._interest = wanted
            self._loop.change(self._channel, wanted)
