"""The graceful leave, alone and among others, and after a restart in the middle of it (spec serf.md 6.1)."""

from __future__ import annotations

from serfmp.detector.effects import (
    Answer,
    EventKind,
    JoinRequest,
    LeaveRequest,
    Lifecycle,
    LifecycleChanged,
    SendPacket,
)
from serfmp.detector.records import Recovered
from serfmp.wire.messages import Alive, Dead, User, decode_packet_message
from serfmp.wire.serf_messages import LeaveIntent, decode_serf
from tests.detector.rig import OWN, Rig


def leave(rig: Rig, number: int = 1) -> None:
    rig.core.request(("rpc", 1, number), LeaveRequest(), rig.now)


def answers(rig: Rig) -> list[Answer]:
    rig.take()
    return [effect for effect in rig.effects if isinstance(effect, Answer)]


def lifecycles(rig: Rig) -> list[Lifecycle]:
    return [effect.state for effect in rig.effects if isinstance(effect, LifecycleChanged)]


def with_others(count: int) -> Rig:
    rig = Rig()
    for number in range(count):
        rig.alive(f"n{number}")
    rig.take()
    rig.forget_queue()
    return rig


def news(rig: Rig) -> list[tuple[str, str]]:
    """Leave intents and deaths about the local node in packets since the last look: what, to whom."""
    found = []
    for effect in rig.take():
        if isinstance(effect, SendPacket):
            for part in effect.parts:
                message = decode_packet_message(part)
                if isinstance(message, User) and isinstance(decode_serf(message.payload), LeaveIntent):
                    found.append(("intent", effect.destination[0]))
                elif isinstance(message, Dead) and message.node == OWN:
                    found.append(("dead", effect.destination[0]))
    return found


def test_alone_a_leave_takes_only_the_propagate_delay() -> None:
    rig = Rig()
    leave(rig)
    rig.pass_time(0.9)
    assert answers(rig) == []
    rig.pass_time(0.2)
    assert answers(rig) == [Answer(("rpc", 1, 1), None, "")]
    assert lifecycles(rig) == [Lifecycle.LEAVING, Lifecycle.LEFT]
    assert rig.core.lifecycle is Lifecycle.LEFT


def test_the_local_node_sees_its_own_leave() -> None:
    rig = with_others(3)
    leave(rig)
    rig.pass_time(4)
    assert rig.kinds(OWN) == [EventKind.MEMBER_LEAVE]


def test_b16_intent_and_death_go_to_several_nodes_at_once_the_intent_first() -> None:
    rig = with_others(6)
    leave(rig)
    first = news(rig)
    assert {what for what, _ in first} == {"intent"}
    assert len({where for _, where in first}) >= 4
    everything = []
    while rig.core.lifecycle is not Lifecycle.LEFT:
        rig.pass_time(0.05)
        everything += news(rig)
    assert everything.index(next(entry for entry in everything if entry[0] == "dead")) > 0
    deaths = {where for what, where in everything if what == "dead"}
    assert len(deaths) >= 4


def test_a_leave_never_waits_longer_than_the_spread_of_gossip() -> None:
    rig = with_others(200)
    start = rig.now
    leave(rig)
    while rig.core.lifecycle is not Lifecycle.LEFT:
        rig.pass_time(0.05)
        rig.take()
    assert rig.now - start <= 3.1


def test_a_second_leave_joins_the_first_and_one_afterwards_is_answered_at_once() -> None:
    rig = Rig()
    leave(rig, 1)
    leave(rig, 2)
    rig.pass_time(1.1)
    leave(rig, 3)
    assert [answer.request[2] for answer in answers(rig)] == [1, 2, 3]
    assert all(not answer.error for answer in answers(rig))


def test_no_join_after_a_leave() -> None:
    rig = Rig()
    leave(rig)
    rig.core.request(("rpc", 1, 2), JoinRequest(("127.0.0.2",), replay=False), rig.now)
    assert answers(rig) == [Answer(("rpc", 1, 2), 0, "Serf can't Join after Leave or Shutdown")]


def test_a_leaving_node_still_answers_pings_and_is_not_refuted() -> None:
    rig = with_others(2)
    leave(rig)
    rig.serf(LeaveIntent(50, OWN))
    rig.pass_time(0.5)
    rig.suspect(OWN, 1)
    rig.pass_time(3)
    assert rig.core.lifecycle is Lifecycle.LEFT
    assert all(not isinstance(message, Alive) or message.node != OWN for message in rig.queued())


def test_a_detector_killed_while_leaving_goes_on_leaving_and_never_comes_back_to_life() -> None:
    whole = with_others(3)
    leave(whole)
    while whole.core.lifecycle is not Lifecycle.LEFT:
        whole.pass_time(0.05)
        whole.take()
    begin = next(i for i, record in enumerate(whole.journal) if record[0] == "life")
    for end in range(begin + 1, len(whole.journal) + 1):
        rig = Rig(Recovered.replay(whole.journal[:end]), generation=2, now=110.0)
        assert rig.core.lifecycle is not Lifecycle.ALIVE
        rig.take()
        leave(rig, 9)
        rig.pass_time(5)
        rig.take()
        assert rig.core.lifecycle is Lifecycle.LEFT
        assert lifecycles(rig)[-1] is Lifecycle.LEFT
        assert Answer(("rpc", 1, 9), None) in rig.effects
        alives = [
            decode_packet_message(part)
            for effect in rig.effects
            if isinstance(effect, SendPacket)
            for part in effect.parts
        ]
        assert not any(isinstance(message, Alive) and message.node == OWN for message in alives)
