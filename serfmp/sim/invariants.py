"""What must hold at every step of every run: the rules of spec swim.md 14.1 and serf.md 18, checked from outside.

Rules:

* What can be seen in journal records, packets and events is checked there, at each of them; the rest by looking at the
  core after each turn of its host. A full audit of a host is dearer and is asked for.
* The first broken rule ends the run with `BrokenError`, which names the rule, the host and the time.
* The watch survives the detectors, as the users of an agent do: a detector that is killed must go on where its journal
  ends.
"""

from __future__ import annotations

from typing import Any, Final

from serfmp.detector.config import Profile
from serfmp.detector.effects import (
    Effect,
    Event,
    EventKind,
    Log,
    MemberEvent,
    MemberStatus,
    Plain,
    QueryReceived,
    SendPacket,
    UserEventReceived,
)
from serfmp.detector.records import CONSUMERS, HELD, RecordKind, Recovered
from serfmp.detector.swim.suspicion import Suspicion
from serfmp.detector.swim.table import NodeState
from serfmp.errors import InternalError
from serfmp.sim.host import Host, SeenCore
from serfmp.sim.query_watch import QueryWatch
from serfmp.wire.message_types import MessageType
from serfmp.wire.messages import Alive, decode_packet_message

JOIN, UPDATE, REAP = EventKind.MEMBER_JOIN, EventKind.MEMBER_UPDATE, EventKind.MEMBER_REAP
LEAVE, FAILED = EventKind.MEMBER_LEAVE, EventKind.MEMBER_FAILED

FOLLOWS: Final[dict[EventKind | None, frozenset[EventKind]]] = {
    None: frozenset({JOIN}),
    JOIN: frozenset({LEAVE, FAILED, UPDATE}),
    UPDATE: frozenset({LEAVE, FAILED, UPDATE}),
    LEAVE: frozenset({JOIN, REAP}),
    FAILED: frozenset({JOIN, LEAVE, REAP}),  # an intent that comes late turns failed into left
    REAP: frozenset({JOIN}),
}
"""What may follow what in the events about one member (serf.md P13, swim.md I7)."""

COLLECTED: Final[dict[EventKind | None, frozenset[EventKind]]] = {
    None: frozenset({JOIN, LEAVE, FAILED, REAP}),
    JOIN: frozenset({LEAVE, FAILED, UPDATE}),
    UPDATE: frozenset({LEAVE, FAILED, UPDATE}),
    LEAVE: frozenset({JOIN, FAILED, REAP}),
    FAILED: frozenset({JOIN, LEAVE, REAP}),
    REAP: frozenset({JOIN, LEAVE, FAILED, REAP}),
}
"""The same where events are collected: what came and went within one batch may show by its end only (P17)."""

HERE: Final = frozenset({MemberStatus.ALIVE, MemberStatus.LEAVING})
SHOWN: Final = {JOIN: HERE, UPDATE: HERE, LEAVE: {MemberStatus.LEFT}, FAILED: {MemberStatus.FAILED}}
"""Statuses that agree with the last event about a member."""

ALIVE_BYTE: Final = int(MessageType.ALIVE)
PART_OVERHEAD: Final = 2
COMPOUND_OVERHEAD: Final = 2
CHECKSUM_OVERHEAD: Final = 5
ROUNDING: Final = 0.002
"""Seconds: time-outs are floored to milliseconds."""
EXCUSED: Final = 1.0
"""Seconds by which a suspicion may overrun its window: fences, and pauses too short to be reported."""

ACKS_AT_LEAST: Final = 16
ACKS_PER_NODE: Final = 4
"""Acks that may be waited for: each node asks for one probe at a time, but packets may be repeated."""


class BrokenError(InternalError):
    """A rule was broken: the core, or the simulator, is wrong."""


class _Seen:
    """What was seen of one agent since it began."""

    def __init__(self) -> None:
        self.nodes: dict[str, tuple[bytes, int, int, int]] = {}
        """Address, port, incarnation, rank by name, as journaled."""
        self.ltimes: dict[str, int] = {}
        self.clocks: tuple[int, ...] = (0, 0, 0)
        self.own_event_ltime = 0
        self.minimum = 0
        self.sequences = dict.fromkeys(CONSUMERS, 0)
        self.kinds: dict[str, dict[str, EventKind]] = {name: {} for name in CONSUMERS}
        self.held: set[tuple[int, str, bytes]] = set()
        self.delivered: dict[str, set[tuple[int, str, bytes]]] = {name: set() for name in CONSUMERS}
        self.changed: list[str] = []
        self.suspicions: dict[str, Suspicion] = {}
        self.core: SeenCore | None = None
        self.left_with: int | None = None


