"""What monitors of the public bus cost an agent: ten that are stopped, and one at full speed, in a flood of events.

Two of our agents. Rounds take turns: without monitors, with ten that subscribe everything and are stopped by SIGSTOP,
and with these and one more, `serfmp.client.BusMonitor`, which takes all that it can. In each, four connections send
user events as fast as they are answered, a ping goes to the gossip port every 10 ms, and `members` is asked every
20 ms. The flood and the monitor at full speed share the processors with the agents, so the rate of events shows what
watching costs altogether, and the latencies what it costs those that must not be held up.

Bars: no ping is unanswered, nobody is accused, the monitor at full speed has every event or knows what it missed, those
that were stopped see their gap when they go on, and the agent's memory stays within the bound of their queues.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

import psutil

from scripts.proofs.cluster import FAILURE_LINES
from scripts.proofs.command import carry_out, parser
from scripts.proofs.report import Progress, Report, quantile
from serfmp.client import Client
from serfmp.wire.address import from_text
from serfmp.wire.messages import Ping, encode
from tests.harness import Agent, Launcher

STOPPED = 10
"""Monitors that are stopped."""

SENDERS = 4
"""Connections that send events."""

PAYLOAD = 200
"""Bytes of an event."""

PING_EVERY_S = 0.01
ASK_EVERY_S = 0.02

LOST_AFTER_S = 5.0
"""A ping that was not answered within this is lost."""

MEMORY_BOUND = 96 * 1024 * 1024
"""Bytes by which the rpc process may grow: its queues for monitors (4096 messages, shared) and what Python keeps."""

DEADLINE_S = 30.0


@dataclass(frozen=True, slots=True)
class Options:
    """Rounds of each kind, seconds of each."""

    rounds: int = 3
    seconds: float = 10.0


SHORT = Options(rounds=1, seconds=6.0)


class Watched(Enum):
    """Who watches in a round."""

    NOBODY = "without monitors"
    STOPPED = "ten stopped"
    ALL = "ten stopped, one at full speed"


@dataclass(slots=True)
class Round:
    """What was measured in one round."""

    events: int = 0
    seconds: float = 0.0
    acks: list[float] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)
    lost: int = 0
    watched: int = 0
    gaps: int = 0
    blind: int = 0
    """Stopped monitors that did not see a gap though they missed something."""
    grown: int = 0

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds if self.seconds else 0.0


# --- helpers that run as processes of their own -----------------------------------------------------------------------

SENDER = """
import sys, threading, time
from serfmp.client import Client
address, seconds, connections, size = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
counts = [0] * connections
until = time.monotonic() + seconds
def send(place):
    with Client(address) as client:
        while time.monotonic() < until:
            client.event(f"flood{place}", b"x" * size, coalesce=False)
            counts[place] += 1
threads = [threading.Thread(target=send, args=(place,)) for place in range(connections)]
begun = time.monotonic()
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(sum(counts), time.monotonic() - begun)
"""

STOPPED_MONITOR = """
import sys, msgpack, zmq
socket = zmq.Context().socket(zmq.SUB)
socket.setsockopt(zmq.RCVHWM, 1000)
socket.subscribe("")
socket.connect(sys.argv[1])
seen, gaps, first = {}, 0, True
while True:
    if not socket.poll(1500 if sys.argv[2:] else 20000):
        break
    topic, header, _ = socket.recv_multipart()
    family, number = topic.split(b".")[0], msgpack.unpackb(header)["family_number"]
    gaps += family in seen and number != seen[family] + 1
    seen[family] = number
    if first:
        first = False
        print("subscribed", flush=True)
    if gaps:
        break
print(gaps, flush=True)
"""

FAST_MONITOR = """
import sys, time
from serfmp.client import BusMonitor, Gap
with BusMonitor(sys.argv[1], sys.argv[2]) as monitor:
    print("subscribed", flush=True)
    events = missed = 0
    while True:
        item = monitor.next(1.0)
        if isinstance(item, Gap):
            missed += item.missed
        elif item is not None and item.topic.startswith("user.end"):
            break
        elif item is not None and item.topic.startswith("user.flood"):
            events += 1
    print(events, monitor.gaps, missed, flush=True)
