"""The soak: an agent under steady mixed load for a long time, and whether anything grows.

Two of our agents and a real one (a third of ours where it is not installed), profile lan. User events come from both
ours, some of them for a handler; a client asks for the members, queries go round, and a fourth node comes, leaves and
comes again under its old name. Every few seconds all that s1's processes hold is looked at; pings time its acks. After
the time of warming up a straight line is drawn through each figure. Bars: memory, descriptors, threads, queues and the
latency of acks do not grow, no event is lost or repeated, nobody is accused, nothing was started again.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from scripts.proofs.cluster import JOINED_S, Cluster, workplace
from scripts.proofs.command import end_on_terminate, parser
from scripts.proofs.load import HANDLED, EventLoad, Sent, outcome
from scripts.proofs.report import Progress, Report, quantile
from scripts.proofs.resources import Sample, look, slope
from serfmp.client import Client
from serfmp.wire.messages import Ack, Ping, decode_packet_message, encode
from serfmp.wire.packet import Opened, PacketFormat, open_packet
from tests.harness import Agent, Endpoint, Launcher, NeverHeld, Stream, UserRecord, eventually

VICTIM, PEER, THIRD, GUEST = "s1", "s2", "r1", "g1"

PING_EVERY_S = 0.1
LOST_S = 2.0
"""After so long an ack does not come any more."""

SETTLE_S = 30.0

GROWTH_BAR = 0.05
"""Of the memory of all processes, by which it may grow along the line in the time that is looked at."""
ACK_BAR = 0.5
"""Seconds within which 99 of 100 acks come: a probe's timeout in profile lan."""
ACK_GROWTH = 2.0
"""How many times as long as in the first half the median may be in the second, and `ACK_NOISE` more."""
ACK_NOISE = 0.002
"""Seconds."""
QUEUE_BAR = 64
"""Invocations and broadcasts that may wait on a machine that keeps up."""
WARM_SHARE = 0.5
"""Of the time, in which the agent warms up: rings and queues fill to their bounds, the allocator finds its size."""


@dataclass(frozen=True, slots=True)
class Options:
    """Times in seconds, rates in events per second."""

    duration: float = 600.0
    every: float = 5.0
    rate: float = 20.0
    ask_every: float = 0.5
    query_every: float = 5.0
    guest_every: float = 30.0
    growth_bar: float = GROWTH_BAR
    ack_bar: float = ACK_BAR


SHORT = Options(duration=40.0, every=1.0, guest_every=10.0, growth_bar=math.inf, ack_bar=math.inf)
"""Too short for a slope of the memory to mean anything."""


class AckTimer:
    """Pings an agent from an endpoint that nobody knows; `times` are (sent at, seconds until the ack), unordered."""

    def __init__(self, endpoint: Endpoint, agent: Agent) -> None:
        self._agent = agent
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((endpoint.host, endpoint.port))
        self._socket.settimeout(PING_EVERY_S)
        self._lock = threading.Lock()
        self._sent: dict[int, float] = {}
        self._times: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._ping, self._read)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End it."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._socket.close()

    @property
    def times(self) -> list[tuple[float, float]]:
        """A copy of all so far."""
        with self._lock:
            return list(self._times)

    @property
    def lost(self) -> int:
        """Pings without an ack after `LOST_S`."""
        with self._lock:
            return sum(time.monotonic() - sent > LOST_S for sent in self._sent.values())

    def _ping(self) -> None:
        number = 0
        while not self._stop.wait(PING_EVERY_S):
            number += 1
            data = encode(Ping(number, self._agent.node))
            with self._lock:
                self._sent[number] = time.monotonic()
            self._socket.sendto(data, (self._agent.bind.host, self._agent.bind.port))

    def _read(self) -> None:
        plain = PacketFormat()
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                data = self._socket.recv(65536)
                now = time.monotonic()
                opened = open_packet(data, plain, 1 << 20)
                for part in opened.parts if isinstance(opened, Opened) else ():
                    message = decode_packet_message(part) if part[0] == 2 else None
                    if isinstance(message, Ack):
                        with self._lock:
                            sent = self._sent.pop(message.sequence, None)
                            if sent is not None:
                                self._times.append((sent, now - sent))


