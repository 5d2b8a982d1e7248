"""The probe loop: one target each period, directly, then through helpers and by TCP, then suspicion (spec swim.md 4).

Rules:

* Rounds run one after another. A round that overruns leaves at most one tick pending, which starts the next round at
  its end.
* The steps of a round that go against the target are timers that blame: they fire only behind a fence.
* The time for a direct ack is never stretched; the end of the round is, by the health score. A failed round lasts until
  its end.
* A suspect is told so with the ping (buddy system).
* The score changes once a round, at its end.
"""

from __future__ import annotations

from typing import Final

from serfmp.detector.effects import OpenStream, Probed, SendPacket
from serfmp.detector.swim.acks import AckHandlers
from serfmp.detector.swim.awareness import Awareness
from serfmp.detector.swim.context import Context
from serfmp.detector.swim.delegate import Delegate
from serfmp.detector.swim.evidence import Finding
from serfmp.detector.swim.gossip import Gossip
from serfmp.detector.swim.membership import Membership
from serfmp.detector.swim.table import NodeRecord, NodeState, NodeTable
from serfmp.detector.swim.timers import Ticker, Timer
from serfmp.errors import RemoteError
from serfmp.wire.messages import Ack, IndirectPing, Ping, Suspect, encode
from serfmp.wire.stream import decode_stream_message

PROBE_JITTER: Final = 0.1
"""Share of the period by which the distance of two ticks varies at most (B26)."""
STREAM_PROTOCOL: Final = 3
"""Gossip protocol from which a node answers pings by TCP (spec swim.md 10)."""
NACK_PROTOCOL: Final = 4
"""Gossip protocol from which a helper nacks (spec swim.md 10)."""


class Round:
    """One probe of one target."""

    __slots__ = (
        "_prober",
        "delta",
        "endpoint",
        "expected",
        "incarnation",
        "indirect",
        "nacks",
        "name",
        "packet",
        "protocol_max",
        "sequence",
        "started",
        "stream",
        "stream_answered",
        "timer",
        "until",
    )

    def __init__(self, prober: Prober, record: NodeRecord, sequence: int, started: float, until: float) -> None:
        self._prober = prober
        self.name = record.name
        self.endpoint = record.endpoint
        self.incarnation = record.incarnation
        self.protocol_max = record.protocol_max
        self.sequence = sequence
        self.started = started
        self.until = until
        self.indirect = False
        self.delta = -1
        self.expected = 0
        self.nacks = 0
        self.packet = 0
        self.stream = 0
        self.stream_answered = False
        self.timer: Timer | None = None

    def acked(self, ack: Ack, arrival: float, timed: bool, /) -> None:
        """The target answered, directly or through a helper."""
        self._prober.acked(self, ack, arrival, timed)

    def nacked(self) -> None:
        """A helper is well but got no answer."""
        self.nacks += 1
        self._prober.nacked(self)


