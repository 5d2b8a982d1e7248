"""The probe loop and its answers (spec swim.md 4)."""

from __future__ import annotations

import random
from typing import Any

import pytest

from serfmp.detector.config import LAN, CoreConfig
from serfmp.detector.core import Core
from serfmp.detector.effects import AnswerStream, CloseStream, Noted, OpenStream, SendPacket
from serfmp.detector.swim.swim import RESUME_GRACE
from serfmp.detector.swim.table import NodeState
from serfmp.wire.coordinate import decode_ack_payload
from serfmp.wire.messages import Ack, Alive, IndirectPing, Nack, Ping, Suspect, decode_packet_message, encode
from tests.detector.rig import OWN, OWN_ADDRESS, PORT, VERSIONS, Rig, address_of


def rig_with(*names: str) -> Rig:
    rig = Rig()
    for name in names:
        rig.alive(name)
    rig.take()
    rig.forget_queue()
    return rig


def until_ping(rig: Rig) -> tuple[SendPacket, Ping]:
    """Let time pass until the next probe."""
    for _ in range(5000):
        rig.pass_time(0.001)
        for effect in rig.take():
            if isinstance(effect, SendPacket) and effect.token:
                ping = decode_packet_message(effect.parts[0])
                assert isinstance(ping, Ping)
                return effect, ping
    pytest.fail("no probe")


def sent_of(rig: Rig, kind: type) -> list[Any]:
    return [message for _, messages in rig.sent() for message in messages if isinstance(message, kind)]


def test_a_probe_names_its_target_and_its_source() -> None:
    rig = rig_with("x")
    packet, ping = until_ping(rig)
    assert packet.destination == rig.node("x").endpoint
    assert (ping.node, ping.source_address, ping.source_port, ping.source_node) == ("x", OWN_ADDRESS, PORT, OWN)


def test_an_ack_ends_the_round_and_nobody_is_asked() -> None:
    rig = rig_with("x", "y")
    _, ping = until_ping(rig)
    rig.receive(Ack(ping.sequence))
    rig.pass_time(0.6)
    assert sent_of(rig, IndirectPing) == []


def test_a_suspect_is_told_so_with_the_ping_and_nothing_else() -> None:
    rig = rig_with("x")
    rig.suspect("x")
    rig.alive("y")
    rig.take()
    for _ in range(3):
        packet, ping = until_ping(rig)
        rig.receive(Ack(ping.sequence))
        if ping.node == "x":
            assert [decode_packet_message(part) for part in packet.parts] == [ping, Suspect(1, "x", OWN)]
            assert packet.checksum
            return
    pytest.fail("x was not probed")


def test_without_an_ack_helpers_and_tcp_are_asked_with_the_same_sequence_number() -> None:
    rig = rig_with("x", "a", "b", "c", "d")
    _, ping = until_ping(rig)
    rig.pass_time(0.49)
    assert sent_of(rig, IndirectPing) == []
    rig.pass_time(0.02)
    requests = sent_of(rig, IndirectPing)
    assert len(requests) == 3
    assert {request.sequence for request in requests} == {ping.sequence}
    assert all(request.node == ping.node and request.nack for request in requests)
    assert {request.target for request in requests} == {address_of(ping.node)}
    streams = [effect for effect in rig.effects if isinstance(effect, OpenStream)]
    assert [stream.destination for stream in streams] == [rig.node(ping.node).endpoint]
    assert streams[0].timeout == pytest.approx(0.5, abs=0.02)


def test_a_late_ack_still_ends_the_round_without_blame() -> None:
    rig = rig_with("x", "y")
    _, ping = until_ping(rig)
    rig.pass_time(0.8)
    rig.receive(Ack(ping.sequence))
    assert ping.sequence not in rig.core._swim._acks
    rig.pass_time(0.25)
    assert rig.node(ping.node).state is NodeState.ALIVE
    assert rig.score == 0


def test_a_target_that_answers_nobody_becomes_suspect_at_the_end_of_the_round() -> None:
    rig = rig_with("x")
    until_ping(rig)
    rig.pass_time(0.98)
    assert rig.node("x").state is NodeState.ALIVE
    rig.pass_time(0.04)
    assert rig.node("x").state is NodeState.SUSPECT
    assert rig.score == 1


@pytest.mark.parametrize(("nacks", "score"), [(0, 3), (2, 1), (3, 0), (5, 0)])
def test_missing_nacks_count_against_the_own_health(nacks: int, score: int) -> None:
    rig = rig_with("x", "a", "b", "c")
    _, ping = until_ping(rig)
    rig.pass_time(0.6)
    for _ in range(nacks):
        rig.receive(Nack(ping.sequence))
    rig.pass_time(0.41)
    assert rig.node(ping.node).state is NodeState.SUSPECT
    assert rig.score == score


