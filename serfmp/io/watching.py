"""What the rpc process knows for those who watch: reports of all processes, kept as a state, and told on the bus.

Rules:

* Nothing here is needed for the agent's work. Everything is bounded by the member table, the process table or the
  configuration, or by a limit of its own.
* Reports and figures are for watchers: monitors that are connected, who asks for metrics, sinks. While there are none,
  processes report rarely (`serfmp.bus.reports`), figures are not read, and nothing is told.
* Topics are those of docs/monitor-bus.md. A happening of another process is told under the topic that it gave, if that
  is one of theirs.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from serfmp.bus import frames, plain
from serfmp.bus.metrics import Sample
from serfmp.bus.packing import pack
from serfmp.detector.effects import Event, Member, MemberEvent, QueryReceived, UserEventReceived
from serfmp.io.metrics_store import MetricsStore, summary
from serfmp.io.monitor_bus import MonitorBus, unpack
from serfmp.io.process_figures import ProcessFigures
from serfmp.wire.address import to_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.agent.child import Child
    from serfmp.io.rpc_replica import Replica

RECENT: Final = 50
"""Last happenings kept for snapshots, at most."""

RECENT_BYTES: Final = 256 * 1024
"""Of them together, encoded: one may tell of a thousand members. The last one is kept, however long it is."""

TABLE_PERIOD: Final = 1.0
"""Seconds between two tables of processes, and two messages of metrics, while somebody watches."""

WATCH_LASTS: Final = 3.0
"""Seconds for which the other processes take somebody for watching after they were last told."""

ASKED_LASTS: Final = 90.0
"""The same after somebody asked for the metrics: who does so once a minute gets what is a second old at most."""

USER_EVENT_BYTES: Final = 128
"""What a user event without name and payload takes of them."""

HANDLER_TABLE: Final = "handler.table"
_TOLD: Final = frozenset({"probe", "suspicion", "handler", "process"})
"""Families of topics that come from other processes."""
_NOTEWORTHY: Final = frozenset({"member", "query", "suspicion", "process"})
"""Families of which, beside user events, the last happenings are kept."""


class Recent:
    """The last happenings. They are kept encoded: as maps, those about a thousand members would take megabytes.

    User events, of which there may be hundreds a second, are kept as they are: few are ever asked for.
    """

    def __init__(self) -> None:
        self._kept: deque[tuple[int, bytes | tuple[float, UserEventReceived]]] = deque()
        """What is kept of each, and how many bytes that takes."""
        self._size = 0

    def add(self, happening: dict[str, Any]) -> None:
        """One more; the oldest may have to go."""
        encoded = pack(happening)
        self._keep(len(encoded), encoded)

    def add_event(self, at: float, event: UserEventReceived) -> None:
        """The same, of an event that came at this wall time."""
        self._keep(USER_EVENT_BYTES + 2 * len(event.name) + len(event.payload), (at, event))

    def _keep(self, size: int, kept: bytes | tuple[float, UserEventReceived]) -> None:
        self._kept.append((size, kept))
        self._size += size
        while len(self._kept) > RECENT or (self._size > RECENT_BYTES and len(self._kept) > 1):
            self._size -= self._kept.popleft()[0]

    def all(self) -> list[dict[str, Any]]:
        """All that are kept, the oldest first."""
        return [unpack(kept) if isinstance(kept, bytes) else _told(*kept) for _, kept in self._kept]


def _told(at: float, event: UserEventReceived) -> dict[str, Any]:
    return {"topic": f"user.{event.name}", "time": at, "ltime": event.ltime, "body": user_event_map(event)}


class Watching:
    """See the module."""

    def __init__(self, child: Child, replica: Replica) -> None:
        self._child = child
        self._replica = replica
        self.metrics = MetricsStore()
        self._figures = ProcessFigures()
        self._processes: list[Any] = []
        self._handlers: list[Any] = []
        self._probes: dict[str, dict[str, Any]] = {}
        self._since: dict[str, tuple[str, float]] = {}
        self._rows: dict[str, bytes] = {}
        """Members as snapshots hold them, encoded when they change: making one of ten thousand must not take long."""
        self._recent = Recent()
        self.on_report: list[Callable[[frames.Report], None]] = []
        """Called with each report."""
        self.always_watched = False
        """There are sinks."""
        self._asked_until = 0.0
        self._changed: frames.Report | None = None
        self._bus: MonitorBus | None = None
        if child.public:
            self._bus = MonitorBus(child.loop, child.public, child.config.node, self.state, self._look_for_watchers)
        child.tell = self._own_report
        child.on_report = self.take_report
        child.on_processes = self._take_processes
        child.loop.call_every(TABLE_PERIOD, self._tell_periodically)

    # --- the detector's stream ----------------------------------------------------------------------------------------

    def event(self, event: Event) -> None:
        """An event reached this node."""
        if isinstance(event, MemberEvent):
            members = [member_map(row) for row in event.members]
            topic = event.kind.label.replace("-", ".", 1)
            self._tell(topic, {"sequence": event.sequence, "members": members})
        elif isinstance(event, QueryReceived):
            body = {
                "sequence": event.sequence,
                "name": event.name,
                "payload": event.payload,
                "id": event.id,
                "source": event.source_node,
            }
            self._tell(f"query.{event.name}", body, event.ltime)
        elif self._bus is not None:
            at = time.time()
            self._recent.add_event(at, event)
            if self._bus.heard:
                self._bus.publish(f"user.{event.name}", user_event_map(event), event.ltime, at)
            else:
                self._bus.pass_over("user")

    def frame(self, frame: Any) -> None:
        """A change of the member table, which the replica has taken, or a report of the detector."""
        match frame:
            case frames.MemberRows(_, last, rows):
                for row in rows:
                    self._seen(plain.member_from_plain(row))
                if last:
                    for gone in set(self._since) - set(self._replica.names()):
                        self._forget(gone)
                    self._tell("member.table", {"members": len(self._since)})
            case frames.MemberRow(row):
                member = plain.member_from_plain(row)
                self._seen(member)
                self._tell("member.row", {**member_map(member), "since": self._since[member.name][1]})
            case frames.MemberGone(name):
                self._forget(name)
                self._tell("member.gone", {"name": name})

    def _seen(self, member: Member) -> None:
        status = member.status.label
        known = self._since.get(member.name)
        if known is None or known[0] != status:
            self._since[member.name] = (status, time.time())
        self._encode(member)

    def _encode(self, member: Member) -> None:
        row = {
            **member_map(member),
            "since": self._since[member.name][1],
            "probe": self._probes.get(member.name),
        }
        self._rows[member.name] = pack(row)

    def _forget(self, name: str) -> None:
        self._since.pop(name, None)
        self._probes.pop(name, None)
        self._rows.pop(name, None)

    def line(self, line: frames.LogLine) -> None:
        """A line of the agent's log."""
        if self._bus is None:
            return
        if not self._bus.heard:
            self._bus.pass_over("log")
            return
        body = {"line": line.number, "level": line.level, "component": line.component, "text": line.text}
        self._tell(f"log.{line.level.lower()}", body, None, line.at)

    # --- reports ------------------------------------------------------------------------------------------------------

    def take_report(self, report: frames.Report) -> None:
        """A report of any process."""
        self.metrics.take(report)
        for callback in self.on_report:
            callback(report)
        self._remember_changes(report)
        for topic, at, ltime, body in report.happenings:
            family = topic.partition(".")[0]
            if family not in _TOLD:
                continue
            if family == "probe" and body["node"] in self._since:
                self._probes[body["node"]] = {"at": at, **body}
                member = self._replica.member(body["node"])
                if member is not None:
                    self._encode(member)
            if topic == HANDLER_TABLE:
                self._handlers = body["handlers"]
            self._tell(topic, body, ltime, at)

    def _own_report(self, report: frames.Report) -> bool:
        self.take_report(report)
        return True

    def _remember_changes(self, report: frames.Report) -> None:
        changed = self._changed
        if changed is None:
            changed = self._changed = frames.Report("", {}, {}, {}, [], 0)
        for name, amount in report.counters.items():
            changed.counters[name] = changed.counters.get(name, 0) + amount
        changed.gauges.update(report.gauges)
        for name, values in report.samples.items():
            changed.samples.setdefault(name, Sample()).merge(values)

    def _take_processes(self, table: frames.ProcessTable) -> None:
        self._processes = table.rows

    def asked(self) -> None:
        """Somebody asks for the metrics, and may do so again."""
        self._asked_until = self._child.loop.clock() + ASKED_LASTS
        self._look_for_watchers()

    def _look_for_watchers(self) -> bool:
        """Tell the other processes if somebody watches; whether somebody does."""
        now = self._child.loop.clock()
        connected = self._bus is not None and self._bus.connected > 0
        if not (connected or self.always_watched or now < self._asked_until):
            return False
        self._child.page.watch(now + WATCH_LASTS)
        return True

    def _tell_periodically(self) -> None:
        if self._bus is not None:
            for name, total in self._bus.counters.items():
                self._child.metrics.counters[name] = total
        if not self._look_for_watchers():
            # Whoever comes later wants what happens then.
            self._changed = None
            return
        self._tell("process.table", {"processes": self.processes()})
        changed, self._changed = self._changed, None
        if changed is not None:
            samples = {name: summary(sample) for name, sample in changed.samples.items()}
            self._tell("metric.values", {"counters": changed.counters, "gauges": changed.gauges, "samples": samples})

    # --- telling ------------------------------------------------------------------------------------------------------

    def _tell(self, topic: str, body: dict[str, Any], ltime: int | None = None, at: float | None = None) -> None:
        if self._bus is None:
            return
        at = time.time() if at is None else at
        family, _, rest = topic.partition(".")
        if family in _NOTEWORTHY and rest not in {"table", "row"}:
            self._recent.add({"topic": topic, "time": at, "ltime": ltime, "body": body})
        if self._bus.heard:
            self._bus.publish(topic, body, ltime, at)
        else:
            self._bus.pass_over(family)

    def processes(self, *, figures: bool = True) -> list[dict[str, Any]]:
        """The agent's processes, with what is seen of them. Times in seconds. Without `figures` none are read."""
        now = self._child.loop.clock()
        if figures and now - self._figures.looked_at >= TABLE_PERIOD / 2:
            self._figures.look([row[1] for row in self._processes if row[1]], now)
        rows = []
        for name, pid, generation, state, slot, started, restarts, last_end in self._processes:
            known = self._figures.of(pid)
            stamped = self._child.page.read(slot).when if slot >= 0 else 0.0
            rows.append(
                {
                    "name": name,
                    "pid": pid,
                    "generation": generation,
                    "state": state,
                    "age": now - started,
                    "heartbeat_age": max(0.0, now - stamped) if stamped else None,
                    "restarts": restarts,
                    "last_end": last_end,
                    "cpu": known.cpu,
                    "cpu_seconds": known.cpu_seconds,
                    "pss": known.pss,
                }
            )
        return rows

    def state(self) -> tuple[dict[str, Any], list[bytes]]:
        """All that is known, for a snapshot; the members encoded."""
        state = {
            "lifecycle": self._replica.lifecycle,
            "stats": self._replica.serf_stats(),
            "queues": self.queues(),
            "handlers": self._handlers,
            "processes": self.processes(),
            "metrics": self.metrics.to_plain(),
            "recent": self._recent.all(),
        }
        return state, list(self._rows.values())

    def queues(self) -> dict[str, dict[str, float | None]]:
        """Sizes and bounds of queues, by name."""
        gauges, start = self.metrics.gauges, "serfmp.queue."
        return {
            name.removeprefix(start): {
                "size": size,
                "bound": gauges.get(f"serfmp.queue_limit.{name.removeprefix(start)}"),
            }
            for name, size in gauges.items()
            if name.startswith(start)
        }


def user_event_map(event: UserEventReceived) -> dict[str, Any]:
    """A user event as monitors get it."""
    return {
        "sequence": event.sequence,
        "name": event.name,
        "payload": event.payload,
        "coalesce": event.coalesce,
    }


def member_map(member: Member) -> dict[str, Any]:
    """A member as monitors get it."""
    return {
        "name": member.name,
        "address": to_text(member.address),
        "port": member.port,
        "tags": dict(member.tags),
        "status": member.status.label,
        "versions": list(member.versions),
    }
