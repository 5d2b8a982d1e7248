"""A detector that is killed at any moment goes on from its journal: nothing lost, nothing repeated, nobody accused."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serfmp.detector.effects import (
    EventKind,
    EventRequest,
    Lifecycle,
    MemberEvent,
    MemberStatus,
    OpenStream,
    SendPacket,
    UserEventReceived,
)
from serfmp.detector.records import CONSUMERS
from serfmp.detector.serf.user_events import OWN_AGAIN
from serfmp.detector.swim.swim import RESYNC_PARTNERS
from serfmp.sim.cluster import Cluster
from serfmp.sim.host import Host
from serfmp.wire.messages import Alive, decode_packet_message
from tests.detector.rig import OWN, Rig

ALIVE = MemberStatus.ALIVE


def own_incarnation(host: Host) -> int:
    assert host.core is not None
    return host.core._swim.membership.incarnation


def everybody_alive(hosts: list[Host]) -> bool:
    return all(list(host.statuses().values()) == [ALIVE] * len(hosts) for host in hosts)


def start(seed: int, count: int) -> tuple[Cluster, list[Host]]:
    cluster = Cluster(seed)
    hosts = [cluster.add(f"n{number}") for number in range(count)]
    for host in hosts[1:]:
        cluster.join(host, hosts[0])
    assert cluster.run_until(lambda: everybody_alive(hosts), 60)
    return cluster, hosts


def check_consumers(host: Host, expected: list[tuple[str, bytes]], members: list[str]) -> None:
    """Each consumer got each event once, in one order, and each member joined once and did nothing else."""
    for consumer in CONSUMERS:
        events = host.events[consumer]
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        users = [(event.name, event.payload) for event in events if isinstance(event, UserEventReceived)]
        assert sorted(users) == sorted(expected)
        kinds = [
            (event.kind, member.name) for event in events if isinstance(event, MemberEvent) for member in event.members
        ]
        assert sorted(kinds) == sorted((EventKind.MEMBER_JOIN, name) for name in members)


@pytest.mark.parametrize("seed", range(6))
def test_killing_detectors_at_random_loses_repeats_and_accuses_nothing(seed: int) -> None:
    cluster, hosts = start(seed, 4)
    rng = random.Random(seed)
    sent: list[tuple[str, bytes]] = []
    for number in range(60):
        cluster.run(rng.random() * 0.4)
        sender = rng.choice(hosts)
        asked = cluster.event(sender, "e", str(number).encode())
        assert asked in sender.answers
        sent.append(("e", str(number).encode()))
        if rng.random() < 0.4:
            victim = rng.choice(hosts)
            before = own_incarnation(victim)
            cluster.kill(victim)
            assert own_incarnation(victim) > before
        if rng.random() < 0.2:
            cluster.acknowledge(rng.choice(hosts))
    assert cluster.run_until(lambda: all(len(host.user_events()) == 60 for host in hosts), 60)
    cluster.run(20)
    assert everybody_alive(hosts)
    for host in hosts:
        check_consumers(host, sent, [other.name for other in hosts])
        assert not any("Marking" in line for line in host.logs)


@settings(max_examples=40)
@given(st.integers(0, 2**16), st.integers(1, 40), st.booleans())
def test_killing_a_detector_while_it_writes_its_journal(seed: int, records: int, compacted: bool) -> None:
    """The process dies behind some record of a batch: what the batch wanted to send and tell has not left it."""
    cluster, hosts = start(seed, 3)
    victim = hosts[1]
    assert victim.core is not None
    if compacted:
        victim.journal = list(victim.core.snapshot_records())
    victim.crash_after_records = records
    for number in range(12):
        host = hosts[number % 3]
        asked = cluster.event(host, "e", str(number).encode())
        if asked not in host.answers:  # killed before it could answer: whoever asked, asks again
            cluster.event(host, "e", str(number).encode(), asked)
        assert asked in host.answers
        cluster.run(0.1)
    late = cluster.add("late")
    hosts.append(late)
    asked = cluster.join(late, victim)
    assert cluster.run_until(lambda: asked in late.answers, 1)
    if late.answers[asked].error:  # the stream ended with the detector that was to answer it
        cluster.join(late, victim)
    cluster.run(45)
    expected = [("e", str(number).encode()) for number in range(12)]
    assert everybody_alive(hosts)
    for host in hosts:
        check_consumers(host, expected, [other.name for other in hosts])


def test_a_detector_killed_again_and_again_is_never_accused() -> None:
    cluster, hosts = start(1, 4)
    for _ in range(30):
        cluster.run(0.33)
        cluster.kill(hosts[2])
    cluster.run(10)
    assert everybody_alive(hosts)
    assert not any("Suspect " in line for host in hosts for line in host.logs)


def test_a_detector_that_was_dead_for_a_while_catches_up_at_once() -> None:
    cluster, hosts = start(2, 4)
    cluster.crash(hosts[3])
    cluster.run(1.5)
    cluster.event(hosts[0], "missed")
    cluster.run(1.0)
    hosts[3].start()
    assert cluster.run_until(lambda: hosts[3].user_events() == [("missed", b"")], 0.2)
    cluster.run(20)
    assert everybody_alive(hosts)
    assert all(host.member_events(EventKind.MEMBER_FAILED) == [] for host in hosts)


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.2, 0.5, 1.0, 1.3])
def test_a_leave_goes_on_after_a_kill_and_ends_as_a_leave_everywhere(delay: float) -> None:
    cluster, hosts = start(3, 4)
    *rest, leaver = hosts
    cluster.leave(leaver)
    cluster.run(delay)
    cluster.kill(leaver)
    again = cluster.leave(leaver)
    assert cluster.run_until(lambda: again in leaver.answers, 6)
    assert leaver.lifecycles[-1] is Lifecycle.LEFT
    cluster.crash(leaver)
    cluster.run(20)
    for host in rest:
        assert host.statuses()[leaver.name] is MemberStatus.LEFT
        assert host.member_events(EventKind.MEMBER_LEAVE) == [leaver.name]
        assert host.member_events(EventKind.MEMBER_JOIN).count(leaver.name) == 1


def test_a_consumer_that_took_nothing_gets_everything_from_the_next_detector() -> None:
    cluster, hosts = start(4, 2)
    for number in range(5):
        cluster.event(hosts[0], f"e{number}")
    hosts[0].events["dispatcher"].clear()
    hosts[0].taken["dispatcher"] = 0
    cluster.kill(hosts[0])
    assert [name for name, _ in hosts[0].user_events("dispatcher")] == [f"e{number}" for number in range(5)]


def test_what_a_stuck_gossip_process_swallowed_reaches_peers_by_push_pull() -> None:
    rig = Rig()
    for number in range(5):
        rig.alive(f"n{number}")
    rig.core.request(("rpc", 1, 1), EventRequest("e", b"swallowed", coalesce=False), rig.now)
    rig.pass_time(2.0)
    rig.take()
    rig.forget_queue()
    rig.core.gossip_restarted(rig.now)
    streams = [effect for effect in rig.take() if isinstance(effect, OpenStream)]
    assert len(streams) == RESYNC_PARTNERS
    assert all(b"swallowed" in stream.request for stream in streams)


def test_the_latest_own_events_are_gossiped_again_when_gossip_was_started_again() -> None:
    rig = Rig()
    for number in range(5):
        rig.alive(f"n{number}")
    rig.core.request(("rpc", 1, 1), EventRequest("e", b"long ago", coalesce=False), rig.now)
    rig.pass_time(OWN_AGAIN)
    rig.core.request(("rpc", 1, 2), EventRequest("e", b"swallowed", coalesce=False), rig.now)
    rig.pass_time(3.0)
    rig.take()
    rig.core.gossip_restarted(rig.now)
    rig.pass_time(0.5)
    sent = [part for effect in rig.take() if isinstance(effect, SendPacket) for part in effect.parts]
    assert any(b"swallowed" in part for part in sent)
    assert not any(b"long ago" in part for part in sent)


def test_what_is_to_be_gossiped_while_gossip_is_away_waits_for_it() -> None:
    rig = Rig()
    for number in range(5):
        rig.alive(f"n{number}")
    rig.pass_time(5.0)
    rig.take()
    rig.core.gossip_lost(rig.now)
    rig.core.request(("rpc", 1, 1), EventRequest("e", b"kept", coalesce=False), rig.now)
    rig.suspect(OWN)
    rig.pass_time(10.0)
    assert all(len(effect.parts) == 1 for effect in rig.take() if isinstance(effect, SendPacket)), "pings, bare"
    rig.core.gossip_found(rig.now)
    rig.pass_time(0.5)
    sent = [part for effect in rig.take() if isinstance(effect, SendPacket) for part in effect.parts]
    assert any(b"kept" in part for part in sent)
    refutations = [message for message in map(decode_packet_message, sent) if isinstance(message, Alive)]
    assert any(message.node == OWN and message.incarnation > 1 for message in refutations)
