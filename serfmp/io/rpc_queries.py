"""Queries of RPC clients: those they send, and those they may answer (spec agent.md 5.3, 5.4).

Rules:

* The records of a query that a client sent come under the number of its request: acks, responses, and in the end one
  `done`. A node counts once for each, also when a detector that was started again tells of it twice. If the detector
  never says that a query is done, this process does, `GRACE` after its time.
* A query that arrived is told to each stream that wants it under an ID of the connection, counted from 1. The ID can be
  used until the query's deadline; a connection keeps at most `ANSWERABLE` of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from serfmp.bus import frames
from serfmp.detector.effects import QueryReceived, QueryRequest
from serfmp.io import rpc_records
from serfmp.io.rpc_streams import EventStream
from serfmp.wire.internal_queries import INTERNAL, PING

if TYPE_CHECKING:
    from serfmp.bus.loop import Loop, Timer
    from serfmp.io.rpc_connection import Connection

GRACE: Final = 5.0
"""Seconds beyond a query's time-out in which the detector should have said that it is done."""

ANSWERABLE: Final = 1024
"""Received queries that one connection may answer."""


def refusal(request: QueryRequest) -> str:
    """Why a client may not send this query, or nothing."""
    if request.name.startswith(INTERNAL) and (request.name != PING or request.payload):
        return f"Queries cannot contain the '{INTERNAL}' prefix"
    return ""


@dataclass(slots=True)
class _Running:
    connection: Connection
    stream: EventStream
    told: set[tuple[str, str]] = field(default_factory=set)
    timer: Timer | None = None


class SentQueries:
    """The queries of all connections, by the number of the `Ask` that began them."""

    def __init__(self, loop: Loop, dropped: Callable[[Connection, str], None]) -> None:
        """`dropped(connection, what)` is told of a record that a slow client lost."""
        self._loop = loop
        self._dropped = dropped
        self._running: dict[int, _Running] = {}

    def begin(self, number: int, connection: Connection, sequence: int, seconds: float) -> None:
        """A query runs; its records go to this connection under this number."""
        stream = EventStream(sequence, ())
        running = self._running[number] = _Running(connection, stream)
        connection.queries[sequence] = stream
        running.timer = self._loop.call_later(seconds + GRACE, lambda: self._done(number))

    def news(self, news: frames.QueryNews) -> None:
        """The detector tells of a query."""
        running = self._running.get(news.number)
        if running is None or (news.kind, news.node) in running.told:
            return
        if not running.connection.open:
            self._forget(news.number)
        elif news.kind == "done":
            self._done(news.number)
        else:
            running.told.add((news.kind, news.node))
            self._add(running, rpc_records.answer(news.kind, news.node, news.payload), news.kind)

    def _done(self, number: int) -> None:
        running = self._forget(number)
        if running is not None and running.connection.open:
            self._add(running, rpc_records.answer("done", "", b""), "query end")
            running.stream.ended = True

    def _add(self, running: _Running, record: bytes, what: str) -> None:
        if not running.connection.add_record(running.stream, record):
            self._dropped(running.connection, what)

    def _forget(self, number: int) -> _Running | None:
        running = self._running.pop(number, None)
        if running is not None and running.timer is not None:
            running.timer.cancel()
        return running


class AnswerableQueries:
    """The received queries of one connection, by their IDs."""

    __slots__ = ("_last", "_queries")

    def __init__(self) -> None:
        self._last = 0
        self._queries: dict[int, tuple[int, int, float]] = {}

    def add(self, event: QueryReceived) -> int:
        """The ID of a query for this connection."""
        self._last += 1
        if len(self._queries) >= ANSWERABLE:
            del self._queries[next(iter(self._queries))]
        self._queries[self._last] = event.ltime, event.id, event.deadline
        return self._last

    def find(self, id: int, now: float) -> tuple[int, int] | None:
        """Lamport time and ID of a query that may still be answered."""
        found = self._queries.get(id)
        if found is None:
            return None
        ltime, query_id, deadline = found
        if now > deadline:
            del self._queries[id]
            return None
        return ltime, query_id


def to_request(body: Any) -> QueryRequest:
    """The query that a client's request means."""
    return QueryRequest(
        name=body.name,
        payload=body.payload,
        nodes=body.nodes,
        tags=dict(body.tags),
        ack=body.ack,
        relay_factor=body.relay_factor,
        timeout=max(0.0, body.timeout / 1e9),
    )
