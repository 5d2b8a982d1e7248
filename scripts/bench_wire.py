"""What the layers and messages of a packet cost: processor time per packet, the median of several rounds.

A packet is what an agent sends under load: an ack with gossip in it, 1400 bytes before encryption. All figures are of
this machine, one after the other in one process; compare them with each other, not with those of another machine.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.proofs.command import conclude, parser
from scripts.proofs.report import Report
from serfmp.wire import lzw
from serfmp.wire.crypto import Keyring
from serfmp.wire.messages import Ack, Alive, Ping, Suspect, User, decode_packet_message, encode
from serfmp.wire.packet import Opened, PacketFormat, open_packet, seal_packet
from serfmp.wire.serf_messages import JoinIntent, UserEvent, decode_serf, encode_serf
from serfmp.wire.tags import encode_tags

ROUNDS = 7
VERSIONS = bytes((1, 5, 2, 2, 5, 5))
WHOLE = 1 << 21
ROOM = 1400


def median_us(work: Callable[[], object], seconds: float) -> float:
    """Microseconds of processor time that a call takes."""
    work()
    calls, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds / ROUNDS / 4:
        work()
        calls += 1
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(calls):
            work()
        rounds.append((time.process_time() - began) / calls * 1e6)
    return statistics.median(rounds)


def messages() -> list[bytes]:
    """What one full packet holds."""
    meta = encode_tags({"role": "web", "dc": "east", "version": "1.2.3"})
    parts = [encode(Ack(7))]
    size = len(parts[0])
    for number in range(1000):
        name = f"node-{number}.example.org"
        some: list[bytes] = [
            encode(Alive(number + 1, name, bytes((10, 0, 0, number % 250)), 7946, meta, VERSIONS)),
            encode(Suspect(number + 1, name, "node-1.example.org")),
            encode(User(encode_serf(JoinIntent(number + 5, name)))),
            encode(User(encode_serf(UserEvent(number + 5, "deploy", b"version 1.2.%d" % number, coalesce=True)))),
        ]
        for part in some:
            if size + 2 + len(part) > ROOM:
                return parts
            parts.append(part)
            size += 2 + len(part)
    return parts


def main() -> int:
    """The command line."""
    given = parser("Cost of the layers and messages of a packet.").parse_args()
    seconds = 0.2 if given.short else 2.0
    parts = messages()
    plain = PacketFormat(compress=False)
    packed = PacketFormat(compress=True)
    secret = PacketFormat(keyring=Keyring((bytes(range(32)),)), compress=False)
    (whole,) = seal_packet(parts, checksum=True, fmt=plain)
    (small,) = seal_packet(parts, checksum=True, fmt=packed)
    (sealed,) = seal_packet(parts, checksum=True, fmt=secret)
    body = b"".join(parts)
    shrunk = lzw.compress(body)
    event = encode_serf(UserEvent(5, "deploy", b"version 1.2.3", coalesce=True))
    single = {
        "ping": encode(Ping(7, "node-1", bytes((10, 0, 0, 1)), 7946, "node-2")),
        "ack": encode(Ack(7)),
        "alive": next(part for part in parts if part[0] == 4),
        "suspect": next(part for part in parts if part[0] == 3),
    }
    report = Report(f"µs of processor time; a packet has {len(parts)} messages in {len(whole)} bytes")
    for what, work in {
        "packet: compound and checksum, written": lambda: seal_packet(parts, checksum=True, fmt=plain),
        "packet: compound and checksum, read": lambda: open_packet(whole, plain, WHOLE),
        f"packet: the same compressed to {len(small)} bytes, written": lambda: seal_packet(parts, True, packed),
        "packet: the same compressed, read": lambda: open_packet(small, packed, WHOLE),
        "packet: the same encrypted (AES-256-GCM), written": lambda: seal_packet(parts, True, secret),
        "packet: the same encrypted, read": lambda: open_packet(sealed, secret, WHOLE),
        f"LZW alone: {len(body)} bytes to {len(shrunk)}": lambda: lzw.compress(body),
        f"LZW alone: {len(shrunk)} bytes back": lambda: lzw.decompress(shrunk, WHOLE),
        "all messages of the packet, decoded": lambda: [decode_packet_message(part) for part in parts],
        "user event, decoded": lambda: decode_serf(event),
        **{f"{name}, decoded": (lambda data=data: decode_packet_message(data)) for name, data in single.items()},
        "ack, encoded": lambda: encode(Ack(7)),
    }.items():
        report.tell(what, median_us(work, seconds))
    opened = open_packet(small, packed, WHOLE)
    same = isinstance(opened, Opened) and list(opened.parts) == parts
    report.require("what was sealed opens to the same", "yes" if same else "no", "yes", same)
    return conclude(report, given.json)


if __name__ == "__main__":
    sys.exit(main())
