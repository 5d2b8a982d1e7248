"""The supervisor's part in watching the agent: the table of processes, their starts and ends, and others' reports.

Rules: everything here goes to the rpc process, which owns the public bus, and only if it serves and reads. What it
cannot take at once waits within bounds, then the oldest is lost and counted. The table is told when it has changed, and
to each new rpc process.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from serfmp.agent.process import Process, ProcessState
from serfmp.agent.terminal import Terminal
from serfmp.bus import frames
from serfmp.bus.reports import ReportClock, Reporter

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.bus.loop import Loop

SELF: Final = "agent"
"""The supervisor's name where processes are named."""

WAITING_LIMIT: Final = 64
"""Reports that wait for the rpc process; the oldest is lost, counted."""

RETRY: Final = 0.25
"""Seconds until a table or reports that rpc did not take are offered again."""


class Watching:
    """See the module. `processes` is the supervisor's list, which fills later."""

    def __init__(self, loop: Loop, processes: list[Process]) -> None:
        self._loop = loop
        self._processes = processes
        self._reporter = Reporter(SELF)
        self._waiting: deque[frames.Report] = deque(maxlen=WAITING_LIMIT)
        """Reports of others that rpc has not taken."""
        self._errors = Terminal(loop, descriptor=2)
        self._started_at = loop.clock()
        self._lateness = 0.0
        self.totals: Callable[[], dict[str, int]] = dict
        """Asked for further counters before each report of metrics: totals by name."""
        self._table_changed = False
        self._retries = False
        self._clock: ReportClock | None = None
        loop.before_wait.append(self._end_turn)

    def begin(self, watched: Callable[[], float]) -> None:
        """Report from now on; `watched()` tells the monotonic time until which somebody watches."""
        self._clock = ReportClock(self._loop, self._reporter, watched, self._report)

    def serves(self) -> None:
        """A process has said that it serves."""
        self._table_changed = True
        self._forward()

    def started(self, process: Process) -> None:
        """A generation begins."""
        self._table_changed = True
        self._reporter.happened(
            "process.started", {"name": process.name, "pid": process.pid, "generation": process.generation}
        )

    def ended(self, process: Process) -> None:
        """A generation has ended, for the reason in `last_end`."""
        self._table_changed = True
        self._reporter.metrics.counters[f"serfmp.process.ended.{process.name}"] += 1
        self._reporter.happened(
            "process.ended",
            {
                "name": process.name,
                "pid": process.pid,
                "generation": process.generation,
                "reason": process.last_end,
            },
        )

    def dump(self) -> None:
        """Write the metrics of the last minute to standard error, as soon as the rpc process has told them."""
        rpc = self._rpc()
        if rpc is not None:
            rpc.send(frames.Inquiry(SELF, 0, "metrics"))

    def dumped(self, text: Any) -> None:
        """What it has told."""
        if isinstance(text, str):
            self._errors.raw(text)

    def forward(self, report: frames.Report) -> None:
        """Another process' report."""
        if len(self._waiting) == WAITING_LIMIT:
            self._reporter.metrics.counters["serfmp.watching.reports_lost"] += 1
        self._waiting.append(report)
        self._forward()

    def _forward(self) -> None:
        rpc = self._rpc()
        while self._waiting and rpc is not None:
            if not rpc.offer(self._waiting[0]):
                self._retry()
                return
            self._waiting.popleft()

    def _retry(self) -> None:
        if not self._retries:
            self._retries = True
            self._loop.call_later(RETRY, self._again)

    def _again(self) -> None:
        self._retries = False
        self._forward()

    def _rpc(self) -> Process | None:
        for process in self._processes:
            if process.name == "rpc" and process.state is ProcessState.SERVING:
                return process
        return None

    def _end_turn(self) -> None:
        self._lateness = max(self._lateness, self._loop.lateness)
        if self._table_changed and not self._retries:
            self._tell_table()

    def _report(self, *, metrics: bool) -> None:
        rpc = self._rpc()
        if rpc is None:
            return
        if metrics:
            self._reporter.metrics.gauge("serfmp.loop.late_ms.agent", round(self._lateness * 1000, 1))
            self._lateness = 0.0
            for name, total in self.totals().items():
                self._reporter.metrics.counters[name] = total
        self._forward()
        report = self._reporter.take(metrics=metrics)
        if report is not None and not rpc.offer(report):
            self._reporter.not_told(report)

    def _tell_table(self) -> None:
        rpc = self._rpc()
        if rpc is None:
            return
        rows = [[SELF, os.getpid(), 1, ProcessState.SERVING.value, -1, self._started_at, 0, ""]]
        rows += [
            [
                process.name,
                process.pid if process.running else 0,
                process.generation,
                process.state.value,
                process.slot,
                process.started_at,
                process.restarts,
                process.last_end,
            ]
            for process in self._processes
        ]
        if rpc.offer(frames.ProcessTable(rows)):
            self._table_changed = False
        else:
            self._retry()
