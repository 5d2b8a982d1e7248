"""Records the UDP packets that pass the loopback device, for judging by `serfmp.wire` or by eye.

Rules:

* The kernel filters: a classic BPF program lets through UDP packets from or to the given ports, each once. (The
  loopback device shows every packet twice, leaving and arriving; the leaving one is dropped.)
* The filter is in place before the socket is bound: no foreign packet slips in.
* Times are the kernel's, when the packet arrived, converted to the monotonic clock: a busy test does not blur them.
* Nothing is lost in silence: what the kernel dropped and what did not fit in the list are counted.
* Needs CAP_NET_RAW; `can_sniff` tells.
"""

import contextlib
import ctypes
import ipaddress
import math
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.harness.addresses import Endpoint

# From Linux's headers; Python's socket module does not name them.
ETH_P_ALL = 0x0003
PACKET_OUTGOING = 4
PACKET_STATISTICS = 6
SOL_PACKET = 263
SO_ATTACH_FILTER = 26
SO_RCVBUFFORCE = 33
SO_TIMESTAMPNS = 35
SKF_AD_PKTTYPE = 0xFFFFF000 + 4
"""Where a filter finds the packet's type: SKF_AD_OFF (-4096) + 4."""

RECEIVE_BUFFER = 32 * 1024 * 1024
"""Bytes: about 20,000 packets while Python is busy with something else."""

IDLE_S = 0.1
"""How long the reader may take to notice that it should end."""


@dataclass(frozen=True, slots=True)
class Captured:
    """A UDP packet; `at` in seconds of the monotonic clock."""

    at: float
    source: Endpoint
    target: Endpoint
    payload: bytes


