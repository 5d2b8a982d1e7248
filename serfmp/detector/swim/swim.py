"""SWIM as a whole: the parts put together, and where each message goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from serfmp.detector.effects import CloseStream, Endpoint
from serfmp.detector.records import SavedNode
from serfmp.detector.swim.acks import AckHandlers
from serfmp.detector.swim.answering import Answering
from serfmp.detector.swim.awareness import Awareness
from serfmp.detector.swim.context import Context
from serfmp.detector.swim.delegate import Delegate
from serfmp.detector.swim.evidence import Finding
from serfmp.detector.swim.gossip import Gossip
from serfmp.detector.swim.join import Joiner
from serfmp.detector.swim.membership import Membership
from serfmp.detector.swim.probe import Prober
from serfmp.detector.swim.push_pull import PushPull
from serfmp.detector.swim.table import NodeRecord, NodeState, NodeTable
from serfmp.errors import RemoteError
from serfmp.wire.messages import Ack, Alive, Dead, IndirectPing, Nack, Ping, Suspect, User
from serfmp.wire.stream import PushPullReader, decode_stream_message

RESUME_GRACE = 5
"""Probe periods by which a suspend moves what blames at most: the exchange that follows tells the truth. Ours."""

RESYNC_PARTNERS = 2
"""Live nodes to exchange state with after this process was dead or frozen. Ours."""

PacketHandler = Callable[[Any, Endpoint, float, bool], None]
"""Handles a message of one type: message, source, arrival, whether the arrival is exact."""


class Swim:
    """All of SWIM below one delegate."""

    def __init__(self, context: Context, table: NodeTable, gossip: Gossip, delegate: Delegate) -> None:
        self._context = context
        self._delegate = delegate
        self._acks = AckHandlers()
        self.table = table
        self.gossip = gossip
        self.awareness = Awareness(context)
        self.membership = Membership(context, table, gossip, self.awareness, delegate)
        self.answering = Answering(context, gossip, self.membership, self._acks, delegate)
        self.prober = Prober(context, table, gossip, self.awareness, self.membership, self._acks, delegate)
        self.push_pull = PushPull(context, table, gossip, self.membership, delegate)
        self.joiner = Joiner(context, self.push_pull)
        self.handlers: dict[type, PacketHandler] = {
            Ping: self.answering.ping,
            Ack: self._ack,
            IndirectPing: self.answering.indirect_ping,
            Nack: self._nack,
            Alive: lambda message, *_: self.membership.alive(message),
            Suspect: lambda message, *_: self.membership.suspect(message),
            Dead: lambda message, *_: self.membership.dead(message),
            User: lambda message, *_: delegate.user_message(message.payload),
        }

    @property
    def outstanding(self) -> int:
        """Acks that somebody waits for: the own probe in flight, and probes for others."""
        return len(self._acks)

    # --- start --------------------------------------------------------------------------------------------------------

    def restore(self, nodes: Iterable[SavedNode], incarnation: int) -> None:
        """Take over the table of a dead detector: the same states, with suspicions that start anew."""
        context = self._context
        self.membership.incarnation = incarnation
        for node in nodes:
            own = node.name == context.config.node
            if own:  # the row may be in the journal of a detector that died before it wrote the incarnation
                self.membership.incarnation = max(self.membership.incarnation, node.incarnation)
                self.membership.meta = node.meta
            address, port = (context.config.address, context.config.port) if own else (node.address, node.port)
            record = NodeRecord(node.name, address, port, node.meta, node.versions)
            record.incarnation = node.incarnation
            record.state = NodeState(node.state)
            record.changed = node.changed
            self.table.insert(record)
        for record in self.table:
            if record.state is NodeState.SUSPECT:
                self.membership.start_suspicion(record, context.config.node)

    # --- input --------------------------------------------------------------------------------------------------------

    def _ack(self, ack: Ack, _source: Endpoint, arrival: float, timed: bool) -> None:
        handler = self._acks.get(ack.sequence)
        if handler is not None:
            handler.acked(ack, arrival, timed)

    def _nack(self, nack: Nack, _source: Endpoint, _arrival: float, _timed: bool) -> None:
        handler = self._acks.get(nack.sequence)
        if handler is not None:
            handler.nacked()

    def receive_stream(self, stream: int, message: bytes, source: Endpoint) -> None:
        """A complete message on an inbound stream."""
        try:
            decoded = decode_stream_message(message)
        except RemoteError as fault:
            self._context.count("serfmp.refused.stream")
            self._context.log("ERR", "memberlist", f"failed to receive: {fault} from={source[0]}:{source[1]}")
            self._context.effects.append(CloseStream(stream))
            return
        if isinstance(decoded, PushPullReader):
            self._context.sample("memberlist.size.remote", len(message))
            self.push_pull.answer(stream, decoded, source)
        elif isinstance(decoded, Ping):
            self.answering.ping_stream(stream, decoded, source)
        else:
            if isinstance(decoded, User):
                self._delegate.user_message(decoded.payload)
            self._context.effects.append(CloseStream(stream))

    # --- trouble ------------------------------------------------------------------------------------------------------

    def stalled(self, lost: float, suspended: bool = False) -> None:
        """The process was frozen for so long (B6), or the host was suspended, and its clock with it.

        After a suspend no timer is late, but acks and refutations are lost: what they would have prevented waits until
        state was exchanged, `RESUME_GRACE` probe periods at most.
        """
        grace = min(lost, RESUME_GRACE * self._context.profile.probe_interval) if suspended else lost
        self._context.histories.was_late(self._context.now, lost)
        own = self._context.config.node
        if suspended:
            self._context.note(own, Finding.STALLED, lost=lost, suspended=True)
        else:
            self._context.note(own, Finding.STALLED, lost=lost)
        self._context.timers.postpone_blame(grace)
        self.membership.postpone(grace)
        self.awareness.apply(int(lost // self._context.profile.probe_interval))
        self.prober.cancel()

    def pressed(self, level: int, late: float, waiting: float | None) -> None:
        """The host makes this node late: how much it should distrust itself for that, 0 to 3."""
        if self.awareness.press(level):
            self._context.note(self._context.config.node, Finding.PRESSED, level=level, late=late, waiting=waiting)

    def gossip_lost(self) -> None:
        """What was in flight is lost, and nothing leaves for now."""
        self.gossip.hold()
        self.answering.cancel()
        self.push_pull.cancel()
        self.joiner.cancel()
        self.prober.cancel()

    def gossip_found(self) -> None:
        """Packets leave again; those of the meantime did not."""
        self.gossip.release()
        self.answering.cancel()
        self.prober.cancel()

    def settle_turn(self) -> None:
        """Make what may only be made when the turn's input is handled: acks, urgent gossip."""
        self.answering.settle_turn()
        self.gossip.settle_turn()
