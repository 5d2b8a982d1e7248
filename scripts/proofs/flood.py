"""Pings one agent as fast as it answers, with a fixed number of pings outstanding, and counts the acks.

Runs as a program of its own, so that nothing else takes its time: `flood.py HOST PORT NODE`, result as JSON on standard
output. Rules:

* Each datagram that comes back lets the next ping go. When none comes for `STALL_S`, what is outstanding counts as lost
  and is sent again.
* First one ping each of all outstanding ones is answered and decoded: every datagram must hold exactly one ack, of a
  ping that was sent, or counting datagrams would not be counting acks.
* Packets are built beforehand; the loop does two system calls per ack.

With `--echo` it is the other side: it sends back all that comes, which gives this program's own ceiling.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import struct
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from serfmp.wire.messages import Ack, MessageType, Ping, decode_packet_message, encode
from serfmp.wire.packet import Opened, PacketFormat, open_packet
from tests.harness import Endpoint

STALL_S = 0.2
"""Without an answer."""

PACKETS = 256
"""Pings built beforehand; also how many answers pass between two looks at the clock."""

SO_RCVTIMEO = 20
"""From Linux's headers, for 64-bit machines. Python's own timeouts cost a system call more per packet."""


class FloodError(Exception):
    """The target does not answer as an agent does."""


@dataclass(frozen=True, slots=True)
class Flooded:
    """`acks` came in `seconds`; `stalls` times nothing came for a while."""

    acks: int
    seconds: float
    stalls: int

    @property
    def rate(self) -> float:
        """Acks per second."""
        return self.acks / self.seconds


def flood(target: Endpoint, node: str, *, outstanding: int, seconds: float, acks: int, check: bool = True) -> Flooded:
    """Ping until `seconds` have passed or `acks` have come, whichever is first. Raises `FloodError`."""
    packets = [encode(Ping(number, node)) for number in range(1, PACKETS + 1)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVTIMEO, struct.pack("ll", 0, int(STALL_S * 1e6)))
        sock.bind((target.host, 0))
        sock.connect((target.host, target.port))
        begin = time.perf_counter()
        checked = _check(sock, packets[:outstanding]) if check else 0
        return _flood(sock, packets, outstanding, begin, begin + seconds, acks, checked)


def _check(sock: socket.socket, packets: list[bytes]) -> int:
    """Send some pings and look at each answer; how many acks came."""
    for packet in packets:
        sock.send(packet)
    seen: list[int] = []
    for _ in packets:
        try:
            data = sock.recv(65536)
        except BlockingIOError:
            raise FloodError(f"only {len(seen)} of {len(packets)} pings were answered") from None
        opened = open_packet(data, PacketFormat(), 1 << 21)
        parts = opened.parts if isinstance(opened, Opened) else ()
        acks = [decode_packet_message(part) for part in parts if part[0] == MessageType.ACK]
        if len(acks) != 1:
            raise FloodError(f"a datagram holds {len(acks)} acks")
        seen += [ack.sequence for ack in acks if isinstance(ack, Ack)]
    if sorted(seen) != list(range(1, len(packets) + 1)):
        raise FloodError(f"the acks do not fit the pings: {sorted(seen)}")
    return len(seen)


def _flood(
    sock: socket.socket, packets: list[bytes], outstanding: int, begin: float, end: float, limit: int, count: int
) -> Flooded:
    send, receive, buffer = sock.send, sock.recv_into, bytearray(65536)
    stalls = 0
    for packet in packets[:outstanding]:
        send(packet)
    while count < limit and time.perf_counter() < end:
        try:
            for packet in packets[: limit - count]:
                receive(buffer)
                count += 1
                send(packet)
        except BlockingIOError:
            stalls += 1
            for packet in packets[:outstanding]:
                send(packet)
    return Flooded(count, time.perf_counter() - begin, stalls)


def run(target: Endpoint, node: str, *, outstanding: int, seconds: float, acks: int, check: bool = True) -> Flooded:
    """`flood` in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), target.host, str(target.port), node]
    command += ["--outstanding", str(outstanding), "--seconds", str(seconds), "--acks", str(acks)]
    done = subprocess.run(
        [*command, *([] if check else ["--no-check"])],
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=False,
    )
    if done.returncode:
        raise FloodError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}")
    return Flooded(**json.loads(done.stdout))


def start_echo(endpoint: Endpoint) -> subprocess.Popen[bytes]:
    """A process that echoes; whoever starts it ends it. It is ready when it has written a line."""
    command = [sys.executable, str(Path(__file__).resolve()), endpoint.host, str(endpoint.port), "echo", "--echo"]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def _echo(endpoint: Endpoint) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((endpoint.host, endpoint.port))
        print("ready", flush=True)
        data, address = sock.recvfrom(65536)
        # A connected socket saves building an address object per packet.
        sock.connect(address)
        sock.send(data)
        buffer = bytearray(65536)
        view, receive, send = memoryview(buffer), sock.recv_into, sock.send
        # The other side ends by closing: what is still under way to it is refused.
        with contextlib.suppress(ConnectionRefusedError):
            while True:
                send(view[: receive(buffer)])


def main() -> int:
    """The command line."""
    arguments = argparse.ArgumentParser(description="Ping an agent as fast as it answers.")
    arguments.add_argument("host")
    arguments.add_argument("port", type=int)
    arguments.add_argument("node")
    arguments.add_argument("--outstanding", type=int, default=64)
    arguments.add_argument("--seconds", type=float, default=3.0)
    arguments.add_argument("--acks", type=int, default=1 << 60)
    arguments.add_argument("--no-check", action="store_true")
    arguments.add_argument("--echo", action="store_true")
    given = arguments.parse_args()
    target = Endpoint(given.host, given.port)
    if given.echo:
        _echo(target)
        return 0
    result = flood(
        target,
        given.node,
        outstanding=given.outstanding,
        seconds=given.seconds,
        acks=given.acks,
        check=not given.no_check,
    )
    print(json.dumps(asdict(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
