"""Freeze a whole agent, briefly and for long, and count whom it accuses on waking.

Two of our agents and two real ones, profile lan. All processes of s1 get SIGSTOP: twenty times for 0.6 s, longer than a
probe's timeout, then for 12 s, until the others hold it for failed. Bars: s1 accuses nobody on waking, in no packet and
no log line; short pauses leave nobody failed; after a long one s1 is alive at all others within a second.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from dataclasses import dataclass, replace

from scripts.proofs.cluster import Cluster, start
from scripts.proofs.command import carry_out, parser
from scripts.proofs.report import Progress, Report, quantile
from scripts.proofs.watch import Watch, told
from tests.harness import Agent, ConnectionLost, Launcher

VICTIM = "s1"
OTHERS = ("s2", "r1", "r2")

ALIVE_BAR_S = 1.0
"""From SIGCONT until all others hold the woken agent for alive."""

POLL_S = 0.02
"""Between two looks at the others' members."""

GIVE_UP_S = 60.0
"""For a woken agent to be alive everywhere."""

AFTERMATH_S = 5.0
"""Watched after the last pause of a phase: a probe round with everybody, and its consequences."""


@dataclass(frozen=True, slots=True)
class Options:
    """Counts, and times in seconds."""

    short_pauses: int = 20
    short_pause: float = 0.6
    long_pauses: int = 3
    long_pause: float = 12.0
    between: tuple[float, float] = (2.0, 4.0)
    seed: int = 1
    rehearse: bool = False


SHORT = Options(short_pauses=4, long_pauses=1)


@dataclass(frozen=True, slots=True)
class Waking:
    """What followed a long pause: who held the victim for failed, and when (s after SIGCONT) who saw it alive."""

    failed_at: tuple[str, ...]
    alive_after: dict[str, float]
    late_bound: bool


def prove(launch: Launcher, options: Options, progress: Progress) -> Report:
    """Run it."""
    cluster = start(launch, rehearse=options.rehearse)
    victim = cluster[VICTIM]
    rng = random.Random(options.seed)
    report = Report(
        f"SIGSTOP of all of {VICTIM}, {options.short_pauses} × {options.short_pause:g} s, "
        f"{options.long_pauses} × {options.long_pause:g} s"
    )
    progress.say("the cluster is complete")
    with Watch(cluster.agents.values()) as watch:
        # A quiet cluster first: the joins' gossip is over.
        time.sleep(options.between[0])
        for number in range(1, options.short_pauses + 1):
            time.sleep(rng.uniform(*options.between))
            _pause(victim, options.short_pause)
            progress.tick(lambda n=number: f"{n} short pauses; accused: {told(watch.accusations)}")  # type: ignore[misc]
        time.sleep(AFTERMATH_S)
        _judge_short(report, cluster, watch, options)
        accused_before = len(_by_victim(watch))
        wakings = []
        for number in range(1, options.long_pauses + 1):
            progress.say(f"long pause {number}")
            wakings.append(_long_pause(cluster, options.long_pause))
            progress.say(f"failed at {wakings[-1].failed_at}, alive again after {wakings[-1].alive_after}")
            time.sleep(AFTERMATH_S)
        watch.close()
        if wakings:
            _judge_long(report, wakings, len(_by_victim(watch)) - accused_before)
            # Everybody else was right to accuse: a capture that saw none of it would prove nothing above.
            seen = sum(a.sender in OTHERS and a.node == VICTIM for a in watch.accusations)
            report.require("accusations of the frozen agent by others that were seen", seen, "> 0", seen > 0)
        _judge_end(report, cluster, watch)
    return report


def _pause(victim: Agent, duration: float) -> None:
    victim.pause_tree()
    try:
        time.sleep(duration)
    finally:
        victim.resume_tree()


def _long_pause(cluster: Cluster, duration: float) -> Waking:
    victim = cluster[VICTIM]
    victim.pause_tree()
    try:
        time.sleep(duration)
        failed_at = tuple(name for name in OTHERS if cluster[name].statuses().get(VICTIM) == "failed")
    finally:
        woken = time.monotonic()
        victim.resume_tree()
    alive_after: dict[str, float] = {}
    lookers = [threading.Thread(target=_look, args=(cluster[name], woken, alive_after), daemon=True) for name in OTHERS]
    for looker in lookers:
        looker.start()
    for looker in lookers:
        looker.join()
    return Waking(failed_at, alive_after, late_bound=len(alive_after) == len(OTHERS))


