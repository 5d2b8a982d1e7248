"""The simulated world keeps the contract of the real one."""

from __future__ import annotations

import pytest

from serfmp.detector.effects import JoinRequest, MemberStatus
from serfmp.detector.swim.table import NodeState
from serfmp.sim.cluster import Cluster
from serfmp.sim.host import Host
from serfmp.sim.network import Conditions
from serfmp.wire.messages import Suspect


def pair(seed: int = 1) -> tuple[Cluster, Host, Host]:
    cluster = Cluster(seed)
    one, other = cluster.add("one"), cluster.add("other")
    cluster.join(one, other)
    assert cluster.run_until(lambda: len(one.statuses()) == len(other.statuses()) == 2, 5)
    return cluster, one, other


@pytest.mark.parametrize(("silent", "text"), [(False, "connection refused"), (True, "i/o timeout")])
def test_a_dead_process_refuses_and_a_dead_machine_is_silent(silent: bool, text: str) -> None:
    cluster, one, other = pair()
    cluster.crash(other, silent)
    asked = cluster.join(one, other)
    assert cluster.run_until(lambda: asked in one.answers, 11)
    assert text in one.answers[asked].error


def test_a_cut_of_packets_leaves_streams() -> None:
    cluster, one, other = pair()
    cluster.network.cut({"one"}, {"other"}, streams=False)
    cluster.network.cut({"other"}, {"one"}, streams=False)
    cluster.run(30)
    assert one.statuses() == other.statuses() == {"one": MemberStatus.ALIVE, "other": MemberStatus.ALIVE}
    assert any("Was able to connect to other over TCP" in line for line in one.logs)


def test_a_paused_host_takes_what_arrived_before_it_blames() -> None:
    cluster, one, other = pair()
    cluster.forge(one, Suspect(1, "other", "nobody"))
    cluster.network.conditions = Conditions(loss=1.0)
    cluster.run(3.9)
    record = one.alive.swim.table.get("other")
    assert record is not None
    assert record.state is NodeState.SUSPECT
    one.pause(2.0)
    cluster.network.conditions = Conditions()
    cluster.forge(other, Suspect(1, "other", "nobody"))
    cluster.run(5)
    assert not any("Marking" in line for line in one.logs)
    assert one.statuses()["other"] is MemberStatus.ALIVE


def test_packets_may_come_twice_and_in_another_order() -> None:
    cluster = Cluster(2, conditions=Conditions(duplicate=0.5, straggle=0.5, latest=3.0))
    hosts = [cluster.add(f"n{number}") for number in range(4)]
    for host in hosts[1:]:
        cluster.join(host, hosts[0])
    for number in range(20):
        cluster.event(hosts[number % 4], "e", str(number).encode())
        cluster.run(0.5)
    cluster.run(40)
    expected = sorted(("e", str(number).encode()) for number in range(20))
    assert all(sorted(host.user_events()) == expected for host in hosts)


def test_a_name_joins_as_an_address_does() -> None:
    cluster = Cluster(3)
    one, _ = cluster.add("one"), cluster.add("other")
    known, unknown = (cluster.ask(one, JoinRequest((name,), replay=True)) for name in ("other", "nobody"))
    assert cluster.run_until(lambda: unknown in one.answers, 5)
    assert one.answers[known].value == 1
    assert "no such host" in one.answers[unknown].error
