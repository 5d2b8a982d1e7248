"""The network between the hosts: how long packets take, which are lost, repeated or late, and what is cut.

Rules:

* All randomness comes from one generator; a question is asked in the order of the sends, so a seed repeats a network.
* UDP may lose, repeat, delay and reorder. TCP delivers or is cut; a stream needs both directions to open.
* Cuts are directed and add up; each has its own share of lost packets and says whether streams pass.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Conditions:
    """The weather everywhere: times in seconds, the others are probabilities."""

    shortest: float = 0.0002
    """Least one-way delay (spec swim.md 14)."""
    longest: float = 0.002
    """Usual largest one-way delay."""
    loss: float = 0.0
    duplicate: float = 0.0
    """Packets that arrive twice, the second as late as a straggler."""
    straggle: float = 0.0
    """Packets that arrive late, behind others that were sent after them."""
    latest: float = 0.0
    """How late a straggler may be."""


@dataclass(frozen=True, slots=True)
class Cut:
    """From any of `sources` to any of `targets`, `loss` of the packets are lost, and all streams if `streams`."""

    sources: frozenset[str]
    targets: frozenset[str]
    loss: float = 1.0
    streams: bool = True


class Network:
    """Answers what becomes of a packet or a stream. See the module."""

    def __init__(self, rng: Random, conditions: Conditions) -> None:
        self._rng = rng
        self.conditions = conditions
        self.cuts: list[Cut] = []
        self.slow: dict[str, float] = {}
        """Hosts whose gossip process is starved: how late their packets leave at most, in seconds."""
        self.lost = 0
        """Packets that never arrived."""

    def delay(self) -> float:
        """Time for one way, in seconds."""
        return self._rng.uniform(self.conditions.shortest, self.conditions.longest)

    def packet(self, source: str, target: str) -> list[float]:
        """When the copies of a packet arrive, in seconds from now; none, if it is lost."""
        conditions, rng = self.conditions, self._rng
        passes = rng.random() >= conditions.loss and all(rng.random() >= cut.loss for cut in self._cuts(source, target))
        if not passes:
            self.lost += 1
            return []
        delays = [self.delay()]
        if source in self.slow:
            delays[0] += rng.uniform(0, self.slow[source])
        if conditions.straggle and rng.random() < conditions.straggle:
            delays[0] += rng.uniform(0, conditions.latest)
        if conditions.duplicate and rng.random() < conditions.duplicate:
            delays.append(self.delay() + rng.uniform(0, conditions.latest))
        return delays

    def stream(self, source: str, target: str) -> bool:
        """Whether bytes of a stream pass in this direction."""
        return not any(cut.streams for cut in self._cuts(source, target))

    def _cuts(self, source: str, target: str) -> Iterable[Cut]:
        return [cut for cut in self.cuts if source in cut.sources and target in cut.targets]

    # --- trouble ------------------------------------------------------------------------------------------------------

    def cut(self, sources: Collection[str], targets: Collection[str], loss: float = 1.0, streams: bool = True) -> None:
        """One direction fails."""
        self.cuts.append(Cut(frozenset(sources), frozenset(targets), loss, streams))

    def partition(self, one: Collection[str], other: Collection[str]) -> None:
        """Nothing passes between the two."""
        self.cut(one, other)
        self.cut(other, one)

    def heal(self) -> None:
        """All cuts end."""
        self.cuts.clear()
