"""The gossip process: the only one that touches the gossip sockets, and one that decides nothing about members.

It strips and adds the outer layers of packets (label, encryption, CRC, compression, compound) and frames streams; the
detector decodes and answers the messages inside. It never answers anything by itself: an ack means a live detector
(promise 3 of the architecture).

Rules of a turn: the UDP socket is drained up to `DRAIN_PACKETS` or `DRAIN_BYTES`, and what was found goes to the
detector as one frame, acks first, then pings, then the rest. A packet that needs a long decompression waits for its
slices while others pass. A fence is answered after everything that had arrived when it came was handed over.
"""

from __future__ import annotations

import dataclasses
import math
import socket
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import zmq

from serfmp.agent.limits import DESCRIPTORS, allow_descriptors
from serfmp.bus import frames
from serfmp.bus.endpoints import PACKET_HWM, make_socket
from serfmp.bus.loop import READ
from serfmp.detector.config import PROFILES
from serfmp.io.feed import DetectorFeed
from serfmp.io.refusals import PERIOD, Refusals
from serfmp.io.resolver import Resolver
from serfmp.io.streams import Streams
from serfmp.wire.crypto import Keyring
from serfmp.wire.errors import WireError
from serfmp.wire.host_port import join_host_port
from serfmp.wire.packet import Opened, PacketFormat, PendingPacket, open_packet, seal_packet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serfmp.agent.child import Child
    from serfmp.agent.config import AgentConfig
    from serfmp.bus.loop import Watched

DRAIN_PACKETS: Final = 64
"""Packets read in one drain."""

DRAIN_BYTES: Final = 256 * 1024
"""Bytes read in one drain."""

FENCE_DRAINS: Final = 64
"""Drains for one fence at most: more than the kernel's buffer holds in packets of ordinary size."""

PACKET_SIZE: Final = 65536
"""Largest datagram read (spec wire.md 4.1)."""

DECODE_BUDGET: Final = 32 * 1024
"""Bytes decompressed at once; longer packets wait for further turns."""

PENDING_LIMIT: Final = 16
"""Packets in the middle of a long decompression; further ones are dropped."""

MESSAGES_PER_TURN: Final = 64
"""Frames taken from the detector in one turn."""

COMPRESSED_PER_TURN: Final = 2
"""Packets that one frame of the detector may compress: 0.1 ms each in Python, so a busy agent sends plain ones."""

COMPRESSED_PER_SECOND: Final = 20
"""Packets of a second that may be compressed, the first ones it sends, for the same reason: as many as are sent where
little happens."""

_SO_TIMESTAMPNS: Final = 35
_TIMESPEC: Final = struct.Struct("qq")
_ANCILLARY: Final = socket.CMSG_SPACE(_TIMESPEC.size)
_ORDER: Final = {2: 0, 11: 0, 0: 1}
"""Rank of a packet by the type of its first message: acks and nacks, pings; the rest is 2."""


