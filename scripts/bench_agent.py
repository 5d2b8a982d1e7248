"""What an agent costs, side by side with the real one in one run: start, command line, memory, idle, acks, RPC.

Each figure is taken several times, in rounds that alternate between the agents; the table has the median and, in
brackets, the smallest and the largest. How noisy the machine is says the spread of a bare interpreter's start, which
nothing of ours changes. The load's clients share the processors with the agent that they measure. In the last part an
agent of each kind is in one cluster with a crowd of members, and gets minutes of traffic that is the same for both.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import psutil

from scripts.proofs import crowd, flood, rpc_load
from scripts.proofs.command import carry_out, parser
from scripts.proofs.noise import compiled, load
from scripts.proofs.report import Progress, Report, spread
from scripts.proofs.resources import of_process
from scripts.proofs.traffic import Traffic
from tests.harness import Agent, Launcher, RpcClient

CROWDS = (3, 1000, 10000)
CLIENTS = (1, 50)

READY_BAR_S = 0.4
COMMAND_BAR_S = 0.060
"""Beyond a bare interpreter."""
PSS_BAR_MB = 60.0
IDLE_BAR_S = 0.5
"""Processor time a minute."""
RPC_BAR = 3.0
"""Times the real agent's rate, for long lists of members."""

ENDLESS = 1 << 60

PARTS = ("starts", "commands", "idle", "acks", "rpc", "memory")

LOOKS = 5
"""At the memory, while there is traffic: once a minute in the whole form."""

SETTLE_S = 5.0
"""After the traffic, and after a crowd was taken in."""


@dataclass(frozen=True, slots=True)
class Options:
    """How often and how long."""

    starts: int = 10
    commands: int = 20
    idle_s: float = 60.0
    rounds: int = 3
    seconds: float = 2.0
    crowds: tuple[int, ...] = CROWDS
    traffic_s: float = 300.0
    parts: tuple[str, ...] = PARTS


SHORT = Options(starts=3, commands=5, idle_s=10.0, rounds=2, seconds=0.5, crowds=CROWDS[:2], traffic_s=10.0)

Values = dict[str, list[float]]


def alternate(takers: Mapping[str, Callable[[], float]], rounds: int) -> Values:
    """Figures of each taker, another one first in each round."""
    found: Values = {name: [] for name in takers}
    names = list(takers)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            found[name].append(takers[name]())
    return found


def starting(launch: Launcher, kind: str, env: dict[str, str], used: list[float]) -> float:
    """Seconds from the start of an agent's process to the answer to a handshake; what it has computed joins `used`."""
    options = {"wait": False, "profile": "lan", "log_level": "INFO", "env": env}
    began = time.perf_counter()
    agent: Agent = getattr(launch, kind)("start", **options)
    while True:
        try:
            with RpcClient(agent.options.rpc, deadline_s=5):
                took = time.perf_counter() - began
                used.append(computed(agent))
        except OSError:
            time.sleep(0.001)
        else:
            agent.close()
            return took


def running(words: Sequence[str], env: dict[str, str], computed: list[float]) -> float:
    """Seconds that a command takes; what it computes is added to `computed`."""
    began = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, env={**os.environ, **env})
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        message = f"{words} ended with {process.returncode}"
        raise RuntimeError(message)
    computed.append(usage.ru_utime + usage.ru_stime)
    return took


def computed(agent: Agent) -> float:
    """Seconds that all processes of an agent have computed."""
    root = psutil.Process(agent.pid)
    return sum(sum(process.cpu_times()[:2]) for process in [root, *root.children(recursive=True)])


def memory(agent: Agent) -> float:
    """PSS of all processes of an agent, in megabytes."""
    root = psutil.Process(agent.pid)
    return sum(of_process(process.pid).pss for process in [root, *root.children(recursive=True)])


def measure(launch: Launcher, options: Options, progress: Progress, env: dict[str, str]) -> Report:
    """Run it."""
    report = Report(f"an agent beside the real one; {psutil.cpu_count()} processors; median (smallest-largest)")
    report.tell("load of the machine before", load())
    starting(launch, "serfmp", env, [])
    parts: dict[str, Callable[[], None]] = {
        "starts": lambda: _starts(launch, options, report, progress, env),
        "commands": lambda: _commands(launch, options, report, progress, env),
        "idle": lambda: _idle(launch, options, report, progress, env),
        "acks": lambda: _acks(launch, options, report, progress),
        "rpc": lambda: _rpc(launch, options, report, progress),
        "memory": lambda: _memory(launch, options, report, progress),
    }
    for name in options.parts:
        parts[name]()
    report.tell("load of the machine after", load())
    return report


