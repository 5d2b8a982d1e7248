"""Queries of other nodes: seen once, passed on byte for byte (spec serf.md 10.2, steps 1 to 5 and 9).

Rules:

* A query is known by Lamport time and ID. The window works as that of user events; witnessing comes before every drop
  rule.
* A query that asks not to be gossiped is not; neither is one that would kill peers: with an empty filter, or a key
  query without a payload.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from serfmp.detector.effects import Record
from serfmp.detector.records import RecordKind
from serfmp.detector.serf.clock import LamportClock
from serfmp.detector.swim.context import Context
from serfmp.detector.swim.gossip import Gossip
from serfmp.detector.swim.queue import TransmitQueue
from serfmp.wire.messages import User, encode
from serfmp.wire.serf_messages import Query

NO_BROADCAST: Final = 2
"""Flag of a query that is not to be gossiped (spec serf.md 3)."""
KEY_QUERIES: Final = frozenset({"_serf_install-key", "_serf_use-key", "_serf_remove-key", "_serf_list-keys"})
"""Queries whose empty payload kills peers (spec wire.md 12.7)."""


def kills_peers(query: Query) -> bool:
    """Whether agents of the reference would crash of it."""
    return not all(query.filters) or (query.name in KEY_QUERIES and not query.payload)


class Queries:
    """The ring of queries, and their gossip. See the module."""

    __slots__ = ("_context", "_gossip", "_queue", "_ring", "_size", "clock")

    def __init__(self, context: Context, gossip: Gossip, queue: TransmitQueue, clock: LamportClock) -> None:
        self._context = context
        self._gossip = gossip
        self._queue = queue
        self._size = context.config.query_buffer
        self._ring: list[tuple[int, set[int]] | None] = [None] * self._size
        self.clock = clock

    def receive(self, query: Query, encoded: bytes) -> None:
        """A query that came by gossip; `encoded` is the message as it came."""
        context = self._context
        self.clock.witness(query.ltime)
        now = self.clock.time
        if now > self._size and query.ltime < now - self._size:
            context.count("serfmp.query.old")
            if not context.quiet("old query"):
                text = f"received old query {query.name} from time {query.ltime} (current: {now})"
                context.log("WARN", "serf", text)
            return
        if not self._remember(query.ltime, query.id):
            return
        context.effects.append(Record((RecordKind.QUERY.value, query.ltime, query.id)))
        context.count("serf.queries")
        context.count(f"serf.queries.{query.name}")
        if kills_peers(query):
            context.count("serfmp.query.harmful")
        elif not query.flags & NO_BROADCAST:
            self._gossip.enqueue(self._queue, encode(User(encoded)))

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
