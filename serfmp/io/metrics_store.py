"""The metrics of the whole agent, put together from what its processes report.

Rules: counters and samples of one name add up over processes, a gauge is what was told last. Totals are since the start
of the rpc process; beside them the last minute is kept in intervals of ten seconds, as Serf's dump wants it (spec
agent.md 2.7). Names are bounded here as in each process.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from serfmp.bus.metrics import NAME_LIMIT, OVERFLOW, Sample

if TYPE_CHECKING:
    from serfmp.bus.frames import Report

INTERVAL: Final = 10
"""Seconds of one interval."""

INTERVALS: Final = 6
"""Complete intervals that are kept."""

STORE_LIMIT: Final = 4 * NAME_LIMIT
"""Names of each kind."""


@dataclass(slots=True)
class Interval:
    """What came in within ten seconds. Counters: how often, and how much; times are wall time."""

    begun: float
    gauges: dict[str, float] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)
    samples: dict[str, Sample] = field(default_factory=dict)
    updated: dict[str, float] = field(default_factory=dict)


class MetricsStore:
    """See the module."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.gauges: dict[str, float] = {}
        self.samples: dict[str, Sample] = {}
        self._intervals: deque[Interval] = deque(maxlen=INTERVALS + 1)

    def take(self, report: Report) -> None:
        """Add a process' report."""
        now = time.time()
        interval = self._interval(now)
        for name, amount in report.counters.items():
            if self._room(self.counters, name):
                self.counters[name] += amount
                interval.counts[name] += 1
                interval.sums[name] += amount
                interval.updated[name] = now
        for name, value in report.gauges.items():
            if self._room(self.gauges, name):
                self.gauges[name] = interval.gauges[name] = value
        for name, plain in report.samples.items():
            if self._room(self.samples, name):
                self.samples.setdefault(name, Sample()).merge(plain)
                interval.samples.setdefault(name, Sample()).merge(plain)
                interval.updated[name] = now

    def complete(self) -> list[Interval]:
        """The intervals of the last minute that are over, the oldest first."""
        present = self._interval(time.time())
        return [interval for interval in self._intervals if interval is not present]

    def to_plain(self) -> dict[str, Any]:
        """Totals, for a snapshot."""
        return {
            "counters": dict(self.counters),
            "gauges": dict(self.gauges),
            "samples": {name: summary(sample) for name, sample in self.samples.items()},
        }

    def _interval(self, now: float) -> Interval:
        begun = now - now % INTERVAL
        if not self._intervals or self._intervals[-1].begun != begun:
            self._intervals.append(Interval(begun))
        return self._intervals[-1]

    def _room(self, table: Counter[str] | dict[str, float] | dict[str, Sample], name: str) -> bool:
        if name in table or len(table) < STORE_LIMIT:
            return True
        self.counters[OVERFLOW] += 1
        return False


def summary(sample: Sample) -> dict[str, float]:
    """A sample as monitors get it."""
    return {"count": sample.count, "sum": sample.total, "min": sample.low, "max": sample.high, "mean": sample.mean}
