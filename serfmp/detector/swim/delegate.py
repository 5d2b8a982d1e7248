"""What SWIM tells the layer above it, and asks of it.

Rules: a notice comes after the table has changed, in the order of the changes. Whoever is told may put messages into
queues and append effects; it does not call back into SWIM.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from serfmp.detector.swim.table import NodeRecord


class Delegate(Protocol):
    """The layer above SWIM."""

    def node_joined(self, record: NodeRecord) -> None:
        """A node is new, or was gone and is back."""

    def node_gone(self, record: NodeRecord) -> None:
        """A node is dead or has left; the record's state says which."""

    def node_updated(self, record: NodeRecord) -> None:
        """A node changed its metadata."""

    def name_conflict(self, record: NodeRecord, address: bytes, port: int) -> None:
        """Another node claims the name of this record from another address."""

    def user_message(self, payload: bytes) -> None:
        """A user message came in."""

    def ack_payload(self) -> bytes:
        """What acks of the local node carry."""

    def ping_completed(self, node: str, round_trip: float, payload: bytes) -> None:
        """A node answered a ping directly after so many seconds, measured in time; `payload`: of its ack."""

    def local_state(self) -> bytes:
        """The state that a push/pull carries beside the list of nodes."""

    def merge_state(self, state: bytes, join: bool) -> Iterator[int]:
        """Merge such a state of a peer, in slices; each yields the number of entries that it handled."""
