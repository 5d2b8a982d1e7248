"""A simulated cluster: hosts, the network between them, the clock, and a watch over all that happens.

Rules:

* One seed gives one run: network and hosts have their own generators, made from the seed. The digest of all effects
  with their times proves it.
* Packets to a host reach whatever detector runs there; streams and answers belong to the one that they were meant for.
* A process that is gone refuses connections and its streams end; a machine that is gone is only silent.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from random import Random
from struct import pack
from typing import Any, Final, Protocol

from serfmp.detector.config import LAN, CoreConfig, Profile
from serfmp.detector.effects import (
    AnswerStream,
    CloseStream,
    Effect,
    Endpoint,
    Event,
    EventRequest,
    JoinRequest,
    LeaveRequest,
    Log,
    OpenStream,
    Plain,
    Request,
    Resolve,
    SendPacket,
)
from serfmp.sim.host import Host, Input, SeenCore
from serfmp.sim.network import Conditions, Network
from serfmp.sim.scheduler import Scheduler
from serfmp.wire.address import from_text
from serfmp.wire.messages import Message, decode_packet_message

PORT: Final = 7946
"""Every host listens here, each on an address of its own."""
STREAM_PORT: Final = 40000
"""Where streams come from."""


class Watch(Protocol):
    """Looks on, and raises `BrokenError` when a rule is."""

    def forget(self, host: Host) -> None:
        """The host begins anew: what its users were told is past."""

    def recorded(self, host: Host, fields: tuple[Plain, ...]) -> None:
        """A record is in the journal."""

    def took(self, host: Host, consumer: str, event: Event) -> None:
        """A consumer got an event."""

    def turned(self, host: Host, effects: list[Effect], now: float) -> None:
        """A turn is over."""

    def dying(self, host: Host) -> None:
        """The detector is about to be killed between two turns."""


class Cluster:
    """See the module."""

    def __init__(
        self,
        seed: int,
        profile: Profile = LAN,
        conditions: Conditions | None = None,
        watch: Watch | None = None,
        **config: Any,
    ) -> None:
        """`config` holds further fields of every host's `CoreConfig`."""
        self.seed = seed
        self.profile = profile
        self.scheduler = Scheduler()
        self.network = Network(Random(f"network {seed}"), conditions or Conditions())
        self.hosts: dict[str, Host] = {}
        self.counters: Counter[str] = Counter()
        """Packets, parts, bytes, streams, over all hosts."""
        self.told: Callable[[Host, Log], None] | None = None
        """Called with every log line."""
        self.heard: Callable[[Host, str, Event], None] | None = None
        """Called with every event that a consumer gets."""
        self._watch = watch
        self._config = config
        self._places: dict[Endpoint, Host] = {}
        self._digest = hashlib.blake2b(digest_size=8)
        self._streams: dict[int, tuple[Host, SeenCore, Host, int]] = {}
        self._stream = 0
        self._changes = 0

    @property
    def now(self) -> float:
        """Seconds of virtual time."""
        return self.scheduler.now

    @property
    def trace_hash(self) -> str:
        """A digest of everything that happened so far."""
        return self._digest.hexdigest()

    @property
    def running(self) -> list[Host]:
        """Hosts with a detector."""
        return [host for host in self.hosts.values() if host.core is not None]

    # --- hosts --------------------------------------------------------------------------------------------------------

    def add(self, name: str, **config: Any) -> Host:
        """Start a new host."""
        number = len(self.hosts)
        address = from_text(f"127.0.{number // 250}.{number % 250 + 1}")
        settings = {"address": address, "port": PORT, "profile": self.profile, **self._config, **config}
        host = Host(name, CoreConfig(node=name, **settings), self, self.seed)
        self.hosts[name] = host
        self._places[host.endpoint] = host
        host.start()
        return host

    def crash(self, host: Host, silent: bool = False) -> None:
        """The host is gone; `silent`: the machine, not only the process."""
        self._end_streams(host, silent)
        host.stop()
        host.silent = silent

    def kill(self, host: Host) -> None:
        """Kill the detector and start it again at once, from its journal."""
        self._end_streams(host, silent=False)
        host.stop()
        host.start()

    def kill_between_turns(self, host: Host) -> None:
        """The same, with a look at what the journal must hold by then."""
        if self._watch is not None:
            self._watch.dying(host)
        self.kill(host)

    def restart_from_nothing(self, host: Host) -> None:
        """The agent was ended and is started again, with an empty journal and new consumers."""
        if self._watch is not None:
            self._watch.forget(host)
        host.start_afresh()

    def restart_gossip(self, host: Host, seconds: float = 0.0) -> None:
        """The process with the sockets is killed, and another is there after so long.

        What was in flight is lost on both sides.
        """
        for stream in [stream for stream, (opener, *_) in self._streams.items() if opener is host]:
            del self._streams[stream]
        self._end_streams(host, silent=False)
        host.lose_gossip(seconds)

    def acknowledge(self, host: Host) -> None:
        """The consumers of a host take what they got."""
        for consumer, sequence in host.taken.items():
            host.alive.acknowledge(consumer, sequence)
        host.settle()

    # --- requests -----------------------------------------------------------------------------------------------------

    def ask(self, host: Host, request: Request, number: int | None = None) -> int:
        """Ask the core; the answer appears in `host.answers` under the number returned."""
        if number is None:
            host.requests += 1
            number = host.requests
        asked = ("rpc", 1, number)
        host.hand_in(lambda core: core.request(asked, request, host.now))
        return number

    def join(self, host: Host, *others: Host, replay: bool = True) -> int:
        """Join others by address."""
        return self.ask(host, JoinRequest(tuple(f"{other.endpoint[0]}:{PORT}" for other in others), replay))

    def event(
        self, host: Host, name: str, payload: bytes = b"", number: int | None = None, coalesce: bool = False
    ) -> int:
        """Send a user event."""
        return self.ask(host, EventRequest(name, payload, coalesce), number)

    def leave(self, host: Host) -> int:
        """Ask for a graceful leave."""
        return self.ask(host, LeaveRequest())

    def forge(self, host: Host, message: Message) -> None:
        """Hand a message in that nobody sent."""
        host.hand_in(lambda core: core.receive(message, ("127.255.255.254", PORT), host.now, timed=False))

    # --- clock --------------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self.scheduler.step(end):
            pass

    def run_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Let time pass until a condition on what hosts know or told holds, at most so long; whether it holds."""
        end = self.now + seconds
        seen = -1
        while True:
            if seen != self._changes:
                seen = self._changes
                if condition():
                    return True
            if not self.scheduler.step(end):
                return condition()

    # --- what hosts do ------------------------------------------------------------------------------------------------

    def recorded(self, host: Host, fields: tuple[Plain, ...]) -> None:
        """See `World`."""
        self._changes += 1
        if self._watch is not None:
            self._watch.recorded(host, fields)

    def took(self, host: Host, consumer: str, event: Event) -> None:
        """See `World`."""
        self._changes += 1
        if self._watch is not None:
            self._watch.took(host, consumer, event)
        if self.heard is not None:
            self.heard(host, consumer, event)

    def turned(self, host: Host, effects: list[Effect]) -> None:
        """See `World`."""
        digest = self._digest
        digest.update(pack("<d", self.now) + host.name.encode())
        for effect in effects:
            if isinstance(effect, SendPacket):
                digest.update(f"{effect.destination}{len(effect.parts)}".encode())
                for part in effect.parts:
                    digest.update(part)
            else:
                self._changes += 1
                digest.update(repr(effect).encode(errors="surrogateescape"))
                if self.told is not None and isinstance(effect, Log):
                    self.told(host, effect)
        if self._watch is not None:
            self._watch.turned(host, effects, self.now)

    def carry_out(self, host: Host, effect: Effect) -> None:
        """See `World`."""
        match effect:
            case SendPacket():
                self._send(host, effect)
            case OpenStream():
                self._open(host, effect)
            case AnswerStream(stream, reply):
                self._answer_stream(stream, reply)
            case CloseStream(stream):
                self._answer_stream(stream, None)
            case Resolve(token, name, _):
                self._resolve(host, token, name)
            case _:
                pass

    def _resolve(self, host: Host, token: int, name: str) -> None:
        found = self.hosts.get(name)
        addresses = () if found is None else (found.endpoint[0],)
        error = "" if addresses else f"lookup {name}: no such host"
        core = host.alive
        self.scheduler.after(
            self.network.delay(),
            lambda: host.deliver(lambda core: core.resolved(token, addresses, error, host.now), core),
        )

    # --- UDP ----------------------------------------------------------------------------------------------------------

    def _send(self, host: Host, packet: SendPacket) -> None:
        counters = self.counters
        counters["packets"] += 1
        counters["parts"] += len(packet.parts)
        counters["bytes"] += sum(map(len, packet.parts))
        target = self._places.get(packet.destination)
        if target is None:
            return
        source = host.endpoint
        for delay in self.network.packet(host.name, target.name):
            self._arrive(target, delay, packet.parts, source)

    def _arrive(self, target: Host, delay: float, parts: tuple[bytes, ...], source: Endpoint) -> None:
        arrival = self.now + delay

        def hand_in(core: SeenCore) -> None:
            for part in core.news(parts):
                core.receive(decode_packet_message(part), source, arrival - target.slept, timed=True)

        self.scheduler.at(arrival, lambda: target.deliver(hand_in))

    # --- TCP ----------------------------------------------------------------------------------------------------------

    def _open(self, host: Host, effect: OpenStream) -> None:
        self.counters["streams"] += 1
        core, network = host.alive, self.network
        target = self._places.get(effect.destination)
        place = f"{effect.destination[0]}:{effect.destination[1]}"

        def replied(error: str) -> Input:
            return lambda core: core.stream_replied(effect.token, None, error, True, host.now)

        timeout = replied(f"dial tcp {place}: i/o timeout")
        refused = replied(f"dial tcp {place}: connect: connection refused")
        if target is None or (target.core is None and not target.silent):
            self.scheduler.after(network.delay(), lambda: host.deliver(refused, core))
            return
        self.scheduler.after(effect.timeout, lambda: host.deliver(timeout, core))
        both_ways = network.stream(host.name, target.name) and network.stream(target.name, host.name)
        if target.core is None or not both_ways:
            return
        self._stream += 1
        stream = self._stream
        self._streams[stream] = (host, core, target, effect.token)
        source = (host.endpoint[0], STREAM_PORT)
        self.scheduler.after(
            network.delay(),
            lambda: target.deliver(lambda core: core.receive_stream(stream, effect.request, source, target.now)),
        )

    def _answer_stream(self, stream: int, reply: bytes | None) -> None:
        if stream not in self._streams:
            return
        host, core, target, token = self._streams.pop(stream)
        error = "" if reply is not None else "EOF"
        if self.network.stream(target.name, host.name):
            self.scheduler.after(
                self.network.delay(),
                lambda: host.deliver(lambda core: core.stream_replied(token, reply, error, False, host.now), core),
            )

    def _end_streams(self, host: Host, silent: bool) -> None:
        for stream in [stream for stream, (_, _, target, _) in self._streams.items() if target is host]:
            if silent:
                del self._streams[stream]
            else:
                self._answer_stream(stream, None)
