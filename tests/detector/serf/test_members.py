"""Members and intents: the golden table of spec serf.md 21, and what the other notices do (spec serf.md 5, 6)."""

from __future__ import annotations

import pytest

from serfmp.detector.effects import (
    Count,
    EventKind,
    Member,
    MemberChanged,
    MemberEvent,
    MemberForgotten,
    MemberStatus,
    Publish,
)
from serfmp.wire.messages import User
from serfmp.wire.serf_messages import JoinIntent, LeaveIntent, encode_serf
from serfmp.wire.serf_state import PushPullState, encode_push_pull_state
from tests.detector.rig import OWN, Rig

ALIVE, LEAVING, LEFT, FAILED = MemberStatus.ALIVE, MemberStatus.LEAVING, MemberStatus.LEFT, MemberStatus.FAILED
JOIN, LEAVE = EventKind.MEMBER_JOIN, EventKind.MEMBER_LEAVE


class Table:
    """A core, and short verbs for the golden table."""

    def __init__(self, known: bool = True) -> None:
        self.rig = Rig()
        self.incarnation = 1
        if known:
            self.rig.alive("x")
        self.rig.take()

    def play(self, sequence: str) -> tuple[list[bool], list[EventKind]]:
        """Carry out words such as `leave5 gone joined`; gives what each intent returned, and the events."""
        returns = []
        for word in sequence.split():
            verb, number = word.rstrip("0123456789"), word.lstrip("abcdefghijklmnopqrstuvwxyz-")
            match verb:
                case "leave":
                    returns.append(self._intent(LeaveIntent(int(number), "x")))
                case "join":
                    returns.append(self._intent(JoinIntent(int(number), "x")))
                case "gone":
                    self.rig.dead("x", self.incarnation)
                case "joined":
                    self.incarnation += 1
                    self.rig.alive("x", self.incarnation)
                case "state":
                    state = PushPullState(int(number) + 1, {"x": int(number)}, ("x",))
                    for _ in self.rig.core._serf.merge_state(encode_push_pull_state(state), join=False):
                        pass
                case _:
                    raise AssertionError(verb)
        return returns, self.rig.kinds("x")

    def _intent(self, message: JoinIntent | LeaveIntent) -> bool:
        queue = self.rig.core._serf.intents
        queue.prune(0)
        self.rig.serf(message)
        return queue.size > 0

    @property
    def row(self) -> tuple[MemberStatus, int]:
        row = self.rig.core._serf.members.get("x")
        assert row is not None
        return row.status, row.status_ltime


@pytest.mark.parametrize(
    ("known", "sequence", "row", "returns"),
    [
        (True, "leave5 join6", (ALIVE, 6), [True, True]),
        (True, "join6 leave5", (ALIVE, 6), [True, False]),
        (True, "leave5 join5", (LEAVING, 5), [True, False]),
        (True, "join5 leave5", (ALIVE, 5), [True, False]),
        (True, "leave5 leave6", (LEAVING, 6), [True, True]),
        (True, "gone leave5", (LEFT, 5), [True]),
        (True, "gone leave5 join6", (LEFT, 6), [True, True]),
        (True, "leave5 gone", (LEFT, 5), [True]),
        (True, "leave5 gone joined", (ALIVE, 5), [True]),
        (False, "leave5 join4 joined", (LEAVING, 5), [True, False]),
        (False, "join4 leave5 leave5 joined", (LEAVING, 5), [True, True, False]),
        # The reference counts one up at every exchange: leaving at 6, and left at 7. See `Members.left_elsewhere`.
        (True, "join5 state5", (ALIVE, 5), [True]),
        (True, "join5 state6 gone", (LEFT, 6), [True]),
        (True, "join5 gone state5", (LEFT, 6), [True]),
        (True, "leave5 gone state5 state6", (LEFT, 6), [True]),
        (True, "leave5 gone joined state5", (ALIVE, 5), [True]),
    ],
)
def test_intents_follow_the_golden_table(
    known: bool, sequence: str, row: tuple[MemberStatus, int], returns: list[bool]
) -> None:
    table = Table(known)
    assert table.play(sequence)[0] == returns
    assert table.row == row


@pytest.mark.parametrize(
    ("sequence", "kinds"),
    [
        ("gone", [EventKind.MEMBER_FAILED]),
        ("gone leave5", [EventKind.MEMBER_FAILED, LEAVE]),
        ("leave5 gone", [LEAVE]),
        ("leave5 join6", []),
        ("gone joined", [EventKind.MEMBER_FAILED, JOIN]),
        ("leave5 gone joined", [LEAVE, JOIN]),
    ],
)
def test_events_follow_the_golden_table(sequence: str, kinds: list[EventKind]) -> None:
    assert Table().play(sequence)[1] == kinds


def test_a_node_that_declares_itself_gone_has_left_even_without_an_intent() -> None:
    rig = Rig()
    rig.alive("x")
    rig.take()
    rig.dead("x", sender="x")
    assert rig.kinds() == [LEAVE]


