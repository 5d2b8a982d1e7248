"""Who waits for which ack (spec swim.md 4.4).

Rules: the first ack of a sequence number goes to whoever waits for it and ends the wait; later ones, and unknown ones,
are ignored. A nack does not end the wait.
"""

from __future__ import annotations

from typing import Protocol

from serfmp.wire.messages import Ack


class AckHandler(Protocol):
    """Waits for the answer to a ping."""

    def acked(self, ack: Ack, arrival: float, timed: bool, /) -> None:
        """The ack is here; `timed`: its arrival is exact enough for a round trip."""

    def nacked(self) -> None:
        """A helper said that it got no answer either."""


class AckHandlers(dict[int, AckHandler]):
    """The handlers by sequence number."""

    __slots__ = ()
