"""One core alone, with short names for what tests send to it and look at."""

from __future__ import annotations

import random
from typing import Any

from serfmp.detector.config import CoreConfig
from serfmp.detector.core import Core
from serfmp.detector.effects import (
    Answer,
    Effect,
    Endpoint,
    Event,
    EventKind,
    MemberEvent,
    Plain,
    Publish,
    Record,
    SendPacket,
)
from serfmp.detector.records import Recovered
from serfmp.detector.swim.table import NodeRecord
from serfmp.wire.messages import Alive, Dead, Message, Suspect, User, decode_packet_message, encode
from serfmp.wire.serf_messages import QueryResponse, SerfMessage, encode_serf

VERSIONS = bytes((1, 5, 2, 2, 5, 5))
OWN = "own"
OWN_ADDRESS = bytes((127, 0, 0, 1))
PORT = 7946


def address_of(name: str) -> bytes:
    """An address for a name, always the same."""
    number = random.Random(name).randrange(2, 60000)
    return bytes((127, 1, number >> 8, number & 0xFF))


class Rig:
    """A core, its clock, and everything that it has given out. Its acks are bare unless coordinates are asked for."""

    def __init__(
        self, recovered: Recovered | None = None, generation: int = 1, now: float = 100.0, **config: Any
    ) -> None:
        settings = {"node": OWN, "address": OWN_ADDRESS, "port": PORT, "coordinates": False, **config}
        self.now = now
        found = settings.pop("found", None)
        self.core = Core(CoreConfig(**settings), random.Random(7), now, generation, recovered, found)
        self.effects: list[Effect] = []
        self.journal: list[tuple[Plain, ...]] = []

    # --- input --------------------------------------------------------------------------------------------------------

    def receive(self, message: Message, source: Endpoint = ("127.0.0.2", PORT)) -> None:
        """A message by UDP."""
        self.core.receive(message, source, self.now, timed=True)

    def packet(self, *parts: bytes) -> None:
        """The messages of a packet by UDP, as a driver hands them in."""
        for part in self.core.news(parts):
            self.receive(decode_packet_message(part))

    def serf(self, message: SerfMessage) -> None:
        """A Serf message by gossip."""
        self.packet(encode(User(encode_serf(message))))

    def alive(self, name: str = "x", incarnation: int = 1, **fields: Any) -> None:
        """An alive message about a node."""
        settings: dict[str, Any] = {
            "address": OWN_ADDRESS if name == OWN else address_of(name),
            "port": PORT,
            "meta": b"\xff\x80",
            "versions": VERSIONS,
            **fields,
        }
        self.receive(Alive(incarnation, name, **settings))

    def suspect(self, name: str = "x", incarnation: int = 1, sender: str = "other") -> None:
        """An accusation."""
        self.receive(Suspect(incarnation, name, sender))

    def dead(self, name: str = "x", incarnation: int = 1, sender: str = "other") -> None:
        """A death notice."""
        self.receive(Dead(incarnation, name, sender))

    def pass_time(self, seconds: float) -> None:
        """Let time pass, timer by timer; all input is always handed in."""
        end = self.now + seconds
        while (deadline := self.core.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.core.advance(self.now, self.now)
        self.now = end

    def answer_query(self, sender: str, payload: bytes, flags: int = 0) -> None:
        """An answer to the query that the core sent last."""
        ltime, query_id = self.running_query()
        self.serf(QueryResponse(ltime, query_id, sender, flags, payload))

    # --- output -------------------------------------------------------------------------------------------------------

    def take(self) -> list[Effect]:
        """The effects since the last look; they are also kept."""
        effects = self.core.take_effects()
        self.effects += effects
        self.journal += [effect.fields for effect in effects if isinstance(effect, Record)]
        return effects

    def sent(self) -> list[tuple[Endpoint, list[Message]]]:
        """Packets since the last look, decoded."""
        return [
            (effect.destination, [decode_packet_message(part) for part in effect.parts])
            for effect in self.take()
            if isinstance(effect, SendPacket)
        ]

    def events(self) -> list[Event]:
        """Events published since the last look."""
        return [effect.event for effect in self.take() if isinstance(effect, Publish)]

    def kinds(self, name: str = "x") -> list[EventKind]:
        """Kinds of the member events about a node since the last look."""
        return [
            event.kind
            for event in self.events()
            if isinstance(event, MemberEvent) and any(member.name == name for member in event.members)
        ]

    def answers(self) -> list[Answer]:
        """Answers to requests since the last look."""
        return [effect for effect in self.take() if isinstance(effect, Answer)]

    def running_query(self) -> tuple[int, int]:
        """Lamport time and ID of the query that was sent last and still runs."""
        return list(self.core._serf.asking._running)[-1]

    def queued(self) -> list[Message]:
        """What waits in the membership queue, in order, without touching it."""
        tiers = self.core._swim.gossip.membership._tiers
        return [
            decode_packet_message(item.message)
            for tier in tiers
            for length in reversed(tier.lengths)
            for item in reversed(tier.by_length[length])
        ]

    def forget_queue(self) -> None:
        """Empty the membership queue."""
        self.core._swim.gossip.membership.prune(0)

    def node(self, name: str = "x") -> NodeRecord:
        """SWIM's record of a node."""
        record = self.core._swim.table.get(name)
        assert record is not None
        return record

    def known(self, name: str = "x") -> bool:
        """Whether SWIM has a record of a node."""
        return self.core._swim.table.get(name) is not None

    @property
    def score(self) -> int:
        """The health score."""
        return self.core._swim.awareness.score

    @property
    def incarnation(self) -> int:
        """The own incarnation."""
        return self.core._swim.membership.incarnation
