"""A test for every row of the transition table (spec swim.md 3)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serfmp.detector.effects import EventKind, Gauge, MemberStatus
from serfmp.detector.swim.membership import INCARNATION_LIMIT
from serfmp.detector.swim.table import NodeState
from serfmp.errors import UserError
from serfmp.wire.messages import Alive, Dead, Suspect
from tests.detector.rig import OWN, VERSIONS, Rig, address_of

JOIN, LEAVE, FAILED, UPDATE = (
    EventKind.MEMBER_JOIN,
    EventKind.MEMBER_LEAVE,
    EventKind.MEMBER_FAILED,
    EventKind.MEMBER_UPDATE,
)
OTHER_PLACE = bytes((127, 9, 9, 9))


@pytest.fixture
def rig() -> Rig:
    """A core that knows x, alive at incarnation 5, with an empty queue."""
    rig = Rig()
    rig.alive(incarnation=5)
    rig.take()
    rig.forget_queue()
    return rig


def put_into(rig: Rig, state: NodeState) -> None:
    match state:
        case NodeState.SUSPECT:
            rig.suspect(incarnation=5)
        case NodeState.DEAD:
            rig.dead(incarnation=5)
        case NodeState.LEFT:
            rig.dead(incarnation=5, sender="x")
        case _:
            pass
    assert rig.node().state is state
    rig.take()
    rig.forget_queue()


# --- alive ------------------------------------------------------------------------------------------------------------


def test_a1_after_leaving_nothing_alive_about_the_local_node_is_accepted() -> None:
    rig = Rig()
    rig.core._swim.membership.leave()
    rig.take()
    rig.alive(OWN, 9)
    assert rig.node(OWN).state is NodeState.LEFT
    assert rig.incarnation == 1
    assert rig.kinds(OWN) == []


@pytest.mark.parametrize(
    "versions", [b"", b"\x01\x05\x02", bytes((0, 5, 2, 2, 5, 5)), bytes((1, 0, 2, 2, 5, 5)), bytes((5, 1, 2, 2, 5, 5))]
)
def test_a2_a3_an_alive_with_wrong_or_missing_versions_is_dropped(versions: bytes) -> None:
    rig = Rig()
    rig.alive(versions=versions)
    assert not rig.known()


def test_a_name_that_breaks_the_rule_is_refused_where_names_are_validated() -> None:
    rig = Rig(validate_node_names=True)
    for name in ("a b", "x/y", "é", "n" * 129):
        rig.alive(name)
        assert not rig.known(name)
    rig.alive("Web-1.example" + "n" * 115)
    assert rig.known("Web-1.example" + "n" * 115)
    with pytest.raises(UserError, match="breaks the rule of validate_node_names"):
        replace(rig.core._context.config, node="a b")


def test_a5_an_unknown_node_is_created_and_joins(rig: Rig) -> None:
    rig.alive("y", 1)
    assert rig.node("y").state is NodeState.ALIVE
    assert rig.kinds("y") == [JOIN]
    assert rig.queued() == [Alive(1, "y", address_of("y"), 7946, b"\xff\x80", VERSIONS)]


def test_a5_an_alive_with_incarnation_0_leaves_no_phantom(rig: Rig) -> None:
    rig.alive("y", 0)
    assert not rig.known("y")


def test_a5_a_port_of_0_means_the_own_port(rig: Rig) -> None:
    rig.alive("y", 1, port=0)
    assert rig.node("y").port == 7946


def test_a5_invented_nodes_are_bounded() -> None:
    rig = Rig(node_limit=3)
    for number in range(10):
        rig.alive(f"n{number}")
    assert len(rig.core._swim.table) == 3


@pytest.mark.parametrize("state", [NodeState.ALIVE, NodeState.SUSPECT, NodeState.DEAD])
def test_a7_a_node_that_has_not_left_never_changes_its_address(rig: Rig, state: NodeState) -> None:
    put_into(rig, state)
    rig.alive(incarnation=99, address=OTHER_PLACE)
    rig.alive(incarnation=99, port=1)
    assert (rig.node().address, rig.node().port, rig.node().state) == (address_of("x"), 7946, state)
    assert rig.kinds() == []


@pytest.mark.parametrize("incarnation", [1, 5, 9])
def test_a7_a_node_that_left_may_come_back_elsewhere_at_any_incarnation(rig: Rig, incarnation: int) -> None:
    put_into(rig, NodeState.LEFT)
    rig.alive(incarnation=incarnation, address=OTHER_PLACE)
    assert (rig.node().address, rig.node().incarnation) == (OTHER_PLACE, incarnation)
    assert rig.kinds() == [JOIN]


def test_a7_the_mapped_form_of_the_same_address_is_a_conflict(rig: Rig) -> None:
    rig.alive(incarnation=99, address=bytes(10) + b"\xff\xff" + address_of("x"))
    assert len(rig.node().address) == 4


@pytest.mark.parametrize("state", list(NodeState))
@pytest.mark.parametrize("incarnation", [4, 5])
def test_a8_an_alive_that_is_not_newer_changes_nothing(rig: Rig, state: NodeState, incarnation: int) -> None:
    put_into(rig, state)
    rig.alive(incarnation=incarnation, meta=b"\xff\x81\xa1a\xa1b")
    assert (rig.node().state, rig.node().incarnation, rig.node().meta) == (state, 5, b"\xff\x80")
    assert rig.queued() == []


@pytest.mark.parametrize(("state", "sender"), [(NodeState.DEAD, OWN), (NodeState.LEFT, "x")])
def test_b5_a_gone_node_with_an_old_alive_is_told_what_to_rise_above(rig: Rig, state: NodeState, sender: str) -> None:
    put_into(rig, state)
    rig.alive(incarnation=1)
    rig.alive(incarnation=1)
    assert rig.sent() == [(rig.node().endpoint, [Dead(5, "x", sender)])]


def test_a9_an_alive_about_the_local_node_that_is_older_is_only_reminded_of(rig: Rig) -> None:
    rig.core._swim.membership._refute(7)
    rig.take()
    rig.forget_queue()
    before = rig.incarnation, rig.score
    rig.alive(OWN, 2)
    assert (rig.incarnation, rig.score) == before
    assert [message.incarnation for message in rig.queued() if isinstance(message, Alive)] == [8]


def test_a10_an_accepted_alive_ends_a_suspicion(rig: Rig) -> None:
    put_into(rig, NodeState.SUSPECT)
    rig.alive(incarnation=6)
    assert rig.node().suspicion is None
    rig.forget_queue()
    rig.core._swim.prober.cancel()
    assert rig.kinds() == []


def test_a11_the_own_alive_coming_back_unchanged_is_nothing(rig: Rig) -> None:
    own = rig.node(OWN)
    rig.alive(OWN, 1, meta=own.meta, versions=own.versions)
    assert rig.queued() == []
    assert rig.score == 0


@pytest.mark.parametrize(("incarnation", "meta"), [(1, b"\xff\x81\xa1a\xa1b"), (8, b"\xff\x80")])
def test_a12_an_alive_about_the_local_node_with_other_content_is_refuted(
    rig: Rig, incarnation: int, meta: bytes
) -> None:
    rig.alive(OWN, incarnation, meta=meta)
    assert rig.incarnation == incarnation + 1
    assert rig.node(OWN).meta == b"\xff\x80"
    assert rig.score == 1


def test_a13_suspect_to_alive_makes_no_event_unless_the_metadata_changed(rig: Rig) -> None:
    put_into(rig, NodeState.SUSPECT)
    rig.alive(incarnation=6)
    assert rig.node().state is NodeState.ALIVE
    assert rig.kinds() == []
    rig.suspect(incarnation=6)
    rig.alive(incarnation=7, meta=b"\xff\x81\xa1a\xa1b")
    assert rig.kinds() == [UPDATE]


@pytest.mark.parametrize("state", [NodeState.DEAD, NodeState.LEFT])
def test_a14_a_gone_node_that_is_alive_again_joins(rig: Rig, state: NodeState) -> None:
    put_into(rig, state)
    rig.alive(incarnation=6)
    assert rig.node().state is NodeState.ALIVE
    assert rig.kinds() == [JOIN]


def test_a14_a_change_of_versions_alone_is_stored_and_makes_no_event(rig: Rig) -> None:
    rig.alive(incarnation=6, versions=bytes((1, 4, 2, 2, 5, 5)))
    assert rig.node().versions == bytes((1, 4, 2, 2, 5, 5))
    assert rig.kinds() == []


# --- suspect ----------------------------------------------------------------------------------------------------------


def test_s1_a_suspicion_of_an_unknown_node_is_ignored(rig: Rig) -> None:
    rig.suspect("unknown")
    assert not rig.known("unknown")
    assert rig.queued() == []


def test_s2_an_older_suspicion_is_ignored(rig: Rig) -> None:
    rig.suspect(incarnation=4)
    assert rig.node().state is NodeState.ALIVE


def test_s3_a_second_accuser_confirms_and_is_gossiped_with_its_own_name() -> None:
    rig = Rig()
    for name in "xabcdefg":
        rig.alive(name)
    rig.suspect(sender="a")
    rig.take()
    rig.forget_queue()
    rig.suspect(sender="a")
    assert rig.queued() == []
    rig.suspect(incarnation=3, sender="b")
    assert rig.queued() == [Suspect(3, "x", "b")]
    assert rig.node().incarnation == 1
    suspicion = rig.node().suspicion
    assert suspicion is not None
    assert suspicion.confirmations == 1


@pytest.mark.parametrize("state", [NodeState.DEAD, NodeState.LEFT])
def test_s4_a_gone_node_is_not_suspected(rig: Rig, state: NodeState) -> None:
    put_into(rig, state)
    rig.suspect(incarnation=9)
    assert rig.node().state is state
    assert rig.queued() == []


@pytest.mark.parametrize("accusation", ["suspect", "dead"])
def test_s5_d5_accusations_of_the_local_node_are_refuted_at_once(rig: Rig, accusation: str) -> None:
    (rig.suspect if accusation == "suspect" else rig.dead)(OWN, 3)
    assert rig.incarnation == 4
    assert rig.score == 1
    assert rig.node(OWN).state is NodeState.ALIVE
    sent = [message for _, messages in rig.sent() for message in messages]
    assert [message.incarnation for message in sent if isinstance(message, Alive)] == [4]
    assert Gauge("memberlist.health.score", 1) in rig.effects


def test_s6_an_alive_node_becomes_suspect_without_an_event(rig: Rig) -> None:
    rig.suspect(incarnation=7)
    assert (rig.node().state, rig.node().incarnation) == (NodeState.SUSPECT, 7)
    assert rig.queued() == [Suspect(7, "x", "other")]
    assert rig.kinds() == []


def test_s6_a_suspect_that_nobody_refutes_is_dead(rig: Rig) -> None:
    rig.suspect(incarnation=5)
    rig.pass_time(3.9)
    assert rig.node().state is NodeState.SUSPECT
    rig.pass_time(0.2)
    assert rig.node().state is NodeState.DEAD
    assert rig.kinds() == [FAILED]


# --- dead -------------------------------------------------------------------------------------------------------------


def test_d1_the_death_of_an_unknown_node_is_ignored(rig: Rig) -> None:
    rig.dead("unknown")
    assert not rig.known("unknown")


def test_d2_an_older_death_is_ignored(rig: Rig) -> None:
    rig.dead(incarnation=4)
    assert rig.node().state is NodeState.ALIVE


def test_d3_a_death_ends_a_suspicion(rig: Rig) -> None:
    put_into(rig, NodeState.SUSPECT)
    rig.dead(incarnation=5)
    assert rig.node().suspicion is None
    assert rig.kinds() == [FAILED]


@pytest.mark.parametrize(("state", "sender"), [(NodeState.DEAD, "x"), (NodeState.LEFT, "other")])
def test_d4_dead_does_not_become_left_nor_left_dead(rig: Rig, state: NodeState, sender: str) -> None:
    put_into(rig, state)
    rig.dead(incarnation=9, sender=sender)
    assert rig.node().state is state
    assert rig.queued() == []


def test_d6_the_own_leave_is_queued_under_the_own_name_and_reported(rig: Rig) -> None:
    done: list[bool] = []
    rig.core._swim.membership.leave(lambda: done.append(True))
    assert rig.node(OWN).state is NodeState.LEFT
    assert rig.queued() == [Dead(1, OWN, OWN)]
    rig.forget_queue()
    assert done == [True]


@pytest.mark.parametrize("state", [NodeState.ALIVE, NodeState.SUSPECT])
@pytest.mark.parametrize(
    ("sender", "outcome", "kind"), [("other", NodeState.DEAD, FAILED), ("x", NodeState.LEFT, LEAVE)]
)
def test_d7_d8_a_death_signed_by_the_node_itself_is_a_leave(
    rig: Rig, state: NodeState, sender: str, outcome: NodeState, kind: EventKind
) -> None:
    put_into(rig, state)
    rig.dead(incarnation=6, sender=sender)
    assert (rig.node().state, rig.node().incarnation) == (outcome, 6)
    assert rig.queued() == [Dead(6, "x", sender)]
    assert rig.kinds() == [kind]


# --- limits -----------------------------------------------------------------------------------------------------------


def test_b12_incarnations_near_the_end_are_nobodys(rig: Rig) -> None:
    rig.suspect(OWN, INCARNATION_LIMIT)
    rig.dead(OWN, (1 << 32) - 1)
    rig.suspect(incarnation=INCARNATION_LIMIT)
    rig.alive(incarnation=INCARNATION_LIMIT)
    assert rig.incarnation == 1
    assert (rig.node().state, rig.node().incarnation) == (NodeState.ALIVE, 5)


def test_b4_an_accusation_below_the_own_incarnation_is_answered_with_the_present_alive(rig: Rig) -> None:
    rig.suspect(OWN, 3)
    rig.take()
    rig.forget_queue()
    rig.suspect(OWN, 3)
    rig.suspect(OWN, 3)
    assert rig.incarnation == 4
    assert rig.score == 1
    assert [message.incarnation for message in rig.queued() if isinstance(message, Alive)] == [4]


def test_b11_a_refutation_replaces_what_is_queued_about_the_node(rig: Rig) -> None:
    rig.suspect(OWN, 3)
    rig.suspect(OWN, 8)
    assert [message.incarnation for message in rig.queued() if isinstance(message, Alive)] == [9]


def test_a_status_never_shows_the_intermediate_state_of_a_new_record(rig: Rig) -> None:
    rig.alive("y")
    members = {member.name: member.status for member in rig.core.members()}
    assert members["y"] is MemberStatus.ALIVE