@dataclass(slots=True)
class Guest:
    """A node that comes, leaves and comes again, and a client that asks all the time. On threads, until `stop`."""

    launch: Launcher
    cluster: Cluster
    options: Options
    visits: int = 0
    asked: int = 0
    answers: int = 0
    errors: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begin."""
        for run in (self._visit, self._ask, self._query):
            self._threads.append(threading.Thread(target=self._guarded, args=(run,), daemon=True))
            self._threads[-1].start()

    def stop(self) -> None:
        """End after what is under way."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _guarded(self, run: Callable[[], None]) -> None:
        try:
            run()
        except Exception as error:  # noqa: BLE001  told in the report
            self.errors.append(f"{type(error).__name__}: {error}")

    def _visit(self) -> None:
        begin = self.launch.serf if shutil.which("serf") else self.launch.serfmp
        place = self.launch.options(GUEST)
        pause = self.options.guest_every / 2
        while not self._stop.wait(pause):
            guest = begin(
                GUEST, bind=place.bind, rpc=place.rpc, join=[self.cluster[VICTIM]], log_level="INFO", profile="lan"
            )
            self._stop.wait(pause)
            with contextlib.closing(guest):
                guest.leave()
                guest.wait_exit(SETTLE_S)
            self.visits += 1

    def _ask(self) -> None:
        with contextlib.closing(self.cluster[VICTIM].connect()) as client:
            while not self._stop.wait(self.options.ask_every):
                client.members()
                self.asked += 1

    def _query(self) -> None:
        with contextlib.closing(self.cluster[PEER].connect()) as client:
            while not self._stop.wait(self.options.query_every):
                stream = client.query("q", b"?", timeout_s=2)
                eventually(lambda stream=stream: any(r.kind == "done" for r in stream.records), SETTLE_S, "it ends")  # type: ignore[misc]
                self.answers += sum(record.kind == "response" for record in stream.records)


def prove(launch: Launcher, directory: Path, options: Options, progress: Progress) -> tuple[Report, list[Sample]]:
    """Run it: the report, and all samples."""
    handled = directory / "handled"
    victim = launch.serfmp(
        VICTIM,
        profile="lan",
        log_level="INFO",
        handlers=[
            f"user:{HANDLED}=exec cat >> '{handled}'",
            "query:q=echo yes",
            "member-join,member-leave=cat > /dev/null",
        ],
        extra=[f"-snapshot={directory / 'snapshot'}"],
    )
    agents = {VICTIM: victim, PEER: launch.serfmp(PEER, profile="lan", log_level="INFO", join=[victim])}
    begin = launch.serf if shutil.which("serf") else launch.serfmp
    agents[THIRD] = begin(THIRD, profile="lan", log_level="INFO", join=[victim])
    cluster = Cluster(agents)
    cluster.wait_alive(JOINED_S)
    streams = {name: cluster[name].stream("user") for name in (VICTIM, PEER)}
    pids = victim.pids_by_role()
    pids.pop("other", None)
    progress.say(f"the cluster is complete; {options.duration / 60:.1f} minutes to go")
    samples: list[Sample] = []
    guest = Guest(launch, cluster, options)
    acks = AckTimer(launch.options("pinger").bind, victim)
    client = Client(str(victim.options.rpc))
    began = time.monotonic()
    with contextlib.closing(acks), EventLoad({victim: options.rate, cluster[PEER]: options.rate}) as load:
        load.start()
        guest.start()
        while (passed := time.monotonic() - began) < options.duration:
            samples.append(look(victim, client, time.monotonic()))
            progress.tick(lambda: _told(samples[-1], acks.times, time.monotonic() - began, options))
            time.sleep(max(0.0, min(options.every - passed % options.every, options.duration - passed)))
        guest.stop()
        load.stop()
        sent = load.sent
        _settle(handled, list(streams.values()), sent)
        resting = look(victim, client, time.monotonic())
        unhealthy = [text for text in cluster.unhealthy() if GUEST not in text]
    after = victim.pids_by_role()
    after.pop("other", None)
    warm = [sample for sample in samples if sample.at - began >= WARM_SHARE * options.duration]
    report = Report(f"{options.duration / 60:.1f} minutes of steady load on {VICTIM}")
    _judge_growth(report, warm, resting, options)
    _judge_acks(report, acks, began, options)
    report.tell("requests for the members", guest.asked)
    report.tell("responses to queries", guest.answers)
    report.tell("visits of a node that comes and leaves", guest.visits)
    report.require_none("errors of what made the load", len(guest.errors))
    for error in guest.errors[:3]:
        report.tell("  for example", error[:80])
    for name, stream in streams.items():
        got = Counter(record.payload for record in stream.records if isinstance(record, UserRecord))
        result = outcome(sent, got, (VICTIM, PEER))
        report.tell(f"events on the stream of {name}: expected", result.expected)
        report.require_none(
            f"events on the stream of {name}: lost or repeated", len(result.lost) + len(result.repeated)
        )
    result = outcome(sent, Counter(handled.read_bytes().splitlines()), (VICTIM, PEER), HANDLED)
    report.tell(f"events at {VICTIM}'s handler: expected", result.expected)
    report.require_none(f"events at {VICTIM}'s handler: lost or repeated", len(result.lost) + len(result.repeated))
    failed = sum("EventMemberFailed" in line for lines in cluster.failure_lines().values() for line in lines)
    report.require_none("lines about failed members in any log", failed)
    report.require_none("views of a member that is not alive at the end", len(unhealthy))
    report.require(
        f"processes of {VICTIM} that were started again", sum(after[r] != pids[r] for r in pids), "0", after == pids
    )
    return report, samples


