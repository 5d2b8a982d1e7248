"""How many handlers that run `true` an agent gets through in a second, ours beside the real one, and whether it grows.

Each agent is alone, with one handler entry and then with eight, which ours runs beside each other; then with eight that
run a script file with arguments, as most handlers of an operator do. Both log at DEBUG,
where each ended script gives one line: the lines are counted, from the first event sent to the last line. Rounds of the
two alternate. Besides the rates stand the processor times per script, of the agent and of the scripts themselves: two
processors that spend `s` milliseconds on a script can start at most 2000 / s of them, whoever starts them.

Then 20,000 scripts run at ours, with a look at every process of the agent after each 2,000: descriptors, processes and
memory may not have a slope.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from scripts.proofs.cluster import Workplace
from scripts.proofs.command import carry_out, parser
from scripts.proofs.report import Progress, Report
from tests.harness import Agent, Launcher, eventually

MARK = b"script output:"
RATIO = 2.0
MANY = 8
FILE = "script file"
DEADLINE_S = 300.0
SETTLE_S = 2.0
"""After the last script, before a look: results are recorded and groups collected."""

MEMORY_SLOPE = 64.0
"""Bytes per script that are no leak: pages come and go whole, and a lone detector keeps up to 4096 broadcasts that
nobody takes from it."""

REMEMBERED = 5000
"""Events that no handler wants, before all looks: the agent remembers the last 4096, which is no growth."""

SKIPPED = 3
"""First looks that are no part of a slope: buffers and allocators find their size."""


@dataclass(frozen=True, slots=True)
class Options:
    """Rounds, scripts of a round, and scripts and looks of the run for growth."""

    rounds: int = 3
    scripts: int = 8000
    growth: int = 20_000
    looks: int = 10


SHORT = Options(rounds=1, scripts=2400, growth=6000, looks=6)


@dataclass(frozen=True, slots=True)
class Case:
    """Handler entries, all with this command."""

    label: str
    entries: int
    command: str
    ratio: float = 0.0
    """Times the real one's rate at least; 0: no bar."""


@dataclass(frozen=True, slots=True)
class Round:
    """Scripts per second, and milliseconds of processor time per script."""

    rate: float
    own_ms: float
    script_ms: float


@dataclass(frozen=True, slots=True)
class Look:
    """All processes of the agent at one time; memory in bytes, without journals: these are mapped and compacted."""

    scripts: int
    descriptors: Counter[str]
    memory: Counter[str]
    processes: int


