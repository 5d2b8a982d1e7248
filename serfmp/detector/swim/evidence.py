"""What was held against each node, and what spoke for it: the story behind every change of a node's state.

Rules:

* Noting changes nothing: no decision looks at it, so a lost or trimmed history costs only an explanation.
* Each entry says who said so, over which way it came, and how trustworthy the local node was at that moment: its health
  score, and how late it had just been.
* Routine is not noted. A probe that was answered in time leaves nothing; a history begins with the first doubt.
* Everything is bounded: `PER_NODE` entries of a node, `NODES` nodes; the oldest go first, and are counted.
* Times are seconds of the core's clock. Histories do not survive the process.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from serfmp.detector.effects import Endpoint, Plain

PER_NODE: Final = 64
"""Entries kept of one node. Ours."""
NODES: Final = 1024
"""Nodes of which entries are kept. Ours."""
LATE_FOR: Final = 10.0
"""Seconds for which an entry tells of the local node's last lateness. Ours."""


class Finding(StrEnum):
    """What happened."""

    PROBE_TIMED_OUT = "probe-timed-out"
    """No direct ack came in time. Facts: `waited` seconds."""
    PROBE_UNSENDABLE = "probe-unsendable"
    """The ping could not be sent. Facts: `error`."""
    HELPERS_ASKED = "helpers-asked"
    """Others were asked to probe, and TCP was tried. Facts: `helpers`, `stream`."""
    NACKED = "nacked"
    """A helper is well but got no answer either."""
    STREAM_FAILED = "stream-failed"
    """The ping by TCP failed. Facts: `error`."""
    STREAM_ANSWERED = "stream-answered"
    """The ping by TCP was answered: the node lives, UDP to it does not."""
    INDIRECT_ACK = "indirect-ack"
    """An ack came late or through a helper."""
    UNANSWERED = "unanswered"
    """The whole round brought no ack. Facts: `nacks`, `expected` (helpers that would nack), `lasted` seconds."""
    SUSPECTED = "suspected"
    """Suspicion began. Facts: `incarnation`, `wanted` confirmations, `shortest`, `longest` seconds, `merged`."""
    CONFIRMED = "confirmed"
    """Somebody else suspects it, too. Facts: `confirmations`, `wanted`, `left` seconds."""
    REFUTED = "refuted"
    """It contradicted with a higher incarnation. Facts: `incarnation`."""
    EXPIRED = "expired"
    """Nobody refuted in time. Facts: `confirmations`, `wanted`, `lasted` seconds."""
    DEAD = "dead"
    """It counts as failed. Facts: `incarnation`."""
    LEFT = "left"
    """It said that it leaves. Facts: `incarnation`."""
    ALIVE = "alive"
    """It was gone and is back. Facts: `incarnation`."""
    ACCUSED = "accused"
    """Somebody accused the local node, which contradicted. Facts: `of` (suspect, dead), `incarnation`."""
    STALLED = "stalled"
    """The local process was frozen or starved, or the host was suspended. Facts: `lost` seconds, `suspended`."""
    PRESSED = "pressed"
    """The host makes the local node late. Facts: `level` (0: no more), `late` seconds, `waiting` percent or None."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One entry. `by`: the node that says so; `source`: where the message came from, None for own observations."""

    at: float
    finding: Finding
    by: str
    source: Endpoint | None
    score: int
    late: float
    facts: dict[str, Plain]

    def plain(self) -> dict[str, Plain]:
        """As an answer carries it."""
        return {
            "at": self.at,
            "finding": self.finding.value,
            "by": self.by,
            "source": None if self.source is None else list(self.source),
            "score": self.score,
            "late": self.late,
            "facts": self.facts,
        }


class Histories:
    """The entries of all nodes. See the module."""

    __slots__ = ("_late", "_late_at", "_nodes", "dropped", "score")

    def __init__(self) -> None:
        self._nodes: OrderedDict[str, list[Evidence]] = OrderedDict()
        self.score = 0
        """The local health score, kept here by who changes it."""
        self._late = 0.0
        self._late_at = float("-inf")
        self.dropped = 0
        """Entries that the bounds took."""

    def note(
        self, now: float, node: str, finding: Finding, by: str, source: Endpoint | None = None, **facts: Plain
    ) -> None:
        """Add an entry about a node."""
        entries = self._nodes.get(node)
        if entries is None:
            if len(self._nodes) >= NODES:
                _, oldest = self._nodes.popitem(last=False)
                self.dropped += len(oldest)
            # Most histories are short: an empty list takes a tenth of an empty deque.
            entries = self._nodes[node] = []
        else:
            self._nodes.move_to_end(node)
            if len(entries) == PER_NODE:
                del entries[0]
                self.dropped += 1
        late = self._late if now - self._late_at <= LATE_FOR else 0.0
        entries.append(Evidence(now, finding, by, source, self.score, late, facts))

    def was_late(self, now: float, lost: float) -> None:
        """The local process was frozen or starved for so many seconds until now."""
        self._late, self._late_at = lost, now

    def of(self, node: str) -> tuple[Evidence, ...]:
        """All entries about a node, the oldest first."""
        return tuple(self._nodes.get(node, ()))

    def __len__(self) -> int:
        """The number of nodes with entries."""
        return len(self._nodes)