def test_an_answer_by_tcp_saves_the_target() -> None:
    rig = rig_with("x")
    _, ping = until_ping(rig)
    rig.pass_time(0.51)
    (stream,) = [effect for effect in rig.take() if isinstance(effect, OpenStream)]
    rig.core.stream_replied(stream.token, encode(Ack(ping.sequence)), "", remote=False, now=rig.now)
    rig.pass_time(0.5)
    assert rig.node("x").state is NodeState.ALIVE
    assert rig.score == 0


def test_a_wrong_answer_by_tcp_saves_nobody() -> None:
    rig = rig_with("x")
    _, ping = until_ping(rig)
    rig.pass_time(0.51)
    (stream,) = [effect for effect in rig.take() if isinstance(effect, OpenStream)]
    rig.core.stream_replied(stream.token, encode(Ack(ping.sequence ^ 1)), "", remote=False, now=rig.now)
    rig.pass_time(0.5)
    assert rig.node("x").state is NodeState.SUSPECT


def test_a_send_error_of_our_own_ends_the_round_without_blame() -> None:
    rig = rig_with("x")
    packet, _ = until_ping(rig)
    rig.core.send_failed(packet.token, remote=False, error="no buffer space", now=rig.now)
    rig.pass_time(0.9)
    assert rig.node("x").state is NodeState.ALIVE
    assert sent_of(rig, IndirectPing) == []


def test_a_send_error_that_the_remote_caused_asks_others_at_once() -> None:
    rig = rig_with("x", "a")
    packet, _ = until_ping(rig)
    rig.core.send_failed(packet.token, remote=True, error="connection refused", now=rig.now)
    assert len(sent_of(rig, IndirectPing)) == 1


def test_blame_waits_for_the_fence() -> None:
    rig = rig_with("x")
    until_ping(rig)
    rig.core.advance(rig.now + 30, blame_until=rig.now)
    assert rig.core.blame_due(rig.now + 30)
    assert rig.node("x").state is NodeState.ALIVE


def test_a_freeze_blames_nobody_and_raises_the_score() -> None:
    rig = rig_with("x", "y")
    rig.suspect("x")
    until_ping(rig)
    rig.now += 60
    rig.core.stalled(rig.now, 60)
    rig.core.advance(rig.now, rig.now)
    assert rig.node("x").state is NodeState.SUSPECT
    assert rig.node("y").state is NodeState.ALIVE
    assert rig.score == LAN.awareness_max_multiplier - 1
    assert sum(isinstance(effect, OpenStream) for effect in rig.take()) == 1


def test_a_suspend_blames_nobody_at_once_and_asks_others_what_is_true() -> None:
    rig = rig_with("x", "y")
    rig.suspect("x")
    _, ping = until_ping(rig)
    deadline = rig.node("x").suspicion
    assert deadline is not None
    before = deadline.deadline
    # The clock stood still: nothing is late, but whatever was sent meanwhile is lost.
    rig.core.suspended(rig.now, 8 * 3600)
    grace = RESUME_GRACE * LAN.probe_interval
    assert deadline.deadline == pytest.approx(before + grace), "not for the whole night"
    rig.pass_time(0.6)
    effects = rig.take()
    assert sum(isinstance(effect, OpenStream) for effect in effects) >= 1
    assert rig.score == LAN.awareness_max_multiplier - 1
    rig.receive(Ack(ping.sequence))
    assert rig.node("x").state is NodeState.SUSPECT
    assert rig.node("y").state is NodeState.ALIVE


def test_pressure_of_the_host_adds_to_the_score_while_it_lasts_and_is_noted_once() -> None:
    rig = rig_with("x")
    rig.take()
    for level in (0, 2, 2, 3, 0, 0):
        rig.core.pressed(rig.now, level, 0.2, 40.0)
    noted = [effect for effect in rig.take() if isinstance(effect, Noted)]
    assert [effect.facts["level"] for effect in noted] == [2, 3, 0]
    rig.core.pressed(rig.now, 3, 0.2, None)
    assert rig.score == 3
    rig.core.stalled(rig.now, 60)
    assert rig.score == LAN.awareness_max_multiplier - 1
    rig.core.pressed(rig.now, 0, 0.0, None)
    assert rig.score == LAN.awareness_max_multiplier - 1, "what was earned stays"


def test_a_new_gossip_process_cancels_the_round_without_blame() -> None:
    rig = rig_with("x")
    _, ping = until_ping(rig)
    rig.pass_time(0.9)
    rig.core.gossip_lost(rig.now)
    rig.pass_time(0.9)
    rig.take()
    rig.core.gossip_restarted(rig.now)
    (again,) = sent_of(rig, Ping)
    assert again.sequence != ping.sequence
    rig.receive(Ack(again.sequence))
    rig.pass_time(0.05)
    assert rig.node("x").state is NodeState.ALIVE
    assert rig.score == 0


def test_sequence_numbers_and_tokens_of_two_generations_differ() -> None:
    first = Core(CoreConfig(OWN, OWN_ADDRESS, PORT), random.Random(1), 0.0, generation=1)
    second = Core(CoreConfig(OWN, OWN_ADDRESS, PORT), random.Random(2), 0.0, generation=2)
    assert first._context.next_sequence() != second._context.next_sequence()
    assert first._context.next_token() >> 40 == 1
    assert second._context.next_token() >> 40 == 2


