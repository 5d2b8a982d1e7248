"""Figures of the shipping core in simulated clusters, beside the targets of spec swim.md 14.2.

Rules: a figure is measured over seeds from 0 on, so it repeats exactly. Times are seconds of virtual time. Nothing here
passes or fails by itself: whoever reads the table judges; `Figure.kept` says whether the target was met.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from statistics import median
from typing import Final

from serfmp.detector.config import LAN, WAN, Profile
from serfmp.detector.effects import EventKind, Log, MemberStatus
from serfmp.detector.swim.suspicion import SuspicionWindow
from serfmp.detector.swim.table import NodeState
from serfmp.errors import InternalError
from serfmp.sim.cluster import Cluster
from serfmp.sim.host import Host
from serfmp.sim.network import Conditions
from serfmp.wire.messages import Dead

FORMING: Final = 8.0
"""Seconds after which the queues of a formed cluster are empty."""
LONGEST: Final = 400.0
"""Seconds after which a measurement is given up."""
GOSSIP_ALLOWANCE: Final = 1.0
"""Seconds that the targets of L3, from a model with ideal gossip, allow for gossip."""
AGREEMENT_ALLOWANCE: Final = 1.5
"""Seconds from the first declaration until all agree (L4)."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table."""

    id: str
    what: str
    runs: int
    measured: dict[str, float]
    target: str
    kept: bool


@dataclass(slots=True)
class _Run:
    """A formed cluster, and the times at which hosts logged something."""

    cluster: Cluster
    hosts: list[Host]
    rng: Random
    lines: list[tuple[float, str, str]] = field(default_factory=list)

    @classmethod
    def formed(cls, seed: int, count: int, profile: Profile = LAN, conditions: Conditions | None = None) -> _Run:
        cluster = Cluster(seed, profile, conditions)
        hosts = [cluster.add(f"n{number}") for number in range(count)]
        for host in hosts[1:]:
            cluster.join(host, hosts[0])
        run = cls(cluster, hosts, Random(f"figure {seed}"))
        names = {host.name for host in hosts}
        if not cluster.run_until(lambda: all(host.statuses().keys() == names for host in hosts), LONGEST):
            raise InternalError(f"a cluster of {count} nodes did not form with seed {seed}")
        cluster.run(FORMING + run.rng.random() * profile.probe_interval)
        cluster.told = run.tell
        return run

    def tell(self, host: Host, line: Log) -> None:
        self.lines.append((self.cluster.now, host.name, line.text))

    def said(self, start: str) -> list[tuple[float, str]]:
        """When and where lines with this beginning were logged."""
        return [(time, host) for time, host, text in self.lines if text.startswith(start)]

    def all_show(self, hosts: list[Host], name: str, status: MemberStatus) -> bool:
        return all(host.statuses().get(name) is status for host in hosts)

    def suspects(self) -> bool:
        return any(record.state is NodeState.SUSPECT for host in self.hosts for record in host.alive.swim.table)


