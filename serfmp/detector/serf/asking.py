"""Queries of the local node: sending them, and collecting what comes back (spec serf.md 10.1, 10.5, 20.8).

Rules:

* Everything is checked before anything changes: a query that is too large takes no Lamport time.
* A running query is known by Lamport time and ID together. Each node counts once as an ack and once as a response,
  over whatever way it came.
* A query runs until its time-out; who wants to end earlier stops listening.
* Who asked is told by an `Asker`: a client's request over `QueryProgress`, or a part of the core by calls. Queries of
  clients are in the journal; those of the core end with it, and whoever began them begins again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from serfmp.detector.effects import QueryProgress, QueryRequest, Record, RequestId
from serfmp.detector.records import RecordKind, SavedAsk
from serfmp.detector.serf.clock import LamportClock
from serfmp.detector.swim.context import Context
from serfmp.detector.swim.timers import Timer
from serfmp.errors import UserError
from serfmp.wire.filters import NodeFilter, TagFilter, encode_filter
from serfmp.wire.serf_messages import Query, QueryResponse, encode_serf

ACK: Final = 1
"""Flag of a query that wants acks, and of a response that is one (spec serf.md 3)."""
QUERIES_SINCE: Final = 4
"""Serf protocol from which a node may send queries (spec serf.md 10.1)."""
ID_BITS: Final = 31
RELAY_FACTOR_MAX: Final = 255


class Asker(Protocol):
    """Is told of a query's answers."""

    def acked(self, node: str, /) -> None:
        """A node has the query."""

    def responded(self, node: str, payload: bytes, /) -> None:
        """A node answers."""

    def done(self) -> None:
        """Nothing more will come."""


class ClientAsker:
    """Tells the process that asked."""

    __slots__ = ("_context", "_request")

    def __init__(self, context: Context, request: RequestId) -> None:
        self._context = context
        self._request = request

    def acked(self, node: str, /) -> None:
        """See `Asker`."""
        self._context.effects.append(QueryProgress(self._request, "ack", node))

    def responded(self, node: str, payload: bytes, /) -> None:
        """See `Asker`."""
        self._context.effects.append(QueryProgress(self._request, "response", node, payload))

    def done(self) -> None:
        """See `Asker`."""
        self._context.effects.append(QueryProgress(self._request, "done"))


@dataclass(slots=True)
class Asked:
    """A running query. `request`: of the client that asked, if one did."""

    ltime: int
    id: int
    deadline: float
    asker: Asker
    request: RequestId | None
    timer: Timer
    acks: set[str] = field(default_factory=set)
    responses: set[str] = field(default_factory=set)