# --- answers ----------------------------------------------------------------------------------------------------------


def test_a_ping_is_answered_to_the_source_that_it_names() -> None:
    rig = rig_with()
    rig.receive(Ping(9, OWN, bytes((127, 0, 0, 77)), 1234, "asker"), ("127.0.0.2", 5))
    rig.receive(Ping(10, ""), ("127.0.0.2", 5))
    assert rig.sent() == [(("127.0.0.77", 1234), [Ack(9)]), (("127.0.0.2", 5), [Ack(10)])]


def test_acks_carry_the_coordinate_and_direct_ones_teach_it() -> None:
    rig = Rig(coordinates=True)
    rig.alive("x")
    rig.receive(Ping(9, OWN), ("127.0.0.2", 5))
    [answer] = [message for _, messages in rig.sent() for message in messages if isinstance(message, Ack)]
    assert decode_ack_payload(answer.payload).error == 1.5
    positions = rig.core._serf.positions
    assert positions.get("x") is None
    positions.ping_completed("x", 0.010, answer.payload)
    learned = positions.get("x")
    own = positions.get(OWN)
    assert learned is not None
    assert own is not None
    assert learned.error == 1.5
    assert own.error < 1.5
    assert decode_ack_payload(positions.payload) == own
    positions.ping_completed("x", 0.010, b"\x01junk")
    assert decode_ack_payload(positions.payload) == own
    assert positions.get("stranger") is None


@pytest.mark.parametrize("ping", [Ping(9, "another"), Ping(9, OWN, b"\x01\x02\x03", 7)])
def test_a_ping_for_another_name_or_from_no_address_is_not_answered(ping: Ping) -> None:
    rig = rig_with()
    rig.receive(ping)
    assert rig.sent() == []


def test_b4_an_accusation_in_the_same_turn_as_a_ping_is_refuted_in_the_ack() -> None:
    rig = rig_with("x", "y")
    rig.receive(Ping(9, OWN), ("127.0.0.2", 5))
    rig.suspect(OWN, 1)
    acks = [messages for _, messages in rig.sent() if messages[0] == Ack(9)]
    assert len(acks) == 1
    assert acks[0][1] == Alive(2, OWN, OWN_ADDRESS, PORT, rig.node(OWN).meta, VERSIONS)
    assert acks[0].count(acks[0][1]) == 1


def test_a_ping_on_a_stream_is_answered_there() -> None:
    rig = rig_with()
    rig.core.receive_stream(1, encode(Ping(5, OWN)), ("127.0.0.2", 5), rig.now)
    rig.core.receive_stream(2, encode(Ping(5, "another")), ("127.0.0.2", 5), rig.now)
    rig.core.receive_stream(3, b"\x99garbage", ("127.0.0.2", 5), rig.now)
    answers = [effect for effect in rig.take() if isinstance(effect, AnswerStream | CloseStream)]
    assert answers == [AnswerStream(1, encode(Ack(5))), CloseStream(2), CloseStream(3)]


def test_a_probe_for_another_passes_the_ack_on_without_payload() -> None:
    rig = rig_with()
    target, asker = bytes((127, 0, 0, 5)), bytes((127, 0, 0, 6))
    rig.receive(IndirectPing(42, target, PORT, "t", nack=True, source_address=asker, source_port=77))
    ((destination, (ping,)),) = rig.sent()
    assert destination == ("127.0.0.5", PORT)
    assert isinstance(ping, Ping)
    assert ping.sequence != 42
    rig.receive(Ack(ping.sequence, b"coordinate"))
    assert rig.sent() == [(("127.0.0.6", 77), [Ack(42)])]
    rig.pass_time(0.45)
    assert rig.sent() == []


def test_b1_a_helper_nacks_before_a_healthy_prober_gives_up_and_still_relays_a_late_ack() -> None:
    rig = rig_with()
    rig.receive(IndirectPing(42, bytes((127, 0, 0, 5)), PORT, "t", nack=True), ("127.0.0.6", 77))
    ((_, (ping,)),) = rig.sent()
    assert isinstance(ping, Ping)
    rig.pass_time(0.39)
    assert rig.sent() == []
    rig.pass_time(0.02)
    assert rig.sent() == [(("127.0.0.6", 77), [Nack(42)])]
    rig.receive(Ack(ping.sequence))
    assert rig.sent() == [(("127.0.0.6", 77), [Ack(42)])]


def test_probes_for_others_are_forgotten_in_time() -> None:
    rig = rig_with()
    for number in range(50):
        rig.receive(IndirectPing(number, bytes((127, 0, 0, 5)), PORT, "t", nack=False), ("127.0.0.6", 77))
    rig.pass_time(1)
    assert not rig.core._swim._acks
    assert not rig.core._swim.answering._relays
