"""The table of nodes as SWIM knows them: one record per name, in the order in which they are probed.

Rules (spec swim.md 1, 4.2, 4.6):

* The list and the map hold the same records; the local node is always among them.
* New records go to a random place of the list; a pass over the list ends with dropping the long gone and shuffling the
  rest.
* A random choice is uniform over the records that are acceptable, never twice the same; it may come out shorter than
  asked for.
* Addresses are kept as the raw bytes that were gossiped and compared as such.
* Nodes are many and much alike: equal versions, ports and metadata are kept once, as long as few others come between,
  and the text of an address is made when it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import IntEnum
from functools import lru_cache
from random import Random
from typing import Final, TypeVar

from serfmp.detector.effects import Endpoint
from serfmp.detector.records import SavedNode
from serfmp.detector.swim.suspicion import Suspicion
from serfmp.wire.address import to_text

_SHARED: Final = 512
"""Values that are looked for among equals."""

_PATIENT_DRAWS = 8
"""Random draws per wanted node before a choice goes through the whole list."""


_Value = TypeVar("_Value", bytes, int)


@lru_cache(maxsize=_SHARED, typed=True)
def shared(value: _Value) -> _Value:
    """The same value, as the object that others hold already if they got it from here lately."""
    return value


class NodeState(IntEnum):
    """State of a node, with its number on the wire (spec swim.md 1.1)."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


class NodeRecord:
    """What is known of one node. `changed` is the time of the last change of state."""

    __slots__ = (
        "address",
        "changed",
        "incarnation",
        "meta",
        "name",
        "port",
        "state",
        "suspicion",
        "versions",
    )

    def __init__(self, name: str, address: bytes, port: int, meta: bytes, versions: bytes) -> None:
        """A record that no message has confirmed yet: dead since ever, with incarnation 0 (spec swim.md 3.1 A5)."""
        self.name = name
        self.describe(meta, versions)
        self.incarnation = 0
        self.state = NodeState.DEAD
        self.changed = float("-inf")
        self.suspicion: Suspicion | None = None
        self.move(address, port)

    def describe(self, meta: bytes, versions: bytes) -> None:
        """Set metadata and versions."""
        self.meta = shared(meta)
        self.versions = shared(versions)

    def move(self, address: bytes, port: int) -> None:
        """Set the address."""
        self.address = address
        self.port = shared(port)

    @property
    def endpoint(self) -> Endpoint:
        """Where it gossips."""
        return to_text(self.address), self.port

    @property
    def gone(self) -> bool:
        """Dead or left."""
        return self.state >= NodeState.DEAD

    @property
    def protocol_max(self) -> int:
        """The highest gossip protocol that the node understands; 0 if unknown. It decides what may be sent to it."""
        return self.versions[1] if len(self.versions) >= 6 else 0

    @property
    def checksum(self) -> bool:
        """Whether the node understands the CRC layer (spec swim.md 10)."""
        return self.protocol_max >= 5

    def forget_suspicion(self) -> None:
        """Drop a running suspicion, if any."""
        if self.suspicion is not None:
            self.suspicion.cancel()
            self.suspicion = None

    def saved(self) -> SavedNode:
        """The record for the journal."""
        return SavedNode(
            self.name,
            self.address,
            self.port,
            self.meta,
            self.versions,
            self.incarnation,
            int(self.state),
            self.changed,
        )


class NodeTable:
    """All records. See the module."""

    __slots__ = ("_by_name", "_cursor", "_list", "_rng")

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._list: list[NodeRecord] = []
        self._by_name: dict[str, NodeRecord] = {}
        self._cursor = 0

    def __len__(self) -> int:
        """The size estimate n of all formulas: gone nodes that are not yet reaped count (spec swim.md 1.4)."""
        return len(self._list)

    def __iter__(self) -> Iterator[NodeRecord]:
        """All records in the order of the list."""
        return iter(self._list)

    def get(self, name: str) -> NodeRecord | None:
        """The record of this name."""
        return self._by_name.get(name)

    def size(self) -> int:
        """The same as `len`, as a callback for the queues."""
        return len(self._list)

    def insert(self, record: NodeRecord) -> None:
        """Add a record at a uniformly random place."""
        place = self._rng.randrange(len(self._list)) if self._list else 0
        self._list.append(record)
        self._list[place], self._list[-1] = self._list[-1], self._list[place]
        self._by_name[record.name] = record

    def next_target(self, skip: Callable[[NodeRecord], bool], wrap: Callable[[], None]) -> NodeRecord | None:
        """The next record to probe, None if all are to be skipped.

        `wrap` is called at each end of the list; that costs no turn (B3).
        """
        for _ in range(2 * len(self._list)):
            if self._cursor >= len(self._list):
                wrap()
                self._cursor = 0
                if not self._list:  # all were gone, the local node, which has left, among them
                    return None
            record = self._list[self._cursor]
            self._cursor += 1
            if not skip(record):
                return record
        return None

    def reap_and_shuffle(self, gone_before: float) -> list[NodeRecord]:
        """Drop the records that are gone since before that time, shuffle the rest. Returns the dropped ones."""
        reaped = [record for record in self._list if record.gone and record.changed < gone_before]
        if reaped:
            for record in reaped:
                del self._by_name[record.name]
            self._list = [record for record in self._list if record.name in self._by_name]
        self._rng.shuffle(self._list)
        return reaped

    def choose(self, wanted: int, accept: Callable[[NodeRecord], bool]) -> list[NodeRecord]:
        """Up to `wanted` different random records that are acceptable; fewer only if there are not more."""
        if wanted < 1:
            return []
        nodes = self._list
        if len(nodes) >= 3 * wanted:
            chosen: dict[int, NodeRecord] = {}
            for _ in range(_PATIENT_DRAWS * wanted):
                place = int(self._rng.random() * len(nodes))
                if place not in chosen and accept(nodes[place]):
                    chosen[place] = nodes[place]
                    if len(chosen) == wanted:
                        return list(chosen.values())
        acceptable = [record for record in nodes if accept(record)]
        # Draws without replacement: the functions of the generator for that cost three times as much.
        random, count = self._rng.random, len(acceptable)
        wanted = min(wanted, count)
        for place in range(wanted):
            drawn = place + int(random() * (count - place))
            acceptable[place], acceptable[drawn] = acceptable[drawn], acceptable[place]
        return acceptable[:wanted]
