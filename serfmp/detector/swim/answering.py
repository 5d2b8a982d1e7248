"""Answers to probes: own acks, and probing for others (spec swim.md 4.5).

Rules:

* Acks are made when the turn's effects are taken: an accusation that came in the same turn is then already refuted, and
  the ack carries the refutation first (B4).
* A ping for another name is not answered. The ack goes to the source that the ping names, else to where the packet came
  from.
* Asked to probe for another, the local node pings with a sequence number of its own, passes an ack on without payload,
  and nacks early enough to be heard by a healthy prober (B1).
"""

from __future__ import annotations

from typing import Final

from serfmp.detector.effects import AnswerStream, CloseStream, Endpoint, SendPacket
from serfmp.detector.swim.acks import AckHandlers
from serfmp.detector.swim.context import Context
from serfmp.detector.swim.delegate import Delegate
from serfmp.detector.swim.gossip import Gossip
from serfmp.detector.swim.membership import Membership
from serfmp.detector.swim.timers import Timer
from serfmp.errors import RemoteError
from serfmp.wire.address import to_text
from serfmp.wire.messages import Ack, IndirectPing, Nack, Ping, encode

NACK_SHARE: Final = 0.8
"""Part of the time left to the prober after which a helper nacks (B1)."""
RELAY_LIMIT: Final = 4096
"""Probes for others in flight at once. Ours."""


class Relay:
    """A probe on behalf of another node."""

    __slots__ = ("_answering", "expiry", "nack", "requester", "sequence", "wanted")

    def __init__(self, answering: Answering, sequence: int, wanted: int, requester: Endpoint) -> None:
        self._answering = answering
        self.sequence = sequence
        self.wanted = wanted
        self.requester = requester
        self.nack: Timer | None = None
        self.expiry: Timer | None = None

    def acked(self, _ack: Ack, _arrival: float, _timed: bool, /) -> None:
        """The target answered."""
        self._answering.relayed(self)

    def nacked(self) -> None:
        """Helpers have no helpers."""


class Answering:
    """Answers pings, directly and for others. See the module."""

    __slots__ = ("_acks", "_context", "_delegate", "_gossip", "_membership", "_own", "_pings", "_relays")

    def __init__(
        self, context: Context, gossip: Gossip, membership: Membership, acks: AckHandlers, delegate: Delegate
    ) -> None:
        self._context = context
        self._delegate = delegate
        self._gossip = gossip
        self._membership = membership
        self._acks = acks
        self._own = context.config.node
        self._pings: list[tuple[int, Endpoint]] = []
        self._relays: dict[int, Relay] = {}

    def ping(self, ping: Ping, source: Endpoint, _arrival: float, _timed: bool) -> None:
        """A ping by UDP: its ack is part of this turn."""
        if ping.node and ping.node != self._own:
            self._unexpected(ping.node, source)
            return
        if ping.source_port and ping.source_address:
            try:
                source = (to_text(ping.source_address), ping.source_port)
            except RemoteError:
                return
        self._pings.append((ping.sequence, source))

    def settle_turn(self) -> None:
        """Make the acks of this turn."""
        if self._pings:
            pings, self._pings = self._pings, []
            first = self._membership.answer_with_alive
            effects, piggyback = self._context.effects, self._gossip.piggyback
            payload = self._delegate.ack_payload()
            for sequence, source in pings:
                effects.append(SendPacket(source, piggyback(encode(Ack(sequence, payload)), first), False))
        self._membership.answer_with_alive = b""

    def ping_stream(self, stream: int, ping: Ping, source: Endpoint) -> None:
        """A ping on an inbound stream."""
        if ping.node and ping.node != self._own:
            self._unexpected(ping.node, source)
            self._context.effects.append(CloseStream(stream))
        else:
            self._context.effects.append(AnswerStream(stream, encode(Ack(ping.sequence, self._delegate.ack_payload()))))

    def _unexpected(self, node: str, source: Endpoint) -> None:
        self._context.count("serfmp.ping.unexpected")
        if not self._context.quiet("unexpected ping"):
            text = f"Got ping for unexpected node '{node}' from={source[0]}:{source[1]}"
            self._context.log("WARN", "memberlist", text)

    # --- for others ---------------------------------------------------------------------------------------------------

    def indirect_ping(self, request: IndirectPing, source: Endpoint, _arrival: float, _timed: bool) -> None:
        """Probe a node for another one."""
        context, config = self._context, self._context.config
        if len(self._relays) >= RELAY_LIMIT:
            context.count("serfmp.relay.refused")
            return
        try:
            target = (to_text(request.target), request.port or config.port)
            if request.source_port and request.source_address:
                source = (to_text(request.source_address), request.source_port)
        except RemoteError:
            context.count("serfmp.refused.address")
            return
        relay = Relay(self, context.next_sequence(), request.sequence, source)
        self._relays[relay.sequence] = relay
        self._acks[relay.sequence] = relay
        ping = Ping(relay.sequence, request.node, config.address, config.port, config.node)
        context.effects.append(SendPacket(target, self._gossip.piggyback(encode(ping)), checksum=False))
        profile = context.profile
        rest = profile.probe_interval - profile.probe_timeout
        relay.expiry = context.after(rest, lambda: self._end(relay))
        if request.nack:
            relay.nack = context.after(NACK_SHARE * min(profile.probe_timeout, rest), lambda: self._nack(relay))

    def relayed(self, relay: Relay) -> None:
        """The target answered: pass the ack on."""
        self._end(relay)
        self._send(relay, encode(Ack(relay.wanted)))

    def _nack(self, relay: Relay) -> None:
        self._send(relay, encode(Nack(relay.wanted)))

    def _send(self, relay: Relay, message: bytes) -> None:
        self._context.effects.append(SendPacket(relay.requester, self._gossip.piggyback(message), checksum=False))

    def _end(self, relay: Relay) -> None:
        for timer in (relay.nack, relay.expiry):
            if timer is not None:
                timer.cancel()
        self._acks.pop(relay.sequence, None)
        self._relays.pop(relay.sequence, None)

    def cancel(self) -> None:
        """Forget the probes for others: what they wait for is lost."""
        for relay in list(self._relays.values()):
            self._end(relay)
