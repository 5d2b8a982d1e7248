"""What a process tells those who watch the agent: its metrics, and happenings such as the end of a probe or a handler.

Rules:

* A process reports at most once in `REPORT_PERIOD`, whatever happens; without happenings only its metrics, once in
  `METRICS_PERIOD`.
* Happenings between two reports are bounded; the newest beyond the bound are counted and lost. Nothing that decides or
  acts depends on a report. Of one that cannot be sent at once the metrics come with the next one; its happenings are
  dropped and counted.
* A happening is a topic of the public bus, a wall time in seconds, a Lamport time or None, and a map.
"""

from __future__ import annotations

import time
from typing import Any, Final

from serfmp.bus import frames
from serfmp.bus.metrics import Metrics

REPORT_PERIOD: Final = 0.25
"""Seconds between two reports while something happens."""

METRICS_PERIOD: Final = 1.0
"""Seconds between two reports of metrics."""

HAPPENING_LIMIT: Final = 256
"""Happenings of one report."""


class Reporter:
    """Collects for one process, named `name`. See the module."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.metrics = Metrics()
        self._happenings: list[list[Any]] = []
        self._missed = 0
        self._metrics_at = 0.0

    def happened(self, topic: str, body: dict[str, Any], ltime: int | None = None) -> None:
        """Something happened now."""
        if len(self._happenings) < HAPPENING_LIMIT:
            self._happenings.append([topic, time.time(), ltime, body])
        else:
            self._missed += 1
            self.metrics.counters["serfmp.watching.happenings_lost"] += 1

    def metrics_due(self, now: float) -> bool:
        """Whether the next report holds metrics."""
        return now - self._metrics_at >= METRICS_PERIOD

    def take(self, now: float) -> frames.Report | None:
        """What is to be told at this monotonic time, if anything."""
        due = self.metrics_due(now)
        if not (due or self._happenings):
            return None
        counters: dict[str, int] = {}
        gauges: dict[str, float] = {}
        samples: dict[str, list[Any]] = {}
        if due:
            self._metrics_at = now
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
