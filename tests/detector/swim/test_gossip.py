"""Dissemination: at once, repeated by ticks, within the size of a packet (spec swim.md 7)."""

from __future__ import annotations

from typing import Any

import pytest

from serfmp.detector.config import LOCAL
from serfmp.detector.effects import Count, SendPacket
from serfmp.wire.messages import Ack, Ping, User
from serfmp.wire.serf_messages import UserEvent, encode_serf
from tests.detector.rig import OWN, Rig


def rig_with(count: int, **config: Any) -> Rig:
    """A core that knows so many others, in the middle of nothing."""
    rig = Rig(**config)
    for number in range(count):
        rig.alive(f"n{number}")
    rig.take()
    rig.forget_queue()
    rig.core._swim.prober.cancel()
    return rig


def event_packets(rig: Rig) -> list[SendPacket]:
    """Packets since the last look that carry user messages."""
    return [
        effect for effect in rig.take() if isinstance(effect, SendPacket) and any(part[0] == 8 for part in effect.parts)
    ]


def send_event(rig: Rig, name: str, payload: bytes = b"", ltime: int = 1) -> None:
    rig.serf(UserEvent(ltime, name, payload, coalesce=False))


def test_what_is_new_leaves_at_once_to_several_nodes() -> None:
    rig = rig_with(5)
    send_event(rig, "deploy")
    rig.pass_time(0.011)
    packets = event_packets(rig)
    assert len({packet.destination for packet in packets}) == len(packets) == 3
    assert all(packet.checksum for packet in packets)


def test_a_burst_shares_packets() -> None:
    rig = rig_with(5)
    for number in range(20):
        send_event(rig, f"e{number}")
    rig.pass_time(0.011)
    packets = event_packets(rig)
    assert len(packets) == 3
    assert all(len(packet.parts) == 20 for packet in packets)


def test_a_long_burst_goes_on_leaving_promptly() -> None:
    rig = rig_with(5)
    for number in range(200):
        send_event(rig, f"e{number}", bytes(60), ltime=number + 1)
    rig.pass_time(0.06)
    parts = {part for packet in event_packets(rig) for part in packet.parts if part[0] == 8}
    assert len(parts) == 200


def test_the_retransmit_limit_bounds_copies_and_the_queue_becomes_empty() -> None:
    for count, limit in ((1, 6), (5, 8), (20, 10)):
        rig = rig_with(count)
        send_event(rig, "deploy")
        rig.pass_time(5)
        copies = sum(part[0] == 8 for packet in event_packets(rig) for part in packet.parts)
        assert copies == limit
        assert rig.core.stats()["event_queue"] == "0"


def test_a_small_retransmit_limit_bounds_the_first_copies_too() -> None:
    rig = rig_with(5, profile=LOCAL)
    send_event(rig, "deploy")
    rig.pass_time(5)
    assert sum(part[0] == 8 for packet in event_packets(rig) for part in packet.parts) == 6


def test_alone_nothing_is_lost_and_later_comers_get_it() -> None:
    rig = rig_with(0)
    send_event(rig, "deploy")
    rig.pass_time(10)
    assert event_packets(rig) == []
    rig.alive("x")
    rig.pass_time(0.3)
    assert event_packets(rig)


def test_a_message_that_fits_no_packet_is_not_queued_but_counted() -> None:
    rig = rig_with(3)
    send_event(rig, "big", bytes(1400))
    assert Count("serfmp.queue.oversize.Event") in rig.take()
    assert rig.core.stats()["event_queue"] == "0"


@pytest.mark.parametrize("overhead", [0, 29])
def test_no_packet_exceeds_its_size(overhead: int) -> None:
    rig = rig_with(8, encryption_overhead=overhead)
    for number in range(300):
        send_event(rig, f"event{number}", bytes(number * 7 % 512), ltime=number + 1)
        rig.alive(f"m{number}")
        if number % 10 == 0:
            rig.receive(Ping(number, OWN))
            rig.pass_time(0.05)
    rig.pass_time(3)
    packets = [effect for effect in rig.take() if isinstance(effect, SendPacket)]
    sizes = [
        sum(len(part) + 2 for part in packet.parts)
        + (2 if len(packet.parts) > 1 else -2)
        + 5 * packet.checksum
        + overhead
        for packet in packets
    ]
    assert 1300 < max(sizes) <= 1400
    assert all(all(packet.parts) for packet in packets)


