"""Speaking gossip as a stranger: pings by UDP and TCP, requests to ping another, and a look at a member list.

Rules: nothing is told that changes a member list; a push/pull carries no members and no state, and asks for none to be
kept. All UDP questions of one round go out at once and share one deadline, and each is asked twice.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import secrets
import select
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from serfmp.errors import RemoteError
from serfmp.wire.messages import Ack, ErrorReply, IndirectPing, Nack, Ping, decode_packet_message, encode
from serfmp.wire.packet import Opened, PacketFormat, open_packet, seal_packet
from serfmp.wire.stream import PushPullReader, StreamReader, decode_stream_message, encode_push_pull, seal_stream

ROUND_S: Final = 1.5
"""For the answers to one round of UDP questions."""

STREAM_S: Final = 3.0
"""For connecting, and for each further step on a stream."""

FULL_PACKET: Final = 1400
"""Longest packet that Serf's agents send, in bytes."""

STEP: Final = 1 << 20
STREAMS_AT_ONCE: Final = 8

IP_MTU_DISCOVER: Final = 10
IP_PMTUDISC_DO: Final = 2
"""Linux: packets are not cut into fragments, neither here nor on their way."""


@dataclass(frozen=True, slots=True)
class Target:
    """A member to ask."""

    name: str
    host: str
    port: int


def ping_all(targets: Sequence[Target], dress: PacketFormat, *, size: int = 0) -> dict[str, str]:
    """Ping by UDP, with packets of `size` bytes (0: as short as they are).

    By name: empty for an ack, else what went wrong.
    """
    return _ask_all(targets, dress, lambda target, number: _ping(target, number, dress, size), whole=bool(size))


def ping_through(targets: Sequence[Target], whom: Target, dress: PacketFormat) -> dict[str, str]:
    """Let each of the targets ping `whom` by UDP. By name: empty for an ack, else what went wrong."""
    address = ipaddress.ip_address(whom.host).packed
    return _ask_all(
        targets, dress, lambda _, number: encode(IndirectPing(number, address, whom.port, whom.name, True)), whole=False
    )


def _ping(target: Target, number: int, dress: PacketFormat, size: int) -> bytes:
    short = encode(Ping(number, target.name))
    missing = size - len(seal_packet([short], checksum=False, fmt=dress)[0])
    if missing <= 0:
        return short
    # A name that nobody looks at; its field takes some bytes, too.
    return encode(Ping(number, target.name, source_node="x" * max(1, missing - 16)))


def _ask_all(
    targets: Sequence[Target], dress: PacketFormat, message: Callable[[Target, int], bytes], *, whole: bool
) -> dict[str, str]:
    found: dict[str, str] = {}
    sockets = {family: socket.socket(family, socket.SOCK_DGRAM) for family in {_family(target) for target in targets}}
    try:
        if whole and socket.AF_INET in sockets:
            sockets[socket.AF_INET].setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        waiting = dict(enumerate(targets, start=secrets.randbelow(1 << 30)))
        began = time.monotonic()
        for until in (began + ROUND_S / 2, began + ROUND_S):
            for number, target in waiting.items():
                packet = seal_packet([message(target, number)], checksum=False, fmt=dress)[0]
                try:
                    sockets[_family(target)].sendto(packet, (target.host, target.port))
                except OSError as error:
                    found[target.name] = "message too long" if error.errno == errno.EMSGSIZE else _reason(error)
            waiting = {number: target for number, target in waiting.items() if target.name not in found}
            _collect(list(sockets.values()), waiting, found, dress, until)
    finally:
        for sock in sockets.values():
            sock.close()
    return {**{target.name: f"no answer within {ROUND_S:g} s" for target in waiting.values()}, **found}


def _collect(
    sockets: Sequence[socket.socket],
    waiting: dict[int, Target],
    found: dict[str, str],
    dress: PacketFormat,
    until: float,
) -> None:
    while waiting and (left := until - time.monotonic()) > 0:
        ready, _, _ = select.select(sockets, [], [], left)
        for sock in ready:
            data = sock.recv(65536)
            try:
                opened = open_packet(data, dress, STEP)
                while not isinstance(opened, Opened):
                    opened = opened.step(STEP) or opened
                answers = [decode_packet_message(part) for part in opened.parts]
            except RemoteError:
                continue
            for answer in answers:
                if isinstance(answer, Ack | Nack) and answer.sequence in waiting:
                    target = waiting.pop(answer.sequence)
                    found[target.name] = "" if isinstance(answer, Ack) else "it got no ack"


def streams(targets: Sequence[Target], dress: PacketFormat) -> dict[str, Mapping[str, tuple[str, int]] | str]:
    """Ask each for its member list by TCP. By name: the addresses by node, or what went wrong."""
    with ThreadPoolExecutor(STREAMS_AT_ONCE) as pool:
        return dict(
            zip((t.name for t in targets), pool.map(lambda target: _members(target, dress), targets), strict=True)
        )


def _members(target: Target, dress: PacketFormat) -> Mapping[str, tuple[str, int]] | str:
    try:
        with socket.create_connection((target.host, target.port), STREAM_S) as connection:
            connection.sendall(seal_stream(encode_push_pull(False, [], b""), dress, dialling=True))
            reader = StreamReader(dress, inbound=False)
            while reader.message is None:
                data = connection.recv(65536)
                if not data:
                    return "it takes connections, and closed this one without an answer"
                reader.feed(data)
                while reader.step(STEP):
                    pass
        answer = decode_stream_message(reader.message)
    except RemoteError as error:
        return f"its answer cannot be read: {error}"
    except TimeoutError:
        return f"no answer within {STREAM_S:g} s"
    except OSError as error:
        return _reason(error)
    if isinstance(answer, ErrorReply):
        return f"it refused: {answer.text}"
    if not isinstance(answer, PushPullReader):
        return "its answer is no member list"
    return {
        row.name: (str(ipaddress.ip_address(row.address)).removeprefix("::ffff:"), row.port)
        for row in answer.take(answer.count)
        if len(row.address) in {4, 16}
    }


def _family(target: Target) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in target.host else socket.AF_INET


def _reason(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else str(error)