def _look(agent: Agent, woken: float, alive_after: dict[str, float]) -> None:
    """Poll until the victim is alive there; each look is a request that any client could make."""
    while time.monotonic() < woken + GIVE_UP_S:
        try:
            status = agent.statuses().get(VICTIM)
        except (OSError, ConnectionLost):
            status = None
        if status == "alive":
            alive_after[agent.node] = time.monotonic() - woken
            return
        time.sleep(POLL_S)


def _by_victim(watch: Watch) -> list[str]:
    return [f"{a.kind} {a.node}" for a in watch.accusations if a.sender == VICTIM]


def _victim_lines(cluster: Cluster) -> int:
    return len(cluster.failure_lines()[VICTIM])


def _judge_short(report: Report, cluster: Cluster, watch: Watch, options: Options) -> None:
    label = f"after {options.short_pauses} short pauses"
    accusations = watch.accusations
    report.require_none(f"{label}: suspect and dead messages by {VICTIM}", len(_by_victim(watch)))
    about = [a for a in accusations if a.sender != VICTIM]
    report.tell(f"{label}: suspect messages by others", sum(a.kind == "suspect" for a in about))
    report.require_none(f"{label}: dead messages by others", sum(a.kind == "dead" for a in about))
    if accusations:
        report.tell("  accusations", told(accusations))
    report.require_none(f"{label}: lines about failed members in {VICTIM}'s log", _victim_lines(cluster))
    unhealthy = cluster.unhealthy()
    report.require_none(f"{label}: views of a member that is not alive", len(unhealthy))


def _judge_long(report: Report, wakings: list[Waking], accused: int) -> None:
    everywhere = sum(set(waking.failed_at) == set(OTHERS) for waking in wakings)
    report.tell("long pauses", len(wakings))
    report.tell(f"long pauses at whose end all others held {VICTIM} for failed", everywhere)
    report.require_none("after long pauses: suspect and dead messages by the woken agent", accused)
    for name in OTHERS:
        times = [waking.alive_after[name] for waking in wakings if name in waking.alive_after]
        report.tell(f"alive again at {name} after, s (median)", quantile(times, 0.5))
        report.tell(f"alive again at {name} after, s (longest)", max(times, default=GIVE_UP_S))
    slowest = max(max(w.alive_after.values()) if w.late_bound else GIVE_UP_S for w in wakings)
    report.require(
        f"alive again at all of {', '.join(OTHERS)} after, s (longest)",
        slowest,
        f"< {ALIVE_BAR_S:g}",
        slowest < ALIVE_BAR_S,
    )


def _judge_end(report: Report, cluster: Cluster, watch: Watch) -> None:
    report.require_none(f"at the end: lines about failed members in {VICTIM}'s log", _victim_lines(cluster))
    report.require_none("at the end: views of a member that is not alive", len(cluster.unhealthy()))
    report.tell("packets looked at", watch.packets)
    report.require_none("packets lost to the capture or unreadable", watch.dropped + watch.unreadable)


def main() -> int:
    """The command line."""
    arguments = parser("Freeze a whole agent, briefly and for long.")
    arguments.add_argument("--pauses", type=int, default=None, help="short pauses (20; short: 4)")
    arguments.add_argument("--long-pauses", type=int, default=None, help="long pauses (3; short: 1)")
    arguments.add_argument("--seed", type=int, default=1, help="of the times between pauses")
    given = arguments.parse_args()
    options = SHORT if given.short else Options()
    options = replace(
        options,
        short_pauses=options.short_pauses if given.pauses is None else given.pauses,
        long_pauses=options.long_pauses if given.long_pauses is None else given.long_pauses,
        seed=given.seed,
        rehearse=given.rehearse,
    )
    return carry_out(given, lambda place: prove(place.launch, options, Progress()))


if __name__ == "__main__":
    sys.exit(main())
