"""Events on their way to the processes that deliver them.

Rules:

* Every event gets the next sequence number, a record in the journal, and stays here until all consumers acknowledged
  it.
* An event is given out only once its record was: a consumer may ask at any moment, and what it got before the record
  was in the journal, the next detector would number anew.
* A consumer that is slower than the bound loses the oldest events: they are counted, and logged once per burst.
* Acknowledgements are cumulative.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice

from serfmp.detector.effects import Event, EventKind, MemberEvent, Publish, Record
from serfmp.detector.records import (
    CONSUMERS,
    RecordKind,
    Recovered,
    SavedMember,
    SavedQuestion,
    SavedUserEvent,
    fields,
    member_event_fields,
    member_of,
    past_event_fields,
    user_event_fields,
)
from serfmp.detector.swim.context import TOKEN_SHIFT, Context


class Outbox:
    """The events that not everybody has yet. See the module."""

    __slots__ = (
        "_acknowledged",
        "_context",
        "_events",
        "_limit",
        "_overflowing",
        "_recorded",
        "sequence",
    )

    def __init__(self, context: Context, recovered: Recovered | None = None) -> None:
        self._context = context
        self._limit = context.config.outbox_limit
        self._events: deque[Event] = deque()
        self._acknowledged = dict.fromkeys(CONSUMERS, 0)
        self._overflowing = False
        # Without the journal of its predecessors a later generation must number above all that they may have used.
        self.sequence = (context.generation - 1) << TOKEN_SHIFT
        """Of the last event."""
        if recovered is not None:
            self.sequence = recovered.sequence
            self._acknowledged |= {name: done for name, done in recovered.acknowledged.items() if name in CONSUMERS}
            self._events.extend(recovered.events[-self._limit :])
            self._trim()
        self._recorded = self.sequence

    @property
    def acknowledged(self) -> dict[str, int]:
        """The last sequence number that each consumer has."""
        return dict(self._acknowledged)

    def member_event(self, kind: EventKind, rows: tuple[SavedMember, ...]) -> None:
        """Publish a member event at once; `rows` are the rows as they are after it."""
        self.sequence += 1
        self._context.effects.append(Record(member_event_fields(self.sequence, kind, rows)))
        self._publish(MemberEvent(self.sequence, kind, tuple(member_of(row) for row in rows)))

    def late_member_event(self, kind: EventKind, rows: tuple[SavedMember, ...]) -> None:
        """Publish a member event whose rows were recorded when they changed."""
        self.sequence += 1
        event = MemberEvent(self.sequence, kind, tuple(member_of(row) for row in rows))
        self._context.effects.append(Record(past_event_fields(event)))
        self._publish(event)

    def user_event(self, saved: SavedUserEvent) -> None:
        """Publish a user event that was saved with the sequence number `next_sequence`."""
        self.sequence = saved.sequence
        self._context.effects.append(Record(user_event_fields(saved)))
        self._publish(saved.event())

    def query_event(self, saved: SavedQuestion) -> None:
        """Publish a query that was saved with the sequence number `next_sequence`."""
        self.sequence = saved.sequence
        self._context.effects.append(Record(fields(RecordKind.QUESTION, saved)))
        self._publish(saved.event())

    @property
    def size(self) -> int:
        """Events that not every consumer has acknowledged."""
        return len(self._events)

    @property
    def next_sequence(self) -> int:
        """The sequence number of the next event."""
        return self.sequence + 1

    def _publish(self, event: Event) -> None:
        self._events.append(event)
        self._context.effects.append(Publish(event))
        if len(self._events) > self._limit:
            self._events.popleft()
            self._context.count("serfmp.outbox.dropped")
            if not self._overflowing:
                slowest = min(CONSUMERS, key=self._acknowledged.__getitem__)
                text = f"{slowest} has not taken {self._limit} events: dropping the oldest"
                self._context.log("WARN", "agent", text)
            self._overflowing = True

    def acknowledge(self, consumer: str, sequence: int) -> None:
        """A consumer has all events up to this one."""
        if sequence <= self._acknowledged.get(consumer, sequence):
            return
        sequence = min(sequence, self.sequence)
        self._acknowledged[consumer] = sequence
        self._context.effects.append(Record((RecordKind.ACKNOWLEDGED.value, consumer, sequence)))
        self._trim()

    def _trim(self) -> None:
        done = min(self._acknowledged.values())
        events = self._events
        while events and events[0].sequence <= done:
            events.popleft()
        if len(events) < self._limit:
            self._overflowing = False

    def records_taken(self) -> None:
        """The records of all events so far are with the driver, which writes them before it does anything else."""
        self._recorded = self.sequence

    def after(self, sequence: int) -> Iterator[Event]:
        """The events after this one that are still here and whose records were taken, in order."""
        events = self._events
        if events and events[-1].sequence - events[0].sequence + 1 == len(events):
            # Without gaps the place follows from the first number: a long backlog is not searched for each batch.
            first = events[0].sequence
            return islice(events, max(0, sequence + 1 - first), max(0, self._recorded + 1 - first))
        return iter([event for event in events if sequence < event.sequence <= self._recorded])
