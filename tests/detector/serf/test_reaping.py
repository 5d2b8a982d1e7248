"""Members that are gone: kept, tried, forgotten in time (P12); and partitions that outlive that (20.13)."""

from __future__ import annotations

from typing import Any

import pytest

from serfmp.detector.effects import (
    Count,
    EventKind,
    LeaveRequest,
    Log,
    MemberForgotten,
    MemberStatus,
    OpenStream,
    Resolve,
)
from serfmp.detector.records import Recovered
from serfmp.sim.cluster import Cluster
from serfmp.sim.host import Host
from tests.detector.rig import Rig

ALIVE, FAILED = MemberStatus.ALIVE, MemberStatus.FAILED


def gone(rig: Rig, name: str = "x", *, left: bool = False) -> None:
    rig.alive(name)
    rig.dead(name, sender=name if left else "other")
    rig.take()


def names(rig: Rig) -> set[str]:
    return {member.name for member in rig.core.members()}


@pytest.mark.parametrize(
    ("left", "limits"), [(False, {"reconnect_timeout": 100.0}), (True, {"tombstone_timeout": 100.0})]
)
def test_a_member_that_is_gone_is_kept_for_its_time_and_then_reaped(left: bool, limits: dict[str, Any]) -> None:
    rig = Rig(**limits)
    gone(rig, left=left)
    rig.pass_time(99)
    assert "x" in names(rig)
    rig.pass_time(17)
    assert "x" not in names(rig)
    assert rig.kinds()[-1] is EventKind.MEMBER_REAP
    assert MemberForgotten("x") in rig.effects
    assert Log("INFO", "serf", "EventMemberReap: x") in rig.effects


def test_a_member_that_came_back_in_time_is_not_reaped() -> None:
    rig = Rig(reconnect_timeout=100.0)
    gone(rig)
    rig.pass_time(90)
    rig.alive("x", incarnation=2)
    rig.pass_time(60)
    assert "x" in names(rig)


def test_a_node_may_have_a_limit_of_its_own() -> None:
    rig = Rig(reconnect_timeout=50.0, reap_limits={"x": 1000.0, "y": 5.0})
    for name in ("x", "y", "z"):
        gone(rig, name)
    rig.pass_time(25)
    assert names(rig) == {"own", "x", "z"}
    rig.pass_time(50)
    assert names(rig) == {"own", "x"}


def test_the_local_node_and_the_living_are_never_reaped() -> None:
    rig = Rig(reconnect_timeout=0.0, tombstone_timeout=0.0)
    rig.alive("x")
    rig.pass_time(100)
    assert {"own"} <= names(rig)


def test_a_failed_member_is_tried_again_by_a_push_pull() -> None:
    rig = Rig()
    gone(rig)
    rig.pass_time(31)
    streams = [effect for effect in rig.take() if isinstance(effect, OpenStream)]
    assert [stream.destination for stream in streams] == [("127.1." + ".".join(map(str, _tail(rig))), 7946)]
    assert any(isinstance(e, Log) and e.text.startswith("attempting reconnect to x 127.1.") for e in rig.effects)


def _tail(rig: Rig) -> tuple[int, int]:
    address = next(member.address for member in rig.core.members() if member.name == "x")
    return address[2], address[3]


def test_few_failed_members_of_many_are_tried_seldom() -> None:
    rig = Rig(reconnect_timeout=1e9)
    for number in range(100):
        rig.alive(f"n{number}")
    gone(rig)
    texts = []
    for _ in range(60):
        rig.pass_time(30)
        texts += [effect.text for effect in rig.take() if isinstance(effect, Log)]
        for number in range(100):
            rig.alive(f"n{number}", incarnation=len(texts) + 2)
    assert texts.count("forgoing reconnect for random throttling") > 30


def test_seeds_and_lost_members_are_tried_for_ever_and_names_resolved_anew() -> None:
    rig = Rig(seeds=("seed.example:7000",), reconnect_timeout=10.0, heal_interval=60.0)
    rig.pass_time(300)
    resolves = [effect for effect in rig.take() if isinstance(effect, Resolve)]
    assert len(resolves) == 1, "the next one waits for the answer"
    assert resolves[0].host == "seed.example"
    rig.core.resolved(resolves[0].token, (), "no such host", rig.now)
    rig.pass_time(130)
    assert [effect.host for effect in rig.take() if isinstance(effect, Resolve)] == ["seed.example"]
    assert rig.effects.count(Count("serfmp.seeds.tried")) >= 2


def test_nothing_is_tried_while_the_node_leaves() -> None:
    rig = Rig(seeds=("127.9.9.9",), heal_interval=60.0)
    gone(rig)
    rig.core.request(("rpc", 1, 1), LeaveRequest(), rig.now)
    rig.take()
    rig.pass_time(300)
    rig.take()
    assert Count("serfmp.seeds.tried") not in rig.effects
    assert not [effect for effect in rig.effects if isinstance(effect, Log) and "attempting reconnect" in effect.text]


def test_a_restarted_detector_still_looks_for_lost_members() -> None:
    rig = Rig(reconnect_timeout=10.0, heal_interval=60.0)
    gone(rig)
    rig.pass_time(40)
    assert names(rig) == {"own"}
    rig.take()
    for records in (rig.journal, list(rig.core.snapshot_records())):
        again = Rig(Recovered.replay(records), 2, rig.now, heal_interval=60.0)
        again.take()
        again.pass_time(70)
        assert [effect for effect in again.take() if isinstance(effect, OpenStream)]


def agreed(hosts: list[Host]) -> bool:
    wanted = {host.name: ALIVE for host in hosts}
    return all(host.statuses() == wanted for host in hosts)


@pytest.mark.parametrize("seed", range(5))
def test_halves_that_have_forgotten_each_other_find_together_again(seed: int) -> None:
    cluster = Cluster(seed, reconnect_timeout=60.0, heal_interval=60.0)
    hosts = [cluster.add(f"n{number}") for number in range(5)]
    for host in hosts[1:]:
        cluster.join(host, hosts[0])
    assert cluster.run_until(lambda: agreed(hosts), 90)
    cluster.network.partition([host.name for host in hosts[:2]], [host.name for host in hosts[2:]])
    halves = (hosts[:2], hosts[2:])
    assert cluster.run_until(lambda: all(agreed(half) for half in halves), 300), "each half has reaped the other"
    cluster.run(200)
    cluster.network.heal()
    assert cluster.run_until(lambda: agreed(hosts), 300), [host.statuses() for host in hosts]
