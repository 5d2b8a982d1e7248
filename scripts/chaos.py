"""The crash matrix: each process of an agent fails in each way, under load, with real agents watching.

Two of our agents and two real ones, profile lan. User events go through the cluster, s1's handler writes some of them
down, a client asks s1 ten times a second, streams are open everywhere. Then, one after the other, every process of s1
gets every fault of `proofs.faults`. For each it is measured how long it took until the supervisor noticed, and from
then until the process' service was there again: an ack (gossip, detector), an answer (rpc), a handled event
(dispatcher, workers), a line (logger), or that a newcomer sees the agent and is found by it (mdns). Bars over all of
it: no dead message about s1 on the wire, nobody shows s1 as failed or left, no event lost or repeated, no request of a
client without an answer or an error in time.
"""

from __future__ import annotations

import contextlib
import math
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from scripts.proofs.cluster import JOINED_S, Cluster
from scripts.proofs.command import carry_out, parser
from scripts.proofs.faults import STOPPED_S, Fault, environment, inject
from scripts.proofs.load import HANDLED, EventLoad, Sent, outcome
from scripts.proofs.multicast import Neighbour, can_discover, loopback_name, new_cluster
from scripts.proofs.report import Progress, Report, quantile
from scripts.proofs.watch import Pinger, Watch, told
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

VICTIM = "s1"
PEERS = ("s2", "r1", "r2")

ROLES = ("gossip", "detector", "rpc", "dispatcher", "worker-0", "worker-1", "logger")

DISCOVERS = "mdns"
"""One more process, of agents that discover: where the library for that is installed."""

SERVING_BAR_S = 1.0
"""From the supervisor's notice until the service is there again."""

DISCOVERY_BAR_S = 15.0
"""The same of mdns: by the protocol, who starts asks at once and then after 1, 2 and 4 s more."""

NOTICED_S = 20.0
"""For the supervisor to notice a fault."""

SERVED_S = 30.0
"""For a service to be there again, before the proof goes on without it."""

REQUEST_S = 10.0
"""For an answer or an error to a client's request."""

STUCK_S = 4.0
"""For so long a stuck process may hold what it never sends: a stream's gap begins before its connection ends."""

ASK_EVERY_S = 0.1
PROBE_EVERY_S = 0.1
LOOK_EVERY_S = 0.01

LOG_FILE = "agent.log"

PROBE = "probe"
"""Name of the events that show whether handlers run."""

SETTLE_S = 30.0

SILENT = frozenset({Fault.STOP, Fault.SPIN})
"""Faults after which a process answers nobody until it is noticed: peers may well suspect, but not more."""


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """What to do, how often; times in seconds, rates in events per second."""

    roles: tuple[str, ...] = (*ROLES, DISCOVERS) if can_discover() else ROLES
    faults: tuple[Fault, ...] = tuple(Fault)
    rounds: int = 1
    victim_rate: float = 40.0
    other_rate: float = 20.0
    calm: float = 2.0
    serving_bar: float = SERVING_BAR_S


SHORT = Options(roles=("gossip", "detector", "rpc", "dispatcher", "worker-0"), faults=(Fault.KILL, Fault.RAISE))


@dataclass(frozen=True, slots=True)
class Done:
    """One fault: seconds until it was noticed (infinity: never), and from then until the service was there again."""

    role: str
    fault: Fault
    noticed: float
    served: float


@dataclass(slots=True)
class Client:
    """Asks one agent for its members again and again, each time with a deadline. Starts at once, until `stop`."""

    agent: Agent
    slowest: float = 0.0
    asked: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="asking", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the request under way."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        client = None
        while not self._stop.wait(ASK_EVERY_S):
            began = time.monotonic()
            self.asked += 1
            try:
                if client is None or not client.is_connected:
                    client = self.agent.connect()
                client.call("members", deadline_s=REQUEST_S)
            except (OSError, ConnectionLost, RpcError) as failure:
                took = time.monotonic() - began
                self.unanswered += took >= REQUEST_S
                self.errors[str(failure)[:60]] += 1
                client = None
            self.slowest = max(self.slowest, time.monotonic() - began)


