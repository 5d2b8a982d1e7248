"""Counters, gauges and samples of one process, and what changed in them since they were last told.

Rules:

* Names are Serf's and memberlist's (spec serf.md 17, swim.md 12.3), ours begin with `serfmp.`.
* Names may come from peers (`serf.events.NAME`), so there are at most `NAME_LIMIT`; further ones are counted under
  `OVERFLOW`.
* A sample keeps its count, sum, sum of squares, extremes, a histogram, and the first `VALUES` values since it was last
  told: enough for statistics, Prometheus and statsd, in a bounded size.
* Values are kept as they come and added up together, `TOGETHER` at most: many of them are equal, and each distinct one
  costs as much as one alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

NAME_LIMIT: Final = 1024
"""Names of one process."""

OVERFLOW: Final = "serfmp.metrics.refused"
"""Counts what had a name beyond the limit."""

BOUNDS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000)
"""Upper bounds of the histogram, inclusive; milliseconds, bytes or items, whatever the sample measures."""

VALUES: Final = 32
"""Single values kept of each sample between two reports."""

TOGETHER: Final = 512
"""Values of one name that wait to be added up."""


class Sample:
    """What is known of the values of one name."""

    __slots__ = ("buckets", "count", "high", "low", "squares", "total", "values")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.squares = 0.0
        self.low = 0.0
        self.high = 0.0
        self.buckets = [0] * (len(BOUNDS) + 1)
        """How many values stand below each bound and above the one before; the last: above all."""
        self.values: list[float] = []

    def add(self, values: list[float]) -> None:
        """More values."""
        if not values:
            return
        low, high = min(values), max(values)
        self.low = min(self.low, low) if self.count else low
        self.high = max(self.high, high) if self.count else high
        self.count += len(values)
        self.total += sum(values)
        for value, times in Counter(values).items():
            self.squares += value * value * times
            self.buckets[bisect_left(BOUNDS, value)] += times
        self.values += values[: VALUES - len(self.values)]

    def merge(self, plain: list[Any]) -> None:
        """Add what another process told (`to_plain`); its single values are not kept."""
        count, total, squares, low, high, buckets, _values = plain
        if not count:
            return
        self.low = min(self.low, low) if self.count else low
        self.high = max(self.high, high) if self.count else high
        self.count += count
        self.total += total
        self.squares += squares
        self.buckets = [ours + theirs for ours, theirs in zip(self.buckets, buckets, strict=True)]

    @property
    def mean(self) -> float:
        """The mean; 0.0 without values."""
        return self.total / self.count if self.count else 0.0

    @property
    def deviation(self) -> float:
        """The standard deviation of the sample; 0.0 for less than two values."""
        if self.count < 2:
            return 0.0
        spread = self.squares - self.total * self.total / self.count
        return float((max(0.0, spread) / (self.count - 1)) ** 0.5)

    def to_plain(self) -> list[Any]:
        """Count, sum, sum of squares, least, greatest, histogram, single values."""
        return [self.count, self.total, self.squares, self.low, self.high, self.buckets, self.values]


class Metrics:
    """See the module. `counters` may be added to directly under names that are constants."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        """Totals since the start of the process."""
        self._gauges: dict[str, float] = {}
        self._samples: dict[str, Sample] = {}
        self._values: dict[str, list[float]] = {}
        """What was not added up yet, by the names of `_samples`."""
        self._told_counters: Counter[str] = Counter()

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter whose name may come from elsewhere."""
        if name in self.counters or len(self.counters) < NAME_LIMIT:
            self.counters[name] += amount
        else:
            self.counters[OVERFLOW] += 1

    def gauge(self, name: str, value: float) -> None:
        """Set a gauge."""
        if name in self._gauges or len(self._gauges) < NAME_LIMIT:
            self._gauges[name] = value
        else:
            self.counters[OVERFLOW] += 1

    def sample(self, name: str, value: float) -> None:
        """Add a value to a sample: milliseconds, bytes or items."""
        self.samples(name, (value,))

    def samples(self, name: str, values: Iterable[float]) -> None:
        """Add several values to a sample."""
        waiting = self._values.get(name)
        if waiting is None:
            if name not in self._samples:
                if len(self._samples) >= NAME_LIMIT:
                    self.counters[OVERFLOW] += 1
                    return
                self._samples[name] = Sample()
            waiting = self._values[name] = []
        waiting += values
        if len(waiting) > TOGETHER:
            self._add_up(name, waiting)

    def _add_up(self, name: str, waiting: list[float]) -> None:
        self._samples[name].add(waiting)
        waiting.clear()

    def take(self) -> tuple[dict[str, int], dict[str, float], dict[str, list[Any]]]:
        """Increases of counters and the samples since the last call, and all gauges."""
        told = self._told_counters
        counters = {name: total - told[name] for name, total in self.counters.items() if total != told[name]}
        for name, waiting in self._values.items():
            self._add_up(name, waiting)
        samples = {name: sample.to_plain() for name, sample in self._samples.items()}
        self._told_counters = self.counters.copy()
        self._samples, self._values = {}, {}
        return counters, dict(self._gauges), samples

    def give_back(self, counters: dict[str, int], samples: dict[str, list[Any]]) -> None:
        """What `take` gave was not told: it comes with the next call."""
        self._told_counters.subtract(counters)
        for name, plain in samples.items():
            found = self._samples.setdefault(name, Sample())
            found.merge(plain)
            found.values = (plain[6] + found.values)[:VALUES]
