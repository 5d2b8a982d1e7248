"""Clusters of ten and of twenty-five agents on one machine, of ours and of the real serf, side by side in one run.

Rounds alternate between the two. Each round starts a cluster (profile lan, the usual times, loopback addresses), leaves
it alone for a while, sends events, kills agents and starts them again, lets some leave, and ends it. Rules:

* All agents but the first are started at once and join the first. The cluster has joined when each agent shows all
  alive. Processor time is that of all processes of all agents until then.
* Who shows what is asked for over RPC, every 0.05 s, and every 2 % of the time that has passed after some seconds; an
  event has come when it is read from an agent's stream. Streams tell of failures late on purpose (Serf coalesces them),
  so they only serve to find members that were failed falsely.
* A kill ends all processes of an agent with SIGKILL. It is started again under its name and address before the next.
* Everything has a deadline. What did not show by then is counted, is missing in medians, and misses a bar.
* Clusters and what measures them share the processors: 25 of ours are about 175 processes, and on a small machine the
  join says how fast the machine starts them. The noise is told before and after: load, starts of a bare interpreter.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import psutil

from scripts.proofs.command import carry_out, parser
from scripts.proofs.noise import bare_starts, compiled, load
from scripts.proofs.report import Progress, Report, spread
from scripts.proofs.resources import QUEUES, computed, of_process, trees
from scripts.proofs.sight import Line, Members, Streams, shown
from tests.harness import Agent, Endpoint, Launcher, NeverHeld, Sniffer, can_sniff, eventually

KINDS = ("serfmp", "serf")

JOIN_S = 120.0
"""For all to show all alive."""

SHOWN_S = 90.0
"""For all to show one failed or left: the longest suspicion among 25 is 34 s."""

EVENT_S = 15.0
"""For an event to reach all streams."""

PACE_S = 0.5
"""Between two events, so that none is sent along with another."""

SETTLED_S = 60.0
QUIET_S = 5.0
"""Before an idle cluster is measured: figures of queues may be a second old, and joins have echoes."""

END_S = 30.0
"""For an agent that has left to end."""

STARTS = 10
"""Of a bare interpreter, before and after each cluster."""


@dataclass(frozen=True, slots=True)
class Options:
    """How large, how often, how long."""

    sizes: tuple[int, ...] = (10, 25)
    rounds: int = 2
    events: int = 10
    kills: int = 3
    leaves: int = 2
    idle_s: float = 30.0


SHORT = Options(sizes=(3,), rounds=1, events=3, kills=1, leaves=1, idle_s=5.0)


@dataclass(slots=True)
class Figures:
    """Of all clusters of one kind and size. Times in seconds, memory in MiB.

    `missing`: views that never showed what they should; `broken`: rounds that could not go on.
    """

    bare: list[float] = field(default_factory=list)
    join: list[float] = field(default_factory=list)
    join_computed: list[float] = field(default_factory=list)
    idle_computed: list[float] = field(default_factory=list)
    packets: list[float] = field(default_factory=list)
    pss: list[float] = field(default_factory=list)
    event_middle: list[float] = field(default_factory=list)
    event_last: list[float] = field(default_factory=list)
    kill_first: list[float] = field(default_factory=list)
    kill_last: list[float] = field(default_factory=list)
    leave_first: list[float] = field(default_factory=list)
    leave_last: list[float] = field(default_factory=list)
    missing: int = 0
    falsely_failed: int = 0
    broken: int = 0


class _Round:
    """One cluster of one kind."""

    def __init__(
        self, launch: Launcher, kind: str, size: int, options: Options, env: Mapping[str, str], figures: Figures
    ) -> None:
        self._begin = getattr(launch, kind)
        self._kind = kind
        self._size = size
        self._options = options
        self._env = env
        self._figures = figures
        self._agents: dict[str, Agent] = {}
        self._hurt: set[str] = set()

    def run(self, progress: Progress) -> None:
        """All of it; the agents are ended, whatever happens. One that does not play its part ends the round alone."""
        figures = self._figures
        figures.bare += bare_starts(STARTS)
        try:
            self._join()
            progress.say(f"{self._size} of {self._kind}: joined after {figures.join[-1]:.2f} s")
            with Streams() as streams:
                for name, agent in self._agents.items():
                    streams.add(name, agent.options.rpc)
                self._idle()
                progress.say(f"{self._size} of {self._kind}: idle for {self._options.idle_s:g} s")
                self._events(streams)
                progress.say(f"{self._size} of {self._kind}: events {spread(figures.event_last, 1000)} ms to the last")
                self._kills(streams)
                progress.say(f"{self._size} of {self._kind}: kills {spread(figures.kill_last)} s to the last")
                self._leaves()
                progress.say(f"{self._size} of {self._kind}: leaves {spread(figures.leave_last)} s to the last")
                figures.falsely_failed += sum(node not in self._hurt for _, node in streams.failed)
        except (AssertionError, OSError, RuntimeError) as error:
            figures.broken += 1
            progress.say(f"{self._size} of {self._kind}: the round ends here: {error}")
        finally:
            with contextlib.ExitStack() as stack:
                for agent in self._agents.values():
                    stack.callback(agent.close)
        figures.bare += bare_starts(STARTS)

    def _start(self, name: str, join: Sequence[Agent], **place: Endpoint) -> Agent:
        agent: Agent = self._begin(name, join=join, wait=False, profile="lan", log_level="INFO", env=self._env, **place)
        self._agents[name] = agent
        return agent

    def _rpc(self, without: str = "") -> dict[str, Endpoint]:
        return {name: agent.options.rpc for name, agent in self._agents.items() if name != without}

    def _processes(self) -> dict[int, list[int]]:
        return trees(agent.pid for agent in self._agents.values())

    def _computed(self) -> float:
        return computed(pid for pids in self._processes().values() for pid in pids)

    def _all_alive(self, members: Members) -> bool:
        alive = {member["Name"] for member in members if member["Status"] == "alive"}
        return len(members) == len(alive) == len(self._agents)

    def _join(self) -> None:
        began = time.monotonic()
        first = self._start(f"{self._kind}-0", [])
        first.wait_ready()
        for number in range(1, self._size):
            self._start(f"{self._kind}-{number}", [first])
        found = shown(self._rpc(), self._all_alive, JOIN_S)
        if len(found) < self._size:
            message = f"{self._size - len(found)} of {self._size} agents do not show all alive after {JOIN_S:g} s"
            raise NeverHeld(message)
        self._figures.join.append(max(found.values()) - began)
        self._figures.join_computed.append(self._computed())

    def _idle(self) -> None:
        for agent in self._agents.values():
            eventually(partial(_quiet, agent), SETTLED_S, f"{agent!r} has nothing to say")
        time.sleep(QUIET_S)
        binds = [agent.bind for agent in self._agents.values()]
        watching = (
            Sniffer({bind.port for bind in binds}, hosts=[bind.host for bind in binds])
            if can_sniff()
            else contextlib.nullcontext()
        )
        with watching as sniffer:
            before, began = self._computed(), time.monotonic()
            time.sleep(self._options.idle_s)
            used, seconds = self._computed() - before, time.monotonic() - began
            packets = math.nan if sniffer is None else (len(sniffer.packets) + sniffer.dropped) / seconds
        self._figures.idle_computed.append(used * 60 / seconds)
        self._figures.packets.append(packets)
        for pids in self._processes().values():
            self._figures.pss.append(sum(of_process(pid).pss for pid in pids))

    def _events(self, streams: Streams) -> None:
        names = list(self._agents)
        for number in range(self._options.events):
            sender = self._agents[names[number % len(names)]]
            payload = f"{number}".encode()
            with contextlib.closing(Line(sender.node, sender.options.rpc)) as line:
                began = time.monotonic()
                line.send("event", {"Name": "bench", "Payload": payload, "Coalesce": False})
                with contextlib.suppress(NeverHeld):
                    eventually(partial(self._reached_all, streams, payload), EVENT_S, "all have it")
            delays = sorted(at - began for at in streams.arrivals(payload).values())
            self._figures.missing += len(names) - len(delays)
            if delays:
                self._figures.event_middle.append(statistics.median(delays))
                self._figures.event_last.append(delays[-1])
            time.sleep(PACE_S)

    def _reached_all(self, streams: Streams, payload: bytes) -> bool:
        return len(streams.arrivals(payload)) == len(self._agents)

    def _kills(self, streams: Streams) -> None:
        for number in range(self._options.kills):
            name = f"{self._kind}-{1 + number % (self._size - 1)}"
            victim = self._agents[name]
            self._hurt.add(name)
            began = time.monotonic()
            victim.kill()
            self._see(name, "failed", began, self._figures.kill_first, self._figures.kill_last)
            victim.close()
            again = self._start(
                name, [self._agents[f"{self._kind}-0"]], bind=victim.bind, rpc=victim.options.rpc
            ).wait_ready()
            self._figures.missing += self._size - len(shown(self._rpc(), self._all_alive, JOIN_S))
            streams.add(name, again.options.rpc)

    def _leaves(self) -> None:
        for number in range(self._options.leaves):
            name = f"{self._kind}-{self._size - 1 - number}"
            leaving = self._agents[name]
            with contextlib.closing(Line(name, leaving.options.rpc)) as line:
                began = time.monotonic()
                line.send("leave")
                self._see(name, "left", began, self._figures.leave_first, self._figures.leave_last)
                leaving.wait_exit(END_S)
            leaving.close()
            del self._agents[name]

    def _see(self, name: str, status: str, began: float, first: list[float], last: list[float]) -> None:
        """How long after `began` the first and the last of the others show a member's status."""
        others = self._rpc(without=name)
        found = shown(others, lambda members: any(m["Status"] == status for m in members), SHOWN_S, name)
        self._figures.missing += len(others) - len(found)
        if found:
            first.append(min(found.values()) - began)
            last.append(max(found.values()) - began)


