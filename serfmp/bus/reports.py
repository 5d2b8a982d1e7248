"""What a process tells those who watch the agent: its metrics, and happenings such as the end of a probe or a handler.

Rules:

* While somebody watches the agent a process reports at most once in `REPORT_PERIOD`, whatever happens; without
  happenings only its metrics, once in `METRICS_PERIOD`.
* While nobody does, it reports once in `QUIET_PERIOD`, or when half of what it may keep has happened. When somebody
  begins to watch, it reports with its next turn. Whether somebody watches stands on the heartbeat page: asking costs
  nobody a message, and no process is woken for it.
* Happenings between two reports are bounded; the newest beyond the bound are counted and lost. Nothing that decides or
  acts depends on a report. Of one that cannot be sent at once the metrics come with the next one; its happenings are
  dropped and counted.
* A happening is a topic of the public bus, a wall time in seconds, a Lamport time or None, and a map.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from serfmp.bus import frames
from serfmp.bus.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.bus.loop import Loop, Timer

REPORT_PERIOD: Final = 0.25
"""Seconds between two reports while something happens."""

METRICS_PERIOD: Final = 1.0
"""Seconds between two reports of metrics."""

QUIET_PERIOD: Final = 5.0
"""Seconds between two reports while nobody watches."""

LOOK_PERIOD: Final = 0.05
"""Seconds between two looks whether somebody watches, in a process that is busy."""

HAPPENING_LIMIT: Final = 256
"""Happenings of one report."""


class Reporter:
    """Collects for one process, named `name`. See the module."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.metrics = Metrics()
        self._happenings: list[list[Any]] = []
        self._missed = 0
        self.on_happened: Callable[[], None] | None = None
        """Called when there is something new to tell."""

    def happened(self, topic: str, body: dict[str, Any], ltime: int | None = None) -> None:
        """Something happened now."""
        if len(self._happenings) < HAPPENING_LIMIT:
            self._happenings.append([topic, time.time(), ltime, body])
        else:
            self._missed += 1
            self.metrics.counters["serfmp.watching.happenings_lost"] += 1
        if self.on_happened is not None:
            self.on_happened()

    @property
    def filling(self) -> bool:
        """Whether half of the happenings are there that may wait."""
        return len(self._happenings) >= HAPPENING_LIMIT // 2

    def take(self, *, metrics: bool) -> frames.Report | None:
        """What is to be told, if anything: the happenings, and the metrics if they are wanted."""
        if not (metrics or self._happenings):
            return None
        counters: dict[str, int] = {}
        gauges: dict[str, float] = {}
        samples: dict[str, list[Any]] = {}
        if metrics:
            counters, gauges, samples = self.metrics.take()
        happenings, self._happenings = self._happenings, []
        missed, self._missed = self._missed, 0
        if not (counters or gauges or samples or happenings):
            return None
        return frames.Report(self.name, counters, gauges, samples, happenings, missed)

    def not_told(self, report: frames.Report) -> None:
        """A report could not be sent."""
        self.metrics.give_back(report.counters, report.samples)
        lost = len(report.happenings) + report.missed
        if lost:
            self._missed += lost
            self.metrics.counters["serfmp.watching.happenings_lost"] += len(report.happenings)


class Tell(Protocol):
    """What tells: see `ReportClock`."""

    def __call__(self, *, metrics: bool) -> None:
        """Report; `metrics`: these, too."""
        ...


class ReportClock:
    """Says when to report: calls `report(metrics=...)` at the end of a turn, with whether metrics are due.

    `watched()` tells the monotonic time until which somebody watches. The periods end at multiples (`Loop.call_every`),
    with the turns that every process takes.
    """

    def __init__(self, loop: Loop, reporter: Reporter, watched: Callable[[], float], report: Tell) -> None:
        self._loop = loop
        self._reporter = reporter
        self._watched = watched
        self._report = report
        self._is_watched = False
        self._look_at = 0.0
        self._metrics_at = loop.clock()
        self._soon: Timer | None = None
        """For happenings that do not wait for the next metrics."""
        reporter.on_happened = self._happened
        loop.before_wait.append(self._end_turn)

    def _end_turn(self) -> None:
        now = self._loop.looked_at
        if now < self._look_at and now < self._metrics_at:
            return
        self._look_at = now + LOOK_PERIOD
        was_watched, self._is_watched = self._is_watched, self._watched() > now
        if self._is_watched and not was_watched:
            self._metrics_at = now
        if now >= self._metrics_at:
            self._metrics_at = self._loop.next_multiple(METRICS_PERIOD if self._is_watched else QUIET_PERIOD)
            self._report(metrics=True)

    def _happened(self) -> None:
        if self._soon is None and (self._is_watched or self._reporter.filling):
            self._soon = self._loop.call_at(self._loop.next_multiple(REPORT_PERIOD), self._tell_happenings)

    def _tell_happenings(self) -> None:
        self._soon = None
        self._report(metrics=False)
