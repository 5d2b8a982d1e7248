"""Random histories: whatever happens to the nodes, what their users are told makes sense, and in the end all agree."""

from __future__ import annotations

import random

import pytest

from serfmp.detector.effects import EventKind, MemberEvent, MemberStatus
from serfmp.detector.records import CONSUMERS
from serfmp.detector.swim.table import NodeState
from serfmp.sim.cluster import Cluster
from serfmp.sim.host import Host
from serfmp.sim.network import Conditions

JOIN, LEAVE, FAILED = EventKind.MEMBER_JOIN, EventKind.MEMBER_LEAVE, EventKind.MEMBER_FAILED

FOLLOWS = {
    None: {JOIN},
    JOIN: {LEAVE, FAILED},
    LEAVE: {JOIN},
    FAILED: {JOIN, LEAVE},  # an intent that comes late turns failed into left
}
"""What may follow what in the events about one member (spec serf.md 18, P13)."""


def check_stories(host: Host) -> None:
    """The events about each member alternate sensibly."""
    for consumer in CONSUMERS:
        last: dict[str, EventKind] = {}
        for event in host.events[consumer]:
            if isinstance(event, MemberEvent):
                for member in event.members:
                    assert event.kind in FOLLOWS[last.get(member.name)], f"{host.name} about {member.name}"
                    last[member.name] = event.kind


def check_table(host: Host) -> None:
    """What must hold at any moment in one node (spec swim.md 14.1)."""
    core = host.core
    assert core is not None
    own = core._swim.table.get(host.name)
    assert own is not None
    assert own.state is NodeState.ALIVE or core._swim.membership.left
    for record in core._swim.table:
        assert (record.suspicion is not None) is (record.state is NodeState.SUSPECT)
    assert 0 <= core._swim.awareness.score < 8
    assert len(core._swim._acks) <= 50
    counts = core._serf.members.counts
    assert sum(counts.values()) == core._serf.members.size()


@pytest.mark.parametrize("seed", range(8))
def test_any_history_tells_sensible_stories_and_ends_in_agreement(seed: int) -> None:
    cluster = Cluster(seed, conditions=Conditions(loss=0.03))
    rng = random.Random(seed)
    hosts = [cluster.add(f"n{number}") for number in range(6)]
    for host in hosts[1:]:
        cluster.join(host, hosts[0])
    cluster.run(5)
    for _ in range(60):
        running = [host for host in hosts if host.core is not None]
        victim = rng.choice(running)
        match rng.randrange(7):
            case 0 | 1:
                cluster.kill(victim)
            case 2:
                victim.crash_after_records = rng.randrange(1, 10)
            case 3 if len(running) > 3:
                cluster.crash(victim)
            case 4 if len(running) > 3:
                cluster.leave(victim)
                cluster.run(rng.random() * 4)
                cluster.crash(victim)
            case 5:
                victim.pause(rng.random() * 3)
            case _:
                for host in hosts:
                    if host.core is None:
                        cluster.restart_from_nothing(host)
                        cluster.join(host, *running)
        cluster.run(rng.random() * 6)
        for host in hosts:
            if host.core is not None:
                check_stories(host)
                check_table(host)
    running = [host for host in hosts if host.core is not None]
    for host in hosts:
        host.crash_after_records = None
        if host.core is None or host.lifecycles:
            cluster.crash(host)
            cluster.restart_from_nothing(host)
        cluster.join(host, *[other for other in running if other is not host])
    expected = {host.name: MemberStatus.ALIVE for host in hosts}
    assert cluster.run_until(lambda: all(host.statuses() == expected for host in hosts), 120)
    for host in hosts:
        check_stories(host)
