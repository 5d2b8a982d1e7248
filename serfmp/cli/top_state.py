"""What `serfmp top` shows and how: the order, the filter, the node that is looked into, what happened last.

Rules: nothing here draws. Keys change the state; messages of the bus go through `take`. The last `RECENT` happenings
are kept, and the last `PROBES` probes for the latencies.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from serfmp.client.bus import BusMessage, Gap

if TYPE_CHECKING:
    from serfmp.client.bus import BusMonitor

RECENT: Final = 200
"""Happenings kept."""

PROBES: Final = 500
"""Probes kept."""

_SORT_KEYS: Final = {"n": "name", "s": "status", "r": "rtt", "a": "age"}
_STATUS_ORDER: Final = {"failed": 0, "leaving": 1, "alive": 2, "left": 3}
_QUIET: Final = frozenset({"bus", "metric", "log", "probe"})
_TABLES: Final = frozenset({"member.row", "member.table", "handler.table", "process.table"})

HELP: Final = "q end   p pause   ↑↓ choose   enter look into   n/s/r/a order: name, status, round trip, age   / filter"


class TopState:
    """See the module."""

    def __init__(self, sort: str = "name", text: str = "") -> None:
        self.sort = sort
        self.filter = text
        self.typing = False
        """The filter is being typed."""
        self.paused = False
        self.help = False
        self.chosen = ""
        """Name of the member that is marked."""
        self.inside = False
        """Whether the marked member is looked into."""
        self.recent: deque[dict[str, Any]] = deque(maxlen=RECENT)
        self.probes: deque[tuple[str, bool, float]] = deque(maxlen=PROBES)
        """Topic, whether it is a round trip, seconds."""
        self.gaps = 0
        self._frozen: list[dict[str, Any]] | None = None
        self._started = False

    def take(self, item: BusMessage | Gap) -> None:
        """A message of the bus."""
        if isinstance(item, Gap):
            self.gaps += 1
            return
        family = item.topic.partition(".")[0]
        if family == "probe":
            self.probes.append((item.topic, bool(item.body["timed"]), float(item.body["seconds"])))
        if not self.paused and family not in _QUIET and item.topic not in _TABLES:
            self.recent.append({"topic": item.topic, "time": item.time, "ltime": item.ltime, "body": dict(item.body)})

    def press(self, key: str, monitor: BusMonitor) -> bool:
        """A key. False: end."""
        if self.typing:
            self._type(key)
            return True
        rows = [row["name"] for row in self.rows(monitor)]
        match key:
            case "q":
                return False
            case "p" | " ":
                self.paused = not self.paused
                self._frozen = list(monitor.members.values()) if self.paused else None
            case "?" | "h":
                self.help = not self.help
            case "/":
                self.typing, self.filter = True, ""
            case "n" | "s" | "r" | "a":
                self.sort = _SORT_KEYS[key]
            case "up" | "down" | "k" | "j" if rows:
                place = rows.index(self.chosen) if self.chosen in rows else -1
                step = 1 if key in {"down", "j"} else -1
                self.chosen = rows[max(0, min(len(rows) - 1, place + step))]
            case "enter" if self.chosen:
                self.inside = not self.inside
            case "escape":
                self.inside = self.help = False
        return True

    def _type(self, key: str) -> None:
        if key in {"enter", "escape"}:
            self.typing = False
            if key == "escape":
                self.filter = ""
        elif key == "delete":
            self.filter = self.filter[:-1]
        elif len(key) == 1 and key.isprintable():
            self.filter += key

    def rows(self, monitor: BusMonitor) -> list[dict[str, Any]]:
        """The members to show, in order."""
        members = self._frozen if self._frozen is not None else list(monitor.members.values())
        found = [row for row in members if self._fits(row)]
        keys = {
            "name": lambda row: row["name"],
            "status": lambda row: (_STATUS_ORDER.get(row["status"], 9), row["name"]),
            "rtt": lambda row: (-(round_trip(row) or -1.0), row["name"]),
            "age": lambda row: (-(row["since"] or 0.0), row["name"]),
        }
        return sorted(found, key=keys[self.sort])

    def _fits(self, row: Mapping[str, Any]) -> bool:
        text = self.filter
        return not text or text in row["name"] or any(text in f"{key}={value}" for key, value in row["tags"].items())

    def latency(self) -> dict[str, float | int]:
        """Of the last probes: how many, how many without a direct answer, round trips in seconds."""
        trips = sorted(seconds for _, timed, seconds in self.probes if timed)
        missed = sum(topic != "probe.acked" for topic, _, _ in self.probes)
        figures: dict[str, float | int] = {"probes": len(self.probes), "missed": missed}
        if trips:
            figures |= {"p50": trips[len(trips) // 2], "p99": trips[int(len(trips) * 0.99)], "max": trips[-1]}
        return figures

    def to_map(self, monitor: BusMonitor) -> dict[str, Any]:
        """All of it, for programs."""
        now = time.time()
        return {
            "node": monitor.table.get("node", ""),
            "time": now,
            "lifecycle": monitor.table.get("lifecycle", ""),
            "health_score": health_score(monitor),
            "members": [
                {
                    "name": row["name"],
                    "address": f"{row['address']}:{row['port']}",
                    "status": row["status"],
                    "tags": row["tags"],
                    "round_trip": round_trip(row),
                    "incarnation": (row.get("probe") or {}).get("incarnation"),
                    "age": None if row["since"] is None else max(0.0, now - row["since"]),
                }
                for row in self.rows(monitor)
            ],
            "probes": self.latency(),
            "lateness_ms": {
                name.removeprefix("serfmp.loop.late_ms."): value
                for name, value in monitor.gauges.items()
                if name.startswith("serfmp.loop.late_ms.")
            },
            "queues": monitor.queues,
            "handlers": monitor.handlers,
            "processes": monitor.processes,
            "recent": list(self.happenings(monitor)),
        }

    def happenings(self, monitor: BusMonitor) -> list[dict[str, Any]]:
        """What happened last, the latest last, what was there before included."""
        before = [item for item in monitor.table.get("recent", ()) if item["topic"] not in _TABLES]
        first = self.recent[0]["time"] if self.recent else float("inf")
        return [*(item for item in before if item["time"] < first), *self.recent]


def health_score(monitor: BusMonitor) -> int:
    """The agent's local health score; it is told as a metric when it changes."""
    told = monitor.gauges.get("memberlist.health.score")
    return int(told if told is not None else monitor.table.get("stats", {}).get("health_score", 0))


def round_trip(row: Mapping[str, Any]) -> float | None:
    """Seconds of the last probe of a member, if it was answered directly."""
    probe = row.get("probe")
    return float(probe["seconds"]) if probe and probe.get("timed") else None
