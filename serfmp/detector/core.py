"""The sans-IO core: SWIM and Serf behind one small interface that a process and a simulator drive in the same way.

Rules of the contract:

* Time is passed in, seconds of one monotonic clock; it never goes back. Randomness comes from the `random.Random` given.
* Every call only changes state; what shall happen outside is collected and handed out by `take_effects`. The driver carries the effects
  of a batch out in order, after all its `Record`s are in the journal.
* **No blame without a fence.** Timers that accuse somebody (probe timeout, probe deadline, suspicion) fire only up to `blame_until`, a time
  by which all input that had reached the host was handed in. All other timers fire at `now`. One passed over stays due.
* Answers to effects (`stream_replied`, `resolved`, `send_failed`) carry the effect's token; a token that is not open is ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from serfmp.detector.config import CoreConfig
    from serfmp.detector.effects import Effect, Endpoint, Event, Lifecycle, Member, Plain, Request, RequestId
    from serfmp.detector.records import Recovered
    from serfmp.wire.messages import Message


class Core:
    """One node's membership, failure detection, events. See the module for the contract."""

    def __init__(
        self,
        config: CoreConfig,
        rng: random.Random,
        now: float,
        generation: int = 1,
        recovered: Recovered | None = None,
    ) -> None:
        raise NotImplementedError

    @property
    def lifecycle(self) -> Lifecycle:
        """Where the local node is in its life."""
        raise NotImplementedError

    # --- input -----------------------------------------------------------------------------------------------------------

    def receive(self, message: Message, source: Endpoint, arrival: float, timed: bool) -> None:
        """One decoded message of a UDP packet. `timed`: the arrival is exact enough to measure a round trip."""
        raise NotImplementedError

    def receive_stream(self, stream: int, message: bytes, source: Endpoint, now: float) -> None:
        """One complete message of an inbound stream. Always answered by `AnswerStream` or `CloseStream` in the end."""
        raise NotImplementedError

    def stream_replied(self, token: int, message: bytes | None, error: str, remote: bool, now: float) -> None:
        """How an `OpenStream` ended: the peer's message, or None and an error text."""
        raise NotImplementedError

    def resolved(self, token: int, addresses: tuple[str, ...], error: str, now: float) -> None:
        """How a `Resolve` ended."""
        raise NotImplementedError

    def send_failed(self, token: int, remote: bool, error: str, now: float) -> None:
        """The `SendPacket` with this token could not be sent."""
        raise NotImplementedError

    def request(self, id: RequestId, request: Request, now: float) -> None:
        """Carry out a request; an `Answer` follows, now or later."""
        raise NotImplementedError

    def acknowledge(self, consumer: str, sequence: int) -> None:
        """All events up to `sequence` are safe with the consumer (`rpc` or `dispatcher`)."""
        raise NotImplementedError

    def outbox(self, after: int) -> Iterator[Event]:
        """Events with a sequence number above `after` that not every consumer has acknowledged, in order."""
        raise NotImplementedError

    # --- time ------------------------------------------------------------------------------------------------------------

    def work(self, now: float, budget: int) -> bool:
        """Go on with long merges: at most `budget` entries. True while some is left."""
        raise NotImplementedError

    def advance(self, now: float, blame_until: float) -> None:
        """Fire all timers due at `now`; those that accuse only if they are due at `blame_until`."""
        raise NotImplementedError

    def next_deadline(self) -> float | None:
        """When the earliest timer of any kind is due."""
        raise NotImplementedError

    def blame_due(self, now: float) -> bool:
        """Whether a timer that accuses is due at `now`: time for a fence."""
        raise NotImplementedError

    def stalled(self, now: float, lost: float) -> None:
        """The process was frozen for `lost` seconds until `now`: nobody is blamed for that time."""
        raise NotImplementedError

    def gossip_restarted(self, now: float) -> None:
        """The process with the sockets is a new one: what was in flight is lost, and nobody is to blame."""
        raise NotImplementedError

    # --- output ----------------------------------------------------------------------------------------------------------

    def take_effects(self) -> list[Effect]:
        """All effects since the last call, in order."""
        raise NotImplementedError

    def members(self) -> list[Member]:
        """The member table, the local node included."""
        raise NotImplementedError

    def stats(self) -> dict[str, str]:
        """Figures under the names of spec serf.md 17."""
        raise NotImplementedError

    def snapshot_records(self) -> Iterator[tuple[Plain, ...]]:
        """The whole state as journal records: what a compacted journal holds."""
        raise NotImplementedError
