"""Acks per second of our agent and of the real one, side by side: with empty queues, and with 4096 queued broadcasts.

Each agent is alone, so that nobody else draws from its queue. A flooding process keeps 64 pings outstanding; rounds
alternate between the agents. For full queues each round first fills the queue with user events of a size of which two
fit into an ack; an event leaves the queue with its fourth transmission, so during the first 6000 acks the queue holds
all of them, and only these are measured. No bar on rates; but every answer is looked at, the flooding process must be
twice as fast as what it measures, and the queues must have been full.

The comparison is not of equals, and the table says how: the real agent (r1) compresses every ack and puts a coordinate
into it. r2 is the real agent without compression. Flooding process and agent share the processors, so beside the rates
stands the processor time of all of the agent's processes per ack.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from dataclasses import dataclass, replace

import psutil

from scripts.proofs import flood
from scripts.proofs.command import carry_out, parser
from scripts.proofs.report import Progress, Report
from tests.harness import Agent, Endpoint, Launcher, NeverHeld, eventually

OUTSTANDING = 64
"""Pings under way at any time."""

QUEUED = 4096
"""Broadcasts: the depth from which on Serf begins to drop (spec serf.md 13)."""

PAYLOAD = 440
"""Bytes of an event's payload: two such events and an ack fill a packet of 1400 bytes, three do not."""

ACKS_WITH_FULL_QUEUE = 6000
"""Two events an ack, three transmissions each: up to 3 × 4096 / 2 = 6144 acks no event has left the queue."""

LONGEST_S = 20.0
"""For those acks."""

STATS_AGE_S = 1.5
"""Figures of `stats` are at most so old."""

DRAIN_S = 60.0
"""For a queue to be empty again."""

CEILING_FACTOR = 2.0
"""How much faster than the fastest agent the flooding process must be."""

ENDLESS = 1 << 60


@dataclass(frozen=True, slots=True)
class Options:
    """Rounds per agent and state of its queue; seconds of a round with empty queues."""

    rounds: int = 5
    seconds: float = 3.0
    queued: int = QUEUED
    rehearse: bool = False


SHORT = Options(rounds=2, seconds=1.0)


@dataclass(frozen=True, slots=True)
class Round:
    """What came; depths of the agent's queue before and after."""

    flooded: flood.Flooded
    depth_before: int
    depth_after: int

    @property
    def rate(self) -> float:
        """Acks per second."""
        return self.flooded.rate

    @property
    def stalls(self) -> int:
        """How often nothing came for a while."""
        return self.flooded.stalls


def prove(launch: Launcher, options: Options, progress: Progress) -> Report:
    """Run it."""
    begin = launch.serf if options.rehearse else launch.serfmp
    common = {"profile": "lan", "log_level": "INFO"}
    agents = {
        "s1": begin("s1", **common),
        "r1": launch.serf("r1", **common),
        "r2": launch.serf("r2", **common, extra=["-disable-compression"]),
    }
    report = Report(
        f"acks per second with {OUTSTANDING} pings outstanding, lone agents, {psutil.cpu_count()} processors"
    )
    ceiling = _ceiling(launch.options("echo").bind, options.seconds)
    report.tell("echoes per second of the flooding process and an echo in Python (its ceiling)", ceiling)
    progress.say(f"the flooding process alone: {ceiling:.0f} a second")
    empty: dict[str, list[Round]] = {name: [] for name in agents}
    full: dict[str, list[Round]] = {name: [] for name in agents}
    for number in range(options.rounds):
        for name in _order(agents, number):
            empty[name].append(_measure(agents[name], options.seconds, ENDLESS))
            progress.say(f"empty queues, round {number + 1}: {name} {empty[name][-1]}")
    for number in range(options.rounds):
        for name in _order(agents, number):
            _fill(agents[name], options.queued, number)
            full[name].append(_measure(agents[name], LONGEST_S, ACKS_WITH_FULL_QUEUE))
            progress.say(f"full queues, round {number + 1}: {name} {full[name][-1]}")
            _drain(agents[name])
    for label, rounds in (("empty queues", empty), (f"{options.queued} queued", full)):
        _tell(report, label, rounds)
    fastest = max(r.rate for rounds in (empty, full) for many in rounds.values() for r in many)
    report.require(
        "ceiling over the fastest round",
        ceiling / fastest,
        f">= {CEILING_FACTOR:g}",
        ceiling >= CEILING_FACTOR * fastest,
    )
    stalls = sum(r.stalls for rounds in (empty, full) for many in rounds.values() for r in many)
    report.tell("times that no ack came for 0.2 s", stalls)
    whole = all(
        r.depth_before >= options.queued and r.depth_after >= options.queued for many in full.values() for r in many
    )
    report.require("queues were full before and after each round", "yes" if whole else "no", "yes", whole)
    return report