class Prober:
    """Runs the rounds. See the module."""

    __slots__ = (
        "_acks",
        "_awareness",
        "_context",
        "_delegate",
        "_gossip",
        "_membership",
        "_own",
        "_pending",
        "_round",
        "_table",
    )

    def __init__(
        self,
        context: Context,
        table: NodeTable,
        gossip: Gossip,
        awareness: Awareness,
        membership: Membership,
        acks: AckHandlers,
        delegate: Delegate,
    ) -> None:
        self._context = context
        self._delegate = delegate
        self._table = table
        self._gossip = gossip
        self._awareness = awareness
        self._membership = membership
        self._acks = acks
        self._own = context.config.node
        self._round: Round | None = None
        self._pending = False
        period = context.profile.probe_interval
        Ticker(context.timers, context.time, context.rng, period, self._tick, PROBE_JITTER)

    def _tick(self) -> None:
        if self._round is None:
            self._next()
        else:
            self._pending = True

    def _next(self) -> None:
        self._pending = False
        target = self._table.next_target(lambda record: record.name == self._own or record.gone, self._end_of_pass)
        if target is not None:
            self._start(target)

    def _end_of_pass(self) -> None:
        gone_before = self._context.now - self._context.profile.gossip_to_the_dead_time
        for record in self._table.reap_and_shuffle(gone_before):
            self._context.changed_nodes[record.name] = None

    # --- a round ------------------------------------------------------------------------------------------------------

    def _start(self, target: NodeRecord) -> None:
        context, profile = self._context, self._context.profile
        length = self._awareness.scale(profile.probe_interval)
        if length > profile.probe_interval:
            context.count("memberlist.degraded.probe")
        probe = Round(self, target, context.next_sequence(), context.now, context.now + length)
        self._round = probe
        self._acks[probe.sequence] = probe
        probe.packet = context.next_token()
        ping = encode(self._ping(probe))
        if target.state is NodeState.SUSPECT:
            parts: tuple[bytes, ...] = (ping, encode(Suspect(target.incarnation, target.name, self._own)))
            checksum = target.checksum
        else:
            parts, checksum = self._gossip.piggyback(ping), False
        context.effects.append(SendPacket(target.endpoint, parts, checksum, probe.packet))
        probe.timer = context.after(profile.probe_timeout, lambda: self._timed_out(probe), blames=True)

    def _ping(self, probe: Round) -> Ping:
        config = self._context.config
        return Ping(probe.sequence, probe.name, config.address, config.port, config.node)

    def acked(self, probe: Round, ack: Ack, arrival: float, timed: bool) -> None:
        """An ack for this round is here."""
        if probe is not self._round:
            return
        if timed and not probe.indirect:
            round_trip = max(0.0, arrival - probe.started)
            self._delegate.ping_completed(probe.name, round_trip, ack.payload)
        elif probe.indirect:
            self._context.note(probe.name, Finding.INDIRECT_ACK, after=arrival - probe.started)
        direct = not probe.indirect
        self._finish(probe, "acked" if direct else "indirect", max(0.0, arrival - probe.started), timed and direct)

    def nacked(self, probe: Round) -> None:
        """A helper of this round got no answer."""
        if probe is self._round:
            self._context.note(probe.name, Finding.NACKED)

    def send_failed(self, token: int, remote: bool, error: str) -> None:
        """The ping of the round in flight could not be sent."""
        probe = self._round
        if probe is None or probe.packet != token or probe.indirect:
            return
        self._context.log("ERR", "memberlist", f"Failed to send UDP ping: {error}")
        self._context.note(probe.name, Finding.PROBE_UNSENDABLE, error=error)
        probe.delta = 0
        if remote:
            self._ask_others(probe)
        else:
            self._finish(probe, "unsendable")

    def _timed_out(self, probe: Round) -> None:
        self._context.log("DEBUG", "memberlist", f"Failed UDP ping: {probe.name} (timeout reached)")
        self._context.note(probe.name, Finding.PROBE_TIMED_OUT, waited=self._context.now - probe.started)
        self._ask_others(probe)

    def _ask_others(self, probe: Round) -> None:
        """Helpers and TCP, both until the end of the round (spec swim.md 4.3, steps 5 to 7)."""
        context, config = self._context, self._context.config
        probe.indirect = True
        if probe.timer is not None:
            probe.timer.cancel()
        probe.timer = context.timers.at(max(probe.until, context.now), lambda: self._expired(probe), blames=True)
        target = self._table.get(probe.name)
        address, port = (target.address, target.port) if target is not None else (config.address, probe.endpoint[1])
        helpers = (
            []
            if target is None
            else self._table.choose(
                context.profile.indirect_checks,
                lambda record: record.state is NodeState.ALIVE and record.name not in {self._own, probe.name},
            )
        )
        for helper in helpers:
            nack = helper.protocol_max >= NACK_PROTOCOL
            probe.expected += nack
            message = IndirectPing(
                probe.sequence, address, port, probe.name, nack, config.address, config.port, config.node
            )
            parts = self._gossip.piggyback(encode(message))
            context.effects.append(SendPacket(helper.endpoint, parts, checksum=False))
        left = probe.until - context.now
        stream = probe.protocol_max >= STREAM_PROTOCOL and left > 0
        context.note(probe.name, Finding.HELPERS_ASKED, helpers=[helper.name for helper in helpers], stream=stream)
        if stream:
            probe.stream = context.next_token()
            context.streams[probe.stream] = lambda message, error, _: self._stream_answer(probe, message, error)
            context.effects.append(OpenStream(probe.stream, probe.endpoint, encode(self._ping(probe)), left))

    def _stream_answer(self, probe: Round, message: bytes | None, error: str) -> None:
        if probe is not self._round:
            return
        if message is not None:
            try:
                answer = decode_stream_message(message)
            except RemoteError as fault:
                error = str(fault)
            else:
                if isinstance(answer, Ack) and answer.sequence == probe.sequence:
                    probe.stream_answered = True
                    self._context.note(probe.name, Finding.STREAM_ANSWERED)
                    return
                error = "the answer is not the ack that was asked for"
        self._context.note(probe.name, Finding.STREAM_FAILED, error=error)
        if not error.startswith("dial "):
            self._context.log("ERR", "memberlist", f"Failed fallback TCP ping: {error}")

    def _expired(self, probe: Round) -> None:
        """The end of the round without an ack (spec swim.md 4.3, steps 8 and 9)."""
        context = self._context
        if probe.stream_answered:
            text = f"Was able to connect to {probe.name} over TCP but UDP probes failed, network may be misconfigured"
            context.log("WARN", "memberlist", text)
            self._finish(probe, "stream")
            return
        probe.delta = max(0, probe.expected - probe.nacks) if probe.expected else 1
        context.log("INFO", "memberlist", f"Suspect {probe.name} has failed, no acks received")
        context.note(
            probe.name,
            Finding.UNANSWERED,
            nacks=probe.nacks,
            expected=probe.expected,
            lasted=context.now - probe.started,
        )
        self._membership.suspect(Suspect(probe.incarnation, probe.name, self._own))
        self._finish(probe, "failed")

    def _finish(self, probe: Round, outcome: str, seconds: float | None = None, timed: bool = False) -> None:
        context = self._context
        if seconds is None:
            seconds = context.now - probe.started
        context.sample("memberlist.probeNode", seconds * 1000)
        context.effects.append(Probed(probe.name, probe.incarnation, outcome, seconds, timed, self._awareness.score))
        self._drop(probe)
        self._awareness.apply(probe.delta)
        if self._pending:
            self._next()

    def _drop(self, probe: Round) -> None:
        self._acks.pop(probe.sequence, None)
        if probe.timer is not None:
            probe.timer.cancel()
        self._context.streams.pop(probe.stream, None)
        self._round = None

    def cancel(self) -> None:
        """Give up the round in flight without blame, and probe again at once."""
        probe = self._round
        if probe is not None:
            self._drop(probe)
            self._next()
