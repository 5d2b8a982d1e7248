"""Log lines about refused packets and streams: one that is clear, and few more."""

from __future__ import annotations

from serfmp.io.refusals import PEER_LIMIT, SETTING_PERIOD, Refusals
from serfmp.wire.errors import WireError

KEY = WireError("another key", "encrypt")
BAD = WireError("garbage")


class Rig:
    def __init__(self) -> None:
        self.now = 50.0
        self.lines: list[str] = []
        self.refusals = Refusals(lambda level, text: self.lines.append(f"[{level}] {text}"), lambda: self.now)


def test_a_wrong_key_is_told_once_for_each_peer_and_again_much_later_with_a_count() -> None:
    rig = Rig()
    for _ in range(100):
        rig.refusals.packet(KEY, "127.0.0.2:7946")
        rig.refusals.packet(KEY, "127.0.0.3:7946")
    assert rig.lines == [
        "[ERR] dropped a packet from=127.0.0.2:7946: another key",
        "[ERR] dropped a packet from=127.0.0.3:7946: another key",
    ]
    rig.now += SETTING_PERIOD
    rig.refusals.packet(KEY, "127.0.0.2:7946")
    assert rig.lines[2:] == ["[ERR] dropped a packet from=127.0.0.2:7946: another key (99 more since the last line)"]


def test_a_wrong_label_is_told_beside_a_wrong_key() -> None:
    rig = Rig()
    rig.refusals.packet(KEY, "127.0.0.2:7946")
    rig.refusals.packet(WireError("another label", "label"), "127.0.0.2:7946")
    assert len(rig.lines) == 2


def test_streams_of_one_host_share_a_line_whatever_their_ports() -> None:
    rig = Rig()
    for port in (4000, 4001):
        rig.refusals.stream(KEY, "127.0.0.2", f"127.0.0.2:{port}")
    assert rig.lines == ["[ERR] failed to receive: another key from=127.0.0.2:4000"]
    rig.refusals.stream(BAD, "127.0.0.2", "127.0.0.2:4002")
    assert rig.lines[1:] == ["[ERR] failed to receive: garbage from=127.0.0.2:4002"]


def test_other_bad_packets_are_told_once_in_a_while_and_counted() -> None:
    rig = Rig()
    for _ in range(5):
        rig.refusals.packet(BAD, "127.0.0.2:7946")
    rig.refusals.summarise()
    rig.refusals.summarise()
    assert rig.lines == [
        "[ERR] dropped a packet from=127.0.0.2:7946: garbage",
        "[ERR] dropped 4 more bad packets within 1 s",
    ]


def test_forged_addresses_fill_no_memory() -> None:
    rig = Rig()
    for number in range(3 * PEER_LIMIT):
        rig.refusals.packet(KEY, f"127.0.{number >> 8}.{number & 255}:7946")
    assert len(rig.refusals._peers) <= PEER_LIMIT
