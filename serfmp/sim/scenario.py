"""Random histories: a seed becomes a cluster, faults, a recovery, and what must be true at the end.

Rules:

* Everything is drawn from the seed, in one order. The number of nodes may be given instead; the seed still decides the
  rest.
* Faults come one after another at random distances, in the protocol's own unit of time. Each is a line of the story.
* At the end the network heals, some of those that are gone come back, everybody joins one of them. Then all must agree
  within the time that anti-entropy and suspicion need (swim.md L8), and every event must be everywhere (P14).
* A failure names the command that repeats it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from serfmp.detector.config import LAN, LOCAL, WAN, Profile
from serfmp.detector.effects import (
    Event,
    ForceLeaveRequest,
    JoinRequest,
    Log,
    QueryReceived,
    QueryRequest,
    RespondRequest,
)
from serfmp.sim.agreement import Agreement, patience
from serfmp.sim.cluster import Cluster
from serfmp.sim.host import Host
from serfmp.sim.invariants import BrokenError, Invariants
from serfmp.sim.network import Conditions
from serfmp.sim.query_watch import Wanted
from serfmp.wire.messages import Dead, Suspect, User
from serfmp.wire.serf_messages import JoinIntent, LeaveIntent, encode_serf

LAST_QUERY: Final = "last"
"""Name of the query at the end of a run."""
LAST_TRIES: Final = 3
NODES: Final = (3, 30)
"""Smallest and largest cluster."""
FAULTS: Final = (8, 24)
"""Fewest and most faults of a history."""
LULL: Final = 25.0
"""Probe intervals of the longest time between two faults: enough for a suspicion to end."""
SETTLING: Final = 5.0
"""Seconds in which a cluster forms before the first fault."""
CALM: Final = 10.0
"""Probe intervals for which the agreement at the end must last."""
COLLECTING: Final = ((0.0, 0.0), (3.0, 1.0), (0.5, 0.1))
"""Periods for which events are collected: not at all, Serf's, short ones."""
QUERY_TIMES: Final = (0.5, 2.0, 10.0)
"""Gossip intervals, times ten, for which queries run."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to. Times in seconds of virtual time."""

    seed: int
    nodes: int
    profile: str
    faults: int
    checks: int
    """Turns after which the invariants were checked."""
    lasted: float
    converged: float
    """From healing to agreement."""
    packets: int
    trace_hash: str


