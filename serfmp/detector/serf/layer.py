"""Serf above SWIM: clocks, queues, members, events, and what a push/pull carries (spec serf.md 3, 5, 12, 13).

Rules:

* SWIM tells this layer of nodes and messages by the `Delegate` interface; this layer answers by queueing gossip and
  appending effects.
* The queues are drawn in the order intents, queries, user events.
* What a push/pull brings is merged in slices and never gossiped on; only the contradiction of a leave intent about the
  local node is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from serfmp.detector.effects import Lifecycle, LifecycleChanged, MemberStatus, Record
from serfmp.detector.records import RecordKind, Recovered
from serfmp.detector.serf.answering import Answering
from serfmp.detector.serf.asking import Asking
from serfmp.detector.serf.clock import LamportClock
from serfmp.detector.serf.coalescing import Coalescing
from serfmp.detector.serf.conflicts import NAME, Conflicts
from serfmp.detector.serf.intents import RecentIntents
from serfmp.detector.serf.internal import InternalQueries
from serfmp.detector.serf.keys import KeyManager, KeyRing
from serfmp.detector.serf.members import Members
from serfmp.detector.serf.outbox import Outbox
from serfmp.detector.serf.persisting import Persisting
from serfmp.detector.serf.positions import Positions
from serfmp.detector.serf.queries import Queries
from serfmp.detector.serf.user_events import UserEvents
from serfmp.detector.swim.context import Context
from serfmp.detector.swim.gossip import Gossip
from serfmp.detector.swim.table import NodeRecord
from serfmp.detector.swim.timers import Ticker
from serfmp.errors import RemoteError
from serfmp.wire.address import to_text
from serfmp.wire.messages import User, encode
from serfmp.wire.serf_messages import (
    JoinIntent,
    LeaveIntent,
    Query,
    QueryResponse,
    Relay,
    SerfMessage,
    SerfType,
    UserEvent,
    decode_serf,
    encode_serf,
)
from serfmp.wire.serf_state import STATE_TYPE, PushPullState, decode_push_pull_state, encode_push_pull_state
from serfmp.wire.snapshot import SnapshotState
from serfmp.wire.tags import decode_tags

NEWS_INTERVAL: Final = 0.01
"""Seconds between two lines about messages of one kind. Ours; Serf tells of each, repetitions too."""

_KNOWN: Final = frozenset(
    {
        SerfType.LEAVE,
        SerfType.JOIN,
        SerfType.USER_EVENT,
        SerfType.QUERY,
        SerfType.QUERY_RESPONSE,
        SerfType.RELAY,
    }
)


class Serf:
    """The layer above SWIM. See the module."""

    def __init__(
        self, context: Context, gossip: Gossip, recovered: Recovered | None, found: SnapshotState | None = None
    ) -> None:
        """`found`: what the snapshot of an agent that is started again adds up to."""
        config = context.config
        saved = recovered if recovered is not None else Recovered()
        clocks = [LamportClock(max(1, time)) for time in saved.clocks]
        self._context = context
        self._gossip = gossip
        self.clock, event_clock, query_clock = clocks
        self.lifecycle = saved.lifecycle
        self.leave_ltime = saved.leave_ltime
        self.ignore_old = False
        """A join runs that does not want the events of before it."""
        self.persisting = Persisting(context)
        self.outbox = Outbox(context, recovered)
        self.coalescing = Coalescing(context, self.outbox, self.persisting, saved.untold.values(), saved.held)
        self.recent_intents = RecentIntents(context, saved.intents.values())
        self.members = Members(
            context,
            self.clock,
            self.recent_intents,
            self.coalescing,
            self._contradict_leave,
            self._broadcast_prune,
            saved.members.values(),
        )
        population = self.members.size
        self.intents = gossip.add_queue("Intent", population, config.queue_depth_limit)
        query_queue = gossip.add_queue("Query", population, config.queue_depth_limit)
        event_queue = gossip.add_queue("Event", population, config.queue_depth_limit)
        self.events = UserEvents(context, gossip, event_queue, self.outbox, self.coalescing, event_clock)
        self.positions = Positions(context, self.members, saved.coordinate)
        self.asking = Asking(context, query_clock, gossip.live_nodes, self._take_own_query)
        self.answering = Answering(context, gossip, self.members, self.asking.collect)
        self.internal = InternalQueries(context)
        self.ring = KeyRing(context, self.internal, saved.keys)
        self.key_manager = KeyManager(context, gossip, self.members, self.asking)
        self.conflicts = Conflicts(context, self.members, self.asking, self._give_up)
        self.internal.add(NAME, self.conflicts.answer)
        self.queries = Queries(
            context,
            gossip,
            query_queue,
            query_clock,
            self.outbox,
            self.answering,
            self.internal,
            self.own_tags,
        )
        for row in saved.members.values():
            self.clock.witness(row.status_ltime)
        for intent in saved.intents.values():
            self.clock.witness(intent.ltime)
        for ltime in saved.user_events:
            event_clock.witness(ltime)
        for ltime, _ in saved.queries:
            query_clock.witness(ltime)
        self.events.restore(saved)
        self.queries.restore(saved.queries)
        self.queries.minimum = saved.query_minimum
        self.answering.restore(saved.questions.values())
        self.asking.restore(saved.asks.values())
        if found is not None:
            self._go_on_from(found)
        if recovered is not None:
            if self.lifecycle is not Lifecycle.ALIVE:
                self.persisting.leave()
            self.persisting.everything(row.saved() for row in self.members)
        self._deep: set[str] = set()
        Ticker(context.timers, context.time, context.rng, config.reap_interval, self._tidy)
        Ticker(context.timers, context.time, context.rng, config.queue_check_interval, self._watch_queues)

    def _go_on_from(self, found: SnapshotState) -> None:
        """Clocks and minimum times of the agent that wrote this snapshot (spec serf.md 14)."""
        for clock, ltime in (
            (self.clock, found.clock),
            (self.events.clock, found.event_clock),
            (self.queries.clock, found.query_clock),
        ):
            clock.witness(ltime)
        self.events.raise_minimum(found.event_clock + 1)
        self.queries.raise_minimum(found.query_clock + 1)

    @property
    def clocks(self) -> tuple[int, int, int]:
        """Member, event and query clock."""
        return self.clock.time, self.events.clock.time, self.queries.clock.time

    def set_lifecycle(self, state: Lifecycle) -> None:
        """The local node begins to leave, or has left."""
        self.lifecycle = state
        if state in {Lifecycle.LEFT, Lifecycle.SHUTDOWN}:
            self.coalescing.flush()
        self._context.effects.append(Record((RecordKind.LIFECYCLE.value, state.value, self.leave_ltime)))
        self._context.effects.append(LifecycleChanged(state))

    def own_tags(self) -> Mapping[str, str]:
        """The tags of the local node as they are now."""
        row = self.members.get(self._context.config.node)
        return self._context.config.tags if row is None else decode_tags(row.meta)

    def _take_own_query(self, query: Query, encoded: bytes) -> None:
        self.queries.receive(query, encoded)

    def _give_up(self) -> None:
        """The local node has no right to its name."""
        self.set_lifecycle(Lifecycle.SHUTDOWN)

    # --- notices of SWIM ----------------------------------------------------------------------------------------------

    def node_joined(self, record: NodeRecord) -> None:
        """See `Delegate`."""
        self.members.joined(record)

    def node_gone(self, record: NodeRecord) -> None:
        """See `Delegate`."""
        self.members.gone(record)

    def node_updated(self, record: NodeRecord) -> None:
        """See `Delegate`."""
        self.members.updated(record)

    def name_conflict(self, record: NodeRecord, address: bytes, port: int) -> None:
        """See `Delegate`; spec serf.md 7."""
        theirs = f"{to_text(address)}:{port}"
        if record.name == self._context.config.node:
            resolve = self._context.config.resolve_name_conflicts
            enabled = f"(Resolution enabled: {str(resolve).lower()})"
            text = f"Node name conflicts with another node at {theirs}. Names must be unique! {enabled}"
            self._context.log("ERR", "serf", text)
            if resolve and self.lifecycle is Lifecycle.ALIVE:
                self.conflicts.begin(address, port)
        else:
            both = f"both {record.endpoint[0]}:{record.port} and {theirs}"
            self._context.log("WARN", "serf", f"Name conflict for '{record.name}' {both} are claiming")

    def ack_payload(self) -> bytes:
        """See `Delegate`."""
        return self.positions.payload

    def ping_completed(self, node: str, round_trip: float, payload: bytes) -> None:
        """See `Delegate`."""
        self.positions.ping_completed(node, round_trip, payload)

    # --- gossip -------------------------------------------------------------------------------------------------------

    def news(self, messages: Iterable[bytes]) -> list[bytes]:
        """Of the messages of a packet those that did not come before, byte for byte. The others are only counted."""
        known, others = self.events.recent.split(messages)
        if known:
            # Without the byte that says that it is Serf's.
            self._context.sample_all("serf.msgs.received", [len(message) - 1 for message in known])
        return others

    def user_message(self, payload: bytes) -> None:
        """See `Delegate`."""
        if not payload:
            return
        self._context.sample("serf.msgs.received", len(payload))
        kind = payload[0]
        if kind not in _KNOWN:
            self._context.count("serfmp.refused.serf_type")
            if not self._context.quiet("unknown type"):
                self._context.log("WARN", "serf", f"Received message of unknown type: {kind}")
            return
        try:
            message = decode_serf(payload)
        except RemoteError as fault:
            self._context.count("serfmp.refused.serf")
            if not self._context.quiet("undecodable message"):
                self._context.log("ERR", "serf", f"Error decoding {SerfType(kind).name.lower()} message: {fault}")
            return
        self._take(message, payload)

    def _take(self, message: SerfMessage, payload: bytes) -> None:
        match message:
            case UserEvent():
                if self.events.receive(message, payload):
                    self._tell_news("messageUserEventType", message.name)
            case Query():
                if self.queries.receive(message, payload):
                    self._tell_news("messageQueryType", message.name)
            case QueryResponse():
                self._tell_news("messageQueryResponseType", message.sender)
                self.asking.collect(message)
            case Relay():
                self.answering.relay(message)
            case JoinIntent(ltime, node):
                if self.members.join_intent(ltime, node):
                    self._tell_news("messageJoinType", node)
                    self._queue_intent(payload)
            case LeaveIntent(ltime, node, prune):
                if self.members.leave_intent(ltime, node, prune):
                    self._tell_news("messageLeaveType", node)
                    self._queue_intent(payload)

    def _tell_news(self, kind: str, name: str) -> None:
        """A line about a message that was news, as long as there are not too many of its kind (spec serf.md 17)."""
        if not self._context.quiet(kind, NEWS_INTERVAL):
            self._context.log("DEBUG", "serf", f"{kind}: {name}")

    def _queue_intent(self, encoded: bytes, finished: Callable[[], None] | None = None) -> None:
        self._gossip.enqueue(self.intents, encode(User(encoded)), finished=finished)

    # --- own intents --------------------------------------------------------------------------------------------------

    def broadcast_join(self) -> None:
        """Tell everybody that the local node joined, or never left (spec serf.md 5.6)."""
        ltime = self.clock.time
        self.clock.witness(ltime)
        own = self._context.config.node
        self.members.join_intent(ltime, own)
        self._queue_intent(encode_serf(JoinIntent(ltime, own)))

    def _contradict_leave(self) -> bool:
        """A leave intent about the local node came (spec serf.md 5.5 step 4)."""
        if self.lifecycle is not Lifecycle.ALIVE:
            return False
        self._context.log("DEBUG", "serf", "Refuting an older leave intent")
        self.broadcast_join()
        return True

    def broadcast_leave(self, intent: LeaveIntent, finished: Callable[[], None] | None = None) -> bytes:
        """Queue a leave intent of the local node's making. Returns the message, to be handed on directly too."""
        encoded = encode_serf(intent)
        self._queue_intent(encoded, finished)
        return encode(User(encoded))

    def _broadcast_prune(self, node: str) -> int:
        """A node that was to be pruned once it is gone is gone: tell everybody. Returns the intent's Lamport time."""
        ltime = self.clock.increment()
        self.broadcast_leave(LeaveIntent(ltime, node, prune=True))
        return ltime

    def _tidy(self) -> None:
        self.recent_intents.expire()
        self._ask_the_leaving()

    def _ask_the_leaving(self) -> None:
        """Repeat to each leaving member what is held of it, so that one that stays can contradict (fix 20.4).

        Intents of equal Lamport times never settle by themselves: whoever heard the leave first would hold it for good.
        """
        if not self.members.counts[MemberStatus.LEAVING]:
            return
        for row in self.members:
            if row.status is MemberStatus.LEAVING and row.name != self._context.config.node:
                intent = LeaveIntent(row.status_ltime, row.name)
                self._gossip.direct((to_text(row.address), row.port), encode(User(encode_serf(intent))))

    # --- push/pull ----------------------------------------------------------------------------------------------------

    def local_state(self) -> bytes:
        """See `Delegate`; spec serf.md 12."""
        return encode_push_pull_state(
            PushPullState(
                ltime=self.clock.time,
                status_ltimes={row.name: row.status_ltime for row in self.members},
                left_members=tuple(row.name for row in self.members if row.status is MemberStatus.LEFT),
                event_ltime=self.events.clock.time,
                events=self.events.slots(),
                query_ltime=self.queries.clock.time,
            )
        )

    def merge_state(self, state: bytes, join: bool) -> Iterator[int]:
        """See `Delegate`; spec serf.md 12."""
        if state[0] != STATE_TYPE:
            self._context.log("ERR", "serf", f"Remote state has bad type prefix: {state[0]}")
            return
        try:
            remote = decode_push_pull_state(state)
        except RemoteError as fault:
            self._context.log("ERR", "serf", f"Failed to decode remote state: {fault}")
            return
        yield len(remote.status_ltimes) // 8
        for clock, ltime in (
            (self.clock, remote.ltime),
            (self.events.clock, remote.event_ltime),
            (self.queries.clock, remote.query_ltime),
        ):
            if ltime > 0:
                clock.witness(ltime - 1)
        left = set(remote.left_members)
        for name in remote.left_members:
            self.members.left_elsewhere(remote.status_ltimes.get(name, 0), name)
            yield 1
        for name, ltime in remote.status_ltimes.items():
            if name not in left:
                self._status_elsewhere(ltime, name)
            yield 1
        if join and self.ignore_old:
            self.events.raise_minimum(remote.event_ltime)
        for slot in sorted(remote.events, key=lambda slot: slot.ltime):
            self.events.replay(slot)
            yield len(slot.events)

    def _status_elsewhere(self, ltime: int, name: str) -> None:
        """A push/pull has this status time of a member that is not listed as left (spec serf.md 12 step 4, fix 20.4).

        A later time of the local node may be that of a leave that never came here: whoever has it shows us as leaving.
        """
        if self.members.join_intent(ltime, name) and name == self._context.config.node:
            self._contradict_leave()

    # --- supervision --------------------------------------------------------------------------------------------------

    def _watch_queues(self) -> None:
        """Samples, and a warning when a queue becomes deep (spec serf.md 13)."""
        context = self._context
        context.sample("memberlist.queue.broadcasts", self._gossip.membership.size)
        for queue in self._gossip.queues[1:]:
            context.sample(f"serf.queue.{queue.name}", queue.size)
            if queue.size < context.config.queue_depth_warning:
                self._deep.discard(queue.name)
            elif queue.name not in self._deep:
                self._deep.add(queue.name)
                context.log("WARN", "serf", f"{queue.name} queue depth: {queue.size}")