class Gossip:
    """The process' state. See the module."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._loop = child.loop
        self._format = packet_format(child.config)
        # The same keyring object: a change of keys is a change for both.
        self._uncompressed = dataclasses.replace(self._format, compress=False)
        self._second = self._loop.clock()
        self._sent = 0
        """Packets in the second that began then."""
        self._udp = socket.socket(fileno=child.descriptors["udp"])
        self._udp.setblocking(False)
        self._udp.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._reading = True
        self._emptied_at = time.monotonic()
        """When the UDP socket was last found empty: what is read later came later."""
        self._pending: deque[tuple[str, int, float, bool, PendingPacket]] = deque()
        self._fences: list[int] = []
        self.counters = child.metrics.counters
        self._refusals = Refusals(lambda level, text: child.log(level, "memberlist", text), self._loop.clock)
        self._feed = DetectorFeed(child)
        self._resolver = Resolver(self._loop, self._on_resolved)
        self._streams = Streams(
            self._loop,
            socket.socket(fileno=child.descriptors["tcp"]),
            self._format,
            PROFILES[child.config.profile].stream_timeout,
            child.generation,
            self._on_stream,
            self._on_stream_answer,
            lambda level, text: child.log(level, "memberlist", text),
            self._refusals,
            self.counters,
        )
        self._network: zmq.Socket[bytes] | None = None
        self._watched: Watched | None = None
        self._loop.add(self._udp, lambda _events: self._drain_once())
        self._loop.after_input = self._after_input
        if self._format.keyring is not None:
            # One ring serves packets and streams, with and without compression.
            child.on_keys = self._format.keyring.replace
        child.on_generation.append(self._on_generation)
        self._on_generation("detector", child.generations.get("detector", 0))
        self._loop.call_every(PERIOD, self._refusals.summarise)

    # --- from the network ---------------------------------------------------------------------------------------------

    def _drain_once(self) -> None:
        if not self._feed.room:
            self._reading = False
            self._loop.change(self._udp, 0)
            return
        self._drain()

    def _drain(self) -> bool:
        """Hand over one batch. True if the socket may hold more."""
        packets: list[frames.Packet] = []
        size = 0
        # Kernel stamps are wall time; both clocks are read together, so a step of the wall clock spoils one drain at
        # most, and `arrival_time` refuses what it spoils.
        now = time.monotonic()
        to_monotonic = now - time.time()
        receive = self._udp.recvmsg
        more = True
        for _ in range(DRAIN_PACKETS):
            try:
                data, ancillary, _flags, source = receive(PACKET_SIZE, _ANCILLARY)
            except BlockingIOError:
                self._emptied_at = now
                more = False
                break
            except OSError:
                self.counters["serfmp.udp.receive_errors"] += 1
                continue
            size += len(data)
            stamp = -math.inf
            if ancillary:
                seconds, nanoseconds = _TIMESPEC.unpack(ancillary[0][2])
                stamp = seconds + nanoseconds * 1e-9 + to_monotonic
            now = time.monotonic()
            arrival, timed = arrival_time(stamp, self._emptied_at, now)
            self._open(source[0], source[1], arrival, timed, data, packets)
            if size > DRAIN_BYTES:
                break
        self.counters["memberlist.udp.received"] += size
        self._hand_over(packets)
        return more

    def _open(
        self, host: str, port: int, arrival: float, timed: bool, data: bytes, packets: list[frames.Packet]
    ) -> None:
        try:
            opened = open_packet(data, self._format, DECODE_BUDGET)
        except WireError as error:
            self._count_bad(error, host, port)
            return
        if isinstance(opened, Opened):
            self._take(host, port, arrival, timed, opened, packets)
        elif len(self._pending) < PENDING_LIMIT:
            self._pending.append((host, port, arrival, timed, opened))
        else:
            self.counters["serfmp.udp.decompress_overflow"] += 1

    def _take(
        self, host: str, port: int, arrival: float, timed: bool, opened: Opened, packets: list[frames.Packet]
    ) -> None:
        if opened.truncated:
            self._child.log(
                "WARN", "memberlist", f"Compound request had {opened.truncated} truncated messages from={host}:{port}"
            )
        if opened.parts:
            packets.append((host, port, arrival, timed, list(opened.parts)))

    def _hand_over(self, packets: list[frames.Packet]) -> None:
        if packets:
            if len(packets) > 1:
                packets.sort(key=_rank)
            self._feed.send(frames.PacketBatch(packets))

    def _decode_some(self) -> None:
        """One slice for the packet that waits longest."""
        host, port, arrival, timed, pending = self._pending.popleft()
        try:
            opened = pending.step(DECODE_BUDGET)
        except WireError as error:
            self._count_bad(error, host, port)
            return
        if opened is None:
            self._pending.append((host, port, arrival, timed, pending))
            self._loop.call_soon(_nothing)
        else:
            packets: list[frames.Packet] = []
            self._take(host, port, arrival, timed, opened, packets)
            self._hand_over(packets)

    def _count_bad(self, error: WireError, host: str, port: int) -> None:
        self.counters["serfmp.udp.bad_packets"] += 1
        self._refusals.packet(error, join_host_port(host, port))

    def _on_stream(self, stream: int, host: str, port: int, message: bytes) -> None:
        self._feed.send(frames.StreamArrived(stream, host, port, message))

    def _on_stream_answer(self, token: int, message: bytes | None, error: str, remote: bool) -> None:
        self._feed.send(frames.StreamAnswered(token, message, error, remote))

    def _on_resolved(self, token: int, addresses: list[str], error: str) -> None:
        self._feed.send(frames.NameResolved(token, addresses, error))

    def _after_input(self, _now: float) -> None:
        if self._pending:
            self._decode_some()
        if self._fences:
            fences, self._fences = self._fences, []
            for _ in range(FENCE_DRAINS):
                if not self._drain():
                    break
            for token in fences:
                self._feed.send(frames.FenceBack(token))

    # --- from the detector --------------------------------------------------------------------------------------------

    def _on_generation(self, name: str, generation: int) -> None:
        if name != "detector" or not generation:
            return
        if self._network is not None:
            self._loop.remove_socket(self._network)
            self._network.close()
        self._network = make_socket(self._child.context, zmq.PULL, hwm=PACKET_HWM)
        self._network.connect(self._child.endpoints.network(generation))
        self._watched = self._loop.add_socket(self._network, self._receive, told=True)
        self._fences.clear()
        self._feed.connect(generation)
        self._streams.repeat_unanswered()

    def _receive(self) -> None:
        network = self._network
        for _ in range(MESSAGES_PER_TURN):
            if network is None or self._watched is None or network is not self._network:
                return
            try:
                message = network.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            envelope, frame = frames.open_sealed(message)
            if envelope.receiver != self._child.generation:
                self.counters["serfmp.bus.stale"] += 1
            else:
                self._handle(frame)
            if not self._watched.ready():  # cheaper than to be refused a message
                return

    def _handle(self, frame: Any) -> None:
        match frame:
            case frames.Transmit(handled, packets):
                self._feed.handled(handled)
                if not self._reading and self._feed.room:
                    self._reading = True
                    self._loop.change(self._udp, READ)
                self._transmit_all(packets)
            case frames.Fence(token):
                # Answered after the next look at the sockets: what has arrived by now is handed over first.
                self._fences.append(token)
                self._loop.call_soon(_nothing)
            case frames.StreamOpen():
                self._streams.open(frame)
            case frames.StreamAnswer(stream, reply):
                self._streams.answer(stream, reply)
            case frames.StreamClose(stream):
                self._streams.close(stream)
            case frames.NameResolve(token, host, port):
                self._resolver.resolve(token, host, port)

    def _transmit_all(self, packets: list[frames.Transmission]) -> None:
        now = self._loop.clock()
        if now >= self._second + 1:
            self._second, self._sent = now, 0
        budget = min(COMPRESSED_PER_TURN, COMPRESSED_PER_SECOND - self._sent)
        self._sent += len(packets)
        sealed: dict[tuple[bool, tuple[bytes, ...]], Sequence[bytes]] = {}
        for host, port, checksum, token, parts in packets:
            # What is new goes to several nodes: it is sealed once.
            key = checksum, tuple(parts)
            datagrams = sealed.get(key)
            if datagrams is None:
                worth = budget > 0 and sum(map(len, parts)) > self._format.compress_over
                budget -= worth
                datagrams = seal_packet(parts, checksum, self._format if worth else self._uncompressed)
                sealed[key] = datagrams
            self._transmit(host, port, token, datagrams)

    def _transmit(self, host: str, port: int, token: int, datagrams: Sequence[bytes]) -> None:
        for datagram in datagrams:
            try:
                self.counters["memberlist.udp.sent"] += self._udp.sendto(datagram, (host, port))
            except BlockingIOError:
                self.counters["serfmp.udp.send_full"] += 1
            except OSError as error:
                self.counters["serfmp.udp.send_errors"] += 1
                if token:
                    self._feed.send(frames.SendFailed(token, True, f"write udp {host}:{port}: {error.strerror}"))


def arrival_time(stamp: float, earliest: float, now: float) -> tuple[float, bool]:
    """When a packet came, and whether that is exact: its stamp, unless it cannot be right.

    All are seconds of the monotonic clock. A stamp before `earliest` or after `now` was spoilt by a step of the wall
    clock, which the kernel stamps with; taken for true, it would set the detector's time to some other day.
    """
    return (stamp, True) if earliest <= stamp <= now else (now, False)


def packet_format(config: AgentConfig) -> PacketFormat:
    """How this agent dresses packets and streams."""
    keyring = Keyring(config.keys) if config.keys else None
    return PacketFormat(keyring, config.label, compress=config.compression)


def _rank(packet: frames.Packet) -> int:
    return _ORDER.get(packet[4][0][0], 2)


def _nothing() -> None:
    """Only makes the loop take another turn at once."""


def main(child: Child) -> None:
    """Be the gossip process."""
    allow_descriptors(DESCRIPTORS)
    Gossip(child)
    child.ready()
    child.loop.run()