def bench(launch: Launcher, options: Options, progress: Progress, env: Mapping[str, str]) -> Report:
    """Run all of it. `env` is added to the environment of the agents."""
    report = Report(
        f"clusters beside those of the real serf; {psutil.cpu_count()} processors; median (smallest-largest)"
    )
    report.tell("load of the machine before", load())
    # What is compiled now need not be when the clusters start.
    launch.serfmp("warm", env=env).close()
    for size in options.sizes:
        found = {kind: Figures() for kind in KINDS}
        for number in range(options.rounds):
            for kind in KINDS if number % 2 == 0 else KINDS[::-1]:
                _Round(launch, kind, size, options, env, found[kind]).run(progress)
        _tell(report, size, found)
    report.tell("load of the machine after", load())
    return report


def _tell(report: Report, size: int, found: Mapping[str, Figures]) -> None:
    def row(what: str, values: str, scale: float = 1.0) -> None:
        for kind, figures in found.items():
            report.tell(f"{size} agents: {what}: {kind}", spread(getattr(figures, values), scale))

    bare = [value for figures in found.values() for value in figures.bare]
    report.tell(f"{size} agents: noise: a bare interpreter, ms", spread(bare, 1000))
    row("join, s until each shows all alive", "join")
    row("join, s of processor of all until then", "join_computed")
    row("kill -9, s until the first shows it failed", "kill_first")
    row("kill -9, s until the last does", "kill_last")
    row("event, ms until the median stream has it", "event_middle", 1000)
    row("event, ms until the last one has", "event_last", 1000)
    row("leave, s until the first shows it left", "leave_first")
    row("leave, s until the last does", "leave_last")
    row("idle, s of processor a minute, all", "idle_computed")
    if can_sniff():
        row("idle, packets a second, all", "packets")
    else:
        report.require(f"{size} agents: packets of idle clusters", math.nan, "measured (as root)", met=False)
    row("memory of an agent (PSS), MB", "pss")
    for kind, figures in found.items():
        for what, count in (
            ("views that did not show in time what they should", figures.missing),
            ("views of members falsely failed", figures.falsely_failed),
            ("rounds that could not go on", figures.broken),
        ):
            if kind == KINDS[0]:
                report.require_none(f"{size} agents: {what}: {kind}", count)
            else:
                report.tell(f"{size} agents: {what}: {kind}", count)


def _quiet(agent: Agent) -> bool:
    """Whether it has nothing to say."""
    figures = agent.client().stats()["serf"]
    return not any(int(figures[name]) for name in QUEUES)


def main() -> int:
    """The command line."""
    arguments = parser(
        "Clusters of ten and of twenty-five: joins, failures, events, leaves, cost; beside the real serf."
    )
    arguments.add_argument("--sizes", default=None, help="agents of a cluster, with commas between (10,25; short: 3)")
    arguments.add_argument("--rounds", type=int, default=None, help="clusters of each kind and size (2; short: 1)")
    given = arguments.parse_args()
    options = SHORT if given.short else Options()
    sizes = tuple(map(int, given.sizes.split(","))) if given.sizes else options.sizes
    if not all(3 <= size <= 60 for size in sizes):
        arguments.error(f"--sizes: a cluster has 3 to 60 agents, not {given.sizes}")
    options = replace(options, sizes=sizes, rounds=given.rounds or options.rounds)
    return carry_out(given, lambda place: bench(place.launch, options, Progress(), compiled(place.directory)))


if __name__ == "__main__":
    sys.exit(main())
