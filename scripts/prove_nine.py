"""Nine agents of both kinds under light loss, beside nine real ones: no false failure, and as quick with true ones.

Five of our agents and four real ones gossip in a network namespace of their own, where a share of all UDP packets is
dropped (`unshare -n` and `iptables`, so it needs root). First nobody is harmed: no agent may hold another for failed.
Then, in rounds, one agent of the mixed cluster and one of nine real agents are killed with SIGKILL in the same moment;
measured is the time until every living agent of their cluster has logged the failure. Bar: the medians for the mixed
cluster are at most 1.2 times that of the real one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from typing import Final

from scripts.proofs.cluster import workplace
from scripts.proofs.report import Progress, Report, conclude, end_on_terminate, parser, quantile
from scripts.proofs.watch import Watch, told
from tests.harness import Agent, Launcher

OURS: Final = ("s1", "s2", "s3", "s4", "s5")
REAL: Final = ("r1", "r2", "r3", "r4")
PEERS: Final = tuple(f"p{number}" for number in range(1, 10))

RATIO_BAR: Final = 1.2
"""Of the medians, mixed cluster to real cluster."""

JOINED_S: Final = 60.0
"""For nine agents to see each other alive."""

SEEN_S: Final = 120.0
"""For all to notice a death."""

POLL_S: Final = 0.01
"""Between two looks at the logs."""

EVENT_PERIOD_S: Final = 0.1
"""Between two user events while nobody is harmed."""

INSIDE: Final = "SERFMP_PROOF_INSIDE"


@dataclass(frozen=True, slots=True)
class Options:
    """Times in seconds; `loss` is a share of UDP packets."""

    quiet: float = 600.0
    rounds: int = 6
    loss: float = 0.02
    seconds_between: float = 3.0


SHORT = Options(quiet=15.0, rounds=2)


@dataclass(slots=True)
class Group:
    """A cluster under its agents' names, and how far each log was read."""

    launch: Launcher
    agents: dict[str, Agent] = field(default_factory=dict)
    read: dict[str, int] = field(default_factory=dict)

    def start(self, name: str) -> None:
        """Start an agent, in the place that it had if it was there before, and let it join the others."""
        old = self.agents.get(name)
        place = {} if old is None else {"bind": old.options.bind, "rpc": old.options.rpc}
        others = [agent for other, agent in self.agents.items() if other != name][:1]
        begin = self.launch.serfmp if name in OURS else self.launch.serf
        self.agents[name] = begin(name, join=others, profile="lan", log_level="INFO", **place)

    def wait_alive(self) -> None:
        """Wait until everybody sees everybody alive."""
        for agent in self.agents.values():
            agent.wait_statuses(dict.fromkeys(self.agents, "alive"), JOINED_S)

    def failures(self) -> list[str]:
        """Log lines of all agents about failed members."""
        return [
            f"{name}: {line.strip()}"
            for name, agent in self.agents.items()
            for line in agent.log().splitlines()
            if "EventMemberFailed" in line
        ]

    def mark(self) -> None:
        """From now on only new log lines count."""
        self.read = {name: len(agent.log()) for name, agent in self.agents.items()}

    def unaware(self, victim: str) -> list[str]:
        """Which living agents have not logged the victim's failure since `mark`."""
        line = f"EventMemberFailed: {victim} "
        return [
            name for name, agent in self.agents.items() if name != victim and line not in agent.log()[self.read[name] :]
        ]


def prove(launch: Launcher, options: Options, progress: Progress) -> Report:
    """Run it, inside the namespace."""
    report = Report(
        f"5 serfmp and 4 real agents, {options.loss:.0%} of UDP packets lost: {options.quiet:g} s unharmed, "
        f"then {options.rounds} rounds of kills beside 9 real agents"
    )
    mixed = Group(launch)
    for name in (*OURS, *REAL):
        mixed.start(name)
    mixed.wait_alive()
    progress.say("the mixed cluster is complete")
    _unharmed(report, mixed, options, progress)
    real = Group(launch)
    for name in PEERS:
        real.start(name)
    real.wait_alive()
    progress.say("the real cluster is complete")
    _kills(report, mixed, real, options, progress)
    report.tell("load average at the end", os.getloadavg()[0])
    return report


