"""A mixed cluster of nine under light loss: nobody is failed falsely, and deaths are seen as soon as by the real serf.

Five of our agents and four real ones, profile lan, in a network namespace of their own whose loopback device loses a
share of all UDP packets. Two phases:

* Peace: ten minutes, with user events except in the last fifth. One agent carries no tags and sends nothing. Bars: no
  dead message on the wire, no failed or left member on any stream or in any log.
* Deaths: a second cluster, of nine real agents, is started beside the first. In turn one of ours and a real one get
  SIGKILL in the mixed cluster, and at the same moment one in the other. Bar: for victims of either kind, the median
  time until all survivors show the victim failed is at most 1.2 times that of the cluster of real agents.

How a death is timed: the real serf collects member events for a second or more before it streams them, ours does not
yet, so streams would flatter us. An agent's log tells of a failed member at once at both kinds; when it does, the agent
is asked for its members, and the first answer that shows the victim failed counts. Nobody is polled in between.

A rehearsal has real agents in all places and kills them all the same: its ratios show how far chance alone takes them.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from scripts.proofs.cluster import Cluster
from scripts.proofs.command import carry_out, parser
from scripts.proofs.load import EventLoad, outcome
from scripts.proofs.report import Progress, Report
from scripts.proofs.watch import Accusation, Watch, told
from tests.harness import (
    Agent,
    ConnectionLost,
    Launcher,
    MemberRecord,
    NeverHeld,
    RpcError,
    Stream,
    UserRecord,
    eventually,
)

RATIO_BAR = 1.2
"""Median time until a death is seen by all, against that of a cluster of real agents."""

QUIET_SHARE = 0.2
"""Share of the peace at its end without events: then no gossip is under way that could carry news along."""

SEEN_S = 60.0
"""For a death to be seen by all: two periods of push/pull, which repairs what gossip missed."""

BACK_S = 90.0
"""For a restarted agent to be alive at all: three periods of push/pull."""

SETTLE_S = 5.0
"""After everybody is back, for health scores to fall to 0, and for old gossip to end."""

ASK_S = 1.0
"""Between two looks at the members of an agent whose log says nothing of a failure."""

NO_SETUP = 2
"""Exit code where loss cannot be arranged."""

FAILED_LINES = ("EventMemberFailed", "Marking ")
"""What agents log when a member has failed, not already when it is suspected."""

HARMLESS = frozenset({"member-join", "member-update"})
"""Member events of a peaceful cluster."""

KINDS = ("serfmp", "serf")

OURS, REAL, BESIDE = "serfmp in the mixed cluster", "real in the mixed cluster", "real among real"


@dataclass(frozen=True, slots=True)
class Options:
    """Sizes; seconds of peace; events per second; rounds, each a death of each kind; `loss`: a share of packets."""

    ours: int = 5
    real: int = 4
    duration: float = 600.0
    rate: float = 10.0
    rounds: int = 6
    loss: float = 0.02
    beside: bool = True
    seed: int = 1
    rehearse: bool = False


SHORT = Options(ours=3, real=2, duration=15.0, rounds=1, beside=False)


@dataclass(frozen=True, slots=True)
class Death:
    """A kill. Times in seconds of the monotonic clock; `seen_after`: per survivor, infinity for never."""

    kind: str
    node: str
    at: float
    seen_after: Mapping[str, float]
    until: float = math.inf
    """When the victim is back, and talk of its death has ended."""

    @property
    def seen_by_all_after(self) -> float:
        """Seconds until the last survivor showed it."""
        return max(self.seen_after.values())

    def covers(self, accusation: Accusation) -> bool:
        """Whether somebody is accused rightly because of this death."""
        return accusation.node == self.node and self.at <= accusation.at <= self.until


class Look:
    """Waits for one agent to show a member failed. Made before the member's death: only later log lines count."""

    def __init__(self, agent: Agent, victim: str) -> None:
        self.agent = agent
        self._victim = victim
        self._wanted = f"EventMemberFailed: {victim} ".encode()
        self._log = agent.options.directory / "stdout.log"
        self._read_to = self._log.stat().st_size
        self._told = False
        self._asked_at = time.monotonic()

    def seen_at(self) -> float:
        """Wait; when it was shown, infinity for never."""
        try:
            eventually(self._shows, SEEN_S, "failed", ignoring=(OSError, ConnectionLost, RpcError))
        except NeverHeld:
            return math.inf
        return time.monotonic()

    def _shows(self) -> bool:
        now = time.monotonic()
        with self._log.open("rb") as log:
            log.seek(self._read_to)
            fresh = log.read()
        self._told = self._told or self._wanted in fresh
        # A line that is not yet whole is read again.
        self._read_to += fresh.rfind(b"\n") + 1
        if not self._told and now - self._asked_at < ASK_S:
            return False
        self._asked_at = now
        return self.agent.statuses().get(self._victim) == "failed"


