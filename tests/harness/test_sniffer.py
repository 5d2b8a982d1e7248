import socket
from collections.abc import Callable, Collection

import pytest

from tests.harness import LoopbackAllocator, Sniffer, eventually

Sniff = Callable[[Collection[int]], Sniffer]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_each_packet_is_seen_once_in_order_with_its_ends_and_bytes(
    host: str, loopback: LoopbackAllocator, sniff: Sniff
) -> None:
    wanted, other = loopback.endpoint(host), loopback.endpoint(host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    capture = sniff({wanted.port})
    with socket.socket(family, socket.SOCK_DGRAM) as sender, socket.socket(family, socket.SOCK_DGRAM) as foreign:
        sender.bind((wanted.host, wanted.port))
        foreign.bind((other.host, 0))
        for number in range(100):
            foreign.sendto(b"not asked for", (other.host, other.port))
            sender.sendto(b"%d" % number * 500, (other.host, other.port))
        foreign.sendto(b"back", (wanted.host, wanted.port))
    eventually(lambda: len(capture.packets) >= 101, 10, "all packets that concern the port")
    capture.close()
    packets = capture.packets
    assert [packet.payload for packet in packets] == [b"%d" % number * 500 for number in range(100)] + [b"back"]
    assert {(packet.source, packet.target) for packet in packets[:-1]} == {(wanted, other)}
    assert packets[-1].target == wanted
    assert [packet.at for packet in packets] == sorted(packet.at for packet in packets)
    assert capture.dropped == 0


def test_what_does_not_fit_is_counted(loopback: LoopbackAllocator, sniff: Sniff) -> None:
    target = loopback.endpoint()
    sniff({target.port}).close()
    with Sniffer({target.port}, limit=3) as capture, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(10):
            sender.sendto(b"x", (target.host, target.port))
        eventually(lambda: capture.dropped == 7, 10, "seven are counted")
    assert len(capture.packets) == 3
