"""Which lines the core tells: what happened, once, and nothing after a leave."""

from __future__ import annotations

from serfmp.detector.effects import LeaveRequest, SnapshotLines
from serfmp.detector.records import Recovered
from serfmp.wire.serf_messages import UserEvent
from serfmp.wire.snapshot import SnapshotState
from tests.detector.rig import OWN, Rig


def told(rig: Rig) -> list[str]:
    return [line for effect in rig.take() if isinstance(effect, SnapshotLines) for line in effect.lines]


def test_nothing_is_told_unless_it_is_asked_for() -> None:
    rig = Rig()
    rig.alive("x")
    assert told(rig) == []


def test_each_change_is_a_line_and_clocks_follow() -> None:
    rig = Rig(snapshot=True)
    assert told(rig) == [f"alive: {OWN} 127.0.0.1:7946"]
    rig.alive("x", address=bytes((127, 0, 0, 9)), port=7000)
    rig.serf(UserEvent(6, "e", b"", coalesce=False))
    assert told(rig) == ["alive: x 127.0.0.9:7000", "event-clock: 6"]
    rig.alive("x", incarnation=2, address=bytes((127, 0, 0, 9)), port=7000, meta=b"\xff\x81\xa1k\xa1v")
    assert told(rig) == ["alive: x 127.0.0.9:7000"]
    rig.dead("x", incarnation=2)
    assert told(rig) == ["not-alive: x"]


def test_a_leave_is_told_at_once_and_nothing_after_it_even_by_a_restarted_detector() -> None:
    rig = Rig(snapshot=True)
    rig.alive("x")
    told(rig)
    rig.core.request(("rpc", 1, 1), LeaveRequest(), rig.now)
    (leave,) = [effect for effect in rig.take() if isinstance(effect, SnapshotLines) and "leave" in effect.lines]
    assert leave.sync
    rig.alive("y")
    assert not any(line.startswith("alive") for line in told(rig))
    again = Rig(Recovered.replay(rig.journal), 2, rig.now, snapshot=True)
    lines = told(again)
    assert "leave" in lines
    assert not any(line.startswith("alive") for line in lines)
    again.core.tell_snapshot()
    assert [line for line in told(again) if "clock" not in line] == ["leave"]


def test_a_restarted_detector_tells_everything_again() -> None:
    rig = Rig(snapshot=True)
    rig.alive("x")
    rig.alive("y")
    rig.dead("y")
    told(rig)
    lines = told(Rig(Recovered.replay(rig.journal), 2, rig.now, snapshot=True))
    assert sorted(line.split(" ")[1] for line in lines if line.startswith("alive")) == [OWN, "x"]
    assert "not-alive: y" in lines


def test_an_agent_that_is_started_again_goes_on_from_the_snapshot() -> None:
    rig = Rig(snapshot=True, found=SnapshotState({"x": "127.0.0.9:7000"}, 7, 3, 5))
    stats = rig.core.stats()
    assert (stats["member_time"], stats["event_time"], stats["query_time"]) == ("8", "4", "6")
    rig.take()
    rig.serf(UserEvent(3, "old", b"", coalesce=False))
    assert rig.events() == []
    rig.serf(UserEvent(4, "new", b"", coalesce=False))
    assert len(rig.events()) == 1
