"""Clusters of cores under a virtual clock: joining, crashing, leaving, partitions, freezes, and sameness of runs."""

from __future__ import annotations

import random

import pytest

from serfmp.detector.config import LAN, LOCAL, WAN, Profile
from serfmp.detector.effects import EventKind, Lifecycle, MemberStatus
from serfmp.detector.swim.table import NodeState
from serfmp.sim.cluster import Cluster
from serfmp.sim.host import Host
from serfmp.sim.network import Conditions

ALIVE, LEFT, FAILED = MemberStatus.ALIVE, MemberStatus.LEFT, MemberStatus.FAILED


def joined(cluster: Cluster, count: int) -> list[Host]:
    """A cluster of so many nodes that know each other."""
    hosts = [cluster.add(f"n{number}") for number in range(count)]
    for host in hosts[1:]:
        cluster.join(host, hosts[0])
    assert cluster.run_until(lambda: all(agree(host, hosts, ALIVE) for host in hosts), 90)
    cluster.run(3)
    return hosts


def agree(observer: Host, hosts: list[Host], status: MemberStatus) -> bool:
    """Whether the observer shows all these hosts with this status."""
    statuses = observer.statuses()
    return all(statuses.get(host.name) is status for host in hosts)


def nobody_was_accused(hosts: list[Host]) -> bool:
    return not any("Marking" in line or "Suspect " in line for host in hosts for line in host.logs)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("seed", [1, 2])
def test_nodes_that_join_one_see_each_other_and_everybody_once(count: int, seed: int) -> None:
    cluster = Cluster(seed)
    hosts = joined(cluster, count)
    for host in hosts:
        assert sorted(host.member_events(EventKind.MEMBER_JOIN)) == sorted(other.name for other in hosts)
    assert [host.answers[1].value for host in hosts[1:]] == [1] * (count - 1)


@pytest.mark.parametrize(("profile", "limit"), [(LAN, 12), (LOCAL, 10), (WAN, 80)])
def test_a_crashed_node_fails_everywhere_once(profile: Profile, limit: float) -> None:
    cluster = Cluster(3, profile)
    *rest, victim = joined(cluster, 5)
    cluster.crash(victim)
    assert cluster.run_until(lambda: all(agree(host, [victim], FAILED) for host in rest), limit)
    cluster.run(20)
    for host in rest:
        assert host.member_events(EventKind.MEMBER_FAILED) == [victim.name]
        assert host.member_events(EventKind.MEMBER_LEAVE) == []


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_node_that_leaves_has_left_everywhere(count: int) -> None:
    cluster = Cluster(4)
    *rest, leaver = joined(cluster, count)
    number = cluster.leave(leaver)
    assert cluster.run_until(lambda: number in leaver.answers, 5)
    assert leaver.lifecycles == [Lifecycle.LEAVING, Lifecycle.LEFT]
    cluster.crash(leaver)
    assert cluster.run_until(lambda: all(agree(host, [leaver], LEFT) for host in rest), 5)
    cluster.run(20)
    for host in rest:
        assert host.member_events(EventKind.MEMBER_LEAVE) == [leaver.name]
        assert host.member_events(EventKind.MEMBER_FAILED) == []


def test_a_node_that_left_or_failed_can_come_back() -> None:
    cluster = Cluster(5)
    hosts = joined(cluster, 4)
    number = cluster.leave(hosts[3])
    assert cluster.run_until(lambda: number in hosts[3].answers, 5)
    cluster.crash(hosts[3])
    cluster.crash(hosts[2])
    assert cluster.run_until(lambda: all(agree(host, [hosts[2]], FAILED) for host in hosts[:2]), 15)
    for host in hosts[2:]:
        cluster.restart_from_nothing(host)
        cluster.join(host, hosts[0])
    assert cluster.run_until(lambda: all(agree(host, hosts, ALIVE) for host in hosts), 10)


def test_user_events_reach_everybody_exactly_once() -> None:
    cluster = Cluster(6, conditions=Conditions(loss=0.05))
    hosts = joined(cluster, 5)
    for number in range(100):
        cluster.event(hosts[number % 5], "deploy", str(number).encode())
        cluster.run(0.02)
    cluster.run(40)
    expected = sorted(("deploy", str(number).encode()) for number in range(100))
    assert all(sorted(host.user_events()) == expected for host in hosts)