def _starts(launch: Launcher, options: Options, report: Report, progress: Progress, env: dict[str, str]) -> None:
    kinds = ("serfmp", "serf")
    used: Values = {kind: [] for kind in kinds}
    takers = {kind: partial(starting, launch, kind, env, used[kind]) for kind in kinds}
    found = alternate(takers, options.starts)
    progress.say("starts were timed")
    ready = statistics.median(found["serfmp"])
    report.require("ready, s: serfmp", spread(found["serfmp"]), f"<= {READY_BAR_S:g}", ready <= READY_BAR_S)
    report.tell("ready, s: serf", spread(found["serf"]))
    for kind, values in used.items():
        report.tell(f"  computed until ready, s: {kind}", spread(values))


def _commands(launch: Launcher, options: Options, report: Report, progress: Progress, env: dict[str, str]) -> None:
    agent = launch.serfmp("asked", profile="lan", log_level="INFO")
    address = f"-rpc-addr={agent.options.rpc}"
    takers = {
        "bare": [sys.executable, "-c", ""],
        "serfmp": [sys.executable, "-m", "serfmp", "members", address],
        "serf": ["serf", "members", address],
    }
    used: Values = {name: [] for name in takers}
    running(takers["serfmp"], env, [])
    found = alternate(
        {name: partial(running, words, env, used[name]) for name, words in takers.items()},
        options.commands,
    )
    agent.close()
    progress.say("commands were timed")
    report.tell("noise: a bare interpreter, ms", spread(found["bare"], 1000))
    more = statistics.median(found["serfmp"]) - statistics.median(found["bare"])
    report.tell("members command, ms: serfmp", spread(found["serfmp"], 1000))
    report.require(
        "  beyond a bare interpreter, ms", more * 1000, f"<= {COMMAND_BAR_S * 1000:g}", more <= COMMAND_BAR_S
    )
    for name, values in used.items():
        report.tell(f"  of which computed, ms: {name}", spread(values, 1000))
    report.tell("members command, ms: serf", spread(found["serf"], 1000))


def _idle(launch: Launcher, options: Options, report: Report, progress: Progress, env: dict[str, str]) -> None:
    ours = launch.serfmp("s1", profile="lan", log_level="INFO", env=env)
    real = launch.serf("r1", profile="lan", log_level="INFO", join=[ours])
    third = launch.serf("r2", profile="lan", log_level="INFO", join=[ours])
    agents = {"serfmp": ours, "serf": real}
    everybody = dict.fromkeys(("s1", "r1", "r2"), "alive")
    for agent in (ours, real, third):
        agent.wait_statuses(everybody, 60)
    before = {kind: computed(agent) for kind, agent in agents.items()}
    pss: Values = {kind: [] for kind in agents}
    looks = 5
    for _ in range(looks):
        time.sleep(options.idle_s / looks)
        for kind, agent in agents.items():
            pss[kind].append(memory(agent))
    used = {kind: (computed(agent) - before[kind]) * 60 / options.idle_s for kind, agent in agents.items()}
    for agent in (ours, real, third):
        agent.close()
    progress.say("three idle members were watched")
    middle = statistics.median(pss["serfmp"])
    report.require(
        "memory of three idle members (PSS), MB: serfmp",
        spread(pss["serfmp"]),
        f"<= {PSS_BAR_MB:g}",
        middle <= PSS_BAR_MB,
    )
    report.tell("memory of three idle members (PSS), MB: serf", spread(pss["serf"]))
    report.require(
        "idle, s of processor a minute: serfmp", used["serfmp"], f"<= {IDLE_BAR_S:g}", used["serfmp"] <= IDLE_BAR_S
    )
    report.tell("idle, s of processor a minute: serf", used["serf"])


def _acks(launch: Launcher, options: Options, report: Report, progress: Progress) -> None:
    agents = {
        kind: getattr(launch, kind)(f"acks-{kind}", profile="lan", log_level="INFO") for kind in ("serfmp", "serf")
    }

    def rate(agent: Agent, outstanding: int) -> float:
        return flood.run(
            agent.bind, agent.node, outstanding=outstanding, seconds=options.seconds, acks=ENDLESS, pid=agent.pid
        ).rate

    def seconds(agent: Agent) -> float:
        return 1 / rate(agent, 1)

    many = alternate({kind: partial(rate, agent, 64) for kind, agent in agents.items()}, options.rounds)
    one = alternate({kind: partial(seconds, agent) for kind, agent in agents.items()}, options.rounds)
    for agent in agents.values():
        agent.close()
    progress.say("acks were counted")
    for kind in agents:
        report.tell(f"acks a second, 64 pings under way: {kind}", spread(many[kind]))
    for kind in agents:
        report.tell(f"a ping and its ack, one at a time, µs: {kind}", spread(one[kind], 1e6))