def test_a_full_queue_drops_and_counts() -> None:
    rig = rig_with(0, queue_depth_limit=10)
    for number in range(25):
        send_event(rig, f"e{number}")
    counts = [effect.amount for effect in rig.take() if effect == Count("serfmp.queue.dropped.Event")]
    assert sum(counts) == 15
    assert rig.core.stats()["event_queue"] == "10"


def test_acks_carry_what_is_queued() -> None:
    rig = rig_with(3)
    send_event(rig, "deploy")
    rig.receive(Ping(7, OWN), ("127.0.0.9", 9))
    ((_, messages),) = rig.sent()
    assert messages[0] == Ack(7)
    assert messages[1] == User(encode_serf(UserEvent(1, "deploy", b"", coalesce=False)))


def test_a_tick_sends_all_of_a_deep_queue_once_in_several_packets() -> None:
    rig = rig_with(1)
    for number in range(200):
        send_event(rig, f"e{number}", bytes(60), ltime=number + 1)
    rig.pass_time(0.19)
    rig.take()
    rig.pass_time(0.2)
    packets = event_packets(rig)
    parts = [part for packet in packets for part in packet.parts if part[0] == 8]
    assert len(packets) >= 15
    assert len(set(parts)) == 200
    # The last packet is filled up with what was sent before.
    assert len(parts) < 200 + 2 * len(packets[0].parts)


def test_what_comes_while_it_is_quiet_leaves_with_the_turn() -> None:
    rig = rig_with(5)
    rig.pass_time(1)
    rig.take()
    send_event(rig, "deploy")
    rig.pass_time(0)
    assert len(event_packets(rig)) == 3
    send_event(rig, "again", ltime=2)
    rig.pass_time(0)
    assert event_packets(rig) == []
    rig.pass_time(0.011)
    assert len(event_packets(rig)) == 3


def test_neither_members_nor_events_starve_when_both_are_many() -> None:
    rig = rig_with(5)
    rig.pass_time(1)
    rig.take()
    for number in range(400):
        rig.alive(f"m{number}")
        send_event(rig, f"e{number}", bytes(60), ltime=number + 1)
    rig.pass_time(0.05)
    parts = [part for packet in rig.take() if isinstance(packet, SendPacket) for part in packet.parts]
    events = sum(part[0] == 8 for part in parts)
    assert 0.2 < events / len(parts) < 0.8


def test_beyond_the_budget_only_ticks_send_and_it_is_told() -> None:
    rig = rig_with(5, gossip_budget=64 * 1024)
    rig.pass_time(1)
    rig.take()
    for number in range(3000):
        send_event(rig, f"e{number}", bytes(60), ltime=number // 100 + 1)
    rig.pass_time(1)
    effects = rig.take()
    spent = sum(len(part) + 2 for effect in effects if isinstance(effect, SendPacket) for part in effect.parts)
    # What may be saved up, one second's budget, one packet to each of three targets per tick, and each time the last.
    assert 64 * 1024 < spent < 1.1 * 64 * 1024 + 6 * 3 * 1400 + 3 * 1400
    assert any(effect == Count("serfmp.gossip.budget") for effect in effects)
    assert sum("reached its budget" in repr(effect) for effect in effects) == 1


def test_gossip_reaches_the_recently_dead_but_not_who_left() -> None:
    rig = rig_with(2)
    rig.dead("n0")
    rig.dead("n1", sender="n1")
    rig.forget_queue()
    rig.take()
    send_event(rig, "deploy")
    rig.pass_time(1)
    assert {packet.destination for packet in event_packets(rig)} == {rig.node("n0").endpoint}


def test_while_nothing_is_queued_the_tick_rests_and_what_is_queued_wakes_it() -> None:
    rig = rig_with(3)
    gossip = rig.core._swim.gossip
    rig.pass_time(0.21)
    assert gossip._ticker._timer is None
    send_event(rig, "deploy")
    assert gossip._ticker._timer is not None
    assert gossip._ticker._timer.deadline <= rig.now + 0.2
    sent = 0
    while gossip._ticker._timer is not None:
        sent += len(event_packets(rig))
        rig.core._swim.prober.cancel()
        rig.pass_time(0.05)
    sent += len(event_packets(rig))
    assert sent >= gossip.queues[-1].transmit_limit
    assert not any(queue.size for queue in gossip.queues)
