"""Collecting events: in the end what is so was told, once, in time, whoever died meanwhile (serf.md 9, 20.2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serfmp.detector.effects import (
    Event,
    EventKind,
    EventRequest,
    LeaveRequest,
    MemberEvent,
    MemberStatus,
    UserEventReceived,
)
from serfmp.detector.records import Recovered
from serfmp.detector.serf.batches import LatestByName
from serfmp.detector.serf.coalescing import EVENT_BYTES, HELD_LIMIT, ROW_OVERHEAD
from serfmp.wire.serf_messages import JoinIntent, LeaveIntent, UserEvent
from tests.detector.rig import OWN, Rig

LONGEST = 3.0
QUIET = 1.0


def rig(**config: Any) -> Rig:
    """A core that collects, and has told that it joined itself."""
    made = Rig(coalesce_period=LONGEST, quiescent_period=QUIET, **config)
    made.pass_time(LONGEST)
    made.take()
    return made


def successor(of: Rig, **config: Any) -> Rig:
    """The detector that takes over from a killed one."""
    of.take()
    generation = of.core._context.generation + 1
    recovered = Recovered.replay(of.journal)
    made = Rig(recovered, generation, of.now, coalesce_period=LONGEST, quiescent_period=QUIET, **config)
    made.journal = list(of.journal)
    return made


def told(events: list[Event]) -> list[tuple[str, list[str]]]:
    """Kinds and names of member events, in order."""
    return [
        (event.kind.label, [member.name for member in event.members])
        for event in events
        if isinstance(event, MemberEvent)
    ]


def payloads(events: list[Event]) -> list[tuple[str, bytes]]:
    """Names and payloads of user events, in order."""
    return [(event.name, event.payload) for event in events if isinstance(event, UserEventReceived)]


# --- members ----------------------------------------------------------------------------------------------------------


def test_members_that_come_together_are_one_event_in_the_order_of_their_names() -> None:
    cluster = rig()
    for name in ("c", "a", "b"):
        cluster.alive(name)
    assert cluster.events() == []
    cluster.pass_time(QUIET)
    assert told(cluster.events()) == [("member-join", ["a", "b", "c"])]


def test_rows_and_log_lines_do_not_wait() -> None:
    cluster = rig()
    cluster.alive("x")
    assert {member.name for member in cluster.core.members()} == {OWN, "x"}
    assert "EventMemberJoin: x" in repr(cluster.take())


def test_who_joins_and_changes_has_joined_with_its_latest_data() -> None:
    cluster = rig()
    cluster.alive("x", 1)
    cluster.alive("x", 2, meta=b"\xff\x81\xa4role\xa3web")
    cluster.pass_time(QUIET)
    (event,) = cluster.events()
    assert isinstance(event, MemberEvent)
    assert event.kind is EventKind.MEMBER_JOIN
    assert event.members[0].tags == {"role": "web"}


def test_an_update_is_told_once_and_not_again_in_later_batches() -> None:
    cluster = rig()
    cluster.alive("x", 1)
    cluster.pass_time(QUIET)
    cluster.alive("x", 2, meta=b"\xff\x81\xa4role\xa3web")
    cluster.pass_time(QUIET)
    cluster.alive("y")
    cluster.pass_time(QUIET)
    assert told(cluster.events()) == [("member-join", ["x"]), ("member-update", ["x"]), ("member-join", ["y"])]


def test_who_fails_and_is_back_within_the_time_is_no_news() -> None:
    cluster = rig()
    cluster.alive("x", 1)
    cluster.pass_time(QUIET)
    cluster.events()
    cluster.dead("x", 1)
    cluster.alive("x", 2)
    cluster.pass_time(LONGEST)
    assert told(cluster.events()) == []


def test_who_fails_and_is_back_with_other_tags_has_changed() -> None:
    cluster = rig()
    cluster.alive("x", 1)
    cluster.pass_time(QUIET)
    cluster.events()
    cluster.dead("x", 1)
    cluster.alive("x", 2, meta=b"\xff\x81\xa4role\xa3web")
    cluster.pass_time(QUIET)
    assert told(cluster.events()) == [("member-update", ["x"])]


def test_who_leaves_and_is_pruned_gets_both_events() -> None:
    cluster = rig()
    cluster.alive("x", 1)
    cluster.pass_time(QUIET)
    cluster.events()
    cluster.serf(LeaveIntent(50, "x", prune=True))
    cluster.dead("x", 1, sender="x")
    cluster.pass_time(QUIET)
    assert told(cluster.events()) == [("member-leave", ["x"]), ("member-reap", ["x"])]


def test_who_comes_and_fails_within_the_time_has_failed() -> None:
    cluster = rig()
    cluster.alive("x", 1)
    cluster.dead("x", 1)
    cluster.pass_time(QUIET)
    assert told(cluster.events()) == [("member-failed", ["x"])]


def test_without_quiet_the_longest_time_ends_the_batch() -> None:
    cluster = rig()
    begun = cluster.now
    times = []
    for number in range(12):
        cluster.alive(f"x{number}")
        for _ in range(5):
            cluster.pass_time(0.1)
            times += [cluster.now - begun for _ in cluster.events()]
    assert times[0] == pytest.approx(LONGEST, abs=0.11)


def test_a_large_batch_is_told_in_events_of_bounded_size() -> None:
    cluster = rig()
    meta = b"\xff\x81\xa4role\xda\x01\x90" + b"w" * 400
    names = [f"node-{number:05d}" for number in range(1500)]
    for name in names:
        cluster.alive(name, meta=meta)
    cluster.pass_time(LONGEST)
    events = [event for event in cluster.events() if isinstance(event, MemberEvent)]
    assert [member.name for event in events for member in event.members] == names
    assert len(events) > 1
    for event in events:
        assert sum(len(member.name) + len(meta) + ROW_OVERHEAD for member in event.members) <= EVENT_BYTES


# --- user events ------------------------------------------------------------------------------------------------------


def test_of_each_name_the_latest_is_told() -> None:
    cluster = rig()
    for ltime, name, payload in ((5, "deploy", b"1"), (7, "deploy", b"3"), (6, "deploy", b"2"), (7, "other", b"x")):
        cluster.serf(UserEvent(ltime, name, payload, coalesce=True))
    assert payloads(cluster.events()) == []
    cluster.pass_time(QUIET)
    assert payloads(cluster.events()) == [("deploy", b"3"), ("other", b"x")]


def test_events_of_one_time_are_all_told() -> None:
    cluster = rig()
    for payload in (b"1", b"2"):
        cluster.serf(UserEvent(5, "deploy", payload, coalesce=True))
    cluster.pass_time(QUIET)
    assert payloads(cluster.events()) == [("deploy", b"1"), ("deploy", b"2")]


def test_an_event_that_may_not_be_collected_passes() -> None:
    cluster = rig()
    cluster.serf(UserEvent(5, "deploy", b"1", coalesce=True))
    cluster.serf(UserEvent(6, "deploy", b"2", coalesce=False))
    assert payloads(cluster.events()) == [("deploy", b"2")]


def test_the_sender_gets_its_answer_and_the_cluster_the_event_at_once() -> None:
    cluster = rig()
    cluster.alive("x")
    cluster.take()
    cluster.core.request(("rpc", 1, 1), EventRequest("deploy", b"1", True), cluster.now)
    assert [answer.error for answer in cluster.answers()] == [""]
    cluster.pass_time(0.2)
    assert any("deploy" in repr(parts) for _, parts in cluster.sent())
    cluster.pass_time(QUIET)


def test_too_many_names_are_told_early() -> None:
    cluster = rig()
    for number in range(HELD_LIMIT + 1):
        cluster.serf(UserEvent(5 + number % 400, f"e{number}", b"", coalesce=True))
    assert len(payloads(cluster.events())) == HELD_LIMIT + 1


def test_what_waits_is_told_when_the_node_has_left() -> None:
    cluster = Rig(coalesce_period=1000.0, quiescent_period=1000.0)
    cluster.serf(UserEvent(5, "deploy", b"1", coalesce=True))
    cluster.core.request(("rpc", 1, 1), LeaveRequest(), cluster.now)
    cluster.pass_time(10.0)
    events = cluster.events()
    assert told(events) == [("member-leave", [OWN])]
    assert payloads(events) == [("deploy", b"1")]


# --- a detector that dies ---------------------------------------------------------------------------------------------


def test_what_waits_outlives_the_detector() -> None:
    cluster = rig()
    cluster.alive("x")
    cluster.serf(UserEvent(5, "deploy", b"0", coalesce=True))
    cluster.serf(UserEvent(6, "deploy", b"1", coalesce=True))
    after = successor(cluster)
    after.pass_time(LONGEST)
    events = after.events()
    assert told(events) == [("member-join", ["x"])]
    assert payloads(events) == [("deploy", b"1")]


def test_what_waits_outlives_a_compaction_of_the_journal() -> None:
    cluster = rig()
    cluster.alive("x")
    cluster.serf(UserEvent(5, "deploy", b"0", coalesce=True))
    cluster.serf(UserEvent(6, "deploy", b"1", coalesce=True))
    cluster.take()
    cluster.journal = list(cluster.core.snapshot_records())
    after = successor(cluster)
    after.serf(UserEvent(5, "deploy", b"0", coalesce=True))
    after.pass_time(LONGEST)
    events = after.events()
    assert told(events) == [("member-join", ["x"])]
    assert payloads(events) == [("deploy", b"1")]


def test_what_was_told_is_not_told_again_by_the_next_detector() -> None:
    cluster = rig()
    cluster.alive("x")
    cluster.serf(UserEvent(5, "deploy", b"1", coalesce=True))
    cluster.pass_time(QUIET)
    assert len(cluster.events()) == 2
    after = successor(cluster)
    after.pass_time(LONGEST)
    assert after.events() == []


@dataclass
class Picture:
    """What somebody knows who only hears the events."""

    members: dict[str, tuple[EventKind, dict[str, str]]] = field(default_factory=dict)
    last: int = 0

    def hear(self, event: Event) -> None:
        """One event; it must be news."""
        assert event.sequence > self.last
        self.last = event.sequence
        if not isinstance(event, MemberEvent):
            return
        for member in event.members:
            known = self.members.get(member.name)
            if event.kind is EventKind.MEMBER_REAP:
                self.members.pop(member.name, None)
                continue
            if event.kind is EventKind.MEMBER_JOIN:
                assert known is None or known[0] in {EventKind.MEMBER_FAILED, EventKind.MEMBER_LEAVE}
            elif event.kind is EventKind.MEMBER_UPDATE:
                assert known is not None
                assert known[0] is EventKind.MEMBER_JOIN
            else:
                assert known is None or known[0] is not event.kind
            kind = EventKind.MEMBER_JOIN if event.kind is EventKind.MEMBER_UPDATE else event.kind
            self.members[member.name] = (kind, dict(member.tags))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["alive", "tagged", "dead", "left", "intent", "back", "prune", "kill"]),
        st.sampled_from(["x", "y"]),
        st.sampled_from([0.0, 0.3, 1.1]),
    ),
    max_size=30,
)

STATUS = {
    MemberStatus.ALIVE: EventKind.MEMBER_JOIN,
    MemberStatus.LEAVING: EventKind.MEMBER_JOIN,
    MemberStatus.LEFT: EventKind.MEMBER_LEAVE,
    MemberStatus.FAILED: EventKind.MEMBER_FAILED,
}


def happens(cluster: Rig, step: str, name: str, number: int) -> None:
    """Something is heard of a node."""
    match step:
        case "alive":
            cluster.alive(name, number)
        case "tagged":
            cluster.alive(name, number, meta=b"\xff\x81\xa4role\xa2" + b"%02d" % (number % 100))
        case "dead":
            cluster.dead(name, number)
        case "left":
            cluster.dead(name, number, sender=name)
        case "intent":
            cluster.serf(LeaveIntent(100 + number, name))
        case "back":
            cluster.serf(JoinIntent(100 + number, name))
        case "prune":
            cluster.serf(LeaveIntent(100 + number, name, prune=True))


@settings(max_examples=100, deadline=None)
@given(steps=STEPS)
def test_who_hears_the_events_knows_the_members(steps: list[tuple[str, str, float]]) -> None:
    cluster = rig()
    picture = Picture({OWN: (EventKind.MEMBER_JOIN, {})}, cluster.core._serf.outbox.sequence)
    number = 1
    for step, name, seconds in steps:
        number += 1
        if step == "kill":
            for event in cluster.events():
                picture.hear(event)
            cluster = successor(cluster)
        else:
            happens(cluster, step, name, number)
        cluster.pass_time(seconds)
        for event in cluster.events():
            picture.hear(event)
    # Nodes that answer no probe go on failing; when nothing waits, a picture made of the events is the table.
    for _ in range(30):
        cluster.pass_time(LONGEST)
        for event in cluster.events():
            picture.hear(event)
        if not list(cluster.core._serf.coalescing.untold()):
            break
    else:
        pytest.fail("something always waits")
    # (Who failed twice within one batch, with other tags the second time, is no news: the tags of the gone are old.)
    kinds = {member.name: STATUS[member.status] for member in cluster.core.members()}
    assert {name: kind for name, (kind, _) in picture.members.items()} == kinds
    for member in cluster.core.members():
        if kinds[member.name] is EventKind.MEMBER_JOIN:
            assert picture.members[member.name][1] == dict(member.tags)


@given(
    puts=st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 5)), max_size=40),
)
def test_the_latest_of_each_name_are_kept_and_all_others_superseded(puts: list[tuple[str, int]]) -> None:
    batch: LatestByName[tuple[str, int, int]] = LatestByName()
    superseded: list[tuple[str, int, int]] = []
    items = [(name, ltime, place) for place, (name, ltime) in enumerate(puts)]
    for item in items:
        superseded += batch.put(item[0], item[1], item)
    highest = {name: max(ltime for other, ltime in puts if other == name) for name, _ in puts}
    kept = [item for item in items if item[1] == highest[item[0]]]
    assert sorted(batch) == sorted(kept)
    assert len(batch) == len(kept)
    assert sorted(superseded + batch.take()) == sorted(items)
    assert len(batch) == 0