def percentile(values: list[float], share: float) -> float:
    """The value below which this share of the values lies, by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


# --- crashes ----------------------------------------------------------------------------------------------------------


def crash(seed: int, count: int, profile: Profile, conditions: Conditions | None = None) -> tuple[float, float]:
    """Seconds from a crash until the first declares it, and until all agree."""
    run = _Run.formed(seed, count, profile, conditions)
    victim, *rest = run.rng.sample(run.hosts, count)
    begun = run.cluster.now
    run.cluster.crash(victim, silent=run.rng.random() < 0.5)
    run.cluster.run_until(lambda: run.all_show(rest, victim.name, MemberStatus.FAILED), LONGEST)
    return run.said(f"Marking {victim.name} ")[0][0] - begun, run.cluster.now - begun


def detection(id: str, count: int, runs: int, profile: Profile, middle: float, rare: float) -> Iterator[Figure]:
    """L3 and L4, or L24: how soon a crash is declared and known. The target is a median and a 99th percentile."""
    results = [crash(seed, count, profile) for seed in range(runs)]
    first, last = [one for one, _ in results], [all_ for _, all_ in results]
    measured = {"median": median(first), "p99": percentile(first, 0.99)}
    kept = measured["median"] <= middle + GOSSIP_ALLOWANCE and measured["p99"] <= rare + GOSSIP_ALLOWANCE
    what = f"first declaration of a crash, N={count}, {profile.name}"
    yield Figure(id, what, runs, measured, f"{middle} / {rare}, +{GOSSIP_ALLOWANCE:.0f} s", kept)
    lag = [all_ - one for one, all_ in results]
    measured = {"median": median(last), "p99": percentile(last, 0.99), "worst lag": max(lag)}
    what = f"all agree on a crash, N={count}, {profile.name}"
    yield Figure("L4", what, runs, measured, f"lag ≤ {AGREEMENT_ALLOWANCE} s", max(lag) <= AGREEMENT_ALLOWANCE)


# --- dissemination ----------------------------------------------------------------------------------------------------


def spread(seed: int, count: int, conditions: Conditions | None = None) -> list[float]:
    """Seconds until each of the others shows a death that one node was told of; infinite for those that never do."""
    run = _Run.formed(seed, count, LAN, conditions)
    victim, first, *rest = run.rng.sample(run.hosts, count)
    record = victim.alive.swim.table.get(victim.name)
    begun = run.cluster.now
    run.cluster.crash(victim, silent=True)
    run.cluster.forge(first, Dead(record.incarnation if record is not None else 0, victim.name, "nobody"))
    run.cluster.run(3)
    heard = {host: time - begun for time, host in run.said(f"EventMemberFailed: {victim.name} ")}
    return sorted(heard.get(host.name, float("inf")) for host in rest)


def dissemination(count: int, runs: int, loss: float, targets: tuple[float, float, float]) -> Iterator[Figure]:
    """L6: how soon one message is at half, 99 %, all of the nodes, as means over the runs."""
    half, most, every = [], [], []
    for seed in range(runs):
        times = spread(seed, count, Conditions(loss=loss))
        half.append(times[len(times) // 2])
        most.append(percentile(times, 0.98))
        every.append(times[-1])
    measured = {
        "50 %": sum(half) / runs,
        "99 %": sum(most) / runs,
        "100 %": sum(time for time in every if time < LONGEST) / max(1, sum(time < LONGEST for time in every)),
        "coverage": sum(time < LONGEST for time in every) / runs,
    }
    kept = all(measured[name] <= target for name, target in zip(("50 %", "99 %"), targets, strict=False))
    what = f"one message at N={count}, loss {loss:.0%}"
    yield Figure("L6", what, runs, measured, " / ".join(map(str, targets)), kept)


def coverage(count: int, runs: int, loss: float, target: float) -> Iterator[Figure]:
    """L7: the share of runs in which gossip alone reaches everybody."""
    reached = sum(spread(seed, count, Conditions(loss=loss))[-1] < LONGEST for seed in range(runs))
    what = f"gossip reaches all of N={count}, loss {loss:.0%}"
    yield Figure("L7", what, runs, {"share": reached / runs}, f"≥ {target}", reached / runs >= target)


# --- leaving ----------------------------------------------------------------------------------------------------------


def leave(seed: int, count: int, conditions: Conditions | None = None) -> tuple[float, bool]:
    """Seconds that a graceful leave takes, and whether all others show it as a leave and nothing else."""
    run = _Run.formed(seed, count, LAN, conditions)
    leaver, *rest = run.rng.sample(run.hosts, count)
    begun = run.cluster.now
    number = run.cluster.leave(leaver)
    run.cluster.run_until(lambda: number in leaver.answers, LONGEST)
    took = run.cluster.now - begun
    run.cluster.crash(leaver)
    run.cluster.run(20)
    clean = not run.said(f"Suspect {leaver.name} ") and run.all_show(rest, leaver.name, MemberStatus.LEFT)
    return took, clean and not any(host.member_events(EventKind.MEMBER_FAILED) for host in rest)


def leaving(count: int, runs: int, loss: float) -> Iterator[Figure]:
    """L18."""
    results = [leave(seed, count, Conditions(loss=loss)) for seed in range(runs)]
    times = [took for took, _ in results]
    clean = sum(clean for _, clean in results) / runs
    measured = {"median": median(times), "p99": percentile(times, 0.99), "clean": clean}
    what = f"graceful leave, N={count}, loss {loss:.0%}"
    yield Figure("L18", what, runs, measured, "clean ≥ 0.999", clean >= 0.999)


# --- partitions and freezes -------------------------------------------------------------------------------------------


def split(seed: int, count: int, seconds: float) -> tuple[int, float]:
    """Half against half for so long: nodes declared failed, and seconds from healing until nobody is suspected.

    A cluster that fell apart is joined by one join, as an operator would: the core has no reconnect of its own yet.
    """
    run = _Run.formed(seed, count)
    names = [host.name for host in run.hosts]
    run.cluster.network.partition(names[: count // 2], names[count // 2 :])
    run.cluster.run(seconds)
    run.cluster.network.heal()
    begun = run.cluster.now
    if run.said("Marking "):
        run.cluster.join(run.hosts[0], run.hosts[-1])

    def whole() -> bool:
        return not run.suspects() and all(run.all_show(run.hosts, name, MemberStatus.ALIVE) for name in names)

    healed = run.cluster.run_until(whole, LONGEST)
    return len(run.said("Marking ")), run.cluster.now - begun if healed else float("inf")


def partitions(count: int, runs: int) -> Iterator[Figure]:
    """L21 and, as far as the core has it, L22."""
    shortest = SuspicionWindow.for_cluster(count, LAN).shortest
    results = [split(seed, count, shortest / 2) for seed in range(runs)]
    measured = {"declared": float(sum(one for one, _ in results)), "clear, worst": max(time for _, time in results)}
    kept = measured["declared"] == 0 and measured["clear, worst"] <= 3
    yield Figure("L21", f"parted for {shortest / 2:.0f} s, N={count}", runs, measured, "0; ≤ 3 s", kept)
    results = [split(seed, count, 300) for seed in range(runs)]
    times = [time for _, time in results]
    measured = {"one cluster, median": median(times), "worst": max(times)}
    what = f"parted for 300 s, one join, N={count}"
    yield Figure("L22", what, runs, measured, "≤ 90 s", max(times) <= 90)


def freeze(seed: int, count: int, seconds: float) -> tuple[int, int, float]:
    """One process stands still: whom it declares failed, how many declare it, seconds until all is well again."""
    run = _Run.formed(seed, count)
    sleeper, *rest = run.rng.sample(run.hosts, count)
    sleeper.pause(seconds)
    run.cluster.run(seconds)
    begun = run.cluster.now
    well = run.cluster.run_until(
        lambda: (
            not run.suspects()
            and run.all_show(rest, sleeper.name, MemberStatus.ALIVE)
            and all(run.all_show([sleeper], host.name, MemberStatus.ALIVE) for host in rest)
        ),
        LONGEST,
    )
    marked = [host for _, host in run.said("Marking ")]
    return marked.count(sleeper.name), len(marked), run.cluster.now - begun if well else float("inf")


def freezes(count: int, runs: int) -> Iterator[Figure]:
    """L28, and L14 for short ones."""
    for seconds in (3.0, 60.0):
        results = [freeze(seed, count, seconds) for seed in range(runs)]
        measured = {
            "declared by it": float(sum(own for own, _, _ in results)),
            "declared": float(sum(marked for _, marked, _ in results)),
            "well, worst": max(time for _, _, time in results),
        }
        what = f"one of N={count} frozen for {seconds:.0f} s"
        yield Figure("L28", what, runs, measured, "0 by it", measured["declared by it"] == 0)


# --- the table --------------------------------------------------------------------------------------------------------

MEASUREMENTS: Final[tuple[Callable[[int], Iterator[Figure]], ...]] = (
    lambda scale: detection("L24", 2, 40 * scale, LAN, 5.0, 5.0),
    lambda scale: detection("L24", 3, 40 * scale, LAN, 5.6, 6.7),
    lambda scale: detection("L3", 10, 40 * scale, LAN, 5.7, 9.1),
    lambda scale: detection("L3", 32, 20 * scale, LAN, 7.7, 11.2),
    lambda scale: detection("L3", 10, 20 * scale, WAN, 39, 56),
    lambda scale: dissemination(100, 3 * scale, 0.0, (0.34, 0.61, 0.67)),
    lambda scale: dissemination(100, 3 * scale, 0.25, (0.44, 0.79, 0.87)),
    lambda scale: coverage(8, 100 * scale, 0.0, 0.999),
    lambda scale: coverage(9, 100 * scale, 0.1, 0.997),
    lambda scale: coverage(32, 20 * scale, 0.1, 0.997),
    lambda scale: leaving(3, 20 * scale, 0.0),
    lambda scale: leaving(10, 20 * scale, 0.05),
    lambda scale: leaving(32, 10 * scale, 0.05),
    lambda scale: partitions(10, 10 * scale),
    lambda scale: freezes(10, 10 * scale),
)
"""All measurements; the argument multiplies the runs."""
