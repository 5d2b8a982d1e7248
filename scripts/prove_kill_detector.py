"""Kill the detector of an agent again and again under a load of user events, and count what anybody noticed.

Two of our agents and two real ones, profile lan. s1's detector gets SIGKILL every two seconds while 200 user events a
second go through the cluster: half of them sent at s1 itself, a quarter each at s2 and at the real r1. Bars: nobody is
accused by anybody on the wire or in a log, no request at s1 fails, s1 and s2 give every event that ours sent exactly
once to their streams and s1 to its handler, and s1 serves again within a second. What the real agents lose is told,
not judged: they lose events above about 260 a second by themselves.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from scripts.proofs.cluster import OURS, Cluster, start
from scripts.proofs.command import carry_out, parser
from scripts.proofs.load import HANDLED, EventLoad, Sent, outcome
from scripts.proofs.report import Progress, Report, finite, quantile
from scripts.proofs.watch import Pinger, Watch, told
from tests.harness import Agent, Launcher, MemberRecord, NeverHeld, Stream, UserRecord, eventually

VICTIM = "s1"

ORIGINS = ("s1", "s2", "r1")
"""Who sends events."""

RECOVERY_BAR_S = 1.0
"""Until a killed process serves again (design: back within a second)."""

JITTER = 0.25
"""Share by which the time between two kills varies, so that they do not always meet the same moment of a detector."""

PING_AGAIN_S = 0.25
"""An ack takes gossip along, which then is missing elsewhere: few pings, each given time."""

SETTLE_S = 30.0
"""After the load, for events that are still under way."""

QUIET_S = 5.0
"""Without a new event at any agent: nothing is under way any more."""


@dataclass(frozen=True, slots=True)
class Options:
    """Times in seconds, rates in events per second."""

    duration: float = 300.0
    interval: float = 2.0
    victim_rate: float = 100.0
    other_rate: float = 50.0
    recovery_bar: float = RECOVERY_BAR_S
    seed: int = 1
    trace: Path | None = None
    rehearse: bool = False


SHORT = Options(duration=24.0)


@dataclass(slots=True)
class Kill:
    """One kill: the process, when it was killed, and the sequence numbers of the pings sent until an ack came."""

    pid: int
    at: float
    pings: list[int]


def prove(launch: Launcher, directory: Path, options: Options, progress: Progress) -> Report:
    """Run it; `directory` takes what the handler writes."""
    handled = directory / "handled"
    # The process of the script becomes the program that writes: one process per event, not two.
    handlers = {VICTIM: [f"user:{HANDLED}=exec cat >> '{handled}'"]}
    cluster = start(launch, rehearse=options.rehearse, handlers=handlers)
    streams = {name: agent.stream("*") for name, agent in cluster.agents.items()}
    rates = {cluster["s1"]: options.victim_rate, cluster["s2"]: options.other_rate, cluster["r1"]: options.other_rate}
    pinger = Pinger(launch.options("pinger").bind)
    progress.say("the cluster is complete")
    with (
        contextlib.closing(pinger),
        Watch(cluster.agents.values(), pinger) as watch,
        EventLoad(rates) as load,
    ):
        load.start()

        def state() -> str:
            sent = load.sent
            errors = sum(bool(s.error) for s in sent)
            return f"{len(kills)} kills, {len(sent)} events sent, {errors} errors, accused: {told(watch.accusations)}"

        kills: list[Kill] = []
        planned = _kill_on(cluster[VICTIM], kills, pinger, watch, options, progress, state)
        load.stop()
        settled = _settle(streams, handled, load.sent, progress)
        # The probe that a missed ack would upset ends a second later, the suspicion is on the wire before that.
        unhealthy = cluster.unhealthy()
        watch.close()
        report = Report(f"kill -9 of {VICTIM}'s detector every {options.interval:g} s for {options.duration:g} s")
        _judge_kills(report, kills, load.sent, watch, cluster, options, 0 if options.rehearse else planned)
        _judge_peace(report, watch, cluster, streams, unhealthy)
        _judge_events(report, load.sent, streams, handled, settled)
        if options.trace is not None:
            _write_trace(options.trace, kills, load.sent, streams, watch)
    return report


def _detectors(agent: Agent) -> tuple[int, ...]:
    return agent.pids_by_role().get("detector", ())


def _kill_on(
    victim: Agent,
    kills: list[Kill],
    pinger: Pinger,
    watch: Watch,
    options: Options,
    progress: Progress,
    state: Callable[[], str],
) -> int:
    """Kill until the duration is over; how many kills were due."""
    rng = random.Random(options.seed)
    begin = time.monotonic()
    planned = 0
    due = begin + options.interval
    while due < begin + options.duration:
        time.sleep(max(0.0, due - time.monotonic()))
        progress.tick(state)
        due += options.interval * rng.uniform(1 - JITTER, 1 + JITTER)
        planned += 1
        for pid in _detectors(victim):
            # One that ended by itself since it was looked up is missing among the kills.
            with contextlib.suppress(ProcessLookupError):
                kills.append(_kill(victim, pid, pinger, watch, due))
    # The last one, too, happens in the middle of the load.
    time.sleep(max(0.0, begin + options.duration - time.monotonic()))
    return planned


def _kill(victim: Agent, pid: int, pinger: Pinger, watch: Watch, until: float) -> Kill:
    os.kill(pid, signal.SIGKILL)
    kill = Kill(pid, time.monotonic(), [pinger.ping(victim)])
    pinged = kill.at
    while time.monotonic() < until - 0.1 and not watch.acked(kill.pings):
        if time.monotonic() - pinged >= PING_AGAIN_S:
            kill.pings.append(pinger.ping(victim))
            pinged = time.monotonic()
        time.sleep(0.005)
    return kill


def _got(stream: Stream) -> Counter[bytes]:
    return Counter(record.payload for record in stream.records if isinstance(record, UserRecord))


def _handled(file: Path) -> Counter[bytes]:
    return Counter(file.read_bytes().splitlines()) if file.exists() else Counter()


def _settle(streams: dict[str, Stream], handled: Path, sent: list[Sent], progress: Progress) -> bool:
    """Wait until ours have all that ours have sent, or nothing comes any more; whether they have all."""
    seen, since = -1, time.monotonic()

    def done() -> bool:
        nonlocal seen, since
        counts = {name: _got(stream) for name, stream in streams.items()}
        handler = _handled(handled)
        total = sum(count.total() for count in counts.values()) + handler.total()
        if total != seen:
            seen, since = total, time.monotonic()
        missing = [outcome(sent, counts[name], OURS).lost for name in OURS]
        missing.append(outcome(sent, handler, OURS, HANDLED).lost)
        progress.tick(lambda: f"settling: ours still miss {[len(lost) for lost in missing]}")
        # Quiet in any case: a repetition would come late.
        return time.monotonic() - since >= (QUIET_S if any(missing) else QUIET_S / 2)

    try:
        eventually(done, SETTLE_S, "no more events under way", interval_s=0.25)
    except NeverHeld:
        return False
    return True


def _write_trace(file: Path, kills: list[Kill], sent: list[Sent], streams: dict[str, Stream], watch: Watch) -> None:
    """All that was seen, a JSON object a line, times on one clock: for finding the cause of what a bar only counts."""
    lines: list[dict[str, object]] = []
    pings = watch.pings
    for kill in kills:
        acks = [pings[number].acked_at for number in kill.pings if number in pings]
        lines.append({"kind": "kill", "pid": kill.pid, "at": kill.at, "acked": finite(min(acks, default=math.inf))})
    lines += [{"kind": "sent", **asdict(s), "payload": s.payload.decode()} for s in sent]
    lines += [{"kind": "accusation", "as": a.kind, **(asdict(a) | {"kind": "accusation"})} for a in watch.accusations]
    for name, stream in streams.items():
        lines += [
            {"kind": "got", "agent": name, "payload": r.payload.decode(), "ltime": r.ltime, "place": place}
            for place, r in enumerate(stream.records)
            if isinstance(r, UserRecord)
        ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _judge_kills(
    report: Report,
    kills: list[Kill],
    sent: list[Sent],
    watch: Watch,
    cluster: Cluster,
    options: Options,
    planned: int,
) -> None:
    victim = cluster[VICTIM]
    report.require("kills", len(kills), str(planned), len(kills) == planned)
    erased = victim.log().count("starts without the state of its predecessors")
    report.require_none("generations that started without the journal", erased)
    generations = victim.log().count("; starting generation ")
    report.require("generations started by the supervisor", generations, "as kills", generations == len(kills))
    at_victim = sorted((s for s in sent if s.origin == VICTIM and not s.error), key=lambda s: s.sent_at)
    pings = watch.pings
    by_rpc: list[float] = []
    by_udp: list[float] = []
    for kill in kills:
        answers = [s.answered_at for s in at_victim if kill.at <= s.sent_at < kill.at + 5.0]
        by_rpc.append(min(answers, default=math.inf) - kill.at)
        acks = [pings[number].acked_at for number in kill.pings if number in pings]
        by_udp.append(min(acks, default=math.inf) - kill.at)
    for what, times in (("event request after a kill answered", by_rpc), ("ping after a kill acked", by_udp)):
        # A restart must not take longer the longer the agent has run.
        quarter = max(1, len(times) // 4)
        report.tell(f"first {what}, s (median of the first quarter)", quantile(times[:quarter], 0.5))
        report.tell(f"first {what}, s (median of the last quarter)", quantile(times[-quarter:], 0.5))
        for name, share in (("median", 0.5), ("p95", 0.95)):
            report.tell(f"first {what}, s ({name})", quantile(times, share))
        worst = max(times, default=0.0)
        bar = options.recovery_bar
        report.require(f"first {what}, s (longest)", worst, f"< {bar:g}", worst < bar)
    for name in ORIGINS:
        errors = Counter(s.error for s in sent if s.origin == name and s.error)
        if name == VICTIM:
            report.require_none(f"requests that failed at {name}", errors.total())
        else:
            report.tell(f"requests that failed at {name}", errors.total())
        for error, count in errors.most_common(3):
            report.tell(f"  {error[:60]!r}", count)
    slowest = max((s.answered_at - s.sent_at for s in at_victim), default=math.inf)
    report.tell(f"slowest successful request at {VICTIM}, s", slowest)


def _judge_peace(
    report: Report, watch: Watch, cluster: Cluster, streams: dict[str, Stream], unhealthy: list[str]
) -> None:
    report.tell("packets looked at", watch.packets)
    report.require_none("packets lost to the capture or unreadable", watch.dropped + watch.unreadable)
    accusations = watch.accusations
    report.require_none("suspect messages on the wire", sum(a.kind == "suspect" for a in accusations))
    report.require_none("dead messages on the wire", sum(a.kind == "dead" for a in accusations))
    if accusations:
        report.tell("  accusations", told(accusations))
    for name, lines in cluster.failure_lines().items():
        report.require_none(f"lines about failed members in the log of {name}", len(lines))
    for name, stream in streams.items():
        gone = [r.kind for r in stream.records if isinstance(r, MemberRecord) and r.kind != "member-join"]
        report.require_none(f"member events except joins on the stream of {name}", len(gone))
    report.require_none("views of a member that is not alive at the end, or no view", len(unhealthy))
    if unhealthy:
        report.tell("  for example", unhealthy[0][:80])


def _judge_events(report: Report, sent: list[Sent], streams: dict[str, Stream], handled: Path, settled: bool) -> None:
    report.tell("events sent (by s1, s2, r1)", "/".join(str(sum(s.origin == o for s in sent)) for o in ORIGINS))
    report.require("agents were quiet at the end", "yes" if settled else "no", "yes", settled)
    for name, stream in streams.items():
        got = _got(stream)
        for origin in ORIGINS:
            result = outcome(sent, got, [origin])
            label = f"events of {origin} at {name}"
            report.tell(f"{label}: expected", result.expected)
            report.tell(f"{label}: arrived though the request failed", result.surplus)
            judge = report.require_none if name in OURS and origin in OURS else report.tell
            judge(f"{label}: lost", len(result.lost))
            judge(f"{label}: repeated", len(result.repeated))
    got = _handled(handled)
    for origin in ORIGINS:
        result = outcome(sent, got, [origin], HANDLED)
        label = f"events of {origin} at {VICTIM}'s handler"
        report.tell(f"{label}: expected", result.expected)
        judge = report.require_none if origin in OURS else report.tell
        judge(f"{label}: lost", len(result.lost))
        judge(f"{label}: repeated", len(result.repeated))


def main() -> int:
    """The command line."""
    arguments = parser("Kill the detector of an agent again and again under load.")
    arguments.add_argument("--duration", type=float, default=None, help="seconds (300; short: 24)")
    arguments.add_argument("--interval", type=float, default=2.0, help="seconds between two kills")
    arguments.add_argument("--rate", type=float, default=200.0, help="events per second: 1/2 at s1, 1/4 at s2 and r1")
    arguments.add_argument("--trace", type=Path, metavar="FILE", help="write every kill, event and accusation there")
    given = arguments.parse_args()
    options = SHORT if given.short else Options()
    options = replace(
        options,
        duration=given.duration or options.duration,
        interval=given.interval,
        victim_rate=given.rate / 2,
        other_rate=given.rate / 4,
        trace=given.trace,
        rehearse=given.rehearse,
    )
    return carry_out(given, lambda place: prove(place.launch, place.directory, options, Progress()))


if __name__ == "__main__":
    sys.exit(main())
