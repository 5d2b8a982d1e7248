"""Push/pull: schedule, both sides, verification, merging in slices (spec swim.md 8, 3.6)."""

from __future__ import annotations

from itertools import pairwise

import pytest

from serfmp.detector.effects import AnswerStream, CloseStream, OpenStream, SendPacket
from serfmp.detector.swim.push_pull import INBOUND_LIMIT, interval_factor
from serfmp.detector.swim.table import NodeState
from serfmp.wire.messages import Alive, ErrorReply, PushPullNode, decode_packet_message, encode
from serfmp.wire.serf_state import PushPullState, encode_push_pull_state
from serfmp.wire.stream import PushPullReader, decode_stream_message, encode_push_pull
from tests.detector.rig import OWN, OWN_ADDRESS, PORT, VERSIONS, Rig, address_of

SOURCE = ("127.0.0.9", 40000)
STATE = encode_push_pull_state(PushPullState(ltime=1, event_ltime=1, query_ltime=1))


def node(
    name: str, incarnation: int = 1, state: NodeState = NodeState.ALIVE, versions: bytes = VERSIONS
) -> PushPullNode:
    address = OWN_ADDRESS if name == OWN else address_of(name)
    return PushPullNode(name, address, PORT, b"\xff\x80", incarnation, int(state), versions)


def send(rig: Rig, *nodes: PushPullNode, stream: int = 1, join: bool = False) -> None:
    """An inbound exchange, merged completely."""
    rig.core.receive_stream(stream, encode_push_pull(join, nodes, STATE), SOURCE, rig.now)
    while rig.core.work(rig.now, 100):
        pass


def answer(rig: Rig) -> PushPullReader | None:
    """The answer on the stream, or None if it was closed."""
    (effect,) = [effect for effect in rig.take() if isinstance(effect, AnswerStream | CloseStream)]
    if isinstance(effect, CloseStream):
        return None
    reader = decode_stream_message(effect.reply)
    assert isinstance(reader, PushPullReader)
    return reader


@pytest.mark.parametrize(
    ("size", "factor"), [(1, 1), (32, 1), (33, 2), (64, 2), (65, 3), (128, 3), (129, 4), (512, 5), (513, 6), (5000, 9)]
)
def test_large_clusters_stretch_the_interval(size: int, factor: int) -> None:
    assert interval_factor(size) == factor


def test_one_live_partner_is_asked_per_interval() -> None:
    rig = Rig(reconnect_interval=1e9)
    rig.alive("y")
    rig.dead("y")
    times = []
    for second in range(150):
        rig.alive("x", second + 1)
        rig.pass_time(1)
        for effect in rig.take():
            if isinstance(effect, OpenStream) and effect.request[0] == 6:
                assert effect.destination == rig.node("x").endpoint
                times.append(rig.now)
                rig.core.stream_replied(effect.token, None, "dial tcp: refused", remote=True, now=rig.now)
    gaps = [after - before for before, after in pairwise(times)]
    assert len(times) in {4, 5}
    assert all(30 <= gap <= 31 for gap in gaps)


def test_remote_states_become_alive_left_or_a_suspicion() -> None:
    rig = Rig()
    for name in ("suspected", "dead", "left"):
        rig.alive(name)
    send(
        rig,
        node("new"),
        node("suspected", 1, NodeState.SUSPECT),
        node("dead", 1, NodeState.DEAD),
        node("left", 1, NodeState.LEFT),
        node("unknown", 1, NodeState.DEAD),
    )
    states = {record.name: record.state for record in rig.core._swim.table}
    assert states == {
        OWN: NodeState.ALIVE,
        "new": NodeState.ALIVE,
        "suspected": NodeState.SUSPECT,
        "dead": NodeState.SUSPECT,
        "left": NodeState.LEFT,
    }


def test_b13_a_merge_counts_as_no_accuser() -> None:
    rig = Rig()
    for name in "xabcdef":
        rig.alive(name)
    send(rig, node("x", 1, NodeState.DEAD))
    suspicion = rig.node("x").suspicion
    assert suspicion is not None
    send(rig, node("x", 1, NodeState.SUSPECT))
    assert suspicion.confirmations == 0
    rig.suspect("x", sender=OWN)
    assert suspicion.confirmations == 1


