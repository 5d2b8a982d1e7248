"""Force-leave and prune (spec serf.md 6.2 and 6.3, with fixes 20.4 and 20.6), of one core and of a cluster of them."""

from __future__ import annotations

import pytest

from serfmp.detector.effects import (
    Answer,
    EventKind,
    ForceLeaveRequest,
    LeaveRequest,
    MemberForgotten,
    MemberStatus,
    SendPacket,
)
from serfmp.detector.records import Recovered
from serfmp.sim.cluster import Cluster
from serfmp.wire.messages import User, decode_packet_message
from serfmp.wire.serf_messages import JoinIntent, LeaveIntent, decode_serf
from tests.detector.rig import OWN, Rig

ALIVE, LEAVING, LEFT = MemberStatus.ALIVE, MemberStatus.LEAVING, MemberStatus.LEFT


def force(rig: Rig, node: str, *, prune: bool = False, number: int = 1) -> None:
    rig.core.request(("rpc", 1, number), ForceLeaveRequest(node, prune), rig.now)


def status(rig: Rig, node: str = "x") -> MemberStatus | None:
    return {member.name: member.status for member in rig.core.members()}.get(node)


def answers(rig: Rig) -> list[Answer]:
    rig.take()
    return [effect for effect in rig.effects if isinstance(effect, Answer)]


def intents(rig: Rig) -> list[tuple[str, LeaveIntent]]:
    """Leave intents in packets since the last look, with their destinations."""
    found = []
    for effect in rig.take():
        if isinstance(effect, SendPacket):
            for message in map(decode_packet_message, effect.parts):
                inner = decode_serf(message.payload) if isinstance(message, User) else None
                if isinstance(inner, LeaveIntent):
                    found.append((effect.destination[0], inner))
    return found


def with_others(*names: str, broadcast_timeout: float = 5.0) -> Rig:
    rig = Rig(broadcast_timeout=broadcast_timeout)
    for name in names:
        rig.alive(name)
    rig.take()
    rig.forget_queue()
    return rig


def test_a_failed_node_has_left_and_the_news_is_answered_once_it_has_spread() -> None:
    rig = with_others("x", "y")
    rig.dead("x")
    rig.take()
    force(rig, "x")
    assert rig.kinds("x") == [EventKind.MEMBER_LEAVE]
    assert status(rig) is LEFT
    assert answers(rig) == []
    rig.pass_time(2)
    assert answers(rig) == [Answer(("rpc", 1, 1), None, "")]


def test_alone_it_is_answered_at_once_and_nothing_is_sent() -> None:
    rig = Rig()
    rig.take()
    force(rig, "unknown")
    assert answers(rig) == [Answer(("rpc", 1, 1), None, "")]
    rig.pass_time(2)
    assert intents(rig) == []


def test_20_4_the_only_other_node_learns_of_it_at_once_and_can_contradict() -> None:
    rig = with_others("x")
    force(rig, "x")
    rig.take()
    assert status(rig) is LEAVING
    told = [effect.destination for effect in rig.effects if isinstance(effect, SendPacket)]
    assert rig.node().endpoint in told
    rig.serf(JoinIntent(rig.core._serf.clock.time, "x"))
    assert status(rig) is ALIVE


def test_of_an_unknown_node_it_is_no_error_and_spreads() -> None:
    rig = with_others("y")
    force(rig, "x")
    rig.pass_time(2)
    assert {intent.node for _, intent in intents(rig)} == {"x"}
    assert answers(rig) == [Answer(("rpc", 1, 1), None, "")]


def test_what_does_not_spread_in_time_ends_with_an_error_once() -> None:
    rig = with_others("x", "y", broadcast_timeout=0.1)
    force(rig, "x")
    rig.pass_time(2)
    assert answers(rig) == [Answer(("rpc", 1, 1), None, "timed out broadcasting node removal")]


def test_of_the_local_node_it_is_refuted_but_still_told() -> None:
    rig = with_others("y")
    force(rig, OWN, prune=True)
    rig.pass_time(1)
    assert status(rig, OWN) is ALIVE
    assert {(intent.node, intent.prune) for _, intent in intents(rig)} == {(OWN, False)}


