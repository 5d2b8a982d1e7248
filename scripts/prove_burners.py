"""Let fifty handlers of an agent burn all processors, and measure whether its acks come in time.

Two of our agents and two real ones, profile lan. One event starts fifty handler entries of s1, each a busy loop of
thirty seconds. A prober pings s1, s2 and r1 twenty times a second each, before and meanwhile; latencies are taken on
the wire. Bars: no ack of s1 or s2 takes half a second, and on the wire s1 neither accuses nor is accused.
"""

from __future__ import annotations

import contextlib
import math
import shlex
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

import psutil

from scripts.proofs.cluster import OURS, Cluster, start
from scripts.proofs.command import carry_out, parser
from scripts.proofs.report import Progress, Report, quantile
from scripts.proofs.watch import Pinger, Watch, by_target, told
from tests.harness import Agent, Launcher

VICTIM = "s1"
PROBED = ("s1", "s2", "r1")

LATENCY_BAR_S = 0.5
"""A probe's timeout in profile lan: later acks start indirect probes."""

LAST_ACKS_S = 2.0
"""For the acks of the last pings of a phase."""

COUNT_S = 1.0
"""Between two counts of burning processes."""

BURNER = "serfmp-burner"
"""Stands in the command line of every busy loop, so that they can be counted."""


@dataclass(frozen=True, slots=True)
class Options:
    """Counts, times in seconds, pings per second and agent."""

    burners: int = 50
    control: float = 30.0
    burn: float = 30.0
    rate: float = 20.0
    rehearse: bool = False


SHORT = Options(burners=16, control=5.0, burn=8.0)


def prove(launch: Launcher, options: Options, progress: Progress) -> Report:
    """Run it."""
    cluster = start(launch, rehearse=options.rehearse, handlers={VICTIM: [_handler(options.burn)] * options.burners})
    pinger = Pinger(launch.options("prober").bind)
    report = Report(
        f"{options.burners} handlers of {VICTIM} burn for {options.burn:g} s on {psutil.cpu_count()} processors"
    )
    progress.say("the cluster is complete")
    stop = threading.Event()
    prober = threading.Thread(target=_probe, args=(cluster, pinger, options.rate, stop), daemon=True)
    with contextlib.closing(pinger), Watch(cluster.agents.values(), pinger) as watch:
        prober.start()
        try:
            began = time.monotonic()
            _wait(began + options.control, progress, lambda: "control phase")
            burning_from = time.monotonic()
            cluster[VICTIM].event("burn")
            counts = [0]

            def look() -> str:
                counts.append(_burning(cluster[VICTIM]))
                return f"{counts[-1]} burners run; accused: {told(watch.accusations)}"

            _wait(burning_from + options.burn, progress, look)
            burning_to = time.monotonic()
        finally:
            stop.set()
            prober.join()
        time.sleep(LAST_ACKS_S)
        unhealthy = cluster.unhealthy()
        watch.close()
    enough = 1 if options.rehearse else options.burners
    report.require("burners that ran at once", max(counts), f">= {enough}", max(counts) >= enough)
    _judge_latencies(report, "control", watch, began, burning_from)
    _judge_latencies(report, "burning", watch, burning_from, burning_to)
    _judge_peace(report, watch, cluster, unhealthy)
    report.require_none(
        f"processes of {VICTIM} that were started again", cluster[VICTIM].log().count("starting generation")
    )
    return report


def _handler(duration: float) -> str:
    loop = (
        f"import time; e = time.monotonic() + {duration}; any(time.monotonic() > e for _ in iter(int, 1))  # {BURNER}"
    )
    return f"user:burn=exec {shlex.quote(sys.executable)} -I -S -c {shlex.quote(loop)}"


def _probe(cluster: Cluster, pinger: Pinger, rate: float, stop: threading.Event) -> None:
    """Ping each agent in turn, evenly spread; what is overdue because this was starved is sent at once."""
    begin = time.monotonic()
    for number in count(1):
        due = begin + number / (rate * len(PROBED))
        if stop.wait(max(0.0, due - time.monotonic())):
            return
        pinger.ping(cluster[PROBED[number % len(PROBED)]])


def _wait(until: float, progress: Progress, look: Callable[[], str]) -> None:
    while time.monotonic() < until:
        state = look()
        progress.tick(lambda text=state: text)  # type: ignore[misc]
        time.sleep(max(0.0, min(COUNT_S, until - time.monotonic())))


def _burning(agent: Agent) -> int:
    found = 0
    for process in psutil.Process(agent.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            # The busy loop itself, not a shell on the way to it nor an agent with its handlers on the command line.
            found += bool(words) and words[-1].startswith("import time") and words[-1].endswith(BURNER)
    return found


def _judge_latencies(report: Report, phase: str, watch: Watch, begin: float, end: float) -> None:
    latencies = by_target(watch.pings, begin, end)
    for name in PROBED:
        times = latencies.get(name, [])
        label = f"{phase}: {name}"
        report.tell(f"{label}: pings", len(times))
        for what, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
            report.tell(f"{label}: ack after, ms ({what})", quantile(times, share) * 1000)
        late = sum(latency >= LATENCY_BAR_S for latency in times)
        if name in OURS:
            report.require(
                f"{label}: acks later than {LATENCY_BAR_S:g} s or missing", late, "0", met=bool(times) and not late
            )
        else:
            report.tell(f"{label}: acks later than {LATENCY_BAR_S:g} s or missing", late)
        report.tell(f"{label}: acks missing", sum(latency == math.inf for latency in times))


def _judge_peace(report: Report, watch: Watch, cluster: Cluster, unhealthy: list[str]) -> None:
    accusations = watch.accusations
    report.require_none(
        f"suspect and dead messages by {VICTIM} or about it",
        sum(VICTIM in {a.sender, a.node} for a in accusations),
    )
    report.tell("suspect and dead messages in all", len(accusations))
    if accusations:
        report.tell("  accusations", told(accusations))
    report.require_none(f"lines about failed members in the log of {VICTIM}", len(cluster.failure_lines()[VICTIM]))
    report.require_none("views of a member that is not alive at the end", len(unhealthy))
    report.tell("packets looked at", watch.packets)
    report.require_none("packets lost to the capture or unreadable", watch.dropped + watch.unreadable)


def main() -> int:
    """The command line."""
    arguments = parser("Let handlers of an agent burn all processors, and measure its acks.")
    arguments.add_argument("--burners", type=int, default=None, help="busy handlers (50; short: 16)")
    arguments.add_argument("--duration", type=float, default=None, help="seconds of each phase (30; short: 5 and 8)")
    given = arguments.parse_args()
    options = SHORT if given.short else Options()
    options = replace(
        options,
        burners=given.burners or options.burners,
        control=given.duration or options.control,
        burn=given.duration or options.burn,
        rehearse=given.rehearse,
    )
    return carry_out(given, lambda place: prove(place.launch, options, Progress()))


if __name__ == "__main__":
    sys.exit(main())