# --- loss ------------------------------------------------------------------------------------------------


def rules(loss: float) -> list[list[str]]:
    """Commands that make the loopback device of a fresh network namespace lose UDP packets, and count all of them."""
    add = ["iptables", "-w", "-A", "INPUT", "-p", "udp"]
    drop = [*add, "-m", "statistic", "--mode", "random", "--probability", f"{loss:g}", "-j", "DROP"]
    return [["ip", "link", "set", "lo", "up"], add, drop]


def hindrance() -> str:
    """Why loss cannot be arranged here; empty if it can."""
    if os.geteuid() != 0:
        return "a network namespace with loss needs root"
    for program, package in (("unshare", "util-linux"), ("ip", "iproute2"), ("iptables", "iptables")):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: apt-get install {package})"
    for command in rules(0.5):
        tried = subprocess.run(["unshare", "-n", *command], capture_output=True, text=True, check=False)
        if tried.returncode != 0:
            return f"{' '.join(command)!r} fails in a namespace of its own: {tried.stderr.strip()}"
    return ""


def _counted() -> tuple[int, int]:
    """UDP packets that arrived, and that were dropped, since the rules were made."""
    listing = subprocess.run(["iptables", "-w", "-nvxL", "INPUT"], capture_output=True, text=True, check=True).stdout
    arrived, dropped = (int(line.split()[0]) for line in listing.splitlines()[2:4])
    return arrived, dropped


# --- the clusters ----------------------------------------------------------------------------------------


def _start(launch: Launcher, begin: Mapping[str, str]) -> Cluster:
    """Start agents of the kinds given by name, the last one of ours (or of all) without tags; wait for each other."""
    bare = [name for name, kind in begin.items() if kind == "serfmp"] or list(begin)
    agents: dict[str, Agent] = {}
    for name, kind in begin.items():
        agents[name] = _begin(
            launch,
            kind,
            name,
            join=list(itertools.islice(agents.values(), 1)),
            tags={} if name == bare[-1] else {"kind": kind, "name": name},
        )
    cluster = Cluster(agents)
    cluster.wait_alive(BACK_S)
    return cluster


def _begin(launch: Launcher, kind: str, name: str, **options: Any) -> Agent:
    start = launch.serf if kind == "serf" else launch.serfmp
    return start(name, profile="lan", log_level="INFO", **options)


def _restarted(launch: Launcher, cluster: Cluster, name: str) -> Cluster:
    """The cluster with a killed agent started again at its old address."""
    old = cluster[name]
    old.close()
    friend = next(agent for agent in cluster.agents.values() if agent.node != name)
    given = old.options
    agent = _begin(launch, old.kind, name, join=[friend], tags=given.tags, bind=given.bind, rpc=given.rpc)
    return Cluster({**cluster.agents, name: agent})


# --- the proof -------------------------------------------------------------------------------------------