class Invariants:
    """The watch. See the module."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._seen: dict[str, _Seen] = {}
        self._issued: dict[str, int] = {}
        self._now = 0.0
        self.queries = QueryWatch(self._fail)
        self.checks = 0
        """Turns that were looked at."""

    def _fail(self, host: Host, rule: str, text: str) -> None:
        raise BrokenError(f"{rule} broken at {host.name}, {self._now:.4f} s: {text}")

    def _of(self, host: Host) -> _Seen:
        seen = self._seen.get(host.name)
        if seen is None:
            seen = self._seen[host.name] = _Seen()
        return seen

    def forget(self, host: Host) -> None:
        """See `Watch`."""
        self._seen.pop(host.name, None)

    # --- the journal --------------------------------------------------------------------------------------------------

    def recorded(self, host: Host, fields: tuple[Plain, ...]) -> None:
        """See `Watch`."""
        kind, *values = fields
        seen = self._of(host)
        match kind:
            case RecordKind.NODE:
                self._node(host, seen, values)
            case RecordKind.NODE_GONE:
                seen.nodes.pop(str(values[0]), None)
            case RecordKind.MEMBER:
                self._member(host, seen, values)
            case RecordKind.MEMBER_EVENT:
                self._member_event(host, seen, values)
            case RecordKind.UNTOLD:
                self._untold(host, seen, values)
            case RecordKind.CLOCKS:
                self._clocks(host, seen, values)
            case RecordKind.USER_EVENT:
                self._user_event(host, seen, values)
            case RecordKind.EVENT_MINIMUM:
                seen.minimum = max(seen.minimum, int(str(values[0])))
            case _:
                pass

    def _node(self, host: Host, seen: _Seen, values: list[Any]) -> None:
        name, address, port, _, _, incarnation, state, _ = values
        rank = min(state, NodeState.DEAD)
        before = seen.nodes.get(name)
        if before is not None and before[:2] == (address, port) and before[2:] > (incarnation, rank):
            text = f"{name} went from incarnation, rank {before[2:]} to {(incarnation, rank)}"
            self._fail(host, "I1, I2, I6", text)
        if state == NodeState.ALIVE and name != host.name and incarnation > self._issued.get(name, 0):
            self._fail(host, "I3", f"{name} is alive with incarnation {incarnation}, which it never had")
        if name == host.name and state in {NodeState.SUSPECT, NodeState.DEAD}:
            self._fail(host, "I4", "it believes itself suspect or dead")
        seen.nodes[name] = (address, port, incarnation, rank)
        seen.changed.append(name)

    def _member(self, host: Host, seen: _Seen, values: list[Any]) -> None:
        name, ltime = values[0], values[6]
        if ltime < seen.ltimes.get(name, 0):
            self._fail(host, "P5", f"the status time of {name} fell from {seen.ltimes[name]} to {ltime}")
        seen.ltimes[name] = ltime

    def _member_event(self, host: Host, seen: _Seen, values: list[Any]) -> None:
        for row in values[2]:
            if values[1] == REAP:
                seen.ltimes.pop(row[0], None)
            else:
                self._member(host, seen, row)

    def _untold(self, host: Host, seen: _Seen, values: list[Any]) -> None:
        _, row, _, reaped = values
        if reaped:
            seen.ltimes.pop(row[0], None)
        else:
            self._member(host, seen, row)

    def _clocks(self, host: Host, seen: _Seen, values: list[Any]) -> None:
        if any(new < old for new, old in zip(values, seen.clocks, strict=True)):
            self._fail(host, "P1", f"clocks went back from {seen.clocks} to {values}")
        seen.clocks = tuple(values)

    def _user_event(self, host: Host, seen: _Seen, values: list[Any]) -> None:
        sequence, ltime, name, payload, _, own, _, _ = values
        key = (ltime, name, payload)
        if key in seen.held:
            seen.held.discard(key)
            return
        if sequence == HELD:
            seen.held.add(key)
        if ltime < seen.minimum:
            self._fail(host, "P15", f"{name} of time {ltime} was delivered, the minimum is {seen.minimum}")
        if own:
            if ltime <= seen.own_event_ltime:
                self._fail(host, "P2", f"it issued event time {ltime} after {seen.own_event_ltime}")
            seen.own_event_ltime = ltime

    # --- events -------------------------------------------------------------------------------------------------------

    def took(self, host: Host, consumer: str, event: Event) -> None:
        """See `Watch`."""
        seen = self._of(host)
        if event.sequence != seen.sequences[consumer] + 1:
            text = f"{consumer} got event {event.sequence} after {seen.sequences[consumer]}"
            self._fail(host, "Exactly once", text)
        seen.sequences[consumer] = event.sequence
        if isinstance(event, MemberEvent):
            for member in event.members:
                last = seen.kinds[consumer].get(member.name)
                follows = COLLECTED if host.config.coalesce_period else FOLLOWS
                if event.kind not in follows[last]:
                    before = "nothing" if last is None else last.label
                    self._fail(host, "I7, P13", f"{event.kind.label} of {member.name} follows {before}")
                seen.kinds[consumer][member.name] = event.kind
        elif isinstance(event, QueryReceived):
            self._took_query(host, seen, consumer, event)
        else:
            self._took_user_event(host, seen, consumer, event)

    def _took_user_event(self, host: Host, seen: _Seen, consumer: str, event: UserEventReceived) -> None:
        key = (event.ltime, event.name, event.payload)
        if key in seen.delivered[consumer]:
            self._fail(host, "P14", f"{consumer} got {event.name} of time {event.ltime} twice")
        seen.delivered[consumer].add(key)

    def _took_query(self, host: Host, seen: _Seen, consumer: str, event: QueryReceived) -> None:
        key = (event.ltime, "", event.id.to_bytes(4))
        if key in seen.delivered[consumer]:
            self._fail(host, "P18", f"{consumer} got query {event.name} of time {event.ltime} twice")
        seen.delivered[consumer].add(key)
        self.queries.took(host, event)

    # --- turns --------------------------------------------------------------------------------------------------------

    def turned(self, host: Host, effects: list[Effect], now: float) -> None:
        """See `Watch`."""
        self._now = now
        self.checks += 1
        self.queries.turned(host, effects, now)
        core, seen = host.core, self._of(host)
        if core is None:
            return
        if seen.core is not core:
            seen.core, seen.left_with = core, None
            seen.suspicions = {record.name: record.suspicion for record in core.swim.table if record.suspicion}
        swim = core.swim
        had_left = seen.left_with is not None  # in an earlier turn: in this one, it may have been alive first
        incarnation = swim.membership.incarnation
        self._issued[host.name] = max(incarnation, self._issued.get(host.name, 0))
        self._own(host, core, seen)
        if not 0 <= swim.awareness.score < self._profile.awareness_max_multiplier:
            self._fail(host, "I11", f"the health score is {swim.awareness.score}")
        for effect in effects:
            if isinstance(effect, SendPacket):
                self._packet(host, effect, had_left)
            elif isinstance(effect, Log) and effect.text.startswith("Marking "):
                self._marked(host, seen, effect.text.split()[1])
        if seen.changed:
            for name in seen.changed:
                self._suspicion(host, core, seen, name)
            seen.changed = []

    def _own(self, host: Host, core: SeenCore, seen: _Seen) -> None:
        own, left = core.swim.table.get(host.name), core.swim.membership.left
        if own is None or own.state is not (NodeState.LEFT if left else NodeState.ALIVE):
            self._fail(host, "I4", f"its own record is {own.state.name if own is not None else 'gone'}")
        if left:
            if seen.left_with is None:
                seen.left_with = core.swim.membership.incarnation
            elif core.swim.membership.incarnation != seen.left_with:
                self._fail(host, "I5", "it made a new incarnation after it had left")

    def _packet(self, host: Host, packet: SendPacket, had_left: bool) -> None:
        parts = packet.parts
        size = sum(map(len, parts)) + (CHECKSUM_OVERHEAD if packet.checksum else 0)
        if len(parts) > 1:
            size += COMPOUND_OVERHEAD + PART_OVERHEAD * len(parts)
        if size > self._profile.packet_size or not all(parts):
            self._fail(host, "I10", f"a packet of {size} bytes in {len(parts)} parts")
        for part in parts:
            if part[0] == ALIVE_BYTE:
                message = decode_packet_message(part)
                if isinstance(message, Alive) and message.incarnation > self._issued.get(message.node, 0):
                    text = f"it sends that {message.node} is alive with incarnation {message.incarnation}"
                    self._fail(host, "I3", text)
                if isinstance(message, Alive) and message.node == host.name and had_left:
                    self._fail(host, "I5", "it says that it is alive after it has left")

    def _suspicion(self, host: Host, core: SeenCore, seen: _Seen, name: str) -> None:
        record = core.swim.table.get(name)
        suspicion = record.suspicion if record is not None else None
        if (suspicion is not None) is not (record is not None and record.state is NodeState.SUSPECT):
            self._fail(host, "I8", f"suspicion and state of {name} do not fit")
        if suspicion is None:
            seen.suspicions.pop(name, None)
        else:
            if suspicion.timer is None or suspicion.timer.callback is None:
                self._fail(host, "I8", f"the suspicion of {name} has no timer")
            seen.suspicions[name] = suspicion

    def _marked(self, host: Host, seen: _Seen, name: str) -> None:
        suspicion = seen.suspicions.get(name)
        if suspicion is None:  # began in this very turn: only a window of no length may do that
            self._fail(host, "I8", f"{name} is marked as failed without a suspicion")
            return
        lasted = self._now - suspicion.started
        window = suspicion.window
        if not window.shortest - ROUNDING <= lasted <= window.longest + EXCUSED:
            text = f"{name} had {lasted:.3f} s to refute, not {window.shortest:.3f} to {window.longest:.3f}"
            self._fail(host, "I8", text)

    # --- at length ----------------------------------------------------------------------------------------------------

    def audit(self, host: Host) -> None:
        """Everything about one host that runs and is between two turns."""
        core = host.alive
        seen, table, members = self._of(host), core.swim.table, core.serf.members
        for record in table:
            self._suspicion(host, core, seen, record.name)
            row = members.get(record.name)
            if not record.gone and (row is None or row.status not in HERE):
                self._fail(host, "Layers", f"{record.name} is {record.state.name}, the member is not")
            if record.gone and row is not None and row.status in HERE:
                self._fail(host, "Layers", f"{record.name} is {record.state.name}, the member is {row.status.label}")
        statuses = [row.status for row in members]
        if {status: count for status, count in members.counts.items() if count} != {
            status: statuses.count(status) for status in set(statuses)
        }:
            self._fail(host, "P4", f"the counts are {members.counts}, the rows {statuses}")
        untold = {member.row.name for member in core.serf.coalescing.untold()}
        for consumer in CONSUMERS:
            for row in members:
                kind = seen.kinds[consumer].get(row.name)
                if kind is not None and row.name not in untold and row.status not in SHOWN.get(kind, ()):
                    self._fail(host, "Story", f"{row.name} is {row.status.label}, {consumer} last saw {kind.label}")
        outstanding, limit = core.swim.outstanding, ACKS_AT_LEAST + ACKS_PER_NODE * len(table)
        if outstanding > limit:
            self._fail(host, "I12", f"{outstanding} acks are waited for")

    def dying(self, host: Host) -> None:
        """See `Watch`: what a recovery would find is what is there."""
        if host.core is None or host.paused:
            return
        core, found = host.core, Recovered.replay(host.journal)
        nodes = {record.name: record.saved() for record in core.swim.table}
        members = {row.name: row.saved() for row in core.serf.members}
        for rule, inside, outside in (
            ("nodes", nodes, found.nodes),
            ("members", members, found.members),
            ("clocks", core.serf.clocks, found.clocks),
            ("incarnation", core.swim.membership.incarnation, found.incarnation),
            ("lifecycle", core.serf.lifecycle, found.lifecycle),
            ("last event", core.serf.outbox.sequence, found.sequence),
            ("untold members", list(core.serf.coalescing.untold()), list(found.untold.values())),
            ("held events", list(core.serf.coalescing.held()), list(found.held)),
        ):
            if inside != outside:
                self._fail(host, "Journal", f"{rule}: the core has {inside}, the journal {outside}")
        if found.skipped:
            self._fail(host, "Journal", f"{found.skipped} records cannot be understood")