"""


def prove(launch: Launcher, options: Options, progress: Progress) -> Report:
    """Run it."""
    one = launch.serfmp("one", profile="lan", log_level="WARN")
    two = launch.serfmp("two", profile="lan", log_level="WARN", join=[one])
    for agent in (one, two):
        agent.wait_statuses({"one": "alive", "two": "alive"}, DEADLINE_S)
    report = Report(f"an agent with {STOPPED} stopped monitors and one at full speed, {psutil.cpu_count()} processors")
    rounds: dict[Watched, list[Round]] = {watched: [] for watched in Watched}
    for number in range(options.rounds):
        order = list(Watched)
        for watched in order[number % len(order) :] + order[: number % len(order)]:
            done = measure(one, options.seconds, watched)
            rounds[watched].append(done)
            progress.say(
                f"round {number + 1}, {watched.value}: {done.rate:.0f} events/s, "
                f"ack p99 {quantile(done.acks, 0.99) * 1000:.1f} ms, RPC p99 {quantile(done.calls, 0.99) * 1000:.1f} ms"
            )
    _tell(report, rounds)
    accused = [
        line for agent in (one, two) for line in agent.log().splitlines() if any(t in line for t in FAILURE_LINES)
    ]
    report.require_none("accusations in the agents' logs", len(accused))
    return report


def measure(agent: Agent, seconds: float, watched: Watched) -> Round:
    """One round."""
    done = Round()
    rpc = psutil.Process(agent.pids_by_role()["rpc"][0])
    with Client(str(agent.options.rpc)) as client:
        events, snapshot = client.bus()
    monitors: list[subprocess.Popen[str]] = []
    fast: subprocess.Popen[str] | None = None
    try:
        if watched is Watched.ALL:
            fast = _start(FAST_MONITOR, events, snapshot)
            _line(fast)
        if watched is not Watched.NOBODY:
            monitors = [_start(STOPPED_MONITOR, events) for _ in range(STOPPED)]
            for monitor in monitors:
                _line(monitor)
            for monitor in monitors:
                monitor.send_signal(signal.SIGSTOP)
        before = rpc.memory_full_info().pss
        over = threading.Event()
        threads = [
            threading.Thread(target=_ping, args=(agent, over, done)),
            threading.Thread(target=_ask, args=(agent, over, done)),
        ]
        for thread in threads:
            thread.start()
        sender = _start(SENDER, str(agent.options.rpc), str(seconds), str(SENDERS), str(PAYLOAD))
        count, took = _line(sender).split()
        sender.wait()
        over.set()
        for thread in threads:
            thread.join()
        done.events, done.seconds = int(count), float(took)
        done.grown = max(0, rpc.memory_full_info().pss - before)
        if fast is not None:
            agent.event("end")
            watched_events, gaps, missed = map(int, _line(fast).split())
            done.watched, done.gaps = watched_events + missed, gaps
        if monitors:
            for monitor in monitors:
                monitor.send_signal(signal.SIGCONT)
            # The beat tells those that took all that was left that more was missed.
            done.blind = sum(_line(monitor) == "0" for monitor in monitors)
    finally:
        for process in (*monitors, *([fast] if fast else [])):
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
    return done


def _start(code: str, *words: str) -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parent.parent
    return subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True, cwd=root)


def _line(process: subprocess.Popen[str]) -> str:
    line = process.stdout.readline().strip() if process.stdout is not None else ""
    if not line:
        raise RuntimeError("a helper process ended before it had told anything")
    return line


def _ping(agent: Agent, over: threading.Event, done: Round) -> None:
    """A ping after the other; any datagram that comes back is its ack."""
    host, port = agent.bind.host, agent.bind.port
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(LOST_AFTER_S)
        own = sock.getsockname()[1]
        sequence = 0
        while not over.wait(PING_EVERY_S):
            sequence += 1
            message = encode(Ping(sequence, agent.node, from_text("127.0.0.1"), own, "bench"))
            begun = time.perf_counter()
            sock.sendto(message, (host, port))
            try:
                sock.recv(65536)
            except TimeoutError:
                done.lost += 1
            else:
                done.acks.append(time.perf_counter() - begun)


def _ask(agent: Agent, over: threading.Event, done: Round) -> None:
    with Client(str(agent.options.rpc)) as client:
        while not over.wait(ASK_EVERY_S):
            begun = time.perf_counter()
            client.members()
            done.calls.append(time.perf_counter() - begun)


def _tell(report: Report, rounds: dict[Watched, list[Round]]) -> None:
    rates = {}
    for watched, many in rounds.items():
        label = watched.value
        acks = [value for one in many for value in one.acks]
        calls = [value for one in many for value in one.calls]
        rates[watched] = sum(one.events for one in many) / sum(one.seconds for one in many)
        report.tell(f"{label}: events per second", rates[watched])
        for what, values in (("ack", acks), ("RPC", calls)):
            for share in (0.5, 0.99):
                report.tell(f"{label}: {what} p{share * 100:.0f}, ms", quantile(values, share) * 1000)
            report.tell(f"{label}: {what} worst, ms", max(values, default=0.0) * 1000)
        report.require_none(f"{label}: pings of {len(acks)} without an answer", sum(one.lost for one in many))
    for watched in (Watched.STOPPED, Watched.ALL):
        report.tell(f"events per second, {watched.value} to none", rates[watched] / rates[Watched.NOBODY])
    fast = rounds[Watched.ALL]
    sent, seen = sum(one.events for one in fast), sum(one.watched for one in fast)
    report.require("events that the fast monitor saw, or knows to have missed", seen, f">= {sent}", seen >= sent)
    report.tell("gaps of the fast monitor", sum(one.gaps for one in fast))
    stopped = [*rounds[Watched.STOPPED], *fast]
    report.require_none("stopped monitors that did not see their gap", sum(one.blind for one in stopped))
    grown = max(one.grown for one in stopped) / 1e6
    bound = MEMORY_BOUND / 1e6
    report.require("memory by which rpc grew at most in a round, MB", grown, f"<= {bound:.0f}", grown <= bound)


def main() -> int:
    """The command line."""
    arguments = parser("What stopped and fast monitors of the public bus cost an agent.")
    arguments.add_argument("--rounds", type=int, default=None, help="of each kind (3; short: 1)")
    arguments.add_argument("--seconds", type=float, default=None, help="of each round (10; short: 6)")
    given = arguments.parse_args()
    options = SHORT if given.short else Options()
    options = replace(options, rounds=given.rounds or options.rounds, seconds=given.seconds or options.seconds)
    return carry_out(given, lambda place: prove(place.launch, options, Progress()))


if __name__ == "__main__":
    sys.exit(main())
