"""Metrics in Prometheus' text format (version 0.0.4).

Rules:

* A name of Serf becomes one of Prometheus by `_` for every other character; counters end in `_total`, timers are given
  in seconds and end in `_seconds`. The help line holds Serf's name.
* Names that end in a name from elsewhere (`serf.events.NAME`, `agent.invoke.SCRIPT`) become one name with a label.
* Samples are histograms.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from serfmp.bus.metrics import BOUNDS

if TYPE_CHECKING:
    from serfmp.bus.metrics import Sample
    from serfmp.io.metrics_store import MetricsStore

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_LABELLED: Final = (
    ("serf.events.", "serf_events_by_name", "event"),
    ("serf.queries.", "serf_queries_by_name", "query"),
    ("serf.queue.", "serf_queue", "queue"),
    ("agent.invoke.", "agent_invoke", "handler"),
    ("memberlist.node.instances.", "memberlist_node_instances", "state"),
    ("serfmp.queue.dropped.", "serfmp_queue_dropped", "queue"),
    ("serfmp.queue.oversize.", "serfmp_queue_oversize", "queue"),
    ("serfmp.queue.", "serfmp_queue_size", "queue"),
    ("serfmp.queue_limit.", "serfmp_queue_limit", "queue"),
    ("serfmp.loop.late_ms.", "serfmp_loop_late_ms", "process"),
    ("serfmp.process.ended.", "serfmp_process_ended", "process"),
)
"""Prefixes whose rest is a label: prefix, name, label. The first that fits counts."""

ALWAYS: Final = (
    *(f"serf.member.{what}" for what in ("join", "left", "failed", "flap", "update")),
    *(f"memberlist.msg.{what}" for what in ("alive", "suspect", "dead")),
    *(f"serfmp.events.{what}" for what in ("finished", "failed", "dropped", "cut_short", "retried")),
    "serf.events",
    "serf.queries",
    "agent.ipc.accept",
    "agent.ipc.command",
)
"""Counters that are there from the beginning, with 0: otherwise their first increase would not be seen."""

_TIMERS: Final = ("memberlist.probeNode", "memberlist.gossip", "memberlist.pushPullNode", "agent.invoke.")
_MORE_TIMERS: Final = ("serf.snapshot.", "serf.coordinate.adjustment-ms")
_OTHER: Final = re.compile(r"[^a-zA-Z0-9_]")


@dataclass(slots=True)
class Family:
    """All series of one name. `kind`: counter, gauge or histogram."""

    name: str
    kind: str
    help: str
    lines: list[str] = field(default_factory=list)

    def add(self, value: float, labels: Mapping[str, str] | None = None, suffix: str = "") -> None:
        """One series."""
        self.lines.append(f"{self.name}{suffix}{_labels(labels or {})} {_number(value)}")


def render(store: MetricsStore, more: Iterable[Family] = ()) -> str:
    """All metrics as text; `more` are families from elsewhere."""
    families: dict[str, Family] = {}

    def family(name: str, kind: str, source: str) -> Family:
        return families.setdefault(name, Family(name, kind, source))

    for name, total in sorted({**dict.fromkeys(ALWAYS, 0), **store.counters}.items()):
        base, labels, source = _split(name)
        family(f"{base}_total", "counter", source).add(total, labels)
    for name, value in sorted(store.gauges.items()):
        base, labels, source = _split(name)
        family(base, "gauge", source).add(value, labels)
    for name, sample in sorted(store.samples.items()):
        base, labels, source = _split(name)
        timer = name.startswith((*_TIMERS, *_MORE_TIMERS))
        if timer:
            base = base.removesuffix("_ms") + "_seconds"
        _histogram(family(base, "histogram", source), sample, labels, 0.001 if timer else 1)
    found = [*families.values(), *more]
    return "\n".join(line for item in found for line in _lines(item)) + "\n"


def _lines(family: Family) -> Iterator[str]:
    yield f"# HELP {family.name} {_help(family.help)}"
    yield f"# TYPE {family.name} {family.kind}"
    yield from family.lines


def _split(name: str) -> tuple[str, dict[str, str], str]:
    """Prometheus' name without suffix, labels, and the name that the help shows."""
    for prefix, base, label in _LABELLED:
        if name.startswith(prefix) and name != prefix:
            return base, {label: name.removeprefix(prefix)}, f"{prefix}{label.upper()}"
    return _OTHER.sub("_", name), {}, name


def _histogram(family: Family, sample: Sample, labels: Mapping[str, str], scale: float) -> None:
    count = 0
    for bound, inside in zip(BOUNDS, sample.buckets, strict=False):
        count += inside
        family.add(count, {**labels, "le": _number(round(bound * scale, 9))}, "_bucket")
    family.add(sample.count, {**labels, "le": "+Inf"}, "_bucket")
    family.add(sample.total * scale, labels, "_sum")
    family.add(sample.count, labels, "_count")


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_label(value)}"' for key, value in labels.items()) + "}"


def _label(text: str) -> str:
    return _help(text).replace('"', '\\"')


def _help(text: str) -> str:
    shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return shown.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    return repr(int(value)) if float(value).is_integer() else repr(float(value))
