"""An in-memory network of cores under a virtual clock: what the tests drive clusters with.

Rules:

* One seed gives one run: the network and every node have their own generator, made from the seed.
* Packets and streams take a short random time; packets may be lost, both are stopped by partitions and by dead hosts.
* The driver keeps the contract: records of a batch reach the node's journal before anything else of it happens.
* A killed node loses everything but its journal, its inbox included; its consumers (a list of events for each) go on,
  and drop repeats by sequence number.
* There is always a fence: when timers fire at a time, every packet that had arrived by then was handed in.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from serfmp.detector.config import LAN, CoreConfig, Profile
from serfmp.detector.core import Core
from serfmp.detector.effects import (
    Answer,
    AnswerStream,
    CloseStream,
    Count,
    Effect,
    Endpoint,
    Event,
    EventKind,
    EventRequest,
    JoinRequest,
    LeaveRequest,
    Lifecycle,
    LifecycleChanged,
    Log,
    MemberEvent,
    MemberStatus,
    OpenStream,
    Plain,
    Publish,
    Record,
    Request,
    Resolve,
    SendPacket,
    UserEventReceived,
)
from serfmp.detector.records import CONSUMERS, Recovered
from serfmp.wire.address import from_text
from serfmp.wire.messages import decode_packet_message

PORT = 7946
MERGE_BUDGET = 64


@dataclass
class Host:
    """One node: its core when it runs, and what survives the core."""

    name: str
    config: CoreConfig
    core: Core | None = None
    generation: int = 0
    journal: list[tuple[Plain, ...]] = field(default_factory=list)
    frozen_until: float = 0.0
    inbox: list[Callable[[], None]] = field(default_factory=list)
    events: dict[str, list[Event]] = field(default_factory=lambda: {name: [] for name in CONSUMERS})
    taken: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CONSUMERS, 0))
    answers: dict[int, Answer] = field(default_factory=dict)
    lifecycles: list[Lifecycle] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    crash_after_records: int | None = None
    woken_at: float | None = None

    @property
    def endpoint(self) -> Endpoint:
        """Where the node listens."""
        return ".".join(map(str, self.config.address)), self.config.port

    def user_events(self, consumer: str = "rpc") -> list[tuple[str, bytes]]:
        """Name and payload of the user events that the consumer got, in order."""
        return [(event.name, event.payload) for event in self.events[consumer] if isinstance(event, UserEventReceived)]

    def member_events(self, kind: EventKind, consumer: str = "rpc") -> list[str]:
        """Names of the members in events of this kind, in order."""
        return [
            member.name
            for event in self.events[consumer]
            if isinstance(event, MemberEvent) and event.kind is kind
            for member in event.members
        ]

    def statuses(self) -> dict[str, MemberStatus]:
        """The member table."""
        assert self.core is not None
        return {member.name: member.status for member in self.core.members()}


class Cluster:
    """Hosts, the network between them, and the clock."""

    def __init__(self, seed: int, profile: Profile = LAN, loss: float = 0.0, **config: Any) -> None:
        self.seed = seed
        self.now = 1000.0
        self.loss = loss
        self.hosts: dict[str, Host] = {}
        self.trace: list[tuple[float, str, str]] = []
        self.blocked: Callable[[Host, Host], bool] = lambda _one, _other: False
        self._profile = profile
        self._config = config
        self._rng = random.Random(f"network {seed}")
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._streams: dict[int, tuple[Host, Host, int]] = {}

    # --- hosts --------------------------------------------------------------------------------------------------------

    def add(self, name: str, **config: Any) -> Host:
        """Start a new node."""
        address = from_text(f"127.0.{len(self.hosts) // 250}.{len(self.hosts) % 250 + 1}")
        settings = {"address": address, "port": PORT, "profile": self._profile, **self._config, **config}
        host = Host(name, CoreConfig(node=name, **settings))
        self.hosts[name] = host
        self.start(host)
        return host

    def start(self, host: Host) -> None:
        """Start the detector of a host: from its journal, if it has one."""
        host.generation += 1
        recovered = Recovered.replay(host.journal) if host.journal else None
        rng = random.Random(f"{self.seed} {host.name} {host.generation}")
        host.core = Core(host.config, rng, self.now, host.generation, recovered)
        for consumer in CONSUMERS:
            for event in host.core.outbox(host.taken[consumer]):
                self._take(host, consumer, event)
        self._settle(host)

    def crash(self, host: Host) -> None:
        """The host is gone, with everything on it; its peers see their streams end."""
        host.core = None
        host.inbox.clear()
        for stream in [stream for stream, (_, target, _) in self._streams.items() if target is host]:
            self._answer_stream(stream, None)

    def restart_from_nothing(self, host: Host) -> None:
        """The agent was ended and is started again, with an empty journal and new consumers."""
        host.journal.clear()
        host.events = {name: [] for name in CONSUMERS}
        host.taken = dict.fromkeys(CONSUMERS, 0)
        self.start(host)

    def kill(self, host: Host) -> None:
        """Kill the detector and start it again at once."""
        self.crash(host)
        self.start(host)

    def freeze(self, host: Host, seconds: float) -> None:
        """Stop the process of a host; when it goes on it is told what it lost."""
        host.frozen_until = self.now + seconds
        frozen_at = self.now

        def wake() -> None:
            if host.core is None:
                return
            lost = self.now - frozen_at
            arrived, host.inbox = host.inbox, []
            host.core.stalled(self.now, lost)
            for deliver in arrived:
                deliver()
            self._settle(host)

        self.at(host.frozen_until, wake)

    def acknowledge(self, host: Host) -> None:
        """The consumers of a host take what they got."""
        assert host.core is not None
        for consumer, sequence in host.taken.items():
            host.core.acknowledge(consumer, sequence)
        self._settle(host)

    # --- requests -----------------------------------------------------------------------------------------------------

    def ask(self, host: Host, request: Request, number: int | None = None) -> int:
        """Ask the core; the answer appears in `host.answers` under the number returned."""
        assert host.core is not None
        if number is None:
            host.requests += 1
            number = host.requests
        host.core.request(("rpc", 1, number), request, self.now)
        self._settle(host)
        return number

    def join(self, host: Host, *others: Host, replay: bool = True) -> int:
        """Join others by address."""
        addresses = tuple(f"{other.endpoint[0]}:{other.endpoint[1]}" for other in others)
        return self.ask(host, JoinRequest(addresses, replay))

    def event(self, host: Host, name: str, payload: bytes = b"", number: int | None = None) -> int:
        """Send a user event."""
        return self.ask(host, EventRequest(name, payload, coalesce=False), number)

    def leave(self, host: Host) -> int:
        """Ask for a graceful leave."""
        return self.ask(host, LeaveRequest())

    # --- clock --------------------------------------------------------------------------------------------------------

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Do something at a time."""
        self._number += 1
        heapq.heappush(self._queue, (time, self._number, action))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.run_until(lambda: False, seconds)

    def run_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Let time pass until the condition holds, at most so long; whether it holds."""
        end = self.now + seconds
        while not condition():
            if not self._step(end):
                return condition()
        return True

    def _step(self, end: float) -> bool:
        time = self._queue[0][0] if self._queue else float("inf")
        runnable = [host for host in self.hosts.values() if host.core is not None]
        for host in runnable:
            deadline = host.core.next_deadline() if host.core is not None else None
            if deadline is not None:
                time = min(time, max(deadline, host.frozen_until))
        if time > end:
            self.now = max(self.now, end)
            return False
        self.now = max(self.now, time)
        while self._queue and self._queue[0][0] <= self.now:
            heapq.heappop(self._queue)[2]()
        for host in self.hosts.values():
            core = host.core
            if core is not None and host.frozen_until <= self.now:
                deadline = core.next_deadline()
                if deadline is not None and deadline <= self.now:
                    core.advance(self.now, self.now)
                    self._settle(host)
        return True

    # --- effects ------------------------------------------------------------------------------------------------------

    def _settle(self, host: Host) -> None:
        while host.core is not None:
            while host.core.work(self.now, MERGE_BUDGET):
                pass
            effects = host.core.take_effects()
            if not effects:
                return
            for effect in effects:
                if isinstance(effect, Record):
                    host.journal.append(effect.fields)
                    if host.crash_after_records is not None:
                        host.crash_after_records -= 1
                        if host.crash_after_records <= 0:
                            host.crash_after_records = None
                            self.kill(host)
                            return
            core = host.core
            for effect in effects:
                if host.core is core:
                    self._carry_out(host, effect)

    def _carry_out(self, host: Host, effect: Effect) -> None:
        match effect:
            case SendPacket(destination, parts):
                self._send(host, destination, parts)
            case OpenStream():
                self._open(host, effect)
            case AnswerStream(stream, reply):
                self._answer_stream(stream, reply)
            case CloseStream(stream):
                self._answer_stream(stream, None)
            case Resolve(token, name, _):
                addresses = tuple(other.endpoint[0] for other in self.hosts.values() if other.name == name)
                error = "" if addresses else f"lookup {name}: no such host"
                self._deliver(host, lambda core: core.resolved(token, addresses, error, self.now))
            case Publish(event):
                for consumer in CONSUMERS:
                    self._take(host, consumer, event)
            case Answer(asked):
                host.answers[asked[2]] = effect
            case LifecycleChanged(state):
                host.lifecycles.append(state)
            case Log(level, component, text):
                host.logs.append(f"[{level}] {component}: {text}")
                self.trace.append((self.now, host.name, text))
            case Count(name, amount):
                host.counters[name] = host.counters.get(name, 0) + amount
            case _:
                pass

    def _take(self, host: Host, consumer: str, event: Event) -> None:
        if event.sequence > host.taken[consumer]:
            host.taken[consumer] = event.sequence
            host.events[consumer].append(event)

    # --- network ------------------------------------------------------------------------------------------------------

    def _find(self, endpoint: Endpoint) -> Host | None:
        return next((host for host in self.hosts.values() if host.endpoint == endpoint), None)

    def _delay(self) -> float:
        return self._rng.uniform(0.0002, 0.002)

    def _deliver(self, host: Host, action: Callable[[Core], None]) -> None:
        """Hand something to the present core of a host, some time from now; to no later one."""
        core = host.core

        def arrive() -> None:
            if host.core is None or host.core is not core:
                return
            if host.frozen_until > self.now:
                host.inbox.append(lambda: action(host.core) if host.core is not None else None)
                return
            action(host.core)
            self._settle(host)

        self.at(self.now + self._delay(), arrive)

    def _send(self, host: Host, destination: Endpoint, parts: tuple[bytes, ...]) -> None:
        size = sum(len(part) + 2 for part in parts) + 2
        assert size <= self._profile.packet_size, f"a packet of {size} bytes"
        assert all(parts), "an empty part"
        target = self._find(destination)
        self.trace.append((self.now, host.name, f"{destination[0]} {b'|'.join(parts).hex()}"))
        if target is None or self._rng.random() < self.loss or self.blocked(host, target):
            return
        messages = [decode_packet_message(part) for part in parts]
        source = host.endpoint

        def hand_in(core: Core) -> None:
            for message in messages:
                core.receive(message, source, self.now, timed=True)

        def arrive() -> None:
            self._arrive(target, hand_in)

        self.at(self.now + self._delay(), arrive)

    def _arrive(self, target: Host, action: Callable[[Core], None]) -> None:
        if target.core is None:
            return
        if target.frozen_until > self.now:
            target.inbox.append(lambda: action(target.core) if target.core is not None else None)
            return
        action(target.core)
        self._settle(target)

    def _open(self, host: Host, effect: OpenStream) -> None:
        token = effect.token
        target = self._find(effect.destination)
        self.trace.append((self.now, host.name, f"stream {effect.destination[0]} {len(effect.request)}"))
        place = f"{effect.destination[0]}:{effect.destination[1]}"
        if target is None or target.core is None:
            error = f"dial tcp {place}: connect: connection refused"
            self._deliver(host, lambda core: core.stream_replied(token, None, error, True, self.now))
            return
        deadline = self.now + effect.timeout

        def timed_out(core: Core) -> None:
            core.stream_replied(token, None, f"dial tcp {place}: i/o timeout", True, self.now)

        self.at(deadline, lambda: self._deliver(host, timed_out))
        if self.blocked(host, target):
            return
        self._number += 1
        stream = self._number
        self._streams[stream] = (host, target, token)
        source = (host.endpoint[0], 40000)
        self.at(
            self.now + self._delay(),
            lambda: self._arrive(target, lambda core: core.receive_stream(stream, effect.request, source, self.now)),
        )

    def _answer_stream(self, stream: int, reply: bytes | None) -> None:
        if stream not in self._streams:
            return
        host, _, token = self._streams.pop(stream)
        error = "" if reply is not None else "EOF"
        self._deliver(host, lambda core: core.stream_replied(token, reply, error, False, self.now))
