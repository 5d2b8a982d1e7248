"""User events: sending, receiving exactly once, remembering (spec serf.md 8).

Rules:

* The ring holds one slot per Lamport time of the window, each with the events of that time. An event is known by
  Lamport time, name and payload: it is delivered once, however often it comes.
* The window is as long as the ring, which is longer than Serf's: who is late for a moment loses nothing. A push/pull
  carries as much as Serf's. Older events, and those below the minimum, are dropped. Witnessing comes before
  every drop rule.
* An event that comes by gossip is passed on byte for byte; one that a push/pull replays is not passed on.
* What is sent is checked before any state changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from serfmp.detector.config import USER_EVENT_SIZE_CAP
from serfmp.detector.effects import Record, RequestId
from serfmp.detector.records import HELD, RecordKind, Recovered, SavedUserEvent, user_event_fields
from serfmp.detector.serf.clock import LamportClock
from serfmp.detector.serf.coalescing import Coalescing
from serfmp.detector.serf.outbox import Outbox
from serfmp.detector.swim.context import Context
from serfmp.detector.swim.gossip import Gossip
from serfmp.detector.swim.queue import TransmitQueue
from serfmp.errors import UserError
from serfmp.wire.messages import User, encode
from serfmp.wire.serf_messages import UserEvent, encode_serf
from serfmp.wire.serf_state import EventSlot

OWN_AGAIN: Final = 10.0
"""Seconds: when detector or gossip were started again, own events of so long ago are gossiped again. Ours."""
OTHERS_AGAIN: Final = 1.0
"""Seconds: the same for events of other nodes. Ours."""


RECENT_BYTES: Final = 256 * 1024
"""Of messages that are known by their bytes: with what is older, twice as much is kept. Ours."""


class RecentMessages:
    """Messages of gossip that came before, byte for byte and complete; the oldest are forgotten.

    In a small cluster each event comes several times; a repetition is not decoded.
    """

    __slots__ = ("_bytes", "_older", "_younger")

    def __init__(self) -> None:
        self._younger: set[bytes] = set()
        self._older: set[bytes] = set()
        self._bytes = 0

    def add(self, message: bytes) -> None:
        """Remember a message."""
        self._younger.add(message)
        self._bytes += len(message)
        if self._bytes > RECENT_BYTES:
            self._younger, self._older, self._bytes = set(), self._younger, 0

    def split(self, messages: Iterable[bytes]) -> tuple[list[bytes], list[bytes]]:
        """Those that came before, and the others, both in their order."""
        younger, older = self._younger, self._older
        known: list[bytes] = []
        others: list[bytes] = []
        for message in messages:
            (known if message in younger or message in older else others).append(message)
        return known, others


class _Slot:
    __slots__ = ("events", "ltime")

    def __init__(self, ltime: int) -> None:
        self.ltime = ltime
        self.events: dict[tuple[str, bytes], SavedUserEvent] = {}


class UserEvents:
    """See the module."""

    __slots__ = (
        "_coalescing",
        "_context",
        "_gossip",
        "_outbox",
        "_queue",
        "_ring",
        "_size",
        "clock",
        "minimum",
        "recent",
    )

    def __init__(
        self,
        context: Context,
        gossip: Gossip,
        queue: TransmitQueue,
        outbox: Outbox,
        coalescing: Coalescing,
        clock: LamportClock,
    ) -> None:
        self._context = context
        self._gossip = gossip
        self._queue = queue
        self._outbox = outbox
        self._coalescing = coalescing
        coalescing.deliver(self._told)
        self._size = context.config.event_buffer
        self._ring: list[_Slot | None] = [None] * self._size
        self.clock = clock
        self.recent = RecentMessages()
        """Messages of events that were accepted: who gets one of them again has nothing to do."""
        self.minimum = 0
        """Events below this Lamport time are not delivered."""

    # --- sending ------------------------------------------------------------------------------------------------------

    def send(self, name: str, payload: bytes, coalesce: bool, request: RequestId) -> None:
        """Send an event: journaled, delivered here, and queued for everybody. Raises `UserError` if it is too large."""
        limit = self._context.config.user_event_size_limit
        size = len(name.encode(errors="surrogateescape")) + len(payload)
        if size > limit:
            raise UserError(f"user event exceeds configured limit of {limit} bytes before encoding")
        if size > USER_EVENT_SIZE_CAP:
            raise UserError(f"user event exceeds sane limit of {USER_EVENT_SIZE_CAP} bytes before encoding")
        event = UserEvent(self.clock.time, name, payload, coalesce)
        encoded = encode_serf(event)
        if len(encoded) > limit:
            raise UserError(f"encoded user event exceeds configured limit of {limit} bytes after encoding")
        if len(encoded) > USER_EVENT_SIZE_CAP:
            raise UserError(
                f"encoded user event exceeds reasonable limit of {USER_EVENT_SIZE_CAP} bytes after encoding"
            )
        self.clock.increment()
        self._accept(event, own=True, request=request)
        self._spread(encoded)

    # --- receiving ----------------------------------------------------------------------------------------------------

    def receive(self, event: UserEvent, encoded: bytes) -> bool:
        """An event that came by gossip; `encoded` is the message as it came. Whether it is new."""
        new = self._accept(event, own=False, request=None)
        if new:
            self._spread(encoded)
        return new

    def replay(self, slot: EventSlot) -> None:
        """Events of one Lamport time out of a push/pull (spec serf.md 12 step 6)."""
        for name, payload in slot.events:
            self._accept(UserEvent(slot.ltime, name, payload, coalesce=False), own=False, request=None)

    def _accept(self, event: UserEvent, own: bool, request: RequestId | None) -> bool:
        """Deliver an event if it is new; whether it was."""
        context = self._context
        ltime = event.ltime
        self.clock.witness(ltime)
        if ltime < self.minimum:
            return False
        now = self.clock.time
        if now > self._size and ltime < now - self._size:
            context.count("serfmp.event.old")
            if not context.quiet("old event"):
                text = f"received old event {event.name} from time {ltime} (current: {now})"
                context.log("WARN", "serf", text)
            return False
        slot = self._ring[ltime % self._size]
        if slot is None or slot.ltime != ltime:
            slot = self._ring[ltime % self._size] = _Slot(ltime)
        key = (event.name, event.payload)
        if key in slot.events:
            return False
        if len(slot.events) >= context.config.slot_limit:
            context.count("serfmp.event.refused")
            return False
        waits = self._coalescing.holds(event.coalesce)
        sequence = HELD if waits else self._outbox.next_sequence
        saved = SavedUserEvent(sequence, ltime, *key, event.coalesce, own, context.now, request)
        slot.events[key] = saved
        context.count("serf.events")
        context.count(f"serf.events.{event.name}")
        if waits:
            context.effects.append(Record(user_event_fields(saved)))
            self._coalescing.user_event(saved)
        else:
            self._outbox.user_event(saved)
        return True

    def _told(self, saved: SavedUserEvent) -> None:
        slot = self._ring[saved.ltime % self._size]
        if slot is not None and slot.ltime == saved.ltime:
            slot.events[saved.name, saved.payload] = saved

    def _spread(self, encoded: bytes) -> None:
        message = encode(User(encoded))
        self.recent.add(message)
        self._gossip.enqueue(self._queue, message)

    # --- state --------------------------------------------------------------------------------------------------------

    def raise_minimum(self, ltime: int) -> None:
        """Deliver nothing older than this (spec serf.md 12 step 5)."""
        if ltime > self.minimum:
            self.minimum = ltime
            self._context.effects.append(Record((RecordKind.EVENT_MINIMUM.value, ltime)))

    def slots(self) -> tuple[EventSlot, ...]:
        """The latest part of the ring for a push/pull, without empty slots."""
        oldest = self.clock.time - self._context.config.event_replay
        return tuple(
            EventSlot(slot.ltime, tuple(slot.events))
            for slot in self._ring
            if slot is not None and slot.ltime >= oldest
        )

    def saved(self) -> Iterator[SavedUserEvent]:
        """All events of the ring."""
        for slot in self._ring:
            if slot is not None:
                yield from slot.events.values()

    def restore(self, recovered: Recovered) -> None:
        """Take over ring and minimum of a dead detector, and gossip the latest events again."""
        self.minimum = recovered.event_minimum
        oldest = self.clock.time - self._size
        for ltime in sorted(recovered.user_events):
            if ltime < oldest:
                continue
            slot = self._ring[ltime % self._size] = _Slot(ltime)
            for saved in recovered.user_events[ltime]:
                slot.events[saved.name, saved.payload] = saved
        self.gossip_again()

    def gossip_again(self) -> None:
        """Gossip the latest events again: what was sent of them may have reached nobody."""
        now = self._context.now
        latest = [saved for saved in self.saved() if saved.time >= now - (OWN_AGAIN if saved.own else OTHERS_AGAIN)]
        for saved in sorted(latest, key=lambda one: one.ltime):
            self._spread(encode_serf(UserEvent(saved.ltime, saved.name, saved.payload, saved.coalesce)))