def _order(agents: dict[str, Agent], number: int) -> list[str]:
    """Another one goes first in each round: what follows may be slowed or warmed by it."""
    names = list(agents)
    turn = number % len(names)
    return names[turn:] + names[:turn]


def _ceiling(endpoint: Endpoint, seconds: float) -> float:
    echo = flood.start_echo(endpoint)
    try:
        if echo.stdout is None or not echo.stdout.readline():
            raise flood.FloodError("the echo did not start")
        return flood.run(endpoint, "echo", outstanding=OUTSTANDING, seconds=seconds, acks=ENDLESS).rate
    finally:
        echo.kill()
        echo.wait()
        if echo.stdout is not None:
            echo.stdout.close()


def _measure(agent: Agent, seconds: float, acks: int) -> Round:
    before = _depth(agent)
    result = flood.run(agent.bind, agent.node, outstanding=OUTSTANDING, seconds=seconds, acks=acks, pid=agent.pid)
    # Ours tells its figures once a second: what it says at once may be older than the flood.
    time.sleep(STATS_AGE_S)
    return Round(result, before, _depth(agent))


def _depth(agent: Agent) -> int:
    """Events in the queue for user events."""
    return int(agent.client().stats()["serf"]["event_queue"])


def _fill(agent: Agent, count: int, generation: int) -> None:
    client = agent.client()
    # Text that compresses as little as text does, the same for all agents.
    rng = random.Random(generation)
    for number in range(count):
        client.event("fill", f"{generation}-{number}-{rng.randbytes(PAYLOAD // 2).hex()}".encode()[:PAYLOAD])
    time.sleep(STATS_AGE_S)


def _drain(agent: Agent) -> None:
    """Take what is left of the queue with further pings."""

    def empty() -> bool:
        flood.run(agent.bind, agent.node, outstanding=OUTSTANDING, seconds=0.5, acks=ENDLESS, pid=agent.pid)
        return _depth(agent) == 0

    try:
        eventually(empty, DRAIN_S, f"the queue of {agent!r} is empty")
    except NeverHeld as error:
        raise flood.FloodError(str(error)) from error


def _tell(report: Report, label: str, rounds: dict[str, list[Round]]) -> None:
    for name, many in rounds.items():
        rates = sorted(r.rate for r in many)
        for what, value in (("min", rates[0]), ("median", statistics.median(rates)), ("max", rates[-1])):
            report.tell(f"{label}: {name}: acks per second ({what})", value)
        costs = statistics.median(r.flooded.cost_us for r in many)
        report.tell(f"{label}: {name}: processor time of the agent, µs per ack (median)", costs)
        acks = [r.flooded for r in many]
        for what, values in (
            ("bytes per ack with what it carries", [a.size for a in acks]),
            ("bytes of coordinate per ack", [a.payload for a in acks]),
            ("messages piggybacked per ack", [a.piggybacked for a in acks]),
            ("share of acks that are compressed", [a.compressed for a in acks]),
        ):
            report.tell(f"{label}: {name}: {what}", statistics.mean(values))
        others = sum(a.others for a in acks)
        report.require_none(f"{label}: {name}: datagrams that are no ack, or the second of a ping", others)
    median = {name: statistics.median(r.rate for r in many) for name, many in rounds.items()}
    report.tell(f"{label}: ratio of the medians, s1 to r1", median["s1"] / median["r1"])
    report.tell(f"{label}: ratio of the medians, s1 to r2 (no compression)", median["s1"] / median["r2"])


def main() -> int:
    """The command line."""
    arguments = parser("Acks per second of our agent and of the real one, side by side.")
    arguments.add_argument("--rounds", type=int, default=None, help="per agent (5; short: 2)")
    arguments.add_argument("--seconds", type=float, default=None, help="of a round with empty queues (3; short: 1)")
    given = arguments.parse_args()
    options = SHORT if given.short else Options()
    options = replace(
        options,
        rounds=given.rounds or options.rounds,
        seconds=given.seconds or options.seconds,
        rehearse=given.rehearse,
    )
    return carry_out(given, lambda place: prove(place.launch, options, Progress()))


if __name__ == "__main__":
    sys.exit(main())
