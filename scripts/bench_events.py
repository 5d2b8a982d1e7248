"""What becomes of user events at a given rate: loss and delay from one agent to others; ours, the real serf's, mixed.

For each kind of sender and receiver a pair of agents (profile lan, RPC clients at both ends), each rate after another;
the delay counts from when the event was due at the sender's client until the receiver's client had it. Events that came
late are not lost; what had not come `SETTLE_S` after the last one was sent is. The last part is a cluster of several of
ours, and the noise that idle clusters of each kind make.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, replace

from scripts.proofs import events
from scripts.proofs.command import carry_out, parser
from scripts.proofs.report import Progress, Report
from tests.harness import Agent, Launcher, Sniffer, can_sniff, eventually

RATES = (100, 500, 1000, 2000)
"""Events a second."""

PAIRS = (("ours", "ours"), ("real", "real"), ("ours", "real"), ("real", "ours"))
"""Kinds of sender and receiver."""

SETTLE_S = 2.0
"""After the last event."""

QUIET_S = 5.0
"""Before listening to agents whose queues are empty: their figures may be a second old, and joins have echoes."""

MEDIAN_MS = 10.0
"""Bar for the median delay between two of ours."""

LOUDER = 1.05
"""Bar for the packets of idle clusters, which are few: a late ack more or less counts."""

SPREAD_MS = 100.0
"""Bar for the median delay to the last of a cluster."""


@dataclass(frozen=True, slots=True)
class Options:
    """Seconds of each rate; agents of the cluster at the end; seconds of listening to idle ones."""

    seconds: float = 60.0
    cluster: int = 8
    idle_seconds: float = 30.0
    rates: tuple[int, ...] = RATES


SHORT = Options(seconds=5.0, cluster=3, idle_seconds=5.0, rates=(100, 1000))


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one rate and one pair."""

    sent: events.Sent
    got: events.Recorded

    @property
    def loss(self) -> float:
        """The share that did not come, in per cent."""
        return 100.0 * (1 - self.got.events / max(1, self.sent.sent))


def bench(launch: Launcher, options: Options, progress: Progress) -> Report:
    """Run all of it."""
    report = Report("User events: loss and delay by rate (delays in ms)")
    for sender, receiver in PAIRS:
        agents = _pair(launch, f"{sender[0]}{receiver[0]}", sender, receiver)
        for rate in options.rates:
            outcome = _measure(agents[0], agents[1:], rate, options.seconds)[0]
            progress.say(f"{sender} to {receiver}, {rate}/s: {outcome.loss:.1f} % lost, {outcome.got.median_ms:.1f} ms")
            _tell(report, f"{sender} to {receiver}, {rate}/s", outcome)
            if sender == receiver == "ours":
                median = outcome.got.median_ms
                label = f"ours to ours, {rate}/s: delay, median"
                report.require(label, median, f"< {MEDIAN_MS:g}", median < MEDIAN_MS)
                report.require_none(f"ours to ours, {rate}/s: lost", outcome.sent.sent - outcome.got.events)
        for agent in agents:
            agent.close()
    _cluster(launch, options, progress, report)
    _idle(launch, options, progress, report)
    return report


def _start(launch: Launcher, kind: str, name: str, join: list[Agent]) -> Agent:
    begin = launch.serfmp if kind == "ours" else launch.serf
    return begin(name, join=join, profile="lan", log_level="WARN")


def _pair(launch: Launcher, name: str, *kinds: str) -> list[Agent]:
    agents: list[Agent] = []
    for number, kind in enumerate(kinds):
        agents.append(_start(launch, kind, f"{name}{number}", agents[:1]))
    for agent in agents:
        agent.wait_statuses({each.node: "alive" for each in agents}, 60.0)
    return agents


def _measure(sender: Agent, receivers: list[Agent], rate: float, seconds: float) -> list[Outcome]:
    recorders = [events.Recorder(agent.options.rpc) for agent in receivers]
    try:
        sent = events.send(sender.options.rpc, rate, seconds)
        time.sleep(SETTLE_S)
        return [Outcome(sent, recorder.end()) for recorder in recorders]
    finally:
        for recorder in recorders:
            recorder.kill()