def test_two_quiet_nodes_that_exchange_left_members_reach_a_fixed_point() -> None:
    tables = [Table(), Table()]
    tables[0].play("leave5 gone")
    tables[1].play("leave5 gone state9")
    for _ in range(3):
        for here, there in ((0, 1), (1, 0)):
            state = tables[there].rig.core._serf.local_state()
            for _ in tables[here].rig.core._serf.merge_state(state, join=False):
                pass
    assert tables[0].row == tables[1].row == (LEFT, 9)


def test_a_leave_intent_about_the_living_local_node_is_contradicted() -> None:
    rig = Rig()
    rig.take()
    rig.serf(LeaveIntent(7, OWN))
    (member,) = rig.core.members()
    assert member.status is ALIVE
    assert rig.core._serf.clocks[0] == 9
    row = rig.core._serf.members.get(OWN)
    assert row is not None
    assert row.status_ltime == 8
    assert rig.core.stats()["intent_queue"] == "1"


def test_a_leave_that_only_others_heard_of_is_contradicted_when_a_push_pull_shows_its_time() -> None:
    rig = Rig()
    rig.take()
    state = encode_push_pull_state(PushPullState(ltime=9, status_ltimes={OWN: 7}, event_ltime=1, query_ltime=1))
    for _ in range(2):
        for _ in rig.core._serf.merge_state(state, join=False):
            pass
    row = rig.core._serf.members.get(OWN)
    assert row is not None
    assert row.status_ltime > 7
    assert rig.core.stats()["intent_queue"] == "1"


def test_a_member_that_stays_leaving_is_told_so_again_until_it_contradicts() -> None:
    rig = Rig(reap_interval=1.0)
    rig.alive("x")
    rig.serf(LeaveIntent(5, "x"))
    rig.pass_time(2)
    rig.sent()
    rig.pass_time(1)
    told = [message for endpoint, messages in rig.sent() if endpoint == rig.node().endpoint for message in messages]
    assert User(encode_serf(LeaveIntent(5, "x"))) in told
    rig.serf(JoinIntent(6, "x"))
    rig.pass_time(1.6)
    rig.sent()
    rig.pass_time(1)
    assert not any(isinstance(message, User) for _, messages in rig.sent() for message in messages)


@pytest.mark.parametrize("gone", [True, False])
def test_prune_forgets_a_gone_member_at_once_and_one_that_is_there_as_soon_as_it_goes(gone: bool) -> None:
    rig = Rig()
    rig.alive("x")
    if gone:
        rig.dead("x")
    rig.take()
    rig.serf(LeaveIntent(5, "x", prune=True))
    if not gone:
        rig.pass_time(2)
        assert MemberForgotten("x") not in rig.take()
        rig.dead("x", sender="x")
    effects = rig.take()
    assert MemberForgotten("x") in effects
    kinds = [
        effect.event.kind for effect in effects if isinstance(effect, Publish) and isinstance(effect.event, MemberEvent)
    ]
    assert kinds[-1] is EventKind.MEMBER_REAP
    assert [member.name for member in rig.core.members()] == [OWN]


def test_replicas_hear_of_a_row_before_the_event_about_it() -> None:
    rig = Rig()
    rig.take()
    rig.alive("x", meta=b"\xff\x81\xa4role\xa3web")
    shown = [effect for effect in rig.take() if isinstance(effect, MemberChanged | Publish)]
    assert isinstance(shown[0], MemberChanged)
    expected = Member("x", rig.node().address, 7946, {"role": "web"}, ALIVE, (1, 5, 2, 2, 5, 5))
    assert shown[0].member == expected
    assert isinstance(shown[1], Publish)
    assert shown[1].event == MemberEvent(2, JOIN, (expected,))


def test_replicas_hear_of_leaving_members_though_there_is_no_event() -> None:
    rig = Rig()
    rig.alive("x")
    rig.take()
    rig.serf(LeaveIntent(5, "x"))
    effects = rig.take()
    assert [effect.member.status for effect in effects if isinstance(effect, MemberChanged)] == [LEAVING]
    assert not any(isinstance(effect, Publish) for effect in effects)


def test_a_quick_return_counts_as_flapping() -> None:
    rig = Rig()
    rig.alive("x")
    rig.dead("x")
    rig.alive("x", 2)
    assert Count("serf.member.flap") in rig.take()


def test_remembered_intents_expire_and_are_bounded() -> None:
    rig = Rig(intent_limit=5)
    for number in range(9):
        rig.serf(LeaveIntent(number + 1, f"unknown{number}"))
    assert len(list(rig.core._serf.recent_intents)) == 5
    rig.pass_time(330)
    assert not list(rig.core._serf.recent_intents)


def test_stats_count_by_status() -> None:
    rig = Rig()
    for name in "abcd":
        rig.alive(name)
    rig.dead("a")
    rig.dead("b", sender="b")
    stats = rig.core.stats()
    assert (stats["members"], stats["failed"], stats["left"]) == ("5", "1", "1")


def test_a_fresh_node_has_the_figures_of_the_reference() -> None:
    assert Rig().core.stats() == {
        "members": "1",
        "failed": "0",
        "left": "0",
        "health_score": "0",
        "member_time": "1",
        "event_time": "1",
        "query_time": "1",
        "intent_queue": "0",
        "event_queue": "0",
        "query_queue": "0",
        "encrypted": "false",
    }
