"""When a process reports: rarely for nobody, often for watchers, at once when they come."""

from __future__ import annotations

from serfmp.bus.loop import Loop
from serfmp.bus.reports import HAPPENING_LIMIT, METRICS_PERIOD, QUIET_PERIOD, REPORT_PERIOD, ReportClock, Reporter


class Stage:
    """A process at a time that the test sets; multiples of all periods are whole seconds of it."""

    def __init__(self) -> None:
        self.now = 100.01
        self.watched = 0.0
        self.told: list[bool] = []
        self.loop = Loop(lambda: self.now)
        self.reporter = Reporter("x")
        ReportClock(self.loop, self.reporter, lambda: self.watched, self._report)
        self.turn(100.02)
        assert self.told == [True], "the first figures come at once"
        self.told.clear()

    def _report(self, *, metrics: bool) -> None:
        self.reporter.take(metrics=metrics)
        self.told.append(metrics)

    def turn(self, now: float) -> None:
        self.now = now
        self.loop.call_soon(lambda: None)
        self.loop.turn()

    def turns(self, begin: float, end: float, step: float = 0.05) -> list[bool]:
        """What is told by turns in this time, each a little late."""
        self.told.clear()
        for number in range(round((end - begin) / step)):
            self.turn(begin + number * step + 0.001)
        return self.told


def test_while_nobody_watches_metrics_are_rare_and_happenings_wait_for_them() -> None:
    stage = Stage()
    stage.reporter.happened("probe.acked", {})
    assert stage.turns(100.1, 105.0) == []
    assert stage.turns(105.0, 105.0 + 4 * QUIET_PERIOD) == [True] * 4
    assert stage.reporter.take(metrics=False) is None


def test_who_begins_to_watch_is_told_with_the_next_turn_and_then_every_second() -> None:
    stage = Stage()
    assert stage.turns(100.1, 102.3) == []
    stage.watched = 109.0
    assert stage.turns(102.3, 102.4) == [True]
    assert stage.turns(102.4, 108.9) == [True] * 6
    assert stage.turns(109.0, 120.0) == [True] * 3, "nobody watches any more"


def test_turns_once_a_second_are_enough_for_watchers() -> None:
    stage = Stage()
    stage.watched = 1000.0
    assert stage.turns(101.0, 111.0, step=METRICS_PERIOD) == [True] * 10


def test_watchers_get_happenings_of_a_quarter_of_a_second_together() -> None:
    stage = Stage()
    stage.watched = 1000.0
    stage.turns(100.1, 101.05)
    for number in range(100):
        stage.reporter.happened("probe.acked", {"number": number})
    assert stage.turns(101.1, 101.2) == []
    assert stage.turns(101.2, 101.2 + REPORT_PERIOD) == [False]
    assert stage.turns(101.5, 101.9) == []


def test_happenings_that_fill_half_of_their_place_do_not_wait_though_nobody_watches() -> None:
    stage = Stage()
    for _ in range(HAPPENING_LIMIT // 2 - 1):
        stage.reporter.happened("handler.ended", {})
    assert stage.turns(100.3, 100.9) == []
    stage.reporter.happened("handler.ended", {})
    assert stage.turns(101.0, 101.6) == [False]
