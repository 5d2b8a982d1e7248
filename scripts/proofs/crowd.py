"""Members that exist in a member list only: how an agent does with a thousand, or ten thousand.

Rules: they come by one push/pull, as from another agent, and are declared dead at once, so that nobody probes them and
nothing changes any more while figures are taken. An agent shows them as failed.
"""

from __future__ import annotations

import socket
import time
from collections import Counter

from serfmp.wire.messages import Dead, PushPullNode, encode
from serfmp.wire.packet import PacketFormat, seal_packet
from serfmp.wire.stream import StreamReader, encode_push_pull, seal_stream
from serfmp.wire.tags import encode_tags
from tests.harness import Agent

PLAIN = PacketFormat(compress=False)
VERSIONS = bytes((1, 5, 2, 2, 5, 5))
PORT = 7946
IN_A_PACKET = 20
"""Messages of death: 1400 bytes at most."""

PACE_S = 0.001
"""Between two packets, so that none is lost in a buffer."""

TRIES = 60
WAIT_S = 1.0


def name(number: int) -> str:
    """The name of a member of the crowd, which are numbered from 0."""
    return f"crowd-{number:05d}"


def address(number: int) -> bytes:
    """Its address, where nobody listens."""
    return bytes((127, 200, number >> 8 & 255, number & 255))


def fill(agent: Agent, count: int) -> None:
    """Bring the agent's member list to `count` members, all of them but its own failed."""
    meta = encode_tags({"role": "web", "dc": "east"})
    rows = [PushPullNode(name(number), address(number), PORT, meta, 1, 0, VERSIONS) for number in range(count - 1)]
    with socket.create_connection((agent.bind.host, agent.bind.port), 10) as connection:
        connection.settimeout(60)
        connection.sendall(seal_stream(encode_push_pull(False, rows, b""), PLAIN, dialling=True))
        reader = StreamReader(PLAIN, inbound=False)
        while reader.message is None and (data := connection.recv(65536)):
            reader.feed(data)
            while reader.step(1 << 20):
                pass
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for _ in range(TRIES):
            states = Counter(member.status for member in agent.client().members())
            if states == {"alive": 1, "failed": count - 1}:
                return
            alive = sorted(
                node for node, status in agent.statuses().items() if status == "alive" and node != agent.node
            )
            for start in range(0, len(alive), IN_A_PACKET):
                parts = [encode(Dead(1, node, agent.node)) for node in alive[start : start + IN_A_PACKET]]
                for packet in seal_packet(parts, checksum=False, fmt=PLAIN):
                    udp.sendto(packet, (agent.bind.host, agent.bind.port))
                time.sleep(PACE_S)
            time.sleep(WAIT_S)
    message = f"{agent!r} does not come to {count} members: {states}"
    raise RuntimeError(message)