def _settle(handled: Path, streams: Sequence[Stream], sent: Sequence[Sent]) -> None:
    """Wait until all events are where they should be; what is missing then is told by the verdicts."""
    wanted = sum(not s.error for s in sent)
    run = sum(not s.error for s in sent if s.name == HANDLED)

    def complete() -> bool:
        if not handled.exists() or len(handled.read_bytes().splitlines()) < run:
            return False
        return all(len(stream.records) >= wanted for stream in streams)

    with contextlib.suppress(NeverHeld):
        eventually(complete, SETTLE_S, "all events have arrived", interval_s=0.2)


def _told(sample: Sample, acks: Sequence[tuple[float, float]], passed: float, options: Options) -> str:
    total = sample.total
    recent = [took for _, took in acks[-100:]]
    return (
        f"{passed / options.duration:4.0%}  {total.pss:.1f} MiB  {total.descriptors} descriptors  "
        f"{total.threads} threads  {sum(sample.queues.values())} waiting  ack {quantile(recent, 0.5) * 1000:.1f} ms"
    )


def _judge_growth(report: Report, samples: list[Sample], resting: Sample, options: Options) -> None:
    names = sorted(samples[-1].processes)
    for name in names:
        points = [(s.at, s.processes[name].pss) for s in samples if name in s.processes]
        report.tell(f"{name}: PSS at the end, MiB", points[-1][1])
        report.tell("  growth, MiB/h", slope(points))

    def total(of: str) -> list[tuple[float, float]]:
        return [(sample.at, getattr(sample.total, of)) for sample in samples]

    report.tell("all processes: PSS at the end, MiB", total("pss")[-1][1])
    growth = slope(total("pss"))
    hours = (samples[-1].at - samples[0].at) / 3600.0
    share = growth * hours / samples[0].total.pss
    report.tell("  growth, MiB/h", growth)
    report.require("  growth in this time, share", share, f"< {options.growth_bar:g}", share < options.growth_bar)
    before = samples[0].total
    for of in ("descriptors", "threads"):
        report.tell(f"all processes: {of}, most", max(value for _, value in total(of)))
        report.tell("  growth, 1/h", slope(total(of)))
        grown = getattr(resting.total, of) - getattr(before, of)
        # A script that runs at that moment, a connection of a peer: some come and go.
        report.require("  more of them at rest than after warming up", grown, "<= 4", grown <= 4)
    for name in samples[-1].queues:
        lengths = [(sample.at, sample.queues[name]) for sample in samples]
        most = max(length for _, length in lengths)
        report.require(f"{name}: longest", most, f"<= {QUEUE_BAR}", most <= QUEUE_BAR)
        report.tell("  growth, 1/h", slope(lengths))


def _judge_acks(report: Report, acks: AckTimer, began: float, options: Options) -> None:
    times = sorted(acks.times)
    middle = began + options.duration / 2
    halves = [[took for at, took in times if (at >= middle) == late] for late in (False, True)]
    report.tell("pings", len(times))
    report.require_none("  without an ack", acks.lost)
    for half, took in zip(("first", "second"), halves, strict=True):
        report.tell(f"acks of the {half} half: median, s", quantile(took, 0.5))
        worst = quantile(took, 0.99)
        report.require("  99 of 100 within, s", worst, f"< {options.ack_bar:g}", worst < options.ack_bar)
    first, second = (quantile(took, 0.5) for took in halves)
    steady = second < ACK_GROWTH * first + ACK_NOISE
    bar = f"< {ACK_GROWTH:g} (and {1000 * ACK_NOISE:g} ms)"
    report.require("  median of the second half against the first", second / first, bar, steady)
    warm = [(at, took) for at, took in times if at - began >= WARM_SHARE * options.duration]
    report.tell("  growth of the latency, ms/h", 1000 * slope(warm))


def plain(samples: Sequence[Sample]) -> list[dict[str, object]]:
    """Samples for machines; the time is seconds since the first."""
    return [asdict(sample) | {"at": sample.at - samples[0].at} for sample in samples]


def main() -> int:
    """The command line."""
    arguments = parser("Let an agent work for a long time, and see whether anything grows.")
    arguments.add_argument("--minutes", type=float, default=10.0, help="how long; 30 before a release")
    given = arguments.parse_args()
    options = SHORT if given.short else replace(Options(), duration=60.0 * given.minutes)
    end_on_terminate()
    with workplace(given.keep) as place:
        report, samples = prove(place.launch, place.directory, options, Progress())
    print(report.table(), flush=True)
    if given.json is not None:
        report.write_json(given.json)
        content = json.loads(given.json.read_text()) | {"samples": plain(samples)}
        given.json.write_text(json.dumps(content, indent=1) + "\n")
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