def _unharmed(report: Report, mixed: Group, options: Options, progress: Progress) -> None:
    with Watch(mixed.agents.values()) as watch:
        end = time.monotonic() + options.quiet
        number = 0
        while time.monotonic() < end:
            mixed.agents[(*OURS, *REAL)[number % 9]].event("load", str(number).encode())
            number += 1
            progress.tick(lambda n=number: f"{n} events; accused: {told(watch.accusations)}")  # type: ignore[misc]
            time.sleep(EVENT_PERIOD_S)
    accusations = watch.accusations
    report.tell("events sent while unharmed", number)
    report.tell("packets looked at", watch.packets)
    report.tell("suspect messages on the wire", sum(a.kind == "suspect" for a in accusations))
    report.require_none("dead messages on the wire", sum(a.kind == "dead" for a in accusations))
    if accusations:
        report.tell("  accusations", told(accusations))
    report.require_none("log lines about failed members, all nine agents", len(mixed.failures()))
    dropped = subprocess.run(["iptables", "-L", "INPUT", "-v", "-x", "-n"], capture_output=True, text=True, check=True)
    report.tell("packets dropped by the namespace", int(dropped.stdout.splitlines()[2].split()[0]))


def _kills(report: Report, mixed: Group, real: Group, options: Options, progress: Progress) -> None:
    seen: dict[str, list[float]] = {"serfmp in mixed": [], "real in mixed": [], "real in real": []}
    for number in range(options.rounds):
        for kind, names in (("serfmp in mixed", OURS), ("real in mixed", REAL)):
            victim, peer = names[(number + 1) % len(names)], PEERS[(2 * number + (kind == "real in mixed")) % 9]
            times = _kill_both(mixed, victim, real, peer)
            seen[kind].append(times[0])
            seen["real in real"].append(times[1])
            progress.say(
                f"round {number + 1}: {victim} failed everywhere after {times[0]:.2f} s, {peer} {times[1]:.2f} s"
            )
            for group, name in ((mixed, victim), (real, peer)):
                group.start(name)
            for group in (mixed, real):
                group.wait_alive()
            time.sleep(options.seconds_between)
    base = quantile(seen["real in real"], 0.5)
    for kind, values in seen.items():
        report.tell(f"killed agent failed at all others after, s: {kind} (median)", quantile(values, 0.5))
        report.tell(f"killed agent failed at all others after, s: {kind} (longest)", max(values))
    for kind in ("serfmp in mixed", "real in mixed"):
        ratio = quantile(seen[kind], 0.5) / base
        report.require(f"ratio of medians: {kind} to real in real", ratio, f"<= {RATIO_BAR:g}", ratio <= RATIO_BAR)


def _kill_both(mixed: Group, victim: str, real: Group, peer: str) -> tuple[float, float]:
    """Kill one agent in each cluster; seconds until all others of each have logged it."""
    for group in (mixed, real):
        group.mark()
    mixed.agents[victim].kill()
    begin = [time.monotonic(), 0.0]
    real.agents[peer].kill()
    begin[1] = time.monotonic()
    took: list[float] = [0.0, 0.0]
    while not all(took) and time.monotonic() < begin[1] + SEEN_S:
        for place, (group, name) in enumerate(((mixed, victim), (real, peer))):
            if not took[place] and not group.unaware(name):
                took[place] = time.monotonic() - begin[place]
        time.sleep(POLL_S)
    return took[0] or SEEN_S, took[1] or SEEN_S


def _go_inside() -> int:
    """Run this program again in a network namespace of its own."""
    missing = [name for name in ("unshare", "iptables", "ip") if shutil.which(name) is None]
    if os.geteuid() != 0 or missing:
        need = f"the programs {', '.join(missing)}" if missing else "root"
        print(f"a network namespace with loss needs {need}", file=sys.stderr)
        return 2
    command = ["unshare", "-n", sys.executable, *sys.orig_argv[1:]]
    return subprocess.run(command, env={**os.environ, INSIDE: "1"}, check=False).returncode


def _prepare(loss: float) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    rule = ["-p", "udp", "-m", "statistic", "--mode", "random", "--probability", str(loss), "-j", "DROP"]
    subprocess.run(["iptables", "-A", "INPUT", *rule], check=True)


def main() -> int:
    """The command line."""
    arguments = parser("Nine agents of both kinds under light loss, beside nine real ones.")
    arguments.add_argument("--quiet", type=float, default=None, help="seconds without harm (600; short: 15)")
    arguments.add_argument("--rounds", type=int, default=None, help="rounds of two kills in each cluster (6; short: 2)")
    arguments.add_argument("--loss", type=float, default=0.02, help="share of UDP packets that are dropped")
    given = arguments.parse_args()
    if INSIDE not in os.environ:
        return _go_inside()
    options = SHORT if given.short else Options()
    options = replace(
        options,
        quiet=options.quiet if given.quiet is None else given.quiet,
        rounds=options.rounds if given.rounds is None else given.rounds,
        loss=given.loss,
    )
    end_on_terminate()
    _prepare(options.loss)
    with workplace(given.keep) as place:
        report = prove(place.launch, options, Progress())
    return conclude(report, given.json)


if __name__ == "__main__":
    sys.exit(main())
