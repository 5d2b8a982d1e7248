"""The metrics of the last minute as Serf's agent writes them on SIGUSR1 (spec agent.md 2.7)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from serfmp.io.metric_sinks import SERVICE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from serfmp.bus.metrics import Sample
    from serfmp.io.metrics_store import Interval

_STAMP: Final = "%Y-%m-%d %H:%M:%S %z %Z"


def dump(intervals: Iterable[Interval]) -> str:
    """A line for each metric of each interval."""
    return "".join(f"{line}\n" for interval in intervals for line in _lines(interval))


def _lines(interval: Interval) -> Iterator[str]:
    begun = time.strftime(_STAMP, time.localtime(interval.begun))
    for name, value in sorted(interval.gauges.items()):
        yield f"[{begun}][G] '{_name(name)}': {value:.3f}"
    for name, count in sorted(interval.counts.items()):
        updated = _updated(interval, name)
        yield f"[{begun}][C] '{_name(name)}': Count: {count} Sum: {interval.sums[name]:.3f} {updated}"
    for name, sample in sorted(interval.samples.items()):
        yield f"[{begun}][S] '{_name(name)}': {_sample(sample)} {_updated(interval, name)}"


def _name(name: str) -> str:
    shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return f"{SERVICE}.{shown}".replace("\n", "\\n")


def _updated(interval: Interval, name: str) -> str:
    at = interval.updated[name]
    local = time.localtime(at)
    fraction = f"{at % 1:.6f}"[1:]
    return f"LastUpdated: {time.strftime('%Y-%m-%d %H:%M:%S', local)}{fraction} {time.strftime('%z %Z', local)}"


def _sample(sample: Sample) -> str:
    if sample.deviation == 0.0:
        return f"Count: {sample.count} Sum: {sample.total:.3f}"
    return (
        f"Count: {sample.count} Min: {sample.low:.3f} Mean: {sample.mean:.3f} Max: {sample.high:.3f} "
        f"Stddev: {sample.deviation:.3f} Sum: {sample.total:.3f}"
    )
