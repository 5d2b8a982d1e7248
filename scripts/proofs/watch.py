"""Looks at the gossip on the wire: who accuses whom, and how long each ping of ours waited for its ack.

Rules:

* Only UDP counts. Push/pulls repeat what was said before.
* Times are the kernel's, on the wire: a ping's latency begins when it was on its way and ends when its ack was, so a
  starved measuring program measures the same.
* A message that is sent several times, or passed on, is counted each time, and is one accusation.
* Packets that cannot be read, or that the capture lost, are counted: without them nothing is proved.
"""

from __future__ import annotations

import math
import socket
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from serfmp.wire.errors import WireError
from serfmp.wire.messages import Ack, Dead, MessageType, Ping, Suspect, decode_packet_message, encode
from serfmp.wire.packet import Opened, PacketFormat, open_packet
from tests.harness import Agent, Captured, Endpoint, Sniffer

PLAIN = PacketFormat()
WHOLE = 1 << 21
"""A budget within which every packet is opened at once."""

ACCUSING = frozenset({MessageType.SUSPECT, MessageType.DEAD})


@dataclass(frozen=True, slots=True)
class Accusation:
    """A suspect or dead message in a packet of `via`; `sender` is whom the message names as its author."""

    at: float
    kind: str
    sender: str
    node: str
    incarnation: int
    via: str

    @property
    def is_leave(self) -> bool:
        """A node that declares itself dead leaves."""
        return self.kind == "dead" and self.sender == self.node


@dataclass(slots=True)
class PingTimes:
    """When a ping was on the wire, and its ack (infinity: not yet), in seconds of the monotonic clock."""

    target: str
    sent_at: float
    acked_at: float = math.inf

    @property
    def latency(self) -> float:
        """Seconds; infinity without an ack."""
        return self.acked_at - self.sent_at


class Pinger:
    """Sends pings from an endpoint of its own, which no agent knows. Acks come back to it and are read by the watch."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((endpoint.host, endpoint.port))
        self._socket.setblocking(False)
        self._sequence = 0

    def ping(self, agent: Agent) -> int:
        """Send one ping; its sequence number."""
        self._sequence += 1
        self._socket.sendto(encode(Ping(self._sequence, agent.node)), (agent.bind.host, agent.bind.port))
        return self._sequence

    def close(self) -> None:
        """End it; acks that come later are refused by the kernel."""
        self._socket.close()


class Watch:
    """Captures from its construction to `close`; the findings stay readable."""

    def __init__(self, agents: Iterable[Agent], pinger: Pinger | None = None) -> None:
        self._names = {agent.bind: agent.node for agent in agents}
        self._pinger = None if pinger is None else pinger.endpoint
        self._lock = threading.Lock()
        self._accusations: list[Accusation] = []
        self._pings: dict[int, PingTimes] = {}
        self.packets = 0
        self.unreadable = 0
        ports = {bind.port for bind in self._names}
        self._sniffer = Sniffer(ports, callback=self._take)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the capture."""
        self._sniffer.close()

    @property
    def dropped(self) -> int:
        """Packets that the capture lost."""
        return self._sniffer.dropped

    @property
    def accusations(self) -> list[Accusation]:
        """All suspect and dead messages so far, each time that one was on the wire; leaves are left out."""
        with self._lock:
            return [accusation for accusation in self._accusations if not accusation.is_leave]

    @property
    def pings(self) -> dict[int, PingTimes]:
        """All pings of the pinger so far, by sequence number."""
        with self._lock:
            return dict(self._pings)

    def acked(self, sequences: Collection[int]) -> bool:
        """Whether one of these pings has been answered."""
        with self._lock:
            return any(number in self._pings and self._pings[number].acked_at < math.inf for number in sequences)

    def _take(self, captured: Captured) -> None:
        source, target = self._names.get(captured.source), self._names.get(captured.target)
        ours = self._pinger is not None and self._pinger in {captured.source, captured.target}
        if source is None and not ours:
            return
        try:
            opened = open_packet(captured.payload, PLAIN, WHOLE)
            parts = opened.parts if isinstance(opened, Opened) else ()
            messages = [
                decode_packet_message(part) for part in parts if part[0] in ACCUSING or (ours and part[0] in {0, 2})
            ]
        except WireError:
            with self._lock:
                self.unreadable += 1
            return
        with self._lock:
            self.packets += 1
            self.unreadable += not parts
            for message in messages:
                match message:
                    case Suspect(incarnation, node, sender):
                        self._accusations.append(
                            Accusation(captured.at, "suspect", sender, node, incarnation, source or "?")
                        )
                    case Dead(incarnation, node, sender):
                        self._accusations.append(
                            Accusation(captured.at, "dead", sender, node, incarnation, source or "?")
                        )
                    case Ping(sequence) if target is not None:
                        self._pings[sequence] = PingTimes(target, captured.at)
                    case Ack(sequence) if sequence in self._pings:
                        times = self._pings[sequence]
                        times.acked_at = min(times.acked_at, captured.at)


def told(accusations: Iterable[Accusation]) -> str:
    """Accusations in a few words: how often who said what of whom."""
    counts = Counter(f"{a.kind} {a.node} by {a.sender}" for a in accusations)
    return ", ".join(f"{what} ×{count}" for what, count in counts.most_common()) or "none"


def by_target(pings: Mapping[int, PingTimes], begin: float, end: float) -> dict[str, list[float]]:
    """Latencies in seconds of the pings sent between two times, by agent; infinity for those without an ack."""
    latencies: dict[str, list[float]] = {}
    for times in pings.values():
        if begin <= times.sent_at < end:
            latencies.setdefault(times.target, []).append(times.latency)
    return latencies