def prove(launch: Launcher, options: Options, progress: Progress) -> Report:
    """Run it, in a namespace that loses packets."""
    report = Report(
        f"{options.ours} {'real in our place' if options.rehearse else 'serfmp'} and {options.real} real agents, "
        f"{options.loss:.3g} of UDP lost, {options.duration:g} s of peace, {options.rounds} deaths of each kind"
    )
    kinds = dict.fromkeys((f"s{n}" for n in range(1, options.ours + 1)), "serf" if options.rehearse else "serfmp")
    kinds |= dict.fromkeys((f"r{n}" for n in range(1, options.real + 1)), "serf")
    report.tell("load average before the start (1 min)", os.getloadavg()[0])
    mixed = _start(launch, kinds)
    progress.say("the mixed cluster is complete")
    _peace(report, mixed, options, progress)
    report.tell("load average at the end of the peace (1 min)", os.getloadavg()[0])
    beside = None
    if options.beside and options.rounds:
        beside = _start(launch, dict.fromkeys((f"b{n}" for n in range(1, options.ours + options.real + 1)), "serf"))
        progress.say("the cluster beside it is complete")
    if options.rounds:
        _deaths(report, launch, mixed, beside, options, progress)
        report.tell("load average at the end of the deaths (1 min)", os.getloadavg()[0])
    report.tell("processors", os.cpu_count() or 0)
    arrived, dropped = _counted()
    share = dropped / max(arrived, 1)
    report.tell("UDP packets that arrived at the filter", arrived)
    # Far from the share asked for, the filter did not work; a few standard deviations are chance.
    near = abs(share - options.loss) <= 5 * math.sqrt(options.loss / max(arrived, 1))
    report.require("share of them that was dropped", share, f"{options.loss:g}", near)
    return report


def _peace(report: Report, cluster: Cluster, options: Options, progress: Progress) -> None:
    senders = [cluster["s1"], cluster["r1"]]
    with contextlib.ExitStack() as stack:
        streams = {}
        for name, agent in cluster.agents.items():
            streams[name] = stack.enter_context(agent.connect()).stream("*")
        watch = stack.enter_context(Watch(cluster.agents.values()))
        load = stack.enter_context(EventLoad(dict.fromkeys(senders, options.rate / len(senders))))
        begin = time.monotonic()
        load.start()
        for end in (begin + options.duration * (1 - QUIET_SHARE), begin + options.duration):
            while time.monotonic() < end:
                progress.tick(lambda: f"peace; {len(load.sent)} events; accused: {told(watch.accusations)}")
                time.sleep(min(1.0, max(0.0, end - time.monotonic())))
            load.stop()
        unhealthy = cluster.unhealthy()
        watch.close()
        _judge_peace(report, cluster, watch, streams, unhealthy)
        sent = load.sent
        report.tell("events sent in peace", len(sent))
        report.tell("  of these refused", sum(bool(s.error) for s in sent))
        for kind in KINDS:
            lost = 0
            for name in (name for name, agent in cluster.agents.items() if agent.kind == kind):
                got = Counter(r.payload for r in streams[name].records if isinstance(r, UserRecord))
                lost += len(outcome(sent, got, [agent.node for agent in senders]).lost)
            report.tell(f"  missing on streams of {kind}, sum over agents", lost)


def _judge_peace(
    report: Report, cluster: Cluster, watch: Watch, streams: Mapping[str, Stream], unhealthy: Sequence[str]
) -> None:
    accusations = watch.accusations
    report.tell("peace: packets looked at", watch.packets)
    report.require_none("peace: packets lost to the capture or unreadable", watch.dropped + watch.unreadable)
    report.tell("peace: suspect messages on the wire", sum(a.kind == "suspect" for a in accusations))
    report.require_none("peace: dead messages on the wire", sum(a.kind == "dead" for a in accusations))
    if accusations:
        report.tell("  accusations", told(accusations))
    lines = cluster.failure_lines()
    for kind in KINDS:
        names = [name for name, agent in cluster.agents.items() if agent.kind == kind]
        failed = [line for name in names for line in lines[name] if any(text in line for text in FAILED_LINES)]
        records = [record for name in names for record in streams[name].records if isinstance(record, MemberRecord)]
        gone = sum(record.kind not in HARMLESS for record in records)
        report.require_none(f"peace: log lines of {kind} about failed members", len(failed))
        report.require_none(f"peace: failed, left or reaped on streams of {kind}", gone)
    report.require_none("peace: views of a member that is not alive at the end", len(unhealthy))
    if unhealthy:
        report.tell("  for example", unhealthy[0][:80])


