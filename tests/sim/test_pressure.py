"""A node whose host lets it down knows so before it accuses anybody; nobody else is concerned."""

from __future__ import annotations

import pytest

from serfmp.detector.config import LAN
from serfmp.detector.effects import MemberStatus
from serfmp.sim.cluster import Cluster
from serfmp.sim.host import Host

HOSTS = 12
MINUTES = 3
SLOW_S = 1.6
"""How late the packets of the starved host leave at most: later than a probe round ends."""


def cluster_of(seed: int) -> tuple[Cluster, list[Host]]:
    cluster = Cluster(seed, LAN)
    hosts = [cluster.add(f"n{number}") for number in range(HOSTS)]
    for host in hosts[1:]:
        cluster.join(host, hosts[0])
    assert cluster.run_until(lambda: all(len(host.statuses()) == HOSTS for host in hosts), 30)
    cluster.run(5)
    return cluster, hosts


def accusations(host: Host) -> int:
    """How often this host began to suspect somebody."""
    return sum("has failed, no acks received" in line for line in host.logs)


def starved(seed: int, level: int) -> tuple[int, list[Host]]:
    cluster, hosts = cluster_of(seed)
    cluster.network.slow["n0"] = SLOW_S
    # TCP to others works and would answer for them: without it only the acks speak.
    cluster.network.cut({"n0"}, {host.name for host in hosts[1:]}, loss=0.0)
    hosts[0].press(level)
    cluster.run(60 * MINUTES)
    return accusations(hosts[0]), hosts


def test_a_starved_node_accuses_fewer_when_it_knows_that_it_is_starved() -> None:
    unaware, _ = starved(1, 0)
    aware, _ = starved(1, 3)
    assert unaware >= 8, "the scenario is hard enough"
    assert aware * 4 <= unaware, (aware, unaware)


def test_pressure_is_a_matter_of_the_node_alone() -> None:
    _, hosts = starved(7, 3)
    assert hosts[0].alive.stats()["health_score"] != "0"
    assert all(host.alive.swim.awareness._pressed == 0 for host in hosts[1:])
    # It ends with its cause, whatever was earned meanwhile.
    hosts[0].press(0)
    assert hosts[0].alive.swim.awareness.score == hosts[0].alive.swim.awareness._earned


@pytest.mark.parametrize("level", [0, 3])
def test_a_crash_is_seen_by_all_though_a_node_is_under_pressure(level: int) -> None:
    cluster, hosts = cluster_of(3)
    hosts[0].press(level)
    begun = cluster.now
    cluster.crash(hosts[-1])
    seen = cluster.run_until(
        lambda: all(host.statuses()[hosts[-1].name] is MemberStatus.FAILED for host in hosts[:-1]), 40
    )
    assert seen
    assert cluster.now - begun < 25


def suspended(seed: int, seconds: float) -> tuple[int, Cluster, list[Host]]:
    """How often a host that slept accused somebody after it went on."""
    cluster, hosts = cluster_of(seed)
    sleeper = hosts[0]
    accused = 0
    for _ in range(2):
        # Asleep with a probe in flight, whose ack is lost.
        end = cluster.now + 5
        while not sleeper.alive.swim.outstanding:
            assert cluster.scheduler.step(end)
        sleeper.suspend(seconds)
        cluster.run(seconds)
        before = accusations(sleeper)
        cluster.run(40)
        accused += accusations(sleeper) - before
    return accused, cluster, hosts


@pytest.mark.parametrize("seconds", [3.0, 120.0])
def test_a_host_that_slept_accuses_nobody_and_is_back_soon(seconds: float) -> None:
    accused, cluster, hosts = suspended(5, seconds)
    assert accused == 0
    assert not any("Marking" in line for line in hosts[0].logs)
    alive = {host.name: MemberStatus.ALIVE for host in hosts}
    assert cluster.run_until(lambda: all(host.statuses() == alive for host in hosts), 30)
