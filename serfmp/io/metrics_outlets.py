"""Where the agent's metrics go: statsd, statsite, Prometheus and health checks, and Serf's dump on SIGUSR1.

Rules: all of it lives in the rpc process, so that a slow or absent receiver is felt by nobody else. `/health` says
whether the failure detector turns and rpc knows the members; `/ready` whether the node takes part in the cluster and
all processes serve. Both name what is wrong.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

import serfmp
from serfmp.detector.effects import MemberStatus
from serfmp.io import prometheus
from serfmp.io.metric_sinks import StatsdSink, StatsiteSink
from serfmp.io.metrics_dump import dump
from serfmp.io.metrics_http import MetricsServer, Page
from serfmp.io.prometheus import Family

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.agent.child import Child
    from serfmp.bus.frames import Report
    from serfmp.io.rpc_replica import Replica
    from serfmp.io.watching import Watching

STALE: Final = 5.0
"""Seconds without a turn of the detector's loop from which on the agent is not healthy."""

_CLOCKS: Final = ("member_time", "event_time", "query_time")


class MetricsOutlets:
    """See the module."""

    def __init__(self, child: Child, watching: Watching, replica: Replica) -> None:
        self._child = child
        self._watching = watching
        self._replica = replica
        counters = child.metrics.counters
        host = socket.gethostname()
        self._sinks: list[Callable[[Report], None]] = []
        if child.config.statsd_address:
            self._sinks.append(StatsdSink(_address(child.config.statsd_address), host, counters).take)
        if child.config.statsite_address:
            sink = StatsiteSink(child.loop, _address(child.config.statsite_address), host, counters)
            self._sinks.append(sink.take)
        watching.always_watched = bool(self._sinks)
        if "metrics" in child.descriptors:
            listener = socket.socket(fileno=child.descriptors["metrics"])
            pages = {"/metrics": self._metrics, "/health": self._health, "/ready": self._ready}
            MetricsServer(child.loop, listener, pages, counters)
        child.on_inquiry = self._tell

    def take(self, report: Report) -> None:
        """A report of any process."""
        for sink in self._sinks:
            sink(report)

    def _tell(self, subject: str) -> Any:
        return dump(self._watching.metrics.complete()) if subject == "metrics" else None

    # --- pages --------------------------------------------------------------------------------------------------------

    def _metrics(self) -> Page:
        self._watching.asked()
        text = prometheus.render(self._watching.metrics, [*self._cluster(), *self._processes()])
        return Page(200, text, prometheus.CONTENT_TYPE)

    def _cluster(self) -> list[Family]:
        build = Family("serfmp_build_info", "gauge", "The version that runs.")
        build.add(1, {"version": serfmp.__version__})
        members = Family("serfmp_members", "gauge", "Members by status.")
        counts = self._replica.counts()
        for status in MemberStatus:
            if status is not MemberStatus.NONE:
                members.add(counts[status], {"status": status.label})
        stats = self._replica.serf_stats()
        score = Family("serfmp_health_score", "gauge", "How much the node distrusts itself; 0 is healthy.")
        score.add(int(stats.get("health_score", "0")))
        clocks = Family("serfmp_lamport_time", "gauge", "Lamport clocks.")
        for name in _CLOCKS:
            clocks.add(int(stats.get(name, "0")), {"clock": name.removesuffix("_time")})
        return [build, members, score, clocks]

    def _processes(self) -> list[Family]:
        up = Family("serfmp_process_up", "gauge", "Whether the process serves.")
        restarts = Family("serfmp_process_restarts_total", "counter", "Times the process was started again.")
        age = Family("serfmp_process_heartbeat_age_seconds", "gauge", "Time since its main loop turned.")
        spent = Family("serfmp_process_cpu_seconds_total", "counter", "Processor time of the present generation.")
        memory = Family("serfmp_process_pss_bytes", "gauge", "Memory, shared pages in proportion.")
        for row in self._watching.processes():
            labels = {"process": row["name"]}
            up.add(row["state"] == "serving", labels)
            restarts.add(row["restarts"], labels)
            for family, key in ((age, "heartbeat_age"), (spent, "cpu_seconds"), (memory, "pss")):
                if row[key] is not None:
                    family.add(row[key], labels)
        return [up, restarts, age, spent, memory]

    def _health(self) -> Page:
        wrong = []
        ages = {row["name"]: row["heartbeat_age"] for row in self._watching.processes(figures=False)}
        age = ages.get("detector")
        if ages and (age is None or age > STALE):
            wrong.append("the failure detector does not turn")
        if not self._replica.complete:
            wrong.append("the members are not known yet")
        return _verdict(wrong)

    def _ready(self) -> Page:
        rows = self._watching.processes(figures=False)
        wrong = [f"{row['name']} is {row['state']}" for row in rows if row["state"] != "serving"]
        if not self._replica.complete:
            wrong.append("the members are not known yet")
        elif self._replica.lifecycle != "alive":
            wrong.append(f"the node is {self._replica.lifecycle}")
        return _verdict(wrong)


def _verdict(wrong: list[str]) -> Page:
    return Page(503, "".join(f"{line}\n" for line in wrong)) if wrong else Page(200, "ok\n")


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)