class Asking:
    """The running queries. See the module."""

    __slots__ = ("_clock", "_context", "_live_nodes", "_process", "_running")

    def __init__(
        self,
        context: Context,
        clock: LamportClock,
        live_nodes: Callable[[], int],
        process: Callable[[Query, bytes], None],
    ) -> None:
        """`live_nodes()`: how many nodes SWIM holds for alive; `process(query, encoded)` handles the own query."""
        self._context = context
        self._clock = clock
        self._live_nodes = live_nodes
        self._process = process
        self._running: dict[tuple[int, int], Asked] = {}

    # --- sending ------------------------------------------------------------------------------------------------------

    def default_timeout(self) -> float:
        """Seconds that a query runs by default (spec serf.md 10.1): longer by the number of digits of the size."""
        context = self._context
        digits = len(str(max(1, self._live_nodes())))
        return context.profile.gossip_interval * context.config.query_timeout_mult * digits

    def begin(
        self,
        request: QueryRequest,
        asker: Asker,
        id: RequestId | None = None,
        begun: Callable[[Asked], None] | None = None,
    ) -> Asked:
        """Send a query. `begun` is called before the first answer can come. Raises `UserError`, having done nothing."""
        context, config = self._context, self._context.config
        if config.serf_protocol < QUERIES_SINCE:
            raise UserError("Feature not supported")
        if not 0 <= request.relay_factor <= RELAY_FACTOR_MAX:
            raise UserError("Relay factor must be between 0 and 255")
        if len(self._running) >= config.query_limit:
            context.count("serfmp.query.limit")
            raise UserError(f"too many queries run ({config.query_limit}); try again when one has ended")
        timeout = request.timeout if request.timeout > 0 else self.default_timeout()
        query = Query(
            ltime=self._clock.time,
            id=context.rng.getrandbits(ID_BITS),
            address=config.address,
            port=config.port,
            source_node=config.node,
            filters=_filters(request.nodes, request.tags),
            flags=ACK if request.ack else 0,
            relay_factor=request.relay_factor,
            timeout_ns=int(timeout * 1e9),
            name=request.name,
            payload=request.payload,
        )
        encoded = encode_serf(query)
        if len(encoded) > config.query_size_limit:
            raise UserError(f"query exceeds limit of {config.query_size_limit} bytes")
        self._clock.witness(query.ltime)
        asked = self._register(query.ltime, query.id, context.now + timeout, asker, id)
        if id is not None:
            saved = SavedAsk(query.ltime, query.id, asked.deadline, id)
            context.effects.append(Record(saved.fields()))
        if begun is not None:
            begun(asked)
        self._process(query, encoded)
        return asked

    def _register(self, ltime: int, query_id: int, deadline: float, asker: Asker, id: RequestId | None) -> Asked:
        key = ltime, query_id
        timer = self._context.timers.at(max(deadline, self._context.now), lambda: self._close(key))
        asked = self._running[key] = Asked(ltime, query_id, deadline, asker, id, timer)
        return asked

    def of_request(self, id: RequestId) -> Asked | None:
        """The running query that a client's request began."""
        return next((asked for asked in self._running.values() if asked.request == id), None)

    def stop(self, asked: Asked) -> None:
        """End a query before its time: whoever asked has heard enough."""
        if (asked.ltime, asked.id) in self._running:
            asked.timer.cancel()
            self._close((asked.ltime, asked.id))

    def _close(self, key: tuple[int, int]) -> None:
        asked = self._running.pop(key)
        if asked.request is not None:
            self._context.effects.append(Record((RecordKind.ASK_DONE.value, *key)))
        asked.asker.done()

    # --- collecting ---------------------------------------------------------------------------------------------------

    def collect(self, response: QueryResponse) -> None:
        """An ack or a response came, directly or through another node."""
        context = self._context
        asked = self._running.get((response.ltime, response.id))
        if asked is None:
            self._unasked(response)
            return
        if response.flags & ACK:
            if response.sender in asked.acks:
                context.count("serf.query_duplicate_acks")
                return
            context.count("serf.query_acks")
            asked.acks.add(response.sender)
            asked.asker.acked(response.sender)
            return
        if response.sender in asked.responses:
            context.count("serf.query_duplicate_responses")
            return
        context.count("serf.query_responses")
        asked.responses.add(response.sender)
        asked.asker.responded(response.sender, response.payload)

    def _unasked(self, response: QueryResponse) -> None:
        context = self._context
        context.count("serfmp.query.unasked")
        if context.quiet("unasked response"):
            return
        other = next((asked.id for asked in self._running.values() if asked.ltime == response.ltime), None)
        if other is None:
            told = f"(LTime: {response.ltime}, ID: {response.id}) From: {response.sender}"
            context.log("WARN", "serf", f"reply for non-running query {told}")
        else:
            context.log("WARN", "serf", f"query reply ID mismatch (Local: {other}, Response: {response.id})")

    # --- state --------------------------------------------------------------------------------------------------------

    def restore(self, saved: Iterable[SavedAsk]) -> None:
        """Go on with the clients' queries of a dead detector, for the time that they have left."""
        for ask in saved:
            self._register(ask.ltime, ask.id, ask.deadline, ClientAsker(self._context, ask.request), ask.request)

    def saved(self) -> Iterator[SavedAsk]:
        """The running queries of clients."""
        for asked in self._running.values():
            if asked.request is not None:
                yield SavedAsk(asked.ltime, asked.id, asked.deadline, asked.request)


def _filters(nodes: tuple[str, ...], tags: Mapping[str, str]) -> tuple[bytes, ...]:
    filters = [encode_filter(NodeFilter(nodes))] if nodes else []
    filters += [encode_filter(TagFilter(tag, expression)) for tag, expression in tags.items()]
    return tuple(filters)
