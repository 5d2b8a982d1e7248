"""What the detector process tells those who watch it, and what it sees of its host.

Rules: effects that are for watchers only end here, in the process' reports (`serfmp.bus.reports`); nothing that decides
looks at them. What the host does to the process, pressure and suspends, is read here and told to the core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from serfmp.detector import effects as fx
from serfmp.detector.pressure import Pressure
from serfmp.detector.suspending import SuspendWatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.agent.child import Child
    from serfmp.detector.core import Core

PRESSURE_PERIOD: Final = 1.0
"""Seconds between two looks at the host's pressure."""


class Watchers:
    """Carries out the effects that are for watchers: `actions` by type."""

    def __init__(self, child: Child) -> None:
        self._reporter = child.reporter
        metrics = child.metrics
        self.actions: dict[type, Callable[[Any], None]] = {
            fx.Count: lambda effect: metrics.count(effect.name, effect.amount),
            fx.Gauge: lambda effect: metrics.gauge(effect.name, effect.value),
            fx.Samples: lambda effect: metrics.samples(effect.name, effect.values),
            fx.Probed: self._probed,
            fx.Noted: self._noted,
        }

    def _probed(self, effect: fx.Probed) -> None:
        body = {
            "node": effect.node,
            "incarnation": effect.incarnation,
            "seconds": effect.seconds,
            "timed": effect.timed,
            "score": effect.score,
        }
        self._reporter.happened(f"probe.{effect.outcome}", body)

    def _noted(self, effect: fx.Noted) -> None:
        body = {
            "node": effect.node,
            "by": effect.by,
            "source": None if effect.source is None else list(effect.source),
            "facts": dict(effect.facts),
        }
        self._reporter.happened(f"suspicion.{effect.finding}", body)


class HostWatch:
    """Looks at the host, once a second and before anybody is blamed, and tells the core."""

    def __init__(self, child: Child, core: Core) -> None:
        self._child = child
        self._core = core
        self._pressure = Pressure()
        self._level = 0
        self._suspends = SuspendWatch()
        child.loop.call_every(PRESSURE_PERIOD, self._look)
        child.before_report.append(self._set_gauges)

    def late(self, now: float, seconds: float) -> None:
        """The loop or a fence was late by so many seconds."""
        self._pressure.late(now, seconds)

    def before_blame(self, now: float) -> None:
        """Somebody is about to be blamed: the time in which the host was suspended does not count."""
        slept = self._suspends.look()
        if slept:
            self._child.metrics.counters["serfmp.detector.suspends"] += 1
            text = f"The host was suspended for {slept:.1f} s: nobody is blamed for that time"
            self._child.log("WARN", "agent", text)
            self._core.suspended(now, slept)

    def _look(self) -> None:
        now, pressure = self._child.loop.clock(), self._pressure
        self.before_blame(now)
        self._level = pressure.level(now)
        self._core.pressed(now, self._level, pressure.worst(now), pressure.waiting)

    def _set_gauges(self) -> None:
        gauge = self._child.metrics.gauge
        gauge("serfmp.pressure.level", self._level)
        waiting = self._pressure.look()
        if waiting is not None:
            gauge("serfmp.pressure.waiting", waiting)
        for name, size, bound in self._core.queues():
            gauge(f"serfmp.queue.{name}", size)
            gauge(f"serfmp.queue_limit.{name}", bound)