def _deaths(
    report: Report,
    launch: Launcher,
    mixed: Cluster,
    beside: Cluster | None,
    options: Options,
    progress: Progress,
) -> None:
    rng = random.Random(options.seed)
    deaths: list[Death] = []
    everybody = [*mixed.agents.values(), *(beside.agents.values() if beside else [])]
    turns = {OURS: _cycle(mixed, "s"), REAL: _cycle(mixed, "r")}
    others = _cycle(beside, "b") if beside else iter(())
    # The captured ports outlive the agents: who is restarted takes its old address.
    with Watch(everybody) as watch:
        for number, (kind, names) in itertools.product(range(1, options.rounds + 1), turns.items()):
            # Kills must not keep step with anybody's probe rounds.
            time.sleep(SETTLE_S + rng.random())
            victims = [(kind, mixed, next(names))]
            if beside is not None:
                victims.append((BESIDE, beside, next(others)))
            fresh = _kill(victims)
            mixed = _restarted(launch, mixed, fresh[0].node)
            beside = beside and _restarted(launch, beside, fresh[1].node)
            for cluster in filter(None, (mixed, beside)):
                cluster.wait_alive(BACK_S)
            # Up to the next kill but for the time in which talk of this death ends.
            deaths += [replace(death, until=time.monotonic() + SETTLE_S) for death in fresh]
            seen = ", ".join(f"{death.node} {death.seen_by_all_after:.2f} s" for death in fresh)
            progress.say(f"round {number}: seen by all after: {seen}; load {os.getloadavg()[0]:.1f}")
        time.sleep(SETTLE_S)
        watch.close()
        _judge_deaths(report, deaths, watch, options)


def _cycle(cluster: Cluster, initial: str) -> Iterator[str]:
    return itertools.cycle([name for name in cluster.agents if name.startswith(initial)])


def _kill(victims: Sequence[tuple[str, Cluster, str]]) -> list[Death]:
    """Kill one agent in each cluster and time when the survivors show it."""
    looks = {
        victim: [Look(agent, victim) for name, agent in cluster.agents.items() if name != victim]
        for _, cluster, victim in victims
    }
    killed_at: dict[str, float] = {}
    with ThreadPoolExecutor(sum(map(len, looks.values())) + len(victims)) as pool:
        seen = {victim: {look.agent.node: pool.submit(look.seen_at) for look in looks[victim]} for victim in looks}
        for _, cluster, victim in victims:
            killed_at[victim] = time.monotonic()
            cluster[victim].kill()
    return [
        Death(
            kind,
            victim,
            killed_at[victim],
            {node: future.result() - killed_at[victim] for node, future in seen[victim].items()},
        )
        for kind, _, victim in victims
    ]