class Sniffer:
    """Captures from its construction to `close`. Give a callback, which runs in the reader's thread, or read `packets`.

    `hosts` narrows the capture to packets whose source or target is among them.
    """

    def __init__(
        self,
        ports: Collection[int],
        *,
        hosts: Collection[str] = (),
        limit: int = 100_000,
        callback: Callable[[Captured], None] | None = None,
    ) -> None:
        self._hosts = frozenset(hosts)
        self._limit = limit
        self._callback = callback
        self._lock = threading.Lock()
        self._packets: list[Captured] = []
        self._overflow = 0
        self._kernel_drops = 0
        self._until = math.inf
        self._socket = _open(frozenset(ports))
        self._thread = threading.Thread(target=self._read, name="sniffer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def packets(self) -> list[Captured]:
        """A copy of all packets so far, in order."""
        with self._lock:
            return list(self._packets)

    @property
    def dropped(self) -> int:
        """Packets that were lost to the capture: by the kernel, or because the list was full."""
        with self._lock:
            if self._socket.fileno() >= 0:
                self._count_drops()
            return self._kernel_drops + self._overflow

    def close(self) -> None:
        """Take what has arrived, then end. Packets and figures stay readable."""
        self._until = time.monotonic()
        self._thread.join()
        with self._lock:
            if self._socket.fileno() >= 0:
                self._count_drops()
            self._socket.close()

    def _count_drops(self) -> None:
        # Reading the statistics resets them.
        _, drops = struct.unpack("II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        self._kernel_drops += drops

    def _read(self) -> None:
        self._socket.settimeout(IDLE_S)
        space = socket.CMSG_SPACE(16)
        difference = _clock_difference()
        while True:
            try:
                data, ancillary, _, address = self._socket.recvmsg(65_600, space)
            except TimeoutError:
                if self._until < math.inf:
                    return
                continue
            if address[2] == PACKET_OUTGOING:
                continue
            at = _arrival(ancillary, difference)
            if at > self._until:
                return
            captured = _parse(data, at)
            if captured is None or (
                self._hosts and captured.source.host not in self._hosts and captured.target.host not in self._hosts
            ):
                continue
            if self._callback is not None:
                self._callback(captured)
                continue
            with self._lock:
                if len(self._packets) < self._limit:
                    self._packets.append(captured)
                else:
                    self._overflow += 1


def can_sniff() -> bool:
    """Whether this process may capture: Linux, and CAP_NET_RAW."""
    try:
        _open(frozenset({9})).close()
    except (AttributeError, PermissionError):
        return False
    return True


def _open(ports: frozenset[int]) -> socket.socket:
    """A packet socket on the loopback device that gives network-layer packets of these UDP ports."""
    # SOCK_DGRAM: the kernel takes off the link layer. Protocol 0: nothing comes before bind.
    capture = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    try:
        try:
            capture.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        except PermissionError:
            capture.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        capture.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        _attach(capture, _filter(sorted(ports)))
        capture.bind(("lo", ETH_P_ALL))
    except BaseException:
        capture.close()
        raise
    return capture


def _attach(capture: socket.socket, program: list[tuple[int, int, int, int]]) -> None:
    code = b"".join(struct.pack("=HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    capture.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(buffer)))


def _filter(ports: list[int]) -> list[tuple[int, int, int, int]]:
    """A classic BPF program, steps of (code, jump if true, jump if false, value); offsets from the network header.

    X becomes the length of the IP header; then source and target port are compared with each port.
    """
    load_byte, load_half_x, load_word = 0x30, 0x48, 0x20
    equal, shift, x_header, x_value, jump, accept = 0x15, 0x74, 0xB1, 0x01, 0x05, 0x06
    if not 1 <= len(ports) <= 60:
        message = f"between 1 and 60 ports, not {len(ports)}: a jump of the filter reaches 255 steps"
        raise ValueError(message)
    compare: list[tuple[int, int, int, int]] = []
    for offset in (0, 2):
        compare.append((load_half_x, 0, 0, offset))
        for port in ports:
            compare.append((equal, 0, 1, port))
            compare.append((accept, 0, 0, 0xFFFFFFFF))
    refuse = (accept, 0, 0, 0)
    return [
        (load_word, 0, 0, SKF_AD_PKTTYPE),
        (equal, 0, 1, PACKET_OUTGOING),
        refuse,
        (load_byte, 0, 0, 0),
        (shift, 0, 0, 4),
        (equal, 0, 5, 4),
        # IPv4: protocol at 9, header length in the first byte.
        (load_byte, 0, 0, 9),
        (equal, 1, 0, socket.IPPROTO_UDP),
        refuse,
        (x_header, 0, 0, 0),
        (jump, 0, 0, 6),
        (equal, 1, 0, 6),
        refuse,
        # IPv6: next header at 6, forty bytes; extension headers do not occur on loopback.
        (load_byte, 0, 0, 6),
        (equal, 1, 0, socket.IPPROTO_UDP),
        refuse,
        (x_value, 0, 0, 40),
        *compare,
        refuse,
    ]


def _clock_difference() -> float:
    """Wall clock minus monotonic clock, in seconds, from the tightest of some readings: one may be interrupted.

    Taken once per capture: both clocks are slewed alike, and a step of the wall clock is not expected in a test.
    """
    readings = []
    for _ in range(20):
        before, wall, after = time.monotonic(), time.time(), time.monotonic()
        readings.append((after - before, wall - (before + after) / 2))
    return min(readings)[1]


def _arrival(ancillary: list[tuple[int, int, bytes]], difference: float) -> float:
    """The kernel's time of arrival on the monotonic clock; now, if it gave none."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = struct.unpack("qq", data[:16])
            wall: float = seconds + nanoseconds / 1e9
            return wall - difference
    return time.monotonic()


def _parse(data: bytes, at: float) -> Captured | None:
    """A packet from its network header on; None for what is no whole UDP packet."""
    with contextlib.suppress(struct.error, IndexError, ValueError):
        if data[0] >> 4 == 4:
            header = (data[0] & 0x0F) * 4
            source, target = ipaddress.ip_address(data[12:16]), ipaddress.ip_address(data[16:20])
        else:
            header = 40
            source, target = ipaddress.ip_address(data[8:24]), ipaddress.ip_address(data[24:40])
        source_port, target_port, length = struct.unpack_from("!HHH", data, header)
        payload = data[header + 8 : header + length]
        return Captured(at, Endpoint(str(source), source_port), Endpoint(str(target), target_port), payload)
    return None
