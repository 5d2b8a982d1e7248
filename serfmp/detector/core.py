"""The sans-IO core: SWIM and Serf behind one small interface that a process and a simulator drive in the same way.

Rules of the contract:

* Time is passed in, seconds of one monotonic clock; it never goes back. Randomness comes from the `random.Random`
  given.
* Every call only changes state; what shall happen outside is collected and handed out by `take_effects`. The driver
  carries the effects of a batch out in order, after all its `Record`s are in the journal.
* **No blame without a fence.** Timers that accuse somebody (probe timeout, probe deadline, suspicion) fire only up to
  `blame_until`, a time by which all input that had reached the host was handed in. All other timers fire at `now`. One
  passed over stays due.
* Answers to effects (`stream_replied`, `resolved`, `send_failed`) carry the effect's token; a token that is not open is
  ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from random import Random
from typing import Final

from serfmp.detector.config import CoreConfig
from serfmp.detector.effects import (
    Answer,
    CoordinateRequest,
    Effect,
    Endpoint,
    Event,
    EventRequest,
    ForceLeaveRequest,
    JoinRequest,
    KeysRequest,
    LeaveRequest,
    Lifecycle,
    LifecycleChanged,
    Member,
    MemberEvent,
    MemberStatus,
    Plain,
    QueryReceived,
    QueryRequest,
    Record,
    Request,
    RequestId,
    RespondRequest,
    Samples,
    TagsRequest,
    WhyRequest,
)
from serfmp.detector.records import (
    HELD,
    RecordKind,
    Recovered,
    SavedQuestion,
    SavedUserEvent,
    fields,
    past_event_fields,
    user_event_fields,
)
from serfmp.detector.serf.asking import Asked, ClientAsker
from serfmp.detector.serf.layer import Serf
from serfmp.detector.serf.leaving import Leaving
from serfmp.detector.serf.reaping import Reaping
from serfmp.detector.serf.rejoining import Rejoining
from serfmp.detector.serf.removal import Removal
from serfmp.detector.serf.tagging import Tagging
from serfmp.detector.swim.context import Context
from serfmp.detector.swim.gossip import Gossip
from serfmp.detector.swim.swim import RESYNC_PARTNERS, Swim
from serfmp.detector.swim.table import NodeRecord, NodeState, NodeTable
from serfmp.errors import UserError
from serfmp.wire.messages import Message
from serfmp.wire.snapshot import SnapshotState

RESYNC_AFTER = 1.0
"""Seconds of a freeze after which state is exchanged with others at once. Ours."""

_CLOCKS: Final[str] = RecordKind.CLOCKS.value
"""Looked up once: a record of the clocks is made nearly each turn."""


class Core:
    """One node's membership, failure detection, events. See the module for the contract."""

    __slots__ = (
        "_answered",
        "_context",
        "_handlers",
        "_leaving",
        "_reaping",
        "_recorded_clocks",
        "_removal",
        "_serf",
        "_swim",
        "_tagging",
    )

    def __init__(
        self,
        config: CoreConfig,
        rng: Random,
        now: float,
        generation: int = 1,
        recovered: Recovered | None = None,
        found: SnapshotState | None = None,
        stopwatch: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`recovered`: what a dead detector left; `found`: what the snapshot of an ended agent adds up to.

        `stopwatch`: a clock for metrics alone (see `Context`).
        """
        self._context = Context(config, rng, now, generation, stopwatch)
        table = NodeTable(rng)
        gossip = Gossip(self._context, table)
        self._serf = Serf(self._context, gossip, recovered, found)
        self._swim = Swim(self._context, table, gossip, self._serf)
        self._handlers = self._swim.handlers
        self._leaving = Leaving(self._context, self._swim, self._serf)
        self._removal = Removal(self._context, self._swim, self._serf)
        self._reaping = Reaping(self._context, self._swim, self._serf, () if recovered is None else recovered.lost)
        self._tagging = Tagging(self._context, self._swim, self._serf)
        self._recorded_clocks = (0, 0, 0)
        self._answered: dict[RequestId, None] = {}
        Rejoining(self._context, self._swim, self._serf, {} if found is None else found.alive)
        if recovered is None:
            self._swim.membership.announce()
        else:
            self._recover(recovered)

    def _recover(self, recovered: Recovered) -> None:
        """Go on where a dead detector was (see `records`)."""
        context, swim, serf = self._context, self._swim, self._serf
        own = context.config.node
        self._answered = dict.fromkeys(recovered.answered)
        self._trim_answered()
        swim.restore(recovered.nodes.values(), recovered.incarnation)
        own_record = swim.table.get(own)
        leaving = serf.lifecycle is not Lifecycle.ALIVE
        if leaving and own_record is not None:
            swim.membership.left = own_record.gone
        else:
            swim.membership.announce()
        for record in list(swim.table):
            serf.members.reconcile(record)
        for row in serf.members:
            if swim.table.get(row.name) is None and row.status in {MemberStatus.ALIVE, MemberStatus.LEAVING}:
                record = NodeRecord(row.name, row.address, row.port, row.meta, row.versions)
                record.state = NodeState.ALIVE
                record.changed = context.now
                swim.table.insert(record)
                context.changed_nodes[row.name] = None
        text = f"Recovered {serf.members.size()} members, and events up to {serf.outbox.sequence}, from the journal"
        context.log("INFO", "agent", text)
        if recovered.skipped:
            context.count("serfmp.journal.skipped", recovered.skipped)
            context.log("WARN", "agent", f"{recovered.skipped} records of the journal could not be understood")
        swim.push_pull.refresh(RESYNC_PARTNERS)
        if serf.lifecycle is not Lifecycle.ALIVE:
            context.effects.append(LifecycleChanged(serf.lifecycle))
        if serf.lifecycle is Lifecycle.LEAVING:
            self._leaving.resume()

    @property
    def lifecycle(self) -> Lifecycle:
        """Where the local node is in its life."""
        return self._serf.lifecycle

    # --- input --------------------------------------------------------------------------------------------------------

    def _enter(self, now: float) -> None:
        self._context.now = max(self._context.now, now)
        self._context.source = None

    def news(self, messages: Iterable[bytes]) -> list[bytes]:
        """Of the encoded messages of a UDP packet those that may change something: these are to be received.

        The others came before. In a small cluster they are most, so they are not even decoded.
        """
        return self._serf.news(messages)

    def receive(self, message: Message, source: Endpoint, arrival: float, timed: bool) -> None:
        """One decoded message of a UDP packet. `timed`: the arrival is exact enough to measure a round trip."""
        self._context.now = max(self._context.now, arrival)
        self._context.source = source
        handler = self._handlers.get(message.__class__)
        if handler is None:
            self._context.count("serfmp.refused.type")
        else:
            handler(message, source, arrival, timed)

    def receive_stream(self, stream: int, message: bytes, source: Endpoint, now: float) -> None:
        """One complete message of an inbound stream. Always answered by `AnswerStream` or `CloseStream` in the end."""
        self._enter(now)
        self._swim.receive_stream(stream, message, source)

    def stream_replied(self, token: int, message: bytes | None, error: str, remote: bool, now: float) -> None:
        """How an `OpenStream` ended: the peer's message, or None and an error text."""
        self._enter(now)
        answered = self._context.streams.pop(token, None)
        if answered is not None:
            answered(message, error, remote)

    def resolved(self, token: int, addresses: tuple[str, ...], error: str, now: float) -> None:
        """How a `Resolve` ended."""
        self._enter(now)
        self._swim.joiner.resolved(token, addresses, error)

    def send_failed(self, token: int, remote: bool, error: str, now: float) -> None:
        """The `SendPacket` with this token could not be sent."""
        self._enter(now)
        self._swim.prober.send_failed(token, remote, error)

    def keys_stored(self, token: int, error: str, now: float) -> None:
        """How a `StoreKeys` ended."""
        self._enter(now)
        self._serf.ring.stored(token, error)

    def tags_stored(self, token: int, error: str, now: float) -> None:
        """How a `StoreTags` ended."""
        self._enter(now)
        self._tagging.stored(token, error)

    def request(self, id: RequestId, request: Request, now: float) -> None:
        """Carry out a request; an `Answer` follows, now or later."""
        self._enter(now)
        match request:
            case JoinRequest(addresses, replay):
                self._join(id, addresses, replay)
            case EventRequest():
                self._event(id, request)
            case LeaveRequest():
                self._leaving.request(id)
            case ForceLeaveRequest(node, prune):
                self._removal.request(id, node, prune)
            case QueryRequest():
                self._query(id, request)
            case RespondRequest(ltime, query_id, payload):
                self._respond(id, ltime, query_id, payload)
            case TagsRequest(changed, deleted):
                self._tagging.request(id, changed, deleted)
            case CoordinateRequest(node):
                self._coordinate(id, node)
            case KeysRequest():
                self._serf.key_manager.request(id, request)
            case WhyRequest(node):
                self._why(id, node)

    def acknowledge(self, consumer: str, sequence: int) -> None:
        """All events up to `sequence` are safe with the consumer (`rpc` or `dispatcher`)."""
        self._serf.outbox.acknowledge(consumer, sequence)

    def acknowledged(self, consumer: str) -> int:
        """The last event that this consumer acknowledged, to this detector or an earlier one."""
        return self._serf.outbox.acknowledged.get(consumer, 0)

    def outbox(self, after: int) -> Iterator[Event]:
        """Events with a sequence number above `after` that not every consumer has acknowledged, in order."""
        return self._serf.outbox.after(after)

    # --- requests -----------------------------------------------------------------------------------------------------

    def _join(self, id: RequestId, addresses: tuple[str, ...], replay: bool) -> None:
        serf, effects = self._serf, self._context.effects
        if serf.lifecycle is not Lifecycle.ALIVE:
            effects.append(Answer(id, 0, "Serf can't Join after Leave or Shutdown"))
            return

        def begun() -> None:
            serf.ignore_old = not replay

        def joined(contacted: int, error: str) -> None:
            serf.ignore_old = False
            if contacted and serf.lifecycle is Lifecycle.ALIVE:
                serf.broadcast_join()
            self._context.effects.append(Answer(id, contacted, error))

        self._swim.joiner.join(addresses, begun, joined)

    def _event(self, id: RequestId, request: EventRequest) -> None:
        error = ""
        if id not in self._answered:
            try:
                self._serf.events.send(request.name, request.payload, request.coalesce, id)
            except UserError as fault:
                error = str(fault)
            else:
                self._answered[id] = None
                self._trim_answered()
        self._context.effects.append(Answer(id, None, error))

    def _query(self, id: RequestId, request: QueryRequest) -> None:
        context, asking = self._context, self._serf.asking

        def begun(asked: Asked) -> None:
            value: Plain = {"ltime": asked.ltime, "id": asked.id, "seconds": asked.deadline - context.now}
            context.effects.append(Answer(id, value))

        running = asking.of_request(id)
        if running is not None:
            begun(running)
        elif id in self._answered:
            context.effects.append(Answer(id, None, "the query has ended while the detector was started again"))
        else:
            try:
                asking.begin(request, ClientAsker(context, id), id, begun)
            except UserError as fault:
                context.effects.append(Answer(id, None, str(fault)))
            else:
                self._answered[id] = None
                self._trim_answered()

    def _respond(self, id: RequestId, ltime: int, query_id: int, payload: bytes) -> None:
        error = ""
        if id not in self._answered:
            try:
                self._serf.answering.respond(ltime, query_id, payload)
            except UserError as fault:
                error = str(fault)
        self._context.effects.append(Answer(id, None, error))

    def _coordinate(self, id: RequestId, node: str) -> None:
        positions, effects = self._serf.positions, self._context.effects
        found = positions.get(node)
        if not positions.enabled:
            effects.append(Answer(id, None, "Coordinates are disabled"))
        elif found is None:
            effects.append(Answer(id, None))
        else:
            effects.append(Answer(id, [list(found.vec), found.error, found.adjustment, found.height]))

    def _why(self, id: RequestId, node: str) -> None:
        context = self._context
        entries: list[Plain] = [entry.plain() for entry in context.histories.of(node or context.config.node)]
        context.effects.append(Answer(id, {"now": context.now, "entries": entries}))

    def _trim_answered(self) -> None:
        while len(self._answered) > self._context.config.requests_kept:
            del self._answered[next(iter(self._answered))]

    # --- time ---------------------------------------------------------------------------------------------------------

    def work(self, now: float, budget: int) -> bool:
        """Go on with long merges: at most `budget` entries. True while some is left."""
        self._enter(now)
        return self._swim.push_pull.work(budget)

    def advance(self, now: float, blame_until: float) -> None:
        """Fire all timers due at `now`; those that accuse only if they are due at `blame_until`."""
        self._enter(now)
        self._context.timers.fire(self._context.now, blame_until)

    def next_deadline(self) -> float | None:
        """When the earliest timer of any kind is due."""
        return self._context.timers.next_deadline()

    def blame_due(self, now: float) -> bool:
        """Whether a timer that accuses is due at `now`: time for a fence."""
        return self._context.timers.blame_due(now)

    @property
    def may_blame(self) -> bool:
        """Whether somebody may come to be accused: a probe is under way, or a suspicion."""
        return self._context.timers.may_blame

    def stalled(self, now: float, lost: float) -> None:
        """The process was frozen for `lost` seconds until `now`: nobody is blamed for that time."""
        self._enter(now)
        self._swim.stalled(lost)
        if lost > RESYNC_AFTER:
            self._swim.push_pull.refresh(RESYNC_PARTNERS)

    def suspended(self, now: float, slept: float) -> None:
        """The host slept for `slept` seconds, in which the clock of `now` stood still."""
        self._enter(now)
        self._swim.stalled(slept, suspended=True)
        self._swim.push_pull.refresh(RESYNC_PARTNERS)

    def pressed(self, now: float, level: int, late: float, waiting: float | None) -> None:
        """How much the host lets this node down (`serfmp.detector.pressure`): level 0 to 3, and the evidence."""
        self._enter(now)
        self._swim.pressed(level, late, waiting)

    def gossip_lost(self, now: float) -> None:
        """The process with the sockets died, or is not there yet: what is in flight is lost, and nobody is to blame.

        What is to be gossiped waits for `gossip_found`; what is asked of it waits with the driver.
        """
        self._enter(now)
        self._swim.gossip_lost()

    def gossip_found(self, now: float) -> None:
        """The process with the sockets is there, as it was when this detector began."""
        self._enter(now)
        self._swim.gossip_found()

    def gossip_restarted(self, now: float) -> None:
        """A new process with the sockets is there.

        What counted as sent while the old one was stuck may have reached nobody: a few peers are told everything, and
        the latest events are gossiped again.
        """
        self._enter(now)
        self._swim.gossip_found()
        self._swim.push_pull.refresh(RESYNC_PARTNERS)
        self._serf.events.gossip_again()

    # --- output -------------------------------------------------------------------------------------------------------

    def take_effects(self) -> list[Effect]:
        """All effects since the last call, in order."""
        context, serf = self._context, self._serf
        self._swim.settle_turn()
        effects, context.effects = context.effects, []
        if context.changed_nodes:
            # Before the events that follow from them: see `records`.
            effects[:0] = [Record(self._node_record(name)) for name in context.changed_nodes]
            context.changed_nodes = {}
        if serf.members.changed:
            rows = [serf.members.get(name) for name in serf.members.changed]
            effects.extend(Record(fields(RecordKind.MEMBER, row.saved())) for row in rows if row is not None)
            serf.members.changed = {}
        clocks = serf.clocks
        if clocks != self._recorded_clocks:
            self._recorded_clocks = clocks
            effects.append(Record((_CLOCKS, *clocks)))
        serf.persisting.settle(clocks)
        if context.effects:
            effects.extend(context.effects)
            context.effects = []
        if context.samples:
            effects.extend(Samples(name, tuple(values)) for name, values in context.samples.items())
            context.samples = {}
        serf.outbox.records_taken()
        return effects

    def _node_record(self, name: str) -> tuple[Plain, ...]:
        record = self._swim.table.get(name)
        return (RecordKind.NODE_GONE.value, name) if record is None else fields(RecordKind.NODE, record.saved())

    def tell_snapshot(self) -> None:
        """The snapshot's writer missed something: tell it everything again."""
        self._serf.persisting.everything(row.saved() for row in self._serf.members)

    def members(self) -> list[Member]:
        """The member table, the local node included."""
        return self._serf.members.views()

    def stats(self) -> dict[str, str]:
        """Figures under the names of spec serf.md 17."""
        serf = self._serf
        _, intents, queries, events = self._swim.gossip.queues
        return {
            "members": str(serf.members.size()),
            "failed": str(serf.members.counts[MemberStatus.FAILED]),
            "left": str(serf.members.counts[MemberStatus.LEFT]),
            "health_score": str(self._swim.awareness.score),
            "member_time": str(serf.clocks[0]),
            "event_time": str(serf.clocks[1]),
            "query_time": str(serf.clocks[2]),
            "intent_queue": str(intents.size),
            "event_queue": str(events.size),
            "query_queue": str(queries.size),
            **({"coordinate_resets": str(serf.positions.resets)} if serf.positions.enabled else {}),
            "encrypted": "true" if self._context.config.encryption_overhead else "false",
        }

    def queues(self) -> list[tuple[str, int, int]]:
        """Name, size and bound of each queue of broadcasts, and of the outbox."""
        _, *others = self._swim.gossip.queues
        sizes = [(queue.name.lower(), queue.size, queue.depth_limit) for queue in others]
        membership = self._swim.gossip.membership
        # One message for each node at most: the table is its bound.
        sizes.append(("broadcasts", membership.size, self._context.config.node_limit))
        sizes.append(("outbox", self._serf.outbox.size, self._context.config.outbox_limit))
        return sizes

    def snapshot_records(self) -> Iterator[tuple[Plain, ...]]:
        """The whole state as journal records: what a compacted journal holds."""
        serf = self._serf
        yield (RecordKind.OWN.value, self._swim.membership.incarnation)
        yield (RecordKind.CLOCKS.value, *serf.clocks)
        yield (RecordKind.EVENT_MINIMUM.value, serf.events.minimum)
        yield (RecordKind.QUERY_MINIMUM.value, serf.queries.minimum)
        for request in self._answered:
            yield (RecordKind.ANSWERED.value, *request)
        yield from self._event_records()
        yield serf.positions.record()
        if serf.ring.keys != self._context.config.keys:
            yield (RecordKind.KEYS.value, list(serf.ring.keys))
        for address in self._reaping.saved():
            yield (RecordKind.LOST.value, address)
        for ask in serf.asking.saved():
            yield ask.fields()
        for consumer, sequence in serf.outbox.acknowledged.items():
            yield (RecordKind.ACKNOWLEDGED.value, consumer, sequence)
        yield (RecordKind.SEQUENCE.value, serf.outbox.sequence)
        for record in self._swim.table:
            yield fields(RecordKind.NODE, record.saved())
        for member in serf.coalescing.untold():
            yield member.record().fields
        for row in serf.members:
            yield fields(RecordKind.MEMBER, row.saved())
        for intent in serf.recent_intents:
            yield fields(RecordKind.INTENT, intent)
        for ltime, query_id in serf.queries.saved():
            yield (RecordKind.QUERY.value, ltime, query_id)
        yield (RecordKind.LIFECYCLE.value, serf.lifecycle.value, serf.leave_ltime)

    def _event_records(self) -> Iterator[tuple[Plain, ...]]:
        """The outbox and the ring of user events, in the order of their sequence numbers; those without come first."""
        records: dict[int, tuple[Plain, ...]] = {}
        for saved in self._serf.events.saved():
            if saved.sequence > 0:
                records[saved.sequence] = user_event_fields(saved)
            elif saved.sequence != HELD:
                yield user_event_fields(saved)
        for saved in self._serf.coalescing.held():
            yield user_event_fields(saved)
        for event in self._serf.outbox.after(0):
            if isinstance(event, MemberEvent):
                records[event.sequence] = past_event_fields(event)
            elif isinstance(event, QueryReceived):
                records[event.sequence] = fields(RecordKind.QUESTION, SavedQuestion.of_event(event))
            elif event.sequence not in records:
                saved = SavedUserEvent(
                    event.sequence,
                    event.ltime,
                    event.name,
                    event.payload,
                    event.coalesce,
                    own=False,
                    time=0.0,
                    request=None,
                )
                records[event.sequence] = user_event_fields(saved)
        for question in self._serf.answering.saved():
            if question.sequence:
                records[question.sequence] = fields(RecordKind.QUESTION, question)
        for sequence in sorted(records):
            yield records[sequence]