class Followed:
    """The user events of an agent's stream, over reconnections; between two connections there may be a gap."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._streams = [agent.stream("user")]
        self._gaps: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="following", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        client = self._agent.connect()
        self._streams.append(client.stream("user"))
        while not self._stop.wait(LOOK_EVERY_S):
            if client.is_connected:
                continue
            lost = time.monotonic()
            while not self._stop.is_set():
                with contextlib.suppress(OSError, ConnectionLost, RpcError):
                    client = self._agent.connect()
                    self._streams.append(client.stream("user"))
                    break
            self._gaps.append((lost, time.monotonic()))

    def stop(self) -> None:
        """End; what came stays."""
        self._stop.set()
        self._thread.join()

    @property
    def got(self) -> Counter[bytes]:
        """How often each payload came, at most, on one connection."""
        most: Counter[bytes] = Counter()
        for stream in self._streams:
            most |= Counter(record.payload for record in stream.records if isinstance(record, UserRecord))
        return most

    def excuses(self, sent: Sent, margin: float = STUCK_S) -> bool:
        """Whether an event was under way while no connection was there, of which the client knows."""
        return any(begin - margin <= sent.answered_at and sent.sent_at <= end + margin for begin, end in self._gaps)

    @property
    def breaks(self) -> int:
        """How often the connection was lost."""
        return len(self._gaps)


def prove(launch: Launcher, directory: Path, options: Options, progress: Progress) -> Report:
    """Run it; `directory` takes what handlers and faults leave."""
    discovered = new_cluster() if DISCOVERS in options.roles else ""
    cluster = _start(launch, directory, discovered)
    victim = cluster[VICTIM]
    streams = {name: cluster[name].stream("*") for name in PEERS}
    followed = Followed(victim)
    client = Client(victim)
    pinger = Pinger(launch.options("pinger").bind)
    rates = {victim: options.victim_rate, cluster["s2"]: options.other_rate}
    rows: list[Done] = []
    progress.say("the cluster is complete")
    with contextlib.closing(pinger), Watch(cluster.agents.values(), pinger) as watch, EventLoad(rates) as load:
        load.start()
        client.start()
        for _ in range(options.rounds):
            for fault in options.faults:
                for role in options.roles:
                    time.sleep(options.calm)
                    rows.append(_harm(victim, role, fault, directory, pinger, watch, discovered))
                    row = rows[-1]
                    progress.say(
                        f"{role} {fault.value}: noticed after {row.noticed:.2f} s, serving {row.served:.2f} s later; "
                        f"accused: {told(watch.accusations)}"
                    )
        time.sleep(options.calm)
        load.stop()
        client.stop()
        settled = _settle(cluster, directory, load.sent)
        followed.stop()
        unhealthy = cluster.unhealthy()
        watch.close()
    report = Report(f"{len(rows)} faults of {VICTIM}'s processes")
    _judge_faults(report, rows, options)
    _judge_peace(report, watch, cluster, unhealthy, options)
    gone = [
        record.kind
        for stream in streams.values()
        for record in stream.records
        if isinstance(record, MemberRecord) and record.kind != "member-join"
    ]
    report.require_none("member events except joins on the streams of the peers", len(gone))
    _judge_clients(report, client, load.sent)
    _judge_events(report, cluster, load.sent, streams, followed, directory, settled)
    return report


def _start(launch: Launcher, directory: Path, discovered: str) -> Cluster:
    handled, probed = directory / "handled", directory / "probed"
    handlers = [
        f"user:{HANDLED}=exec cat >> '{handled}'",
        f"user:{PROBE}=exec cat >> '{probed}'",
    ]
    extra = [f"-log-file={directory / LOG_FILE}"]
    if discovered:
        extra += [f"-discover={discovered}", f"-mdns-iface={loopback_name()}"]
    victim = launch.serfmp(
        VICTIM, profile="lan", log_level="INFO", handlers=handlers, env=environment(directory), extra=extra
    )
    agents = {VICTIM: victim}
    for name in PEERS:
        begin = launch.serfmp if name.startswith("s") else launch.serf
        agents[name] = begin(name, join=[victim], profile="lan", log_level="INFO")
    cluster = Cluster(agents)
    cluster.wait_alive(JOINED_S)
    return cluster


# --- one fault --------------------------------------------------------------------------------------------------------


def _pid(agent: Agent, role: str) -> int:
    """The process of a role; of a worker the one with this index, as its title says."""
    kind, _, index = role.partition("-")
    pids = agent.pids_by_role().get(kind, ())
    if index:
        for pid in pids:
            with contextlib.suppress(OSError):
                if f"serfmp: {role} ".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        return 0
    return pids[0] if pids else 0


def _harm(
    victim: Agent, role: str, fault: Fault, directory: Path, pinger: Pinger, watch: Watch, discovered: str
) -> Done:
    old = eventually(lambda: _pid(victim, role), SERVED_S, f"{role} of {VICTIM} runs")
    inject(fault, old, directory)
    began = time.monotonic()
    marks = (f"{role} (pid {old}) ended", f"{role} (pid {old}) is stuck")
    try:
        eventually(
            lambda: any(mark in victim.log() for mark in marks), NOTICED_S, "it is noticed", interval_s=LOOK_EVERY_S
        )
    except NeverHeld:
        return Done(role, fault, math.inf, math.inf)
    noticed = time.monotonic()
    with contextlib.suppress(NeverHeld):
        eventually(lambda: _pid(victim, role) not in {0, old}, SERVED_S, "a new process", interval_s=LOOK_EVERY_S)
        if role == DISCOVERS:
            _discovery(victim, discovered)
        else:
            _service(victim, role, directory, pinger, watch)
        return Done(role, fault, noticed - began, time.monotonic() - noticed)
    return Done(role, fault, noticed - began, math.inf)


def _service(victim: Agent, role: str, directory: Path, pinger: Pinger, watch: Watch) -> None:
    """Wait until what this role does is done again."""
    match role.partition("-")[0]:
        case "gossip" | "detector":
            _again(lambda: [pinger.ping(victim)], watch.acked)
        case "rpc":

            def answers() -> bool:
                with victim.connect() as client:
                    client.call("members", deadline_s=REQUEST_S)
                return True

            eventually(answers, SERVED_S, "rpc answers", ignoring=(OSError, AssertionError), interval_s=LOOK_EVERY_S)
        case "logger":
            file = directory / LOG_FILE
            size = file.stat().st_size
            # A client that comes is told at level INFO.
            _again(lambda: [victim.connect().close()], lambda _: file.stat().st_size > size)
        case _:
            probed = directory / "probed"
            name = f"{role}-{time.monotonic_ns()}".encode()

            def send() -> list[bytes]:
                with contextlib.suppress(OSError, AssertionError):
                    victim.event(PROBE, name + b"-%d" % time.monotonic_ns())
                return [name]

            _again(send, lambda sent: probed.exists() and any(one in probed.read_bytes() for one in sent))


def _discovery(victim: Agent, discovered: str) -> None:
    """Wait until somebody new sees the agent and is found by it. The agent fails to join it: nobody listens there."""
    name = f"n{time.monotonic_ns()}"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Neighbour(discovered) as neighbour:
        eventually(lambda: neighbour.sees(victim.node), SERVED_S, "it is announced", interval_s=0.0)
        neighbour.announce(name, port)
        eventually(lambda: f"127.0.0.1:{port}" in victim.log(), SERVED_S, "others are found", interval_s=LOOK_EVERY_S)


def _again(begin: Callable[[], list[T]], done: Callable[[list[T]], bool]) -> None:
    """Begin again every `PROBE_EVERY_S`, until one of all that was begun is done."""
    begun: list[T] = begin()
    last = time.monotonic()

    def look() -> bool:
        nonlocal last
        if time.monotonic() - last >= PROBE_EVERY_S:
            begun.extend(begin())
            last = time.monotonic()
        return done(begun)

    eventually(look, SERVED_S, "the service is there", interval_s=LOOK_EVERY_S)


# --- verdicts ---------------------------------------------------------------------------------------------------------


def _settle(cluster: Cluster, directory: Path, sent: Sequence[Sent]) -> bool:
    """Wait until our own agents have all events."""

    def complete() -> bool:
        return not _lost_at_handler(directory, sent) or _cut_short(cluster[VICTIM]) > 0

    try:
        eventually(complete, SETTLE_S, "no more events under way", interval_s=0.25)
    except NeverHeld:
        return False
    time.sleep(STOPPED_S / 5)
    return True


def _handled(directory: Path) -> Counter[bytes]:
    file = directory / "handled"
    return Counter(file.read_bytes().splitlines()) if file.exists() else Counter()


def _lost_at_handler(directory: Path, sent: Sequence[Sent]) -> int:
    return len(outcome(sent, _handled(directory), (VICTIM, "s2"), HANDLED).lost)


def _cut_short(victim: Agent) -> int:
    return victim.log().count("cut short")


def _judge_faults(report: Report, rows: list[Done], options: Options) -> None:
    for fault in options.faults:
        for role in options.roles:
            found = [row for row in rows if row.role == role and row.fault is fault]
            noticed = max(row.noticed for row in found)
            served = max(row.served for row in found)
            report.tell(f"{role} {fault.value}: noticed after, s", noticed)
            bar = max(options.serving_bar, DISCOVERY_BAR_S) if role == DISCOVERS else options.serving_bar
            report.require(f"{role} {fault.value}: serving again, s later", served, f"< {bar:g}", served < bar)
    report.tell("all: serving again after the notice, s (median)", quantile([row.served for row in rows], 0.5))


def _judge_peace(report: Report, watch: Watch, cluster: Cluster, unhealthy: list[str], options: Options) -> None:
    accusations = watch.accusations
    suspects = sum(a.kind == "suspect" for a in accusations)
    if SILENT & set(options.faults):
        report.tell("suspect messages on the wire (a frozen process answers nobody)", suspects)
    else:
        report.require_none("suspect messages on the wire", suspects)
    if accusations:
        report.tell("  accusations", told(accusations))
    report.require_none("dead messages on the wire", sum(a.kind == "dead" for a in accusations))
    report.require_none(f"accusations by {VICTIM}", sum(a.sender == VICTIM for a in accusations))
    failed = sum("EventMemberFailed" in line for lines in cluster.failure_lines().values() for line in lines)
    report.require_none("lines about failed members in any log", failed)
    report.require_none("views of a member that is not alive at the end", len(unhealthy))
    if unhealthy:
        report.tell("  for example", unhealthy[0][:80])


def _judge_clients(report: Report, client: Client, sent: Sequence[Sent]) -> None:
    report.tell("requests of the asking client", client.asked)
    report.tell("  answered with an error, because the connection ended", client.errors.total())
    report.tell("  slowest answer or error, s", client.slowest)
    report.require_none("requests without an answer or an error in time", client.unanswered)
    at_victim = [s for s in sent if s.origin == VICTIM]
    report.tell("event requests at the harmed agent", len(at_victim))
    report.tell("  failed", sum(bool(s.error) for s in at_victim))
    report.tell("  slowest, s", max((s.answered_at - s.sent_at for s in at_victim), default=math.nan))


def _judge_events(
    report: Report,
    cluster: Cluster,
    sent: Sequence[Sent],
    streams: dict[str, Stream],
    followed: Followed,
    directory: Path,
    settled: bool,
) -> None:
    report.require("events came to rest", "yes" if settled else "no", "yes", settled)
    ours = (VICTIM, "s2")
    peer = Counter(r.payload for r in streams["s2"].records if isinstance(r, UserRecord))
    result = outcome(sent, peer, ours)
    report.tell("events at s2: expected", result.expected)
    report.require_none("events at s2: lost", len(result.lost))
    report.require_none("events at s2: repeated", len(result.repeated))
    result = outcome(sent, followed.got, ours)
    by_payload = {s.payload: s for s in sent}
    unexcused = [payload for payload in result.lost if not followed.excuses(by_payload[payload])]
    report.tell(f"events on {VICTIM}'s own stream: expected", result.expected)
    report.tell("  connections lost", followed.breaks)
    report.tell("  missed while no connection was there", len(result.lost) - len(unexcused))
    report.require_none(f"events on {VICTIM}'s own stream: lost", len(unexcused))
    report.require_none(f"events on {VICTIM}'s own stream: repeated", len(result.repeated))
    result = outcome(sent, _handled(directory), ours, HANDLED)
    cut_short = _cut_short(cluster[VICTIM])
    report.tell(f"events at {VICTIM}'s handler: expected", result.expected)
    report.tell("  scripts that the log tells were cut short", cut_short)
    lost = len(result.lost)
    report.require(f"events at {VICTIM}'s handler: lost", lost, "<= cut short", lost <= cut_short)
    report.require_none(f"events at {VICTIM}'s handler: repeated", len(result.repeated))


def main() -> int:
    """The command line."""
    arguments = parser("Let every process of an agent fail in every way, under load.")
    arguments.add_argument("--roles", default="", help=f"some of {','.join((*ROLES, DISCOVERS))}")
    arguments.add_argument("--faults", default="", help=f"some of {','.join(fault.value for fault in Fault)}")
    arguments.add_argument("--rounds", type=int, default=1, help="how often all of it")
    given = arguments.parse_args()
    options = replace(SHORT if given.short else Options(), rounds=given.rounds)
    if given.roles:
        options = replace(options, roles=tuple(given.roles.split(",")))
    if given.faults:
        options = replace(options, faults=tuple(Fault(name) for name in given.faults.split(",")))
    return carry_out(given, lambda place: prove(place.launch, place.directory, options, Progress()))


if __name__ == "__main__":
    sys.exit(main())