def _tell(report: Report, label: str, outcome: Outcome) -> None:
    report.tell(f"{label}: lost, %", round(outcome.loss, 2))
    report.tell(f"{label}: delay, median", outcome.got.median_ms)
    report.tell(f"{label}: delay, 99 %", outcome.got.p99_ms)
    report.tell(f"{label}: delay, longest", outcome.got.max_ms)
    if outcome.sent.refused or outcome.sent.unanswered:
        report.tell(f"{label}: requests refused or unanswered", outcome.sent.refused + outcome.sent.unanswered)


def _cluster(launch: Launcher, options: Options, progress: Progress, report: Report) -> None:
    """Events at a low rate to all of a cluster: when the last one has them."""
    for kind in ("ours", "real"):
        agents = _pair(launch, f"c{kind[0]}", *[kind] * options.cluster)
        outcomes = _measure(agents[0], agents[1:], 20, min(options.seconds, 20.0))
        slowest = max(outcome.got.median_ms for outcome in outcomes)
        lost = sum(outcome.sent.sent - outcome.got.events for outcome in outcomes)
        progress.say(f"{options.cluster} of {kind}: median delay to the slowest {slowest:.1f} ms, {lost} lost")
        label = f"{options.cluster} of {kind}, 20/s"
        report.tell(f"{label}: lost at any of them", lost)
        report.tell(f"{label}: median delay at the fastest", min(outcome.got.median_ms for outcome in outcomes))
        if kind == "ours":
            report.require(f"{label}: median delay at the slowest", slowest, f"<= {SPREAD_MS:g}", slowest <= SPREAD_MS)
        else:
            report.tell(f"{label}: median delay at the slowest", slowest)
        for agent in agents:
            agent.close()


def _idle(launch: Launcher, options: Options, progress: Progress, report: Report) -> None:
    """Packets and bytes of a cluster that has nothing to say."""
    if not can_sniff():
        report.require("packets of idle clusters", math.nan, "measured", met=False)
        return
    rates: dict[str, tuple[float, float]] = {}
    for kind in ("ours", "real"):
        agents = _pair(launch, f"i{kind[0]}", *[kind] * 3)
        for agent in agents:
            eventually(lambda agent=agent: _queues(agent) == 0, 60.0, f"{agent!r} has nothing to say")
        time.sleep(QUIET_S)
        with Sniffer({agent.bind.port for agent in agents}, hosts=[agent.bind.host for agent in agents]) as sniffer:
            time.sleep(options.idle_seconds)
            packets = sniffer.packets
        rates[kind] = (
            len(packets) / options.idle_seconds,
            sum(len(packet.payload) for packet in packets) / options.idle_seconds,
        )
        progress.say(f"idle, three of {kind}: {rates[kind][0]:.1f} packets/s, {rates[kind][1]:.0f} bytes/s")
        report.tell(f"idle, three of {kind}: packets a second", rates[kind][0])
        report.tell(f"idle, three of {kind}: bytes a second", rates[kind][1])
        for agent in agents:
            agent.close()
    report.require(
        "idle: packets, ours over real",
        rates["ours"][0] / rates["real"][0],
        f"<= {LOUDER:g}",
        rates["ours"][0] <= LOUDER * rates["real"][0],
    )


def _queues(agent: Agent) -> int:
    figures = agent.client().stats()["serf"]
    return sum(int(figures[name]) for name in ("intent_queue", "event_queue", "query_queue"))


def main() -> int:
    """The command line."""
    arguments = parser("Loss and delay of user events by rate: ours, the real serf's, and mixed.")
    arguments.add_argument("--seconds", type=float, default=None, help="of each rate (60; short: 5)")
    arguments.add_argument("--cluster", type=int, default=None, help="agents of the cluster (8; short: 3)")
    arguments.add_argument("--rates", default=None, help="events a second, with commas between")
    given = arguments.parse_args()
    options = SHORT if given.short else Options()
    options = replace(
        options,
        seconds=given.seconds or options.seconds,
        cluster=given.cluster or options.cluster,
        rates=tuple(map(int, given.rates.split(","))) if given.rates else options.rates,
    )
    return carry_out(given, lambda place: bench(place.launch, options, Progress()))


if __name__ == "__main__":
    sys.exit(main())
