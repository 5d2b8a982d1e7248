"""Pings one agent as fast as it answers, with a fixed number of pings outstanding, and checks every answer afterwards.

Runs as a program of its own, so that nothing else takes its time: `flood.py HOST PORT NODE`, result as JSON on standard
output. Rules:

* Each datagram that comes back lets the next ping go. When none comes for `STALL_S`, what is outstanding counts as lost
  and is sent again.
* Every ping has a sequence number of its own: no agent can answer from a cache, and no answer can be counted twice.
* Pings are built beforehand and answers are kept and decoded afterwards: the loop does two system calls per ack. Only
  acks of pings that were sent count, each once; what else came is told. What an ack carries is told, too, because acks
  that carry more cost more.

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

import psutil

from serfmp.wire.messages import Ack, MessageType, Ping, decode_packet_message, encode
from serfmp.wire.packet import Opened, PacketFormat, open_packet
from tests.harness import Endpoint

STALL_S = 0.2
"""Without an answer."""

BUILT_PER_S = 120_000
"""Pings built beforehand for each second; a run that uses them up ends early, and its rate counts."""

DECODE_S = 120.0
"""For building the pings and looking at the answers, before and after the seconds that count."""

CHUNK = 256
"""Answers between two looks at the clock."""

SO_RCVTIMEO = 20
"""From Linux's headers, for 64-bit machines. Python's own timeouts cost a system call more per packet."""


class FloodError(Exception):
    """The target does not answer as an agent does."""


@dataclass(frozen=True, slots=True)
class Flooded:
    """`acks` of different pings came in `seconds`; `others` are datagrams that were none or came twice.

    `stalls`: how often nothing came for a while. Per ack, on average: bytes on the wire, bytes of payload (the
    coordinate), further messages (piggybacked gossip), microseconds that all processes of the agent computed (to 10 ms
    a process and run). `compressed`: share of acks in a compressed packet.
    """

    acks: int
    seconds: float
    stalls: int
    others: int
    size: float
    payload: float
    piggybacked: float
    compressed: float
    cost_us: float

    @property
    def rate(self) -> float:
        """Acks per second."""
        return self.acks / self.seconds


def flood(target: Endpoint, node: str, *, outstanding: int, seconds: float, acks: int, pid: int = 0) -> Flooded:
    """Ping until `seconds` have passed or `acks` have come, whichever is first. Raises `FloodError`.

    `pid` is the agent's first process; 0 means that the other side is an echo, which sends the pings back as they are.
    """
    built = min(acks, int(seconds * BUILT_PER_S)) + outstanding
    packets = [encode(Ping(number, node)) for number in range(1, built + 1)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVTIMEO, struct.pack("ll", 0, int(STALL_S * 1e6)))
        sock.bind((target.host, 0))
        sock.connect((target.host, target.port))
        cost = processor_time(pid)
        begin = time.perf_counter()
        answers, sent, stalls = _exchange(sock, packets, outstanding, begin + seconds, acks)
        took = time.perf_counter() - begin
        cost = processor_time(pid) - cost
    return _judge(answers, sent, stalls, took, cost, echo=not pid)


def processor_time(pid: int) -> float:
    """Seconds that a process and all below it have computed so far; nothing for 0."""
    if not pid:
        return 0.0
    root = psutil.Process(pid)
    return sum(sum(process.cpu_times()[:2]) for process in [root, *root.children(recursive=True)])


def _exchange(
    sock: socket.socket, packets: list[bytes], outstanding: int, end: float, limit: int
) -> tuple[list[bytes], int, int]:
    """The answers as they came, how many pings were sent, and the stalls."""
    send, receive = sock.send, sock.recv
    answers: list[bytes] = []
    keep = answers.append
    for packet in packets[:outstanding]:
        send(packet)
    sent, stalls = outstanding, 0
    while len(answers) < limit and sent < len(packets) and time.perf_counter() < end:
        chunk = packets[sent : sent + min(CHUNK, limit - len(answers))]
        try:
            for packet in chunk:
                keep(receive(65536))
                send(packet)
                sent += 1
        except BlockingIOError:
            stalls += 1
            for packet in packets[sent : sent + outstanding]:
                send(packet)
                sent += 1
    return answers, sent, stalls


def _judge(answers: list[bytes], sent: int, stalls: int, took: float, cost: float, *, echo: bool) -> Flooded:
    wanted = MessageType.PING if echo else MessageType.ACK
    seen: set[int] = set()
    payload = piggybacked = compressed = others = 0
    for data in answers:
        opened = open_packet(data, PacketFormat(), 1 << 21)
        parts = opened.parts if isinstance(opened, Opened) else ()
        found = [decode_packet_message(part) for part in parts if part[0] == wanted]
        first = found[0] if len(found) == 1 else None
        if not isinstance(first, Ack | Ping) or first.sequence in seen or not 1 <= first.sequence <= sent:
            others += 1
            continue
        seen.add(first.sequence)
        payload += len(first.payload) if isinstance(first, Ack) else 0
        piggybacked += len(parts) - 1
        # A checksum or a compound may be around it; agents compress the whole message, so it is the first byte here.
        compressed += data[0] == MessageType.COMPRESS
    if not seen:
        raise FloodError(f"none of {sent} pings was answered")
    size = sum(map(len, answers)) / len(answers)
    count = len(seen)
    return Flooded(
        count, took, stalls, others, size, payload / count, piggybacked / count, compressed / count, cost / count * 1e6
    )


def run(target: Endpoint, node: str, *, outstanding: int, seconds: float, acks: int, pid: int = 0) -> Flooded:
    """`flood` in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), target.host, str(target.port), node]
    command += ["--outstanding", str(outstanding), "--seconds", str(seconds), "--acks", str(acks)]
    done = subprocess.run(
        [*command, "--pid", str(pid)],
        capture_output=True,
        text=True,
        timeout=seconds + DECODE_S,
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
    arguments.add_argument("--pid", type=int, default=0, help="of the agent; 0: the target is an echo")
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
        pid=given.pid,
    )
    print(json.dumps(asdict(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
