"""Requests that wait for the detector: answered once, or told that it took too long."""

from __future__ import annotations

from typing import Any

from serfmp.bus.loop import Loop
from serfmp.io.rpc_deadlines import Deadlines


class Clock:
    """Moves when it is told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Stage:
    """Deadlines on a loop that takes single turns, and what was answered."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.loop = Loop(self.clock)
        self.deadlines = Deadlines(self.loop)
        self.heard: list[tuple[str, Any, str]] = []

    def begin(self, name: str, limit: float) -> Any:
        return self.deadlines.begin(limit, lambda value, error: self.heard.append((name, value, error)))

    def turn_at(self, when: float) -> None:
        self.clock.now = when
        self.loop.call_soon(lambda: None)  # the turn does not wait
        self.loop.turn()


def test_the_first_answer_counts() -> None:
    stage = Stage()
    waiting = stage.begin("a", 30.0)
    assert stage.deadlines.under_way == 1
    waiting(1, "")
    waiting(2, "late")
    assert stage.heard == [("a", 1, "")]
    assert stage.deadlines.under_way == 0


def test_who_waits_too_long_is_told_and_those_who_began_later_go_on_waiting() -> None:
    stage = Stage()
    stage.begin("a", 30.0)
    stage.clock.now = 110.0
    later = stage.begin("b", 30.0)
    stage.turn_at(129.9)
    assert stage.heard == []
    stage.turn_at(130.0)
    assert stage.heard == [("a", None, "the detector did not answer within 30 s")]
    later(1, "")
    assert stage.heard[1:] == [("b", 1, "")]
    stage.turn_at(140.0)
    assert len(stage.heard) == 2
    assert stage.deadlines.under_way == 0


def test_each_limit_has_times_of_its_own() -> None:
    stage = Stage()
    stage.begin("join", 60.0)
    stage.begin("event", 30.0)
    stage.turn_at(131.0)
    assert [name for name, _, _ in stage.heard] == ["event"]
    stage.turn_at(161.0)
    assert [name for name, _, _ in stage.heard] == ["event", "join"]


def test_one_that_waits_behind_answered_ones_is_told_in_its_time() -> None:
    stage = Stage()
    for _ in range(1000):
        stage.begin("quick", 30.0)(0, "")
    stage.clock.now = 120.0
    stage.begin("slow", 30.0)
    stage.heard.clear()
    stage.turn_at(131.0)
    assert stage.heard == []
    stage.turn_at(150.0)
    assert [name for name, _, _ in stage.heard] == ["slow"]


def test_a_request_that_begins_while_another_is_told_has_its_whole_time() -> None:
    stage = Stage()
    stage.deadlines.begin(30.0, lambda _value, _error: stage.begin("next", 30.0))
    stage.turn_at(130.0)
    assert stage.heard == []
    stage.turn_at(159.9)
    assert stage.heard == []
    stage.turn_at(160.0)
    assert [name for name, _, _ in stage.heard] == ["next"]