def test_b14_the_responder_merges_and_refutes_before_it_answers() -> None:
    rig = Rig()
    send(rig, node("x"), node(OWN, 7, NodeState.DEAD))
    reader = answer(rig)
    assert reader is not None
    entries = {entry.name: entry for entry in reader.take(10)}
    assert (entries[OWN].incarnation, entries[OWN].state) == (8, 0)
    assert entries["x"].state == 0


def test_b14_an_initiator_that_had_to_refute_tells_its_partner() -> None:
    rig = Rig()
    rig.alive("x")
    rig.core._swim.push_pull.refresh(1)
    (stream,) = [effect for effect in rig.take() if isinstance(effect, OpenStream)]
    reply = encode_push_pull(False, [node("x"), node(OWN, 7, NodeState.DEAD)], STATE)
    rig.core.stream_replied(stream.token, reply, "", remote=False, now=rig.now)
    while rig.core.work(rig.now, 10):
        pass
    direct = [
        decode_packet_message(effect.parts[0])
        for effect in rig.take()
        if isinstance(effect, SendPacket) and effect.destination == rig.node("x").endpoint and not effect.checksum
    ]
    assert [message.incarnation for message in direct if isinstance(message, Alive)] == [8]


@pytest.mark.parametrize(
    "versions",
    [bytes((1, 5, 2, 2, 5, 9)), bytes((1, 5, 9, 2, 5, 5)), bytes((3, 5, 3, 2, 5, 5)), bytes((1, 1, 1, 2, 5, 5))],
)
def test_an_incompatible_live_entry_refuses_the_whole_merge(versions: bytes) -> None:
    rig = Rig()
    send(rig, node("x"), node("odd", versions=versions))
    assert answer(rig) is None
    assert not rig.known("x")


def test_b8_an_incompatible_entry_that_is_gone_harms_nobody() -> None:
    rig = Rig()
    send(rig, node("x"), node("odd", 1, NodeState.DEAD, bytes((9, 9, 9, 9, 9, 9))))
    assert answer(rig) is not None
    assert rig.known("x")


def test_merging_takes_slices_and_answers_at_its_end() -> None:
    rig = Rig()
    message = encode_push_pull(False, [node(f"n{number}") for number in range(200)], STATE)
    rig.core.receive_stream(1, message, SOURCE, rig.now)
    slices = 1
    while rig.core.work(rig.now, 32):
        slices += 1
        known = len(rig.core._swim.table)
        assert known <= 32 * slices
    assert slices > 6
    assert len(rig.core._swim.table) == 201
    assert answer(rig) is not None


def test_too_many_exchanges_at_once_are_closed() -> None:
    rig = Rig()
    for stream in range(INBOUND_LIMIT + 1):
        rig.core.receive_stream(stream, encode_push_pull(False, [node("x")], STATE), SOURCE, rig.now)
    assert [effect for effect in rig.take() if isinstance(effect, CloseStream)] == [CloseStream(INBOUND_LIMIT)]
    while rig.core.work(rig.now, 100):
        pass
    send(rig, node("x"), stream=500)
    assert sum(isinstance(effect, AnswerStream) for effect in rig.take()) == INBOUND_LIMIT + 1


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (encode(ErrorReply("go away")), "remote error: go away"),
        (encode(ErrorReply("go away"))[:5], "Push/Pull with x failed"),
        (b"\x08\x81\xabUserMsgLen\x01x", "the answer is no push/pull"),
    ],
)
def test_a_wrong_answer_is_logged_and_changes_nothing(reply: bytes, text: str) -> None:
    rig = Rig()
    rig.alive("x")
    rig.core._swim.push_pull.refresh(1)
    (stream,) = [effect for effect in rig.take() if isinstance(effect, OpenStream)]
    rig.core.stream_replied(stream.token, reply, "", remote=False, now=rig.now)
    assert any(text in str(effect) for effect in rig.take())
    assert not rig.core.work(rig.now, 10)


def test_damaged_user_state_spoils_only_itself() -> None:
    rig = Rig()
    rig.core.receive_stream(1, encode_push_pull(False, [node("x")], b"\x02\xffgarbage"), SOURCE, rig.now)
    rig.core.receive_stream(2, encode_push_pull(False, [node("y")], b"\x63"), SOURCE, rig.now)
    rig.core.receive_stream(3, encode_push_pull(False, [node("z")], b""), SOURCE, rig.now)
    while rig.core.work(rig.now, 100):
        pass
    assert sum(isinstance(effect, AnswerStream) for effect in rig.take()) == 3
    assert all(rig.known(name) for name in "xyz")