def test_a_user_event_is_everywhere_within_a_fraction_of_a_gossip_period() -> None:
    cluster = Cluster(7)
    hosts = joined(cluster, 5)
    cluster.event(hosts[0], "deploy")
    assert cluster.run_until(lambda: all(host.user_events() for host in hosts), 0.1)


def test_late_comers_get_earlier_events_unless_they_do_not_want_them() -> None:
    cluster = Cluster(8)
    hosts = joined(cluster, 3)
    cluster.event(hosts[0], "before")
    cluster.run(3)
    wants, wants_not = cluster.add("wants"), cluster.add("wants-not")
    cluster.join(wants, hosts[0], replay=True)
    cluster.join(wants_not, hosts[0], replay=False)
    cluster.run(10)
    cluster.event(hosts[1], "after")
    cluster.run(10)
    assert [name for name, _ in wants.user_events()] == ["before", "after"]
    assert [name for name, _ in wants_not.user_events()] == ["after"]


def test_a_healthy_network_with_loss_accuses_nobody() -> None:
    cluster = Cluster(9, conditions=Conditions(loss=0.05))
    hosts = joined(cluster, 5)
    cluster.run(120)
    assert all(agree(host, hosts, ALIVE) for host in hosts)
    assert not any("Marking" in line for host in hosts for line in host.logs)


def test_a_partition_shorter_than_a_suspicion_kills_nobody() -> None:
    cluster = Cluster(10)
    hosts = joined(cluster, 5)
    half = {host.name for host in hosts[:2]}
    cluster.network.partition(half, [host.name for host in hosts if host.name not in half])
    cluster.run(2)
    cluster.network.heal()
    cluster.run(40)
    assert not any("Marking" in line for host in hosts for line in host.logs)
    assert all(record.state is NodeState.ALIVE for host in hosts if host.core for record in host.core._swim.table)


def test_a_long_partition_fails_the_other_side_and_a_join_heals_it() -> None:
    cluster = Cluster(11)
    hosts = joined(cluster, 4)
    half = {host.name for host in hosts[:2]}
    cluster.network.partition(half, [host.name for host in hosts if host.name not in half])
    assert cluster.run_until(lambda: all(agree(host, hosts[2:], FAILED) for host in hosts[:2]), 60)
    assert cluster.run_until(lambda: all(agree(host, hosts[:2], FAILED) for host in hosts[2:]), 60)
    cluster.network.heal()
    cluster.join(hosts[0], hosts[3])
    assert cluster.run_until(lambda: all(agree(host, hosts, ALIVE) for host in hosts), 30)


@pytest.mark.parametrize("seconds", [0.4, 2.0, 3.5, 60.0])
def test_a_frozen_process_accuses_nobody_when_it_goes_on(seconds: float) -> None:
    cluster = Cluster(12)
    hosts = joined(cluster, 4)
    sleeper = hosts[2]
    sleeper.pause(seconds)
    cluster.run(seconds + 30)
    others = [host for host in hosts if host is not sleeper]
    assert not any("Marking" in line for line in sleeper.logs)
    assert sleeper.member_events(EventKind.MEMBER_FAILED) == []
    if seconds < 4:
        assert all(host.member_events(EventKind.MEMBER_FAILED) == [] for host in others)
    assert all(agree(host, hosts, ALIVE) for host in hosts)


def test_steady_state_is_one_ping_and_one_ack_per_period_and_no_gossip() -> None:
    cluster = Cluster(13)
    hosts = joined(cluster, 5)
    cluster.run(10)
    begun = cluster.counters["packets"]
    cluster.run(100)
    assert 160 <= (cluster.counters["packets"] - begun) / len(hosts) <= 250
    assert nobody_was_accused(hosts)


def eventful_run(seed: int) -> str:
    """A run with something of everything; its digest."""
    cluster = Cluster(seed, conditions=Conditions(loss=0.1))
    rng = random.Random(seed)
    hosts = [cluster.add(f"n{number}") for number in range(4)]
    for host in hosts[1:]:
        cluster.join(host, hosts[0])
    for number in range(20):
        cluster.run(rng.random() * 2)
        cluster.event(rng.choice(hosts[:3]), f"e{number}")
        if number == 8:
            cluster.kill(hosts[1])
        if number == 12:
            cluster.crash(hosts[3])
    cluster.leave(hosts[2])
    cluster.run(10)
    return cluster.trace_hash


def test_the_same_seed_gives_the_same_trace() -> None:
    assert eventful_run(21) == eventful_run(21)
    assert eventful_run(21) != eventful_run(22)