def _rpc(launch: Launcher, options: Options, report: Report, progress: Progress) -> None:
    agents = {
        kind: getattr(launch, kind)(f"rpc-{kind}", profile="lan", log_level="INFO") for kind in ("serfmp", "serf")
    }

    def rates(command: str, clients: int) -> Values:
        def rate(agent: Agent) -> float:
            rpc = agent.options.rpc
            return rpc_load.run(rpc.host, rpc.port, command, clients=clients, seconds=options.seconds).rate

        return alternate({kind: partial(rate, agent) for kind, agent in agents.items()}, options.rounds)

    for count in options.crowds:
        for agent in agents.values():
            crowd.fill(agent, count)
        progress.say(f"{count} members are known")
        for clients in CLIENTS:
            _told(report, f"RPC members of {count}, {clients} clients", rates("members", clients), bar=count >= 1000)
            progress.say(f"members of {count} were asked by {clients}")
    for command in ("stats", "event"):
        for clients in CLIENTS:
            _told(report, f"RPC {command}, {clients} clients", rates(command, clients), bar=False)
    progress.say("stats and events were asked for")
    for kind, agent in agents.items():
        report.tell(f"memory after all these questions (PSS), MB: {kind}", memory(agent))
        agent.close()


def _memory(launch: Launcher, options: Options, report: Report, progress: Progress) -> None:
    """Both in one cluster with a crowd, so that each gets what the other sends: memory with and after traffic."""
    count = options.crowds[-1]
    agents: dict[str, Agent] = {}
    for kind in ("serfmp", "serf"):
        agents[kind] = getattr(launch, kind)(f"memory-{kind}", profile="lan", log_level="INFO")
        crowd.fill(agents[kind], count)
    time.sleep(SETTLE_S)
    found: Values = {kind: [memory(agent)] for kind, agent in agents.items()}
    progress.say(f"{count} members are known to both")
    agents["serf"].join(agents["serfmp"])
    with Traffic(list(agents.values()), count) as traffic:
        traffic.start()
        for look in range(LOOKS):
            time.sleep(options.traffic_s / LOOKS)
            for kind, agent in agents.items():
                found[kind].append(memory(agent))
            told = ", ".join(f"{kind} {values[-1]:.1f} MB" for kind, values in found.items())
            progress.say(f"{(look + 1) * options.traffic_s / LOOKS:g} s of traffic: {told}")
    time.sleep(SETTLE_S)
    for kind, values in found.items():
        what = f"memory with {count} members (PSS), MB: {kind}"
        report.tell(what, values[0])
        for look, value in enumerate(values[1:], 1):
            report.tell(f"  with traffic, after {look * options.traffic_s / LOOKS:g} s", value)
        report.tell(f"  {SETTLE_S:g} s after the traffic", memory(agents[kind]))
        for role, pids in agents[kind].pids_by_role().items():
            if kind == "serfmp":
                report.tell(f"    of which {role}", sum(of_process(pid).pss for pid in pids))
    for what, times in sorted(traffic.done.items()):
        report.tell(f"  traffic: {what}", times)
    others = [text for kind, text in traffic.errors if kind == "serf"]
    ours = [text for kind, text in traffic.errors if kind != "serf"]
    report.require_none("  traffic: errors of clients of serfmp", len(ours))
    for text in ours[:3]:
        report.tell("    for example", text[:80])
    report.tell("  traffic: errors of clients of serf", len(others))
    for text in others[:1]:
        report.tell("    for example", text[:80])
    for agent in agents.values():
        agent.close()


def _told(report: Report, what: str, found: Values, *, bar: bool) -> None:
    for kind, values in found.items():
        report.tell(f"{what}, a second: {kind}", spread(values))
    factor = statistics.median(found["serfmp"]) / statistics.median(found["serf"])
    if bar:
        report.require("  times the real one", factor, f">= {RPC_BAR:g}", factor >= RPC_BAR)
    else:
        report.tell("  times the real one", factor)


def main() -> int:
    """The command line."""
    arguments = parser("What an agent costs, beside the real one.")
    arguments.add_argument("--rounds", type=int, default=None, help="of acks and RPC (3; short: 2)")
    arguments.add_argument("--seconds", type=float, default=None, help="of such a round (2; short: 0.5)")
    arguments.add_argument("--minutes", type=float, default=None, help="of traffic (5; short: 10 s)")
    arguments.add_argument("--only", choices=PARTS, nargs="+", default=None, help="these parts alone")
    given = arguments.parse_args()
    options = SHORT if given.short else Options()
    options = replace(options, rounds=given.rounds or options.rounds, seconds=given.seconds or options.seconds)
    traffic_s = options.traffic_s if given.minutes is None else 60 * given.minutes
    options = replace(options, parts=tuple(given.only or options.parts), traffic_s=traffic_s)
    return carry_out(given, lambda place: measure(place.launch, options, Progress(), compiled(place.directory)))


if __name__ == "__main__":
    sys.exit(main())
