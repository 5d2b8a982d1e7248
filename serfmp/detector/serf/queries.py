"""Queries that come in: seen once, passed on byte for byte, acked and published where they match (spec serf.md 10.2).

Rules:

* A query is known by Lamport time and ID. The window works as that of user events; witnessing comes before every drop
  rule.
* A query that asks not to be gossiped is not; neither is one that would kill peers: with an empty filter, or a key
  query without a payload. One whose time is over leaves the queue, so that nobody who joins later answers it.
* Filters decide who answers, not who passes on. Acks do not wait for anybody.
* Internal queries are answered by `serfmp.detector.serf.internal`; all others are published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from serfmp.detector.effects import Record
from serfmp.detector.records import RecordKind, SavedQuestion
from serfmp.detector.serf.answering import Answering
from serfmp.detector.serf.asking import ACK
from serfmp.detector.serf.clock import LamportClock
from serfmp.detector.serf.internal import InternalQueries
from serfmp.detector.serf.outbox import Outbox
from serfmp.detector.serf.query_filters import matches
from serfmp.detector.swim.context import Context
from serfmp.detector.swim.gossip import Gossip
from serfmp.detector.swim.queue import TransmitQueue
from serfmp.detector.swim.timers import Timer
from serfmp.wire.internal_queries import INTERNAL
from serfmp.wire.messages import User, encode
from serfmp.wire.serf_messages import Query

NO_BROADCAST: Final = 2
"""Flag of a query that is not to be gossiped (spec serf.md 3)."""
KEY_QUERIES: Final = frozenset(INTERNAL + name for name in ("install-key", "use-key", "remove-key", "list-keys"))
"""Queries whose empty payload kills peers (spec wire.md 12.7)."""


def kills_peers(query: Query) -> bool:
    """Whether agents of the reference would crash of it."""
    return not all(query.filters) or (query.name in KEY_QUERIES and not query.payload)


class Queries:
    """The ring of queries, their gossip, and what they cause. See the module."""

    __slots__ = (
        "_answering",
        "_context",
        "_gossip",
        "_internal",
        "_lives",
        "_outbox",
        "_own_tags",
        "_queue",
        "_ring",
        "_size",
        "_sweep",
        "clock",
        "minimum",
    )

    def __init__(
        self,
        context: Context,
        gossip: Gossip,
        queue: TransmitQueue,
        clock: LamportClock,
        outbox: Outbox,
        answering: Answering,
        internal: InternalQueries,
        own_tags: Callable[[], Mapping[str, str]],
    ) -> None:
        """`own_tags()` gives the tags of the local node as they are now."""
        self._context = context
        self._gossip = gossip
        self._queue = queue
        self._outbox = outbox
        self._answering = answering
        self._internal = internal
        self._own_tags = own_tags
        self._size = context.config.query_buffer
        self._ring: list[tuple[int, set[int]] | None] = [None] * self._size
        self._lives: dict[str, float] = {}
        """Until when the queries in the queue may be gossiped, by their name in it."""
        self._sweep: Timer | None = None
        self.clock = clock
        self.minimum = 0
        """Queries below this Lamport time are dropped."""

    def receive(self, query: Query, encoded: bytes) -> bool:
        """A query of another node, or the local one; `encoded` is the message as it came. Whether it is new."""
        context = self._context
        self.clock.witness(query.ltime)
        if query.ltime < self.minimum:
            return False
        now = self.clock.time
        if now > self._size and query.ltime < now - self._size:
            context.count("serfmp.query.old")
            if not context.quiet("old query"):
                text = f"received old query {query.name} from time {query.ltime} (current: {now})"
                context.log("WARN", "serf", text)
            return False
        if not self._remember(query.ltime, query.id):
            return False
        context.effects.append(Record((RecordKind.QUERY.value, query.ltime, query.id)))
        context.count("serf.queries")
        context.count(f"serf.queries.{query.name}")
        deadline = context.now + max(0.0, query.timeout_ns / 1e9)
        if kills_peers(query):
            context.count("serfmp.query.harmful")
        elif not query.flags & NO_BROADCAST:
            self._enqueue(query, encoded, deadline)
        self._take_part(query, deadline)
        return True

    def _enqueue(self, query: Query, encoded: bytes, deadline: float) -> None:
        name = f"{query.ltime}.{query.id}"
        self._lives[name] = deadline
        self._gossip.enqueue(self._queue, encode(User(encoded)), name, finished=lambda: self._left_queue(name))
        if self._sweep is None or deadline < self._sweep.deadline:
            if self._sweep is not None:
                self._sweep.cancel()
            self._sweep = self._context.timers.at(deadline, self._drop_late)

    def _left_queue(self, name: str) -> None:
        self._lives.pop(name, None)

    def _drop_late(self) -> None:
        """Take queries whose time is over out of the queue."""
        now = self._context.now
        for name in [name for name, deadline in self._lives.items() if deadline <= now]:
            self._queue.discard(name)
        self._sweep = self._context.timers.at(min(self._lives.values()), self._drop_late) if self._lives else None

    def _take_part(self, query: Query, deadline: float) -> None:
        context = self._context
        own = context.config.node
        wanted, fault = matches(query.filters, own, self._own_tags())
        if fault and not context.quiet("bad filter"):
            context.log("WARN", "serf", f"query '{query.name}' from {query.source_node}: {fault}")
        if not wanted:
            return
        if query.flags & ACK:
            self._answering.ack(query)
        internal = query.name.startswith(INTERNAL)
        question = SavedQuestion(
            0 if internal else self._outbox.next_sequence,
            query.ltime,
            query.id,
            query.name,
            query.payload,
            query.source_node,
            query.address,
            query.port,
            query.relay_factor,
            deadline,
        )
        self._answering.open(question)
        if internal:
            self._internal.handle(query, lambda payload: self._answering.respond(query.ltime, query.id, payload))
        else:
            self._outbox.query_event(question)

    def _remember(self, ltime: int, query_id: int) -> bool:
        """Put a query into the ring; whether it is new."""
        slot = self._ring[ltime % self._size]
        if slot is None or slot[0] != ltime:
            slot = self._ring[ltime % self._size] = (ltime, set())
        if query_id in slot[1]:
            return False
        if len(slot[1]) >= self._context.config.slot_limit:
            self._context.count("serfmp.query.refused")
            return False
        slot[1].add(query_id)
        return True

    def raise_minimum(self, ltime: int) -> None:
        """Take part in nothing older than this (spec serf.md 14)."""
        if ltime > self.minimum:
            self.minimum = ltime
            self._context.effects.append(Record((RecordKind.QUERY_MINIMUM.value, ltime)))

    def restore(self, queries: Iterable[tuple[int, int]]) -> None:
        """Take over the ring of a dead detector."""
        oldest = self.clock.time - self._size
        for ltime, query_id in queries:
            if ltime >= oldest:
                self._remember(ltime, query_id)

    def saved(self) -> Iterator[tuple[int, int]]:
        """Lamport time and ID of all queries in the ring."""
        for slot in self._ring:
            if slot is not None:
                for query_id in sorted(slot[1]):
                    yield slot[0], query_id
