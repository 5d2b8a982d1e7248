"""The transition table of SWIM: what an alive, suspect or dead message does to a node's record (spec swim.md 3).

Rules:

* Only the named node makes a new incarnation of itself. At one incarnation the order is alive < suspect < dead or left.
* Address conflicts are decided before incarnations, and concern the local node too.
* Accusations of the local node are refuted at once, with a higher incarnation, until it has left. One that is older
  than the present incarnation is answered with the present alive (B4), so that the accuser learns of the refutation
  that it missed.
* Incarnations near the end of their 32 bits are nobody's: such messages are dropped and counted (B12); no incarnation
  ever wraps.
* A suspicion learned from a push/pull starts without a counted accuser and confirms no other (B13).
* Every change is told to the delegate after it is complete; accepted messages are gossiped on under the node's name
  (B11).

Gates are named in the comments as in the spec: A1, S3, D5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from serfmp.detector.config import NAME_RULE, is_valid_name
from serfmp.detector.effects import Record
from serfmp.detector.records import RecordKind
from serfmp.detector.swim.awareness import Awareness
from serfmp.detector.swim.context import Context
from serfmp.detector.swim.delegate import Delegate
from serfmp.detector.swim.evidence import Finding
from serfmp.detector.swim.gossip import Gossip
from serfmp.detector.swim.suspicion import Suspicion, SuspicionWindow
from serfmp.detector.swim.table import NodeRecord, NodeState, NodeTable
from serfmp.wire.address import to_text
from serfmp.wire.messages import Alive, Dead, Suspect, encode, version_fault

INCARNATION_LIMIT: Final = (1 << 32) - (1 << 16)
"""Messages with an incarnation from here on are invalid (B12)."""

REBUFF_INTERVAL: Final = 1.0
"""Seconds between two answers to the outdated alive of one node (B5), and between re-queued own alives (B4). Ours."""


class Membership:
    """Carries out the transitions. See the module."""

    __slots__ = (
        "_awareness",
        "_context",
        "_delegate",
        "_gossip",
        "_own",
        "_table",
        "answer_with_alive",
        "incarnation",
        "left",
        "meta",
        "refutations",
    )

    def __init__(
        self, context: Context, table: NodeTable, gossip: Gossip, awareness: Awareness, delegate: Delegate
    ) -> None:
        self._context = context
        self._table = table
        self._gossip = gossip
        self._awareness = awareness
        self._delegate = delegate
        self._own = context.config.node
        self.incarnation = 0
        """Own incarnation; the first alive carries 1."""
        self.meta = context.config.meta
        """The local node's tags as gossiped; they may change while it runs."""
        self.left = False
        """The local node has left: nothing about it is accepted or refuted any more."""
        self.answer_with_alive = b""
        """The own alive, if somebody accused the local node in this turn: acks carry it first (B4)."""
        self.refutations = 0
        """How often the local node refuted."""

    # --- the local node -----------------------------------------------------------------------------------------------

    def announce(self, finished: Callable[[], None] | None = None) -> None:
        """Tell the cluster of the local node, with a new incarnation (spec swim.md 3.7)."""
        self._advance_incarnation(0)
        config = self._context.config
        alive = Alive(self.incarnation, self._own, config.address, config.port, self.meta, config.versions)
        self.alive(alive, bootstrap=True, finished=finished)

    def change_meta(self, meta: bytes, finished: Callable[[], None] | None = None) -> None:
        """Tell the cluster of new tags, with a new incarnation. `finished`: told when that was sent often enough."""
        self.meta = meta
        self.announce(finished)

    def own_alive(self) -> bytes:
        """The alive message of the local node as it stands."""
        config = self._context.config
        record = self._table.get(self._own)
        meta = self.meta if record is None else record.meta
        return encode(Alive(self.incarnation, self._own, config.address, config.port, meta, config.versions))

    def leave(self, finished: Callable[[], None] | None = None) -> bytes:
        """Declare the local node gone, for good (spec swim.md 11.3). Returns the message, to be handed on too."""
        self.left = True
        message = Dead(self.incarnation, self._own, self._own)
        self.dead(message, finished)
        return encode(message)

    def _advance_incarnation(self, accused_at: int) -> None:
        incarnation = max(self.incarnation + 1, accused_at + 1)
        if incarnation < INCARNATION_LIMIT:
            self.incarnation = incarnation
            self._context.effects.append(Record((RecordKind.OWN.value, incarnation)))

    def _refute(self, accused_at: int) -> None:
        """Raise the own incarnation above an accusation, and say so at once (spec swim.md 3.4)."""
        self._advance_incarnation(accused_at)
        record = self._table.get(self._own)
        if record is not None:
            record.incarnation = self.incarnation
            self._touch(record)
        self._awareness.apply(1)
        self.refutations += 1
        self.answer_with_alive = self.own_alive()
        self._gossip.broadcast(self.answer_with_alive, self._own, urgent=True)

    def _remind(self) -> None:
        """Somebody missed an earlier refutation: repeat it, without a new incarnation (B4)."""
        if self.left:
            return
        self.answer_with_alive = self.own_alive()
        if not self._context.quiet("remind", REBUFF_INTERVAL):
            self._gossip.broadcast(self.answer_with_alive, self._own)

    # --- alive --------------------------------------------------------------------------------------------------------

    def alive(self, message: Alive, bootstrap: bool = False, finished: Callable[[], None] | None = None) -> None:
        """Spec swim.md 3.1. `bootstrap`: the local node announces itself."""
        own = message.node == self._own
        if (own and self.left) or not self._usable(message):  # A1 to A3
            return
        port = message.port or self._context.config.port
        record = self._table.get(message.node)
        replace = record is not None and (record.address != message.address or record.port != port)
        if record is None:
            record = self._create(message, port)  # A5
        elif replace and not self._may_move(record, message, port):  # A7
            return
        if record is None or (not replace and self._outdated(record, message)):  # A8, A9
            return
        if record.suspicion is not None:
            self._context.note(record.name, Finding.REFUTED, record.name, incarnation=message.incarnation)
        record.forget_suspicion()  # A10
        was_gone, old_meta = record.gone, record.meta
        if own and not bootstrap:
            same = message.meta == record.meta and message.versions == record.versions
            if message.incarnation == record.incarnation and same:  # A11
                return
            place = _place(message.address, port)
            self._context.log("WARN", "memberlist", f"Refuting an alive message for '{record.name}' ({place})")
            self._refute(message.incarnation)  # A12
        else:  # A13
            self._gossip.broadcast(encode(message), record.name, finished)
            if was_gone and record.incarnation:
                self._context.note(record.name, Finding.ALIVE, record.name, incarnation=message.incarnation)
            record.incarnation = message.incarnation
            record.describe(message.meta, message.versions)
            record.move(message.address, port)
            if record.state is not NodeState.ALIVE:
                record.state = NodeState.ALIVE
                record.changed = self._context.now
            self._touch(record)
        self._context.count("memberlist.msg.alive")  # A14
        if was_gone:
            self._delegate.node_joined(record)
        elif record.meta != old_meta:
            self._delegate.node_updated(record)

    def _create(self, message: Alive, port: int) -> NodeRecord | None:
        if message.incarnation == 0:  # would only leave a phantom
            return None
        if len(self._table) >= self._context.config.node_limit:
            self._context.count("serfmp.node.refused")
            return None
        record = NodeRecord(message.node, message.address, port, message.meta, message.versions)
        self._table.insert(record)
        return record

    def _may_move(self, record: NodeRecord, message: Alive, port: int) -> bool:
        if record.state is not NodeState.LEFT:
            self._conflict(record, message.address, port)
            return False
        change = f"from {_place(record.address, record.port)} to {_place(message.address, port)}"
        text = f"Updating address for left or failed node {record.name} {change}"
        self._context.log("INFO", "memberlist", text)
        return True

    def _outdated(self, record: NodeRecord, message: Alive) -> bool:
        if record.name == self._own:
            if message.incarnation < record.incarnation:
                self._remind()
                return True
            return False
        if message.incarnation > record.incarnation:
            return False
        if record.gone:
            self._rebuff(record)
        return True

    def _usable(self, message: Alive) -> bool:
        fault = version_fault(message.versions) if len(message.versions) >= 6 else "Vsn is not present"
        if fault:
            self._context.count("serfmp.refused.versions")
            if not self._context.quiet(f"versions {message.node}"):
                text = f"Ignoring an alive message for '{message.node}' because protocol version(s) are wrong: {fault}"
                self._context.log("WARN", "memberlist", text)
            return False
        if self._context.config.validate_node_names and not is_valid_name(message.node):
            self._context.count("serfmp.refused.name")
            if not self._context.quiet(f"name {message.node}"):
                self._context.log("WARN", "memberlist", f"Ignoring an alive message for {message.node!r}: {NAME_RULE}")
            return False
        return self._valid(message.incarnation)

    def _valid(self, incarnation: int) -> bool:
        if incarnation < INCARNATION_LIMIT:
            return True
        self._context.count("serfmp.refused.incarnation")
        return False

    def _conflict(self, record: NodeRecord, address: bytes, port: int) -> None:
        self._context.count("serfmp.conflict")
        if self._context.quiet(f"conflict {record.name}"):
            return
        mine, theirs = _place(record.address, record.port), _place(address, port)
        text = f"Conflicting address for {record.name}. Mine: {mine} Theirs: {theirs} Old state: {int(record.state)}"
        self._context.log("ERR", "memberlist", text)
        self._delegate.name_conflict(record, address, port)

    def _rebuff(self, record: NodeRecord) -> None:
        """Tell a node that came back with too low an incarnation what it must rise above (B5)."""
        if self._context.quiet(f"rebuff {record.name}", REBUFF_INTERVAL):
            return
        sender = record.name if record.state is NodeState.LEFT else self._own
        self._gossip.direct(record.endpoint, encode(Dead(record.incarnation, record.name, sender)))

    # --- suspect ------------------------------------------------------------------------------------------------------

    def suspect(self, message: Suspect, merged: bool = False) -> None:
        """Spec swim.md 3.2. `merged`: read in a push/pull (B13)."""
        record = self._table.get(message.node)
        if record is None or not self._valid(message.incarnation):  # S1
            return
        if message.incarnation < record.incarnation:  # S2
            if message.node == self._own:
                self._remind()
            return
        suspicion = record.suspicion
        if suspicion is not None:  # S3
            if not merged and suspicion.confirm(message.sender):
                self._gossip.broadcast(encode(message), record.name)
                self._arm(record, suspicion)
                self._context.note(
                    record.name,
                    Finding.CONFIRMED,
                    message.sender,
                    confirmations=suspicion.confirmations,
                    wanted=suspicion.window.wanted,
                    left=suspicion.deadline - self._context.now,
                )
            return
        if record.state is not NodeState.ALIVE:  # S4
            return
        if message.node == self._own:  # S5
            if not self.left:
                text = f"Refuting a suspect message (from: {message.sender})"
                self._context.log("WARN", "memberlist", text)
                self._accused("suspect", message)
                self._refute(message.incarnation)
            return
        self._gossip.broadcast(encode(message), record.name)  # S6
        self._context.count("memberlist.msg.suspect")
        record.incarnation = message.incarnation
        record.state = NodeState.SUSPECT
        record.changed = self._context.now
        self._touch(record)
        self.start_suspicion(record, None if merged else message.sender)
        if record.suspicion is not None:
            window = record.suspicion.window
            self._context.note(
                record.name,
                Finding.SUSPECTED,
                message.sender,
                incarnation=message.incarnation,
                wanted=window.wanted,
                shortest=window.shortest,
                longest=window.longest,
                merged=merged,
            )

    def _accused(self, of: str, message: Suspect | Dead) -> None:
        self._context.note(self._own, Finding.ACCUSED, message.sender, of=of, incarnation=message.incarnation)

    def start_suspicion(self, record: NodeRecord, accuser: str | None) -> None:
        """Give a suspect its time to refute."""
        window = SuspicionWindow.for_cluster(len(self._table), self._context.profile)
        record.suspicion = Suspicion(window, accuser, self._context.now)
        self._arm(record, record.suspicion)

    def _arm(self, record: NodeRecord, suspicion: Suspicion) -> None:
        suspicion.cancel()

        def expired() -> None:
            self._expired(record, suspicion)

        suspicion.timer = self._context.timers.at(suspicion.deadline, expired, blames=True)

    def _expired(self, record: NodeRecord, suspicion: Suspicion) -> None:
        """Nobody refuted in time (spec swim.md 5.4)."""
        confirmed = suspicion.confirmations
        if confirmed < suspicion.window.wanted:
            self._context.count("memberlist.degraded.timeout")
        text = f"Marking {record.name} as failed, suspect timeout reached ({confirmed} peer confirmations)"
        self._context.log("INFO", "memberlist", text)
        self._context.note(
            record.name,
            Finding.EXPIRED,
            confirmations=confirmed,
            wanted=suspicion.window.wanted,
            lasted=self._context.now - suspicion.started,
        )
        self.dead(Dead(record.incarnation, record.name, self._own))

    def postpone(self, seconds: float) -> None:
        """The process was frozen: suspicions go on for so much longer (B6). Their timers are moved by the caller."""
        for record in self._table:
            if record.suspicion is not None:
                record.suspicion.started += seconds

    # --- dead ---------------------------------------------------------------------------------------------------------

    def dead(self, message: Dead, finished: Callable[[], None] | None = None) -> None:
        """Spec swim.md 3.3. `finished`: told when the own leave was sent often enough."""
        record = self._table.get(message.node)
        if record is None or not self._valid(message.incarnation):  # D1
            return
        own = message.node == self._own
        if message.incarnation < record.incarnation:  # D2
            if own:
                self._remind()
            return
        if record.gone:  # D4
            return
        if own and not self.left:  # D5
            self._context.log("WARN", "memberlist", f"Refuting a dead message (from: {message.sender})")
            self._accused("dead", message)
            self._refute(message.incarnation)
            return
        record.forget_suspicion()  # D3
        self._gossip.broadcast(encode(message), record.name, finished, urgent=own)  # D6, D7
        self._context.count("memberlist.msg.dead")  # D8
        record.incarnation = message.incarnation
        record.state = NodeState.LEFT if message.node == message.sender else NodeState.DEAD
        record.changed = self._context.now
        finding = Finding.LEFT if record.state is NodeState.LEFT else Finding.DEAD
        self._context.note(record.name, finding, message.sender, incarnation=message.incarnation)
        self._touch(record)
        self._delegate.node_gone(record)

    def _touch(self, record: NodeRecord) -> None:
        self._context.changed_nodes[record.name] = None


def _place(address: bytes, port: int) -> str:
    return f"{to_text(address)}:{port}"
