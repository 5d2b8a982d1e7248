"""Metrics of one process: what is told, and that names of strangers are bounded."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from serfmp.bus.metrics import BOUNDS, NAME_LIMIT, OVERFLOW, TOGETHER, VALUES, Metrics, Sample
from serfmp.bus.reports import HAPPENING_LIMIT, Reporter

ROOT = Path(__file__).resolve().parent.parent.parent


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=60))
def test_a_sample_knows_the_statistics_of_its_values_however_it_was_put_together(values: list[float]) -> None:
    whole, first, second = Sample(), Sample(), Sample()
    for value in values:
        whole.add([value])
    first.add(values[::2])
    second.add(values[1::2])
    merged = Sample()
    merged.merge(first.to_plain())
    merged.merge(second.to_plain())
    for sample in (whole, merged):
        assert (sample.count, sample.low, sample.high) == (len(values), min(values), max(values))
        assert abs(sample.mean - statistics.fmean(values)) <= 1e-6 * max(values) + 1e-9
        assert abs(sample.deviation - statistics.stdev(values)) <= 1e-3 * max(values) + 1e-9
        assert sum(sample.buckets) == len(values)
    assert merged.buckets == whole.buckets
    assert whole.values == values[:VALUES]


def test_a_value_counts_below_the_bound_that_it_meets() -> None:
    sample = Sample()
    for value in (0, BOUNDS[0], BOUNDS[3], BOUNDS[-1], BOUNDS[-1] + 1):
        sample.add([value])
    assert (sample.buckets[0], sample.buckets[3], sample.buckets[-2], sample.buckets[-1]) == (2, 1, 1, 1)


@given(st.lists(st.lists(st.integers(0, 5), max_size=TOGETHER), max_size=8), st.sets(st.integers(0, 7)))
def test_it_does_not_matter_how_many_values_come_together_and_what_could_not_be_told_is_told_later(
    batches: list[list[int]], untold: set[int]
) -> None:
    metrics, told = Metrics(), Sample()
    for number, batch in enumerate([*batches, []]):
        metrics.samples("s", batch)
        counters, _, samples = metrics.take()
        if number in untold and number < len(batches):
            metrics.give_back(counters, samples)
        elif "s" in samples:
            told.merge(samples["s"])
    values = [value for batch in batches for value in batch]
    assert (told.count, told.total, told.squares) == (len(values), sum(values), sum(v * v for v in values))
    assert (told.low, told.high) == (min(values, default=0), max(values, default=0))
    assert sum(told.buckets) == len(values)


def test_counters_are_told_as_increases_and_gauges_as_they_are() -> None:
    metrics = Metrics()
    metrics.count("a", 2)
    metrics.gauge("g", 1.5)
    metrics.sample("s", 3)
    counters, gauges, samples = metrics.take()
    assert (counters, gauges, samples["s"][:2]) == ({"a": 2}, {"g": 1.5}, [1, 3])
    metrics.counters["a"] += 1
    assert metrics.take() == ({"a": 1}, {"g": 1.5}, {})


def test_names_are_bounded_and_refused_ones_counted() -> None:
    metrics = Metrics()
    for number in range(NAME_LIMIT + 5):
        metrics.count(f"serf.events.{number}")
        metrics.gauge(f"g.{number}", 1)
        metrics.sample(f"s.{number}", 1)
    counters, gauges, samples = metrics.take()
    assert len(counters) == NAME_LIMIT + 1
    assert len(gauges) == len(samples) == NAME_LIMIT
    assert counters[OVERFLOW] == 5 * 3


def test_happenings_between_two_reports_are_bounded_and_the_rest_is_counted() -> None:
    reporter = Reporter("x")
    for number in range(HAPPENING_LIMIT + 3):
        reporter.happened("probe.acked", {"number": number})
    report = reporter.take(metrics=True)
    assert report is not None
    assert (len(report.happenings), report.missed) == (HAPPENING_LIMIT, 3)
    assert report.counters == {"serfmp.watching.happenings_lost": 3}
    assert reporter.take(metrics=False) is None
    reporter.happened("probe.acked", {})
    report = reporter.take(metrics=False)
    assert report is not None
    assert (report.counters, report.gauges, report.missed) == ({}, {}, 0)


def test_what_could_not_be_told_comes_with_the_next_report_but_for_the_happenings() -> None:
    reporter = Reporter("x")
    reporter.metrics.count("a", 2)
    reporter.metrics.sample("s", 1)
    reporter.happened("probe.acked", {})
    first = reporter.take(metrics=True)
    assert first is not None
    reporter.not_told(first)
    reporter.metrics.count("a", 1)
    reporter.metrics.sample("s", 2)
    second = reporter.take(metrics=True)
    assert second is not None
    assert second.counters == {"a": 3, "serfmp.watching.happenings_lost": 1}
    assert (second.samples["s"][:2], second.samples["s"][6]) == ([2, 3.0], [1, 2])
    assert (second.happenings, second.missed) == ([], 1)
    assert reporter.take(metrics=True) is None


def test_the_documentation_names_every_counter() -> None:
    told = set(re.findall(r"`(\.?[a-z_]+[\w.-]*)`", (ROOT / "docs/metrics.md").read_text()))
    known = {name for name in told if "." in name}
    ends = {name for name in told if name.startswith(".")}
    found = set()
    for path in (ROOT / "serfmp").rglob("*.py"):
        found |= set(re.findall(r'(?:count|counters|sample|gauge)[(\[]f?"([\w.-]+)"', path.read_text()))
    missing = {
        name
        for name in found
        if name.startswith(("serfmp.", "serf.", "memberlist.", "agent."))
        and not name.startswith(("serfmp.loop.late_ms.", "serfmp.queue.", "serfmp.queue_limit."))
        and name not in known
        and f".{name.rpartition('.')[2]}" not in ends
    }
    assert not missing
