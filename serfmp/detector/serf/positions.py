"""Network coordinates in the agent: what acks carry, what round trips teach, who stands where (spec serf.md 15.6).

Rules:

* Every ack carries the own coordinate, encoded once for each change. Only a direct ack whose arrival was measured in
  time teaches something. Bad coordinates are refused and counted.
* The last coordinate of each member is kept, and of nobody else.
* The own coordinate is journaled now and then, so that a restarted detector need not learn anew.
"""

from __future__ import annotations

from typing import Final

from serfmp.detector.effects import Plain, Record
from serfmp.detector.records import RecordKind
from serfmp.detector.serf.coordinates import CoordinateClient
from serfmp.detector.serf.members import Members
from serfmp.detector.swim.context import Context
from serfmp.errors import RemoteError
from serfmp.wire.coordinate import Coordinate, decode_ack_payload, distance_ns, encode_ack_payload

SAVED_EVERY: Final = 5.0
"""Seconds between two records of the own coordinate. Ours."""
SLACK: Final = 16
"""Coordinates of nodes that are no members any more, kept until the next sweep. Ours."""


class Positions:
    """See the module."""

    __slots__ = ("_client", "_context", "_known", "_members", "_saved_at", "enabled", "payload")

    def __init__(self, context: Context, members: Members, saved: Coordinate | None) -> None:
        self._context = context
        self._members = members
        self._client = CoordinateClient(context.rng.random)
        self.enabled = context.config.coordinates
        if saved is not None:
            self._client.set(saved)
        self._known: dict[str, Coordinate] = {}
        self._saved_at = context.now - SAVED_EVERY
        self.payload = encode_ack_payload(self._client.coordinate) if self.enabled else b""
        """What acks carry."""

    @property
    def resets(self) -> int:
        """How often the own coordinate had to start anew."""
        return self._client.counters.resets

    def ping_completed(self, node: str, round_trip: float, payload: bytes) -> None:
        """A direct ack came after so many seconds."""
        if not self.enabled or not payload:
            return
        context = self._context
        try:
            other = decode_ack_payload(payload)
        except RemoteError as fault:
            context.count("serf.coordinate.rejected")
            if not context.quiet("bad coordinate"):
                context.log("ERR", "serf", f"Failed to decode coordinate from ping: {fault}")
            return
        before = self._client.coordinate
        refused = self._client.update(node, other, round_trip)
        if refused:
            context.count("serf.coordinate.rejected")
            context.log("TRACE", "serf", f"Rejected coordinate from {node}: {refused}")
            return
        if round_trip == 0.0:
            context.count("serf.coordinate.zero-rtt")
        self._known[node] = other
        if len(self._known) > self._members.size() + SLACK:
            self._sweep()
        mine = self._client.coordinate
        context.sample("serf.coordinate.adjustment-ms", distance_ns(before, mine) / 1e6)
        self.payload = encode_ack_payload(mine)
        if context.now - self._saved_at >= SAVED_EVERY:
            self._saved_at = context.now
            context.effects.append(Record(self.record()))

    def _sweep(self) -> None:
        for node in [node for node in self._known if self._members.get(node) is None]:
            del self._known[node]
            self._client.forget(node)

    def get(self, node: str) -> Coordinate | None:
        """Where a member stands, as far as is known."""
        if node == self._context.config.node:
            return self._client.coordinate
        return self._known.get(node) if self._members.get(node) is not None else None

    def record(self) -> tuple[Plain, ...]:
        """The own coordinate as a journal record."""
        mine = self._client.coordinate
        vec: list[Plain] = list(mine.vec)
        return (RecordKind.COORDINATE.value, vec, mine.error, mine.adjustment, mine.height)
