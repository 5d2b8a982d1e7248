"""Histories of nodes: each change of state has its story, routine has none, and all of it is bounded."""

from __future__ import annotations

from serfmp.detector.swim.evidence import NODES, PER_NODE, Evidence, Finding, Histories
from serfmp.wire.messages import Nack
from tests.detector.rig import OWN, Rig
from tests.detector.swim.test_probe import rig_with, until_ping


def story(rig: Rig, node: str = "x") -> list[Evidence]:
    return list(rig.core._context.histories.of(node))


def findings(rig: Rig, node: str = "x") -> list[Finding]:
    return [entry.finding for entry in story(rig, node)]


def test_a_node_that_answers_has_no_story() -> None:
    rig = rig_with("x", "y")
    assert story(rig) == []


def test_a_probe_without_an_ack_tells_each_step_of_its_round() -> None:
    rig = rig_with("x")
    _, ping = until_ping(rig)
    rig.pass_time(0.6)
    rig.receive(Nack(ping.sequence), source=("127.0.0.9", 7946))
    rig.pass_time(0.6)
    told = story(rig)
    assert [entry.finding for entry in told] == [
        Finding.PROBE_TIMED_OUT,
        Finding.HELPERS_ASKED,
        Finding.NACKED,
        Finding.UNANSWERED,
        Finding.SUSPECTED,
    ]
    assert told[1].facts == {"helpers": [], "stream": True}
    assert told[2].source == ("127.0.0.9", 7946)
    assert told[3].facts["nacks"] == 1
    assert told[4].by == OWN
    assert told[4].source is None


def test_an_accusation_by_others_names_them_their_way_and_the_end() -> None:
    rig = rig_with("x", "a", "b", "c", "d")
    rig.suspect("x", sender="a")
    rig.suspect("x", sender="b")
    rig.pass_time(200)
    told = story(rig)
    assert [(entry.finding, entry.by) for entry in told[:2]] == [(Finding.SUSPECTED, "a"), (Finding.CONFIRMED, "b")]
    assert told[0].source == ("127.0.0.2", 7946)
    assert told[0].facts["wanted"] == 2
    assert told[1].facts["confirmations"] == 1
    assert [(entry.finding, entry.by) for entry in told[-2:]] == [(Finding.EXPIRED, OWN), (Finding.DEAD, OWN)]
    assert told[-2].source is None


def test_a_refutation_and_a_return_are_part_of_the_story() -> None:
    rig = rig_with("x", "y")
    rig.suspect("x", sender="y")
    rig.alive("x", incarnation=2)
    rig.dead("x", incarnation=2, sender="y")
    rig.alive("x", incarnation=3)
    assert findings(rig) == [Finding.SUSPECTED, Finding.REFUTED, Finding.DEAD, Finding.ALIVE]
    assert story(rig)[1].facts == {"incarnation": 2}


def test_a_leave_is_told_as_one() -> None:
    rig = rig_with("x")
    rig.dead("x", incarnation=1, sender="x")
    assert findings(rig) == [Finding.LEFT]


def test_the_local_node_knows_who_accused_it_and_that_it_had_been_late() -> None:
    rig = rig_with("x")
    rig.core.stalled(rig.now, 1.5)
    rig.suspect(OWN, incarnation=rig.incarnation, sender="x")
    stalled, accused = story(rig, OWN)
    assert (stalled.finding, stalled.facts) == (Finding.STALLED, {"lost": 1.5})
    assert (accused.finding, accused.by, accused.late) == (Finding.ACCUSED, "x", 1.5)
    assert accused.score == 1


def test_histories_keep_to_their_bounds_and_count_what_they_drop() -> None:
    histories = Histories()
    for number in range(PER_NODE + 5):
        histories.note(float(number), "x", Finding.NACKED, "y")
    assert len(histories.of("x")) == PER_NODE
    assert histories.dropped == 5
    for number in range(NODES):
        histories.note(0.0, f"n{number}", Finding.NACKED, "y")
    assert len(histories) == NODES
    assert histories.of("x") == ()
    assert histories.dropped == 5 + PER_NODE