def prove(place: Workplace, options: Options, progress: Progress) -> Report:
    """Run it."""
    report = Report(f"handlers that run true, lone agents, {psutil.cpu_count()} processors")
    cases = (
        Case("1 entry", 1, "true"),
        Case(f"{MANY} entries", MANY, "true", RATIO),
        Case(f"{MANY} entries, {FILE}", MANY, f"{_script_file(place.directory)} --pool web"),
    )
    for case in cases:
        rounds: dict[str, list[Round]] = {"serfmp": [], "serf": []}
        for number in range(options.rounds):
            for kind, many in rounds.items():
                many.append(_round(place.launch, kind, case, options.scripts // case.entries))
                progress.say(f"{case.label}, round {number + 1}: {kind} {many[-1].rate:.0f} a second")
        for kind, many in rounds.items():
            label = f"{case.label}: {kind}"
            report.tell(f"{label}: scripts per second (median)", statistics.median(one.rate for one in many))
            report.tell(f"{label}: ms of the agent per script", statistics.median(one.own_ms for one in many))
            report.tell(f"{label}: ms of the script itself", statistics.median(one.script_ms for one in many))
        ours, real = (statistics.median(one.rate for one in many) for many in rounds.values())
        if case.ratio:
            report.require(f"{case.label}: ratio", ours / real, f">= {case.ratio:g}", ours >= case.ratio * real)
        else:
            report.tell(f"{case.label}: ratio", ours / real)
    _grow(place.launch, report, options, progress)
    return report


def _script_file(directory: Path) -> Path:
    """A script that does nothing."""
    path = directory / "handler.sh"
    path.write_text("#!/bin/sh\ntrue\n", encoding="ascii")
    path.chmod(0o755)
    return path


def _round(launch: Launcher, kind: str, case: Case, events: int) -> Round:
    begin = launch.serfmp if kind == "serfmp" else launch.serf
    agent = begin(kind, handlers=[f"user:t={case.command}"] * case.entries, profile="lan", log_level="DEBUG")
    try:
        feeder = Feeder(agent)
        before = _processor_times(agent)
        began = time.monotonic()
        feeder.run(case.entries, events)
        took = time.monotonic() - began
        after = _processor_times(agent)
    finally:
        agent.close()
    scripts = case.entries * events
    own, children = (1000 * (after[n] - before[n]) / scripts for n in range(2))
    return Round(scripts / took, own, children)


class Feeder:
    """Sends an agent events, and counts the ends of scripts in its log, of which each look reads only what is new."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._client = agent.client()
        self._position = 0
        self._ended = 0

    def run(self, entries: int, events: int) -> None:
        """Send events, and wait until every handler has run for each."""
        ended = self._look() + entries * events
        for _ in range(events):
            self._client.event("t")
        eventually(lambda: self._look() >= ended, DEADLINE_S, "all scripts ended", interval_s=0.02)

    def _look(self) -> int:
        new = self._agent.log_after(self._position)
        self._position += len(new)
        self._ended += new.count(MARK)
        return self._ended


def _processor_times(agent: Agent) -> tuple[float, float]:
    """Seconds so far: of the agent's processes, and of those that have ended below them."""
    own = children = 0.0
    for process in _processes(agent):
        times = process.cpu_times()
        own += times.user + times.system
        children += times.children_user + times.children_system
    return own, children


def _processes(agent: Agent) -> list[psutil.Process]:
    root = psutil.Process(agent.pid)
    return [root, *root.children(recursive=True)]


def _grow(launch: Launcher, report: Report, options: Options, progress: Progress) -> None:
    agent = launch.serfmp("growing", handlers=["user:t=true"] * MANY, profile="lan", log_level="DEBUG")
    feeder = Feeder(agent)
    client = agent.client()
    for _ in range(REMEMBERED):
        client.event("nobody")
    step = options.growth // options.looks
    looks = []
    for number in range(1, options.looks + 1):
        feeder.run(MANY, step // MANY)
        time.sleep(SETTLE_S)
        looks.append(_look(agent, number * step))
        memory = looks[-1].memory.total() / 2**20
        progress.say(
            f"{looks[-1].scripts} scripts: {looks[-1].processes} processes, "
            f"{looks[-1].descriptors.total()} descriptors, {memory:.1f} MiB"
        )
    counted = looks[min(SKIPPED, options.looks - 2) :]
    report.tell("growth: scripts", looks[-1].scripts)
    report.tell("growth: heaps and stacks, each process with all that it shares, MiB", looks[-1].memory.total() / 2**20)
    for name in sorted(looks[-1].descriptors):
        slope = _slope(counted, [look.descriptors[name] for look in counted])
        report.require(f"growth: {name}: descriptors per 1000 scripts", slope * 1000, "<= 0.1", slope * 1000 <= 0.1)
        slope = _slope(counted, [look.memory[name] for look in counted])
        report.require(f"growth: {name}: bytes per script", slope, f"<= {MEMORY_SLOPE:g}", slope <= MEMORY_SLOPE)
    more = looks[-1].processes - looks[0].processes
    report.require("growth: processes more than at the first look", more, "<= 0", more <= 0)


def _look(agent: Agent, scripts: int) -> Look:
    descriptors: Counter[str] = Counter()
    memory: Counter[str] = Counter()
    found = _processes(agent)
    for process in found:
        # Titles are `serfmp: worker-0 (node)`.
        name = (process.cmdline() or [process.name()])[0].split(" ")[1:2]
        label = name[0] if name else "supervisor"
        descriptors[label] += process.num_fds()
        memory[label] += _anonymous(process.pid)
    return Look(scripts, descriptors, memory, len(found))


def _anonymous(pid: int) -> int:
    """Bytes of heap and stack, with what is still shared since the fork."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


def _slope(looks: list[Look], values: list[int]) -> float:
    """Per script, by the least squares."""
    return statistics.linear_regression([look.scripts for look in looks], values).slope


def main() -> int:
    """The command line."""
    arguments = parser("How many handlers that run true an agent gets through, and whether it grows.")
    arguments.add_argument("--scripts", type=int, default=None, help="of a round (8000; short: 2400)")
    arguments.add_argument(
        "--growth", type=int, default=None, help="scripts of the run for growth (20000; short: 6000)"
    )
    given = arguments.parse_args()
    options = SHORT if given.short else Options()
    options = replace(options, scripts=given.scripts or options.scripts, growth=given.growth or options.growth)
    return carry_out(given, lambda place: prove(place, options, Progress()))


if __name__ == "__main__":
    sys.exit(main())