def test_20_4_a_leave_as_old_as_the_own_join_is_contradicted_once_and_the_own_leave_never() -> None:
    rig = with_others("y")
    rig.core._serf.broadcast_join()
    row = rig.core._serf.members.get(OWN)
    assert row is not None
    joined_at = row.status_ltime
    for _ in range(2):
        rig.serf(LeaveIntent(joined_at, OWN))
        assert row.status_ltime == joined_at + 1
    rig.core.request(("rpc", 1, 1), LeaveRequest(), rig.now)
    left_at = row.status_ltime
    size = rig.core._serf.intents.size
    rig.serf(LeaveIntent(left_at, OWN))
    assert (row.status_ltime, rig.core._serf.intents.size) == (left_at, size)


@pytest.mark.parametrize("sender", ["other", "x"])
def test_prune_of_a_gone_node_is_told_with_its_flag_and_forgets_it(sender: str) -> None:
    rig = with_others("x", "y")
    rig.dead("x", sender=sender)
    rig.take()
    force(rig, "x", prune=True)
    assert rig.kinds("x")[-1] is EventKind.MEMBER_REAP
    assert status(rig) is None
    rig.pass_time(2)
    assert {intent.prune for _, intent in intents(rig)} == {True}


def test_20_6_prune_of_a_living_node_that_contradicts_removes_nothing_anywhere() -> None:
    rig = with_others("x", "y")
    force(rig, "x", prune=True)
    assert {intent.prune for _, intent in intents(rig)} == {False}
    rig.serf(JoinIntent(rig.core._serf.clock.time, "x"))
    rig.dead("x")
    rig.pass_time(10)
    assert status(rig) is MemberStatus.FAILED
    assert not any(intent.prune for _, intent in intents(rig))


def test_20_6_prune_of_a_node_that_is_still_there_follows_when_it_goes() -> None:
    rig = with_others("x", "y")
    force(rig, "x", prune=True)
    rig.pass_time(2)
    assert not any(intent.prune for _, intent in intents(rig))
    assert status(rig) is LEAVING
    rig.dead("x")
    assert rig.kinds("x") == [EventKind.MEMBER_LEAVE, EventKind.MEMBER_REAP]
    rig.pass_time(2)
    assert {intent.prune for _, intent in intents(rig)} == {True}


@pytest.mark.parametrize("told", [True, False])
def test_a_pending_prune_survives_a_kill(told: bool) -> None:
    rig = with_others("x", "y")
    if told:
        rig.serf(LeaveIntent(5, "x", prune=True))
    else:
        force(rig, "x", prune=True)
    rig.take()
    after = Rig(Recovered.replay(rig.journal), generation=2, now=rig.now)
    after.take()
    after.dead("x")
    after.pass_time(1)
    assert any(intent.prune for _, intent in intents(after)) is not told
    assert MemberForgotten("x") in after.effects


def test_an_intent_about_a_pruned_node_that_comes_again_is_no_news_and_its_return_is_a_join() -> None:
    rig = with_others("x", "y")
    rig.dead("x")
    rig.serf(LeaveIntent(5, "x", prune=True))
    queue = rig.core._serf.intents
    queue.prune(0)
    rig.serf(LeaveIntent(5, "x", prune=True))
    assert queue.size == 0
    rig.take()
    rig.alive("x", 2)
    assert status(rig) is ALIVE
    assert rig.kinds("x") == [EventKind.MEMBER_JOIN]


@pytest.mark.parametrize("size", [2, 3, 8])
@pytest.mark.parametrize("prune", [False, True])
def test_a_living_node_is_alive_everywhere_soon_after(size: int, prune: bool) -> None:
    cluster = Cluster(seed=size)
    first, *others = [cluster.add(f"n{number}") for number in range(size)]
    for other in others:
        cluster.join(other, first)
    cluster.run(5)
    number = cluster.ask(first, ForceLeaveRequest(others[-1].name, prune))
    cluster.run(5)
    assert not first.answers[number].error
    for host in (first, *others):
        assert set(host.statuses().values()) == {ALIVE}
    cluster.run(20)
    assert all(len(host.statuses()) == size for host in (first, *others))


@pytest.mark.parametrize("prune", [False, True])
def test_a_failed_node_has_left_or_is_forgotten_everywhere(prune: bool) -> None:
    cluster = Cluster(seed=9)
    hosts = [cluster.add(f"n{number}") for number in range(5)]
    for other in hosts[1:]:
        cluster.join(other, hosts[0])
    cluster.run(5)
    cluster.crash(hosts[4])
    cluster.run(60)
    assert hosts[0].statuses()["n4"] is MemberStatus.FAILED
    cluster.ask(hosts[0], ForceLeaveRequest("n4", prune))
    cluster.run(5)
    expected = None if prune else LEFT
    assert [host.statuses().get("n4") for host in hosts[:4]] == [expected] * 4