def _judge_deaths(report: Report, deaths: Sequence[Death], watch: Watch, options: Options) -> None:
    report.tell("deaths: packets looked at", watch.packets)
    report.require_none("deaths: packets lost to the capture or unreadable", watch.dropped + watch.unreadable)
    accusations = watch.accusations
    false = [a for a in accusations if not any(death.covers(a) for death in deaths)]
    report.tell("deaths: suspect messages about the living", sum(a.kind == "suspect" for a in false))
    report.require_none("deaths: dead messages about the living", sum(a.kind == "dead" for a in false))
    if false:
        report.tell("  accusations", told(false))
    # A capture that saw nothing of true deaths would prove nothing above.
    known = sum(any(a.kind == "dead" and death.covers(a) for a in accusations) for death in deaths)
    report.require("deaths with a dead message seen on the wire", known, str(len(deaths)), known == len(deaths))
    times: dict[str, list[float]] = {}
    for kind in (OURS, REAL, BESIDE):
        chosen = [death for death in deaths if death.kind == kind]
        if not chosen:
            continue
        times[kind] = [death.seen_by_all_after for death in chosen]
        unseen = sum(math.isinf(after) for death in chosen for after in death.seen_after.values())
        report.require_none(f"{kind} killed: survivors that did not see it within {SEEN_S:g} s", unseen)
        for what in ("suspect", "dead"):
            after = [
                min((a.at for a in accusations if a.kind == what and death.covers(a)), default=math.inf) - death.at
                for death in chosen
            ]
            report.tell(f"{kind} killed: first {what} message after, s (median)", statistics.median(after))
        firsts = [min(death.seen_after.values()) for death in chosen]
        report.tell(f"{kind} killed: failed at the first survivor after, s (median)", statistics.median(firsts))
        report.tell(f"{kind} killed: failed at all after, s (median)", statistics.median(times[kind]))
        report.tell(f"{kind} killed: failed at all after, s (longest)", max(times[kind]))
        report.tell("  each", " ".join(f"{after:.1f}" for after in times[kind]))
    if BESIDE not in times:
        return
    rng = random.Random(options.seed)
    for kind in (OURS, REAL):
        ratio = statistics.median(times[kind]) / statistics.median(times[BESIDE])
        report.require(f"{kind} / {BESIDE}, medians", ratio, f"≤ {RATIO_BAR:g}", ratio <= RATIO_BAR)
        low, high = _interval(times[kind], times[BESIDE], rng)
        report.tell("  nine of ten resamplings lie between", f"{low:.2f} and {high:.2f}")


def _interval(ones: Sequence[float], others: Sequence[float], rng: random.Random) -> tuple[float, float]:
    """Bounds of the middle nine tenths of the ratio of medians, by resampling: how much of it may be chance."""

    def median(values: Sequence[float]) -> float:
        return statistics.median(rng.choices(values, k=len(values)))

    ratios = sorted(median(ones) / median(others) for _ in range(2000))
    return ratios[100], ratios[-100]


def main() -> int:
    """The command line."""
    arguments = parser("A mixed cluster of nine under light loss, beside a cluster of real serf.")
    arguments.add_argument("--duration", type=float, default=None, help="seconds of peace (600; short: 15)")
    arguments.add_argument("--rounds", type=int, default=None, help="deaths of each kind (6; short: 1)")
    arguments.add_argument("--loss", type=float, default=0.02, help="share of UDP packets that are lost")
    arguments.add_argument("--rate", type=float, default=10.0, help="user events per second in peace")
    arguments.add_argument("--seed", type=int, default=1, help="of the moments of the kills")
    arguments.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if not 0 < given.loss < 1:
        arguments.error(f"--loss is a share between 0 and 1, not {given.loss:g}")
    if not given.inside:
        why = hindrance()
        if why:
            print(f"cannot arrange for loss: {why}", file=sys.stderr)
            return NO_SETUP
        # Packets get lost for this program and its agents only, and the rules end with them.
        os.execvp("unshare", ["unshare", "-n", sys.executable, *sys.orig_argv[1:], "--inside"])  # noqa: S606
    options = SHORT if given.short else Options()
    options = replace(
        options,
        duration=options.duration if given.duration is None else given.duration,
        rounds=options.rounds if given.rounds is None else given.rounds,
        loss=given.loss,
        rate=given.rate,
        seed=given.seed,
        rehearse=given.rehearse,
    )
    for command in rules(options.loss):
        subprocess.run(command, check=True)
    return carry_out(given, lambda place: prove(place.launch, options, Progress()))


if __name__ == "__main__":
    sys.exit(main())
