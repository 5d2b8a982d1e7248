"""What each improvement over the reference is worth: the same simulated runs with it, and with the reference's rule.

The core has no switches for this. Each rule is replaced from outside for the length of a measurement, which is what a
research tool may do and a product may not. Rows: improvement (spec swim.md 15), figure, with, without.

    .venv/bin/python scripts/ablate.py [RUNS]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import mean, median
from typing import Any

from serfmp.detector.config import LAN
from serfmp.detector.core import Core
from serfmp.detector.serf.leaving import Leaving
from serfmp.detector.swim import answering, gossip
from serfmp.detector.swim.membership import Membership
from serfmp.detector.swim.queue import TransmitQueue
from serfmp.detector.swim.table import NodeTable
from serfmp.sim.figures import LONGEST, _Run, crash, leave, percentile, spread
from serfmp.sim.network import Conditions

RUNS = int(sys.argv[1]) if len(sys.argv) > 1 else 40


@contextmanager
def replaced(*changes: tuple[object, str, object]) -> Iterator[None]:
    """Replace attributes for a while."""
    before = [(where, name, getattr(where, name)) for where, name, _ in changes]
    for where, name, value in changes:
        setattr(where, name, value)
    try:
        yield
    finally:
        for where, name, value in before:
            setattr(where, name, value)


# --- the reference's rules --------------------------------------------------------------------------------------------


def lost_tick(self: Any, skip: Callable[[Any], bool], wrap: Callable[[], None]) -> Any:
    """The end of the list costs a turn."""
    while self._cursor < len(self._list):
        record = self._list[self._cursor]
        self._cursor += 1
        if not skip(record):
            return record
    wrap()
    self._cursor = 0
    return None


def digits_only(self: Any) -> int:
    """No extra transmissions."""
    return int(self._mult * math.ceil(math.log10(self._population() + 1)))


plain_suspect = Membership.suspect


def merged_counts(self: Any, message: Any, merged: bool = False) -> None:
    """What a push/pull says counts as an accusation."""
    del merged
    plain_suspect(self, message)


LATE_NACK = (answering, "NACK_SHARE", 0.9999)
LOST_TICK = (NodeTable, "next_target", lost_tick)
NO_STALL = (Core, "stalled", lambda _self, _now, _lost: None)
DIGITS = ((TransmitQueue, "transmit_limit", property(digits_only)), (gossip, "_copies", len))
MERGED_COUNTS = (Membership, "suspect", merged_counts)
PATIENT = (
    (Leaving, "_patience", lambda self: self._context.config.broadcast_timeout),
    (Leaving, "_hand_on", lambda _self, _message: None),
)

# --- figures ----------------------------------------------------------------------------------------------------------


def scores_after_crash() -> str:
    """The worst and the mean health score of healthy nodes while a crash is detected."""
    worst, average = [], []
    for seed in range(RUNS):
        run = _Run.formed(seed, 10)
        victim, *rest = run.rng.sample(run.hosts, 10)
        run.cluster.crash(victim, silent=True)
        peaks = dict.fromkeys((host.name for host in rest), 0)
        for _ in range(80):
            run.cluster.run(0.1)
            for host in rest:
                peaks[host.name] = max(peaks[host.name], host.alive.swim.awareness.score)
        worst.append(max(peaks.values()))
        average.append(mean(peaks.values()))
    return f"worst score {mean(worst):.2f}, mean peak {mean(average):.2f}"


def crash_of_one(count: int) -> str:
    """Time to the first declaration."""
    times = [crash(seed, count, LAN)[0] for seed in range(2 * RUNS)]
    return f"median {median(times):.2f} s, p99 {percentile(times, 0.99):.2f} s"


def frozen() -> str:
    """What a node does that was frozen while it suspected another, with its buffers too full to hold the refutation."""
    marked = 0
    for seed in range(RUNS):
        run = _Run.formed(seed, 10)
        sleeper, suspect, *_ = run.rng.sample(run.hosts, 10)
        others = {host.name for host in run.hosts}
        run.cluster.network.partition({suspect.name}, others - {suspect.name})
        run.cluster.run(3.5)
        run.cluster.network.heal()
        run.cluster.network.cut(others - {sleeper.name}, {sleeper.name})
        sleeper.pause(30)
        run.cluster.run(29.9)
        run.cluster.network.heal()
        run.cluster.run(30)
        marked += any(host == sleeper.name for _, host in run.said("Marking "))
    return f"it declares somebody in {marked} of {RUNS} runs"


def reach(count: int, loss: float) -> str:
    """The share of runs in which gossip reached everybody."""
    runs = 3 * RUNS
    return f"{sum(spread(seed, count, Conditions(loss=loss))[-1] < LONGEST for seed in range(runs)) / runs:.1%}"


def deaf() -> str:
    """False declarations of a node that hears nobody for 12 s, with push/pulls going round among the others."""
    declared = 0
    for seed in range(RUNS):
        run = _Run.formed(seed, 10)
        victim, *rest = run.rng.sample(run.hosts, 10)
        run.cluster.network.partition({victim.name}, {host.name for host in rest})
        for _ in range(12):
            for host in rest:
                host.alive.swim.push_pull.refresh(1)
                host.settle()
            run.cluster.run(0.25)
        run.cluster.network.heal()
        run.cluster.run(30)
        declared += bool(run.said("Marking "))
    return f"declared in {declared} of {RUNS} runs"


def leaves(count: int, loss: float) -> str:
    """How long a graceful leave takes."""
    results = [leave(seed, count, Conditions(loss=loss)) for seed in range(RUNS // 2)]
    clean = mean(clean for _, clean in results)
    return f"median {median(took for took, _ in results):.2f} s, clean {clean:.1%}"


ROWS: tuple[tuple[str, str, Callable[[], str], tuple[Any, ...]], ...] = (
    ("B1", "health scores while a crash is detected, N=10", scores_after_crash, (LATE_NACK,)),
    ("B3", "first declaration, N=2", lambda: crash_of_one(2), (LOST_TICK,)),
    ("B3", "first declaration, N=3", lambda: crash_of_one(3), (LOST_TICK,)),
    ("B6", "frozen for 30 s with a suspicion running, N=10", frozen, (NO_STALL,)),
    ("B7", "gossip reaches all, N=8, loss 0 %", lambda: reach(8, 0.0), DIGITS),
    ("B7", "gossip reaches all, N=9, loss 10 %", lambda: reach(9, 0.1), DIGITS),
    ("B13", "a node cut off for 3 s, push/pulls all the time", deaf, (MERGED_COUNTS,)),
    ("B16", "graceful leave, N=10, loss 5 %", lambda: leaves(10, 0.05), PATIENT),
    ("B16", "graceful leave, N=32, loss 5 %", lambda: leaves(32, 0.05), PATIENT),
)

for number, what, measure, changes in ROWS:
    with_it = measure()
    with replaced(*changes):
        without = measure()
    print(f"{number:4} {what:48} {with_it:40} without: {without}", flush=True)