class History:
    """One run of one seed. See the module."""

    def __init__(self, seed: int, nodes: int | None = None, tell: Callable[[str], None] | None = None) -> None:
        """`tell` gets the lines of the story."""
        self.seed = seed
        self._rng = rng = Random(f"history {seed}")
        drawn = rng.randint(*NODES)
        self.nodes = drawn if nodes is None else nodes
        self.profile: Profile = rng.choices((LAN, LOCAL, WAN), (6, 3, 1))[0]
        self._unit = self.profile.probe_interval
        self._conditions = Conditions(
            loss=rng.choice((0.0, 0.01, 0.05, 0.1, 0.2)),
            duplicate=rng.choice((0.0, 0.0, 0.02, 0.1)),
            straggle=rng.choice((0.0, 0.0, 0.02, 0.1)),
            latest=rng.choice((0.05, 0.5, 5.0, 30.0)),
        )
        self._pace = rng.choice((0.3, 2.0, 5.0))
        self._tell = tell
        self._watch = Invariants(self.profile)
        longest, quiet = rng.choice(COLLECTING)
        self._cluster = Cluster(
            seed, self.profile, self._conditions, self._watch, coalesce_period=longest, quiescent_period=quiet
        )
        self._answers = Random(f"answers {seed}")
        self._queries = 0
        self._cluster.heard = self._heard
        if tell is not None:
            self._cluster.told = self._told
        self._faults = rng.randint(*FAULTS)
        self._agreement = Agreement(self._cluster)

    @property
    def command(self) -> str:
        """Repeats this run."""
        return f"python -m serfmp.sim -seed {self.seed} -nodes {self.nodes}"

    def _say(self, text: str) -> None:
        if self._tell is not None:
            self._tell(f"{self._cluster.now:10.3f}  {text}")

    def _told(self, host: Host, line: Log) -> None:
        if line.level != "DEBUG":
            self._say(f"    {host.name:4} {line.level:4} {line.text}")

    # --- the run ------------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Run it all. Raises `BrokenError` with the command that repeats it."""
        try:
            return self._run()
        except BrokenError as fault:
            raise BrokenError(f"{fault}\n  repeat with: {self.command}") from fault
        except Exception as fault:
            raise BrokenError(f"{type(fault).__name__}: {fault}\n  repeat with: {self.command}") from fault

    def _run(self) -> Outcome:
        cluster, rng = self._cluster, self._rng
        self._say(f"{self.nodes} nodes, profile {self.profile.name}, {self._conditions}")
        hosts = [cluster.add(f"n{number}") for number in range(self.nodes)]
        for host in hosts[1:]:
            cluster.join(host, hosts[0])
        cluster.run(SETTLING)
        for _ in range(self._faults):
            self._fault(rng.choice(_FAULTS))
            cluster.run(rng.uniform(0, self._pace if rng.random() < 0.8 else LULL) * self._unit)
            self._audit()
        self._recover()
        begun = cluster.now
        limit = patience(self.nodes, self.profile)
        if not cluster.run_until(self._agreement.holds, limit):
            found = self._agreement.differences()
            raise BrokenError(f"L8, P11, P14 broken: no agreement {limit:.0f} s after healing: {found}")
        converged = cluster.now - begun
        self._say(f"all agree after {converged:.1f} s")
        cluster.run(CALM * self._unit)
        if not self._agreement.holds():
            raise BrokenError(f"L8 broken: the agreement did not last: {self._agreement.differences()}")
        self._audit()
        self._agreement.check_leftovers()
        self._ask_all()
        counters = cluster.counters
        return Outcome(
            self.seed,
            self.nodes,
            self.profile.name,
            self._faults,
            self._watch.checks,
            cluster.now,
            converged,
            counters["packets"],
            cluster.trace_hash,
        )

    def _audit(self) -> None:
        for host in self._cluster.running:
            if not host.paused:
                self._watch.audit(host)

    # --- faults -------------------------------------------------------------------------------------------------------

    def _fault(self, name: str) -> None:
        victim = self._rng.choice(self._cluster.running)
        getattr(self, f"_{name}")(victim)

    def _others(self) -> list[Host]:
        """A random part of all hosts, neither none nor all."""
        hosts = list(self._cluster.hosts.values())
        return self._rng.sample(hosts, self._rng.randrange(1, len(hosts)))

    def _kill(self, victim: Host) -> None:
        self._say(f"kill the detector of {victim.name}")
        self._cluster.kill_between_turns(victim)

    def _tear(self, victim: Host) -> None:
        victim.crash_after_records = self._rng.randrange(1, 12)
        self._say(f"kill the detector of {victim.name} behind {victim.crash_after_records} records")

    def _compact(self, victim: Host) -> None:
        if not victim.paused:
            self._say(f"compact the journal of {victim.name}")
            victim.journal = list(victim.alive.snapshot_records())
            self._watch.dying(victim)

    def _crash(self, victim: Host) -> None:
        if len(self._cluster.running) > 2:
            silent = self._rng.random() < 0.5
            self._say(f"{victim.name} {'vanishes' if silent else 'crashes'}")
            self._cluster.crash(victim, silent)

    def _restart(self, _victim: Host) -> None:
        gone = [host for host in self._cluster.hosts.values() if host.core is None]
        if gone:
            self._begin_anew(self._rng.choice(gone))

    def _begin_anew(self, host: Host) -> None:
        seeds = self._rng.sample(self._cluster.running, min(2, len(self._cluster.running)))
        by_name = self._rng.random() < 0.3
        self._say(f"{host.name} starts from nothing and joins {' and '.join(seed.name for seed in seeds)}")
        host.crash_after_records = None
        self._agreement.begun_anew(host.name)
        self._cluster.restart_from_nothing(host)
        if by_name:
            self._cluster.ask(host, JoinRequest(tuple(seed.name for seed in seeds), replay=True))
        else:
            self._cluster.join(host, *seeds)

    def _leave(self, victim: Host) -> None:
        running = [host for host in self._cluster.running if not host.lifecycles]
        if len(running) > 2 and victim in running:
            patience = self._rng.choice((0.5, 5.0, 10.0))
            self._say(f"{victim.name} leaves, and is stopped after {patience} s")
            life = victim.life
            self._cluster.leave(victim)

            def stop() -> None:
                if victim.core is not None and victim.life == life:
                    self._cluster.crash(victim)

            self._cluster.scheduler.after(patience, stop)

    def _pause(self, victim: Host) -> None:
        seconds = self._rng.choice((0.1, 0.4, 1.0, 3.0, 8.0, 30.0)) * self._unit
        self._say(f"{victim.name} stands still for {seconds:.1f} s")
        victim.pause(seconds)

    def _gossip(self, victim: Host) -> None:
        seconds = self._rng.choice((0.05, 0.3, 1.0, 3.0)) * self._unit
        self._say(f"kill the gossip process of {victim.name}: {seconds:.1f} s without")
        self._cluster.restart_gossip(victim, seconds)

    def _partition(self, _victim: Host) -> None:
        side = {host.name for host in self._others()}
        other = self._cluster.hosts.keys() - side
        self._say(f"the network parts: {' '.join(sorted(side))}")
        self._cluster.network.partition(side, sorted(other))

    def _one_way(self, victim: Host) -> None:
        others = {host.name for host in self._others()} - {victim.name}
        loss, streams = self._rng.choice((0.5, 0.8, 1.0)), self._rng.random() < 0.5
        towards = self._rng.random() < 0.5
        self._say(f"{victim.name} {'hears' if towards else 'is heard'} badly: {loss:.0%}, streams cut: {streams}")
        one, other = (others, {victim.name}) if towards else ({victim.name}, others)
        self._cluster.network.cut(one, other, loss, streams)

    def _only_streams(self, victim: Host) -> None:
        others = self._cluster.hosts.keys() - {victim.name}
        self._say(f"packets to and from {victim.name} are lost, streams pass")
        self._cluster.network.cut({victim.name}, others, streams=False)
        self._cluster.network.cut(others, {victim.name}, streams=False)

    def _heal(self, _victim: Host) -> None:
        self._say("the network heals")
        self._cluster.network.heal()

    def _accuse(self, victim: Host) -> None:
        record = victim.alive.swim.table.get(victim.name)
        incarnation = (record.incarnation if record is not None else 0) + self._rng.randrange(3)
        sender = self._rng.choice((victim.name, "n0", "nobody"))
        message = self._rng.choice((Suspect, Dead))(incarnation, victim.name, sender)
        told = self._others()
        self._say(f"{' '.join(sorted(host.name for host in told))} are told {message}")
        for host in told:
            self._cluster.forge(host, message)

    def _intent(self, victim: Host) -> None:
        kind = self._rng.choice((LeaveIntent, LeaveIntent, JoinIntent))
        intent = kind(victim.alive.serf.clock.time + self._rng.randrange(-3, 4) % 1000, victim.name)
        told = self._others()
        self._say(f"{' '.join(sorted(host.name for host in told))} are told {intent}")
        for host in told:
            self._cluster.forge(host, User(encode_serf(intent)))

    def _remove(self, victim: Host) -> None:
        host, prune = self._rng.choice(list(self._cluster.hosts.values())), self._rng.random() < 0.3
        self._say(f"{victim.name} is asked to remove {host.name}{', and to forget it' if prune else ''}")
        self._cluster.ask(victim, ForceLeaveRequest(host.name, prune))

    def _event(self, victim: Host) -> None:
        for host in [victim, *self._rng.sample(self._cluster.running, 1)]:
            number = self._agreement.asked(host)
            self._say(f"{host.name} sends event {number}")
            self._cluster.event(host, "e", str(number).encode())

    def _superseded(self, victim: Host) -> None:
        for host in [victim, *self._rng.sample(self._cluster.running, 1)]:
            self._say(f"{host.name} sends two events that may be collected")
            for _ in range(2):
                self._cluster.event(host, "c", str(self._rng.randrange(10)).encode(), coalesce=True)

    # --- queries ------------------------------------------------------------------------------------------------------

    def _query(self, victim: Host) -> None:
        rng = self._rng
        names = tuple(sorted(host.name for host in self._others())) if rng.random() < 0.5 else ()
        timeout = rng.choice(QUERY_TIMES) * 10 * self.profile.gossip_interval
        self._ask(victim, names, rng.random() < 0.6, rng.choice((0, 0, 1, 2)), timeout)

    def _ask(self, host: Host, nodes: tuple[str, ...], ack: bool, relays: int, timeout: float, name: str = "") -> int:
        self._queries += 1
        name = name or f"q{self._queries}"
        self._say(
            f"{host.name} asks {name} of {' '.join(nodes) or 'all'}: acks {ack}, relays {relays}, {timeout:.1f} s"
        )
        self._watch.queries.announce(name, Wanted(frozenset(nodes) if nodes else None, ack))
        return self._cluster.ask(host, QueryRequest(name, b"", nodes, {}, ack, relays, timeout))

    def _heard(self, host: Host, consumer: str, event: Event) -> None:
        """Handlers answer queries: soon, late, twice, or not at all."""
        if consumer != "dispatcher" or not isinstance(event, QueryReceived):
            return
        rng, cluster, life = self._answers, self._cluster, host.life
        left = event.deadline - cluster.now
        delays = (
            [0.0] if event.name == LAST_QUERY else [rng.uniform(0, 1.3 * left) for _ in range(rng.choice((0, 1, 1, 2)))]
        )

        def answer() -> None:
            if host.life == life:
                cluster.ask(host, RespondRequest(event.ltime, event.id, event.name.encode()))

        for delay in delays:
            cluster.scheduler.after(max(delay, 0.0), answer)

    def _ask_all(self) -> None:
        """In a calm cluster without loss everybody acks and answers a query, once (P18).

        Gossip promises nothing: with the profile `local` one query of some hundreds misses a node, as it must. So
        there are three tries.
        """
        cluster = self._cluster
        cluster.network.conditions = Conditions()
        asker = self._rng.choice(cluster.running)
        everybody = {host.name for host in cluster.running}
        missed: list[str] = []
        for _ in range(LAST_TRIES):
            timeout = 16 * 2 * self.profile.gossip_interval
            number = self._ask(asker, (), ack=True, relays=1, timeout=timeout, name=LAST_QUERY)
            cluster.run(timeout + 1.0)
            acked, answered = self._watch.queries.answers(asker, number)
            if acked == answered == everybody:
                return
            if not acked | answered <= everybody:
                raise BrokenError(f"P18 broken: {sorted((acked | answered) - everybody)} answer, and are gone")
            missed.append(f"{sorted(everybody - acked)} and {sorted(everybody - answered)}")
        raise BrokenError(f"P18 broken: of {asker.name}'s queries, these have not acked and answered: {missed}")

    def _acknowledge(self, victim: Host) -> None:
        if not victim.paused:
            self._cluster.acknowledge(victim)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        cluster, rng = self._cluster, self._rng
        self._say("end of the faults")
        cluster.network.heal()
        cluster.network.conditions = Conditions(loss=min(self._conditions.loss, 0.05))
        cluster.run(30 * self._unit)  # pauses end, leaves end
        for host in cluster.hosts.values():
            host.crash_after_records = None
            if host.core is not None and host.lifecycles:
                cluster.crash(host)
        if not cluster.running:
            self._agreement.begun_anew("n0")
            cluster.restart_from_nothing(cluster.hosts["n0"])
        for host in cluster.hosts.values():
            if host.core is None and rng.random() < 0.6:
                self._begin_anew(host)
        anchor = cluster.running[0]
        for host in cluster.running[1:]:
            cluster.join(host, anchor)


_FAULTS: Final = (
    *("kill", "kill", "tear", "compact", "crash", "crash", "restart", "restart", "restart", "leave"),
    *("pause", "pause", "gossip", "partition", "one_way", "only_streams", "heal", "heal"),
    *("accuse", "intent", "remove", "event", "event", "acknowledge"),
    *("superseded", "query", "query"),
)
"""Names of the faults; those that stand here twice are twice as likely."""
