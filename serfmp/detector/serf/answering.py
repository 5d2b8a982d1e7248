"""Answers to queries: acks, responses, copies through other nodes (spec serf.md 10.3 and 10.4).

Rules:

* A query is answered at most once, and not after its deadline on this node's clock. Once the direct answer is under
  way it counts as answered, whatever becomes of the copies.
* Copies go through living members that understand relays, never through the asker itself or this node. For others this
  node relays only to members, at a bounded rate.
* What goes to the local node's own address is handed over at once.
* Queries that may still be answered are bounded; the oldest go first. Those that were published are in the journal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from serfmp.detector.effects import MemberStatus, Record
from serfmp.detector.records import RecordKind, SavedQuestion
from serfmp.detector.serf.asking import ACK
from serfmp.detector.serf.members import MemberRow, Members
from serfmp.detector.swim.context import Context
from serfmp.detector.swim.gossip import Gossip
from serfmp.errors import UserError
from serfmp.wire.address import to_text
from serfmp.wire.messages import User, encode
from serfmp.wire.serf_messages import Query, QueryResponse, Relay, encode_serf

RELAY_PROTOCOL: Final = 5
"""Gossip protocol from which a node relays (spec serf.md 10.4)."""


class Answering:
    """See the module. `collect(response)` takes answers to the local node's own queries."""

    __slots__ = ("_collect", "_context", "_gossip", "_members", "_open", "_relayed", "_relayed_since")

    def __init__(
        self, context: Context, gossip: Gossip, members: Members, collect: Callable[[QueryResponse], None]
    ) -> None:
        self._context = context
        self._gossip = gossip
        self._members = members
        self._collect = collect
        self._open: dict[tuple[int, int], SavedQuestion] = {}
        self._relayed = 0
        self._relayed_since = 0.0

    # --- for queries --------------------------------------------------------------------------------------------------

    def ack(self, query: Query) -> None:
        """Tell the asker that the query is here."""
        response = QueryResponse(query.ltime, query.id, self._context.config.node, ACK, b"")
        try:
            self._send(response, query.address, query.port, query.source_node, query.relay_factor)
        except UserError as error:
            self._context.log("ERR", "serf", f"failed to relay ack: {error}")

    def open(self, question: SavedQuestion) -> None:
        """A query may be answered from now on."""
        now = self._context.now
        while self._open and (
            len(self._open) >= self._context.config.open_query_limit or next(iter(self._open.values())).deadline < now
        ):
            oldest = self._open.pop(next(iter(self._open)))
            if oldest.deadline >= now:
                self._context.count("serfmp.query.forgotten")
        self._open[question.ltime, question.id] = question

    def respond(self, ltime: int, query_id: int, payload: bytes) -> None:
        """Answer a query. Raises `UserError` with Serf's words."""
        question = self._open.get((ltime, query_id))
        config = self._context.config
        response = QueryResponse(ltime, query_id, config.node, 0, payload)
        size, limit = len(encode_serf(response)), config.query_response_size_limit
        if size > limit:
            raise UserError(f"response exceeds limit of {limit} bytes")
        if question is None:
            raise UserError("response is past the deadline")
        if question.answered:
            raise UserError("response already sent")
        if self._context.now > question.deadline:
            raise UserError("response is past the deadline")
        self._open[ltime, query_id] = question.as_answered()
        self._context.effects.append(Record((RecordKind.RESPONDED.value, ltime, query_id)))
        self._send(response, question.address, question.port, question.source_node, question.relay_factor)

    # --- sending ------------------------------------------------------------------------------------------------------

    def _send(self, response: QueryResponse, address: bytes, port: int, node: str, factor: int) -> None:
        config = self._context.config
        if address == config.address and port == config.port:
            self._collect(response)
            return
        encoded = encode_serf(response)
        self._gossip.direct((to_text(address), port), encode(User(encoded)))
        targets = self._relay_targets(node, factor)
        if not targets:
            return
        relay = encode_serf(Relay(address, port, node, encoded))
        if len(relay) > config.query_response_size_limit:
            raise UserError(f"relayed response exceeds limit of {config.query_response_size_limit} bytes")
        for target in targets:
            self._gossip.direct((to_text(target.address), target.port), encode(User(relay)))

    def _relay_targets(self, asker: str, factor: int) -> list[MemberRow]:
        if not factor or self._members.size() < factor + 1:
            return []
        own = self._context.config.node
        useful = [
            row
            for row in self._members
            if row.status is MemberStatus.ALIVE and row.versions[1] >= RELAY_PROTOCOL and row.name not in {own, asker}
        ]
        return self._context.rng.sample(useful, min(factor, len(useful)))

    def relay(self, message: Relay) -> None:
        """Another node asks to pass an answer on (spec serf.md 3)."""
        context = self._context
        row = self._members.get(message.node)
        if row is None or row.address != message.address or row.port != message.port:
            context.count("serfmp.query.relay_refused")
            return
        if context.now - self._relayed_since >= 1.0:
            self._relayed, self._relayed_since = 0, context.now
        self._relayed += 1
        if self._relayed > context.config.relay_rate:
            context.count("serfmp.query.relay_refused")
            return
        destination = to_text(message.address), message.port
        context.log("DEBUG", "serf", f"Relaying response to addr: {destination[0]}:{destination[1]}")
        self._gossip.direct(destination, encode(User(message.inner)))

    # --- state --------------------------------------------------------------------------------------------------------

    def restore(self, questions: Iterable[SavedQuestion]) -> None:
        """Take over what a dead detector could still answer."""
        for question in questions:
            if question.port and question.deadline >= self._context.now:
                self.open(question)

    def saved(self) -> Iterator[SavedQuestion]:
        """The queries that may still be answered, or were."""
        yield from self._open.values()
