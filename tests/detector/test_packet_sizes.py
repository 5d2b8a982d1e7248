"""Packets stay within the packet size with all layers that the configuration adds (spec wire.md 4.1)."""

from __future__ import annotations

import pytest

from serfmp.detector.config import LAN
from serfmp.detector.effects import EventRequest, SendPacket
from serfmp.wire.crypto import OVERHEAD, Keyring
from serfmp.wire.packet import PacketFormat, label_bytes, label_header, seal_packet
from tests.detector.rig import Rig


@pytest.mark.parametrize("label", ["", "blue", "x" * 255])
@pytest.mark.parametrize("keys", [(), (bytes(32),)], ids=["plain", "encrypted"])
def test_no_packet_is_larger_than_the_packet_size(label: str, keys: tuple[bytes, ...]) -> None:
    rig = Rig(
        encryption_overhead=OVERHEAD if keys else 0,
        label_overhead=len(label_header(label_bytes(label))) if label else 0,
    )
    dress = PacketFormat(Keyring(keys) if keys else None, label, compress=False)
    for number in range(6):
        rig.alive(f"n{number}")
    for number in range(300):
        rig.core.request(("rpc", 1, number), EventRequest("e", bytes(number), coalesce=False), rig.now)
    sizes: list[int] = []
    for _ in range(20):
        rig.pass_time(0.1)
        for effect in rig.take():
            if isinstance(effect, SendPacket):
                sizes += map(len, seal_packet(effect.parts, effect.checksum, dress))
    assert LAN.packet_size - 40 < max(sizes) <= LAN.packet_size
