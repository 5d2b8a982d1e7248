"""The detector's end of the stream to its consumers, rpc and dispatcher.

Rules:

* One ordered stream for each consumer: rows of the member table, events and answers leave in the order in which the
  core made them, so that a client that has its answer sees what it caused. What a turn brings leaves at its end, as
  one message: rows, then events, then answers.
* Events come from the core's outbox, which the journal keeps: at most `EVENT_WINDOW` are on their way to a consumer
  that has not acknowledged them, and a consumer that comes back gets what it had not acknowledged.
* A consumer that does not read is marked broken: nothing more is sent to it until its socket has room; then it gets the
  member table anew, in slices, and goes on. Answers wait for it, up to `ANSWER_LIMIT`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import zmq

from serfmp.bus import frames, plain
from serfmp.bus.endpoints import CHANNEL_HWM, make_socket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from serfmp.agent.child import Child
    from serfmp.bus.loop import Timer
    from serfmp.detector.effects import Event, Member

EVENT_WINDOW: Final = 1024
"""Events on their way to one consumer."""

EVENTS_PER_FRAME: Final = 64
"""Events of one frame."""

ROWS_PER_SLICE: Final = 256
"""Rows of the member table in one frame; one frame a turn."""

ANSWER_LIMIT: Final = 65536
"""Answers that wait for a broken consumer."""

QUEUE_LIMIT: Final = 65536
"""Frames that wait behind a snapshot; beyond it the snapshot starts again."""

MESSAGES_PER_TURN: Final = 64
"""Frames taken from consumers in one turn."""

TOGETHER_BYTES: Final = 256 * 1024
"""Frames of a turn that are larger together leave in several messages."""

PACES: Final = {"rpc": 0.005, "dispatcher": 0.02}
"""Seconds between two messages that bring a consumer nothing but events: a message costs both sides more than an event.
The first one after a pause of so long leaves at once."""

REPAIR_PERIOD: Final = 0.05
"""Seconds between two tries to reach a broken consumer."""

CONSUMERS: Final = ("rpc", "dispatcher")

# As plain numbers: pyzmq's flags and its functions for messages of several parts cost microseconds.
_NOBLOCK: Final = int(zmq.NOBLOCK)
_FIRST_PART: Final = int(zmq.NOBLOCK | zmq.SNDMORE)


@dataclass(slots=True)
class _Consumer:
    name: str
    identity: bytes
    """Of its socket."""
    generation: int = 0
    members: bool = False
    live: bool = False
    """It has subscribed, and the last frame went through."""
    sent: int = 0
    """Highest event sent."""
    acknowledged: int = 0
    """Highest event acknowledged."""
    snapshot: Iterator[tuple[bool, bool, list[Any]]] | None = None
    queue: deque[object] = field(default_factory=deque)
    """Frames behind the snapshot."""
    answers: deque[frames.Answered] = field(default_factory=deque)
    """Answers that could not be sent while it was broken."""
    rows: list[object] = field(default_factory=list)
    """What leaves at the end of the turn, before the events."""
    pumping: bool = False
    """There may be events for it, and room in its window."""
    next_at: float = 0.0
    """Before that no message leaves that holds nothing but events."""
    later: Timer | None = None
    """Wakes the hub then, if there are some."""
    replies: list[object] = field(default_factory=list)
    """The same, behind the events: answers, and news of queries."""

    def wake(self) -> None:
        """Its events have waited: they leave at the end of this turn."""
        self.later = None


class Hub:
    """See the module.

    `acknowledged(consumer)` gives what a consumer had acknowledged to earlier detectors, `outbox(after)` gives
    unacknowledged events, `members()` the member table; `on_ask(consumer, generation, ask)` gets requests and
    `on_acknowledge(consumer, sequence)` acknowledgements.
    """

    def __init__(
        self,
        child: Child,
        acknowledged: Callable[[str], int],
        outbox: Callable[[int], Iterator[Event]],
        members: Callable[[], list[Member]],
        on_ask: Callable[[str, int, frames.Ask], None],
        on_acknowledge: Callable[[str, int], None],
    ) -> None:
        self._child = child
        self._outbox = outbox
        self._members = members
        self._on_ask = on_ask
        self._on_acknowledge = on_acknowledge
        self._consumers = {name: _Consumer(name, name.encode(), acknowledged=acknowledged(name)) for name in CONSUMERS}
        self._state: frames.DetectorState | None = None
        """The latest figures: every consumer with the member table gets them after it."""
        self._slicing = False
        """A snapshot may be under way."""
        self.breaks = 0
        """How often a consumer was marked broken."""
        self._socket = make_socket(child.context, zmq.ROUTER, hwm=CHANNEL_HWM)
        self._socket.bind(child.endpoints.consumers(child.generation))
        self._watched = child.loop.add_socket(self._socket, self._receive, told=True)
        self._repairing = False
        """A try to reach broken consumers is planned. While none is broken nobody is woken for it."""
        child.loop.before_wait.append(self.flush)

    def row_changed(self, member: Member) -> None:
        """A row of the member table is new or changed."""
        self._to_replicas(frames.MemberRow(plain.member_to_plain(member)))

    def row_gone(self, name: str) -> None:
        """A row of the member table is gone."""
        self._to_replicas(frames.MemberGone(name))

    def state(self, frame: frames.DetectorState) -> None:
        """New figures for the replicas."""
        self._state = frame
        self._to_replicas(frame)

    def report(self, frame: frames.Report) -> bool:
        """Tell the rpc process what watchers want to know, if it takes it at once; whether it did."""
        consumer = self._consumers["rpc"]
        if not consumer.live or consumer.snapshot is not None:
            return False
        return self._try_to_send(consumer, frames.encode(frame))

    def answer(self, name: str, generation: int, answer: frames.Answered) -> None:
        """Answer a request of a consumer, unless a later generation of it has taken over."""
        consumer = self._consumers[name]
        if consumer.generation and consumer.generation != generation:
            return
        if not consumer.live:
            self._keep(consumer, [answer])
        elif consumer.snapshot is None:
            consumer.replies.append(answer)
        else:
            self._behind_snapshot(consumer, answer)

    def news(self, name: str, generation: int, news: frames.QueryNews) -> None:
        """Tell a consumer of its query, in order with its answers; one that cannot be reached may miss it."""
        consumer = self._consumers.get(name)
        if consumer is not None and consumer.live and consumer.generation == generation:
            if consumer.snapshot is None:
                consumer.replies.append(news)
            else:
                self._behind_snapshot(consumer, news)

    def pump(self) -> None:
        """At the end of the turn, look for events in the outbox."""
        for consumer in self._consumers.values():
            consumer.pumping = True

    def hurry(self) -> None:
        """In the last turn: nothing waits for others."""
        for consumer in self._consumers.values():
            consumer.next_at = 0.0
        self.pump()

    def flush(self) -> None:
        """Send what the turn brought, and events as far as windows allow."""
        now = self._child.loop.clock()
        for consumer in self._consumers.values():
            hurried = consumer.rows or consumer.replies
            if not (consumer.pumping or hurried) or not consumer.live or consumer.snapshot is not None:
                continue
            if now < consumer.next_at and not hurried:
                if consumer.later is None:
                    consumer.later = self._child.loop.call_at(consumer.next_at, consumer.wake)
                continue
            if consumer.later is not None:
                consumer.later.cancel()
                consumer.later = None
            consumer.pumping = False
            events = self._events(consumer)
            rows, consumer.rows = consumer.rows, []
            replies, consumer.replies = consumer.replies, []
            if rows or events or replies:
                consumer.next_at = now + PACES[consumer.name]
                self._send_together(consumer, [*rows, *events, *replies])

    def _events(self, consumer: _Consumer) -> list[frames.Events]:
        found: list[frames.Events] = []
        room = EVENT_WINDOW - (consumer.sent - consumer.acknowledged)
        while room > 0:
            wanted = min(room, EVENTS_PER_FRAME)
            batch = list(islice(self._outbox(consumer.sent), wanted))
            if batch:
                consumer.sent = batch[-1].sequence
                found.append(frames.Events([plain.event_to_plain(event) for event in batch]))
            if len(batch) < wanted:
                break
            room -= wanted
        return found

    def _send_together(self, consumer: _Consumer, turn: list[object]) -> None:
        """Send frames, several in a message. What is not sent is dropped, but for answers: the consumer is broken."""
        start = size = 0
        encoded: list[bytes] = []
        for place, frame in enumerate(turn):
            encoded.append(frames.encode(frame))
            size += len(encoded[-1])
            if size >= TOGETHER_BYTES or place == len(turn) - 1:
                body = encoded[0] if len(encoded) == 1 else frames.encode(frames.Together(encoded))
                if not self._send_body(consumer, body):
                    self._keep(consumer, turn[start:])
                    return
                start, size, encoded = place + 1, 0, []

    def _keep(self, consumer: _Consumer, unsent: list[object]) -> None:
        for frame in unsent:
            if isinstance(frame, frames.Answered) and len(consumer.answers) < ANSWER_LIMIT:
                consumer.answers.append(frame)

    def go_on(self) -> bool:
        """Send one slice of each snapshot that is under way. True while some is left."""
        if not self._slicing:
            return False
        for consumer in self._consumers.values():
            if consumer.live and consumer.snapshot is not None:
                self._slice(consumer)
        self._slicing = any(consumer.snapshot is not None for consumer in self._consumers.values())
        return self._slicing

    # --- inner part ---------------------------------------------------------------------------------------------------

    def _to_replicas(self, frame: object) -> None:
        for consumer in self._consumers.values():
            if consumer.members and consumer.live:
                if consumer.snapshot is None:
                    consumer.rows.append(frame)
                else:
                    self._behind_snapshot(consumer, frame)

    def _behind_snapshot(self, consumer: _Consumer, frame: object) -> None:
        consumer.queue.append(frame)
        if len(consumer.queue) > QUEUE_LIMIT:
            self._break(consumer)

    def _send(self, consumer: _Consumer, frame: object) -> bool:
        return self._send_body(consumer, frames.encode(frame))

    def _send_body(self, consumer: _Consumer, body: bytes) -> bool:
        if self._try_to_send(consumer, body):
            return True
        self._break(consumer)
        return False

    def _try_to_send(self, consumer: _Consumer, body: bytes) -> bool:
        self._watched.used = True
        try:
            self._socket.send(consumer.identity, _FIRST_PART)
            self._socket.send(frames.seal(body, self._child.generation, consumer.generation), _NOBLOCK)
        except zmq.ZMQError:  # full (EAGAIN) or gone (EHOSTUNREACH)
            return False
        return True

    def _break(self, consumer: _Consumer) -> None:
        self.breaks += 1
        consumer.live = False
        if not self._repairing:
            self._repairing = True
            self._child.loop.call_later(REPAIR_PERIOD, self._repair)
        consumer.snapshot = None
        self._keep(consumer, [*consumer.replies, *consumer.queue])
        for held in (consumer.rows, consumer.replies, consumer.queue):
            held.clear()

    def _repair(self) -> None:
        """Try consumers that were marked broken; one that is really gone subscribes again by itself."""
        self._repairing = False
        for consumer in self._consumers.values():
            if consumer.generation and not consumer.live:
                self._resume(consumer)

    def _resume(self, consumer: _Consumer) -> None:
        consumer.live = True
        consumer.sent = max(consumer.acknowledged, 0)
        if consumer.members:
            rows = [plain.member_to_plain(member) for member in self._members()]
            slices = [rows[start : start + ROWS_PER_SLICE] for start in range(0, len(rows), ROWS_PER_SLICE)] or [[]]
            consumer.snapshot = _numbered(slices)
            self._slicing = True
            self._slice(consumer)
            if self._state is not None and consumer.live:
                if consumer.snapshot is None:
                    self._send(consumer, self._state)
                else:
                    self._behind_snapshot(consumer, self._state)
        elif self._send(consumer, frames.Events([])):
            self._flush_answers(consumer)
        consumer.pumping = True

    def _slice(self, consumer: _Consumer) -> None:
        if consumer.snapshot is None:
            return
        first, last, rows = next(consumer.snapshot)
        if not self._send(consumer, frames.MemberRows(first, last, rows)):
            return
        if last:
            consumer.snapshot = None
            queue, consumer.queue = consumer.queue, deque()
            for frame in queue:
                if not (consumer.live and self._send(consumer, frame)) and isinstance(frame, frames.Answered):
                    consumer.answers.append(frame)
            self._flush_answers(consumer)
            consumer.pumping = True

    def _flush_answers(self, consumer: _Consumer) -> None:
        while consumer.answers and self._send(consumer, consumer.answers[0]):
            consumer.answers.popleft()

    def _receive(self) -> None:
        for _ in range(MESSAGES_PER_TURN):
            try:
                identity = self._socket.recv(_NOBLOCK)
            except zmq.Again:
                return
            envelope, frame = frames.open_sealed(self._socket.recv(_NOBLOCK))
            consumer = self._consumers.get(identity.decode())
            if consumer is not None and envelope.receiver == self._child.generation:
                self._handle(consumer, envelope.sender, frame)
            if not self._watched.ready():  # cheaper than to be refused a message
                return

    def _handle(self, consumer: _Consumer, generation: int, frame: Any) -> None:
        match frame:
            case frames.Subscribe(members, after):
                if generation != consumer.generation:
                    consumer.answers.clear()
                    consumer.replies.clear()
                self._keep(consumer, consumer.replies)
                consumer.rows.clear()
                consumer.replies.clear()
                consumer.generation = generation
                consumer.members = members
                consumer.snapshot = None
                consumer.queue.clear()
                if after > consumer.acknowledged:
                    consumer.acknowledged = after
                    self._on_acknowledge(consumer.name, after)
                self._resume(consumer)
            case frames.Acknowledge(sequence):
                if sequence > consumer.acknowledged:
                    consumer.pumping |= consumer.sent - consumer.acknowledged >= EVENT_WINDOW
                    consumer.acknowledged = sequence
                    self._on_acknowledge(consumer.name, sequence)
            case frames.Together(bodies):
                for body in bodies:
                    self._handle(consumer, generation, frames.decode(body))
            case frames.Ask() if generation == consumer.generation:
                self._on_ask(consumer.name, generation, frame)


def _numbered(slices: list[list[Any]]) -> Iterator[tuple[bool, bool, list[Any]]]:
    """Slices with their marks: whether it is the first and whether it is the last."""
    for number, rows in enumerate(slices):
        yield number == 0, number == len(slices) - 1, rows
