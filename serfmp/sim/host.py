"""One simulated host: the shipping core, driven as its process drives it, and what survives the core.

Rules (those of `serfmp.detector.process`):

* Records of a batch are in the journal before anything else of the batch happens. A detector that is killed between two
  records has done nothing else of that batch.
* Timers that blame fire up to the last fence that came back. A fence goes out when one is due and takes a short time;
  it comes back behind all packets that had arrived when it went out.
* A paused host takes no input and fires no timer. When it goes on it takes all that arrived, then the core is told of
  the time that it lost, then timers fire.
* Long merges are done in slices, one a turn; other input comes between them.
* While its gossip process is away (`cut_off`) a host's packets are lost, what comes to it waits in the kernel, and what
  it asks for waits in the detector. The core is told at both ends.
* A suspended host loses what was sent to it, and its clock stands still; the core is told when it goes on.
* A killed detector loses everything but the journal. Consumers go on, and drop repeats by sequence number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Final, Protocol

from serfmp.detector.config import CoreConfig
from serfmp.detector.core import Core
from serfmp.detector.effects import (
    Answer,
    Count,
    Effect,
    Endpoint,
    Event,
    EventKind,
    Lifecycle,
    LifecycleChanged,
    Log,
    MemberEvent,
    MemberStatus,
    OpenStream,
    Plain,
    Publish,
    Record,
    Resolve,
    SendPacket,
    UserEventReceived,
)
from serfmp.detector.records import CONSUMERS, Recovered
from serfmp.detector.serf.layer import Serf
from serfmp.detector.swim.swim import Swim
from serfmp.errors import InternalError
from serfmp.sim.scheduler import Scheduler
from serfmp.wire.address import to_text

MERGE_BUDGET: Final = 128
"""Entries of a push/pull merged in one turn, as in the process."""
TURN: Final = 0.0005
"""Seconds from one slice of a merge to the next."""
FENCE: Final = 0.0003
"""Seconds that a fence takes (below 1 ms in the process)."""
STALL: Final = 0.25
"""Seconds of lateness from which the core is told of it, as in the process."""
IDLE_WAIT: Final = 1.0
"""Longest planned wait of the process' loop, in seconds: lateness counts from its end."""
WATCHFUL_WAIT: Final = 0.25
"""The same while somebody may come to be blamed."""
INBOX_LIMIT: Final = 4096
"""Packets that the buffers of a paused host hold."""

Input = Callable[["SeenCore"], None]
"""Hands something to a core."""


class SeenCore(Core):
    """The shipping core with windows for observers; in everything else it is its base."""

    __slots__ = ()

    @property
    def swim(self) -> Swim:
        """The lower layer: to look at, not to touch."""
        return self._swim

    @property
    def serf(self) -> Serf:
        """The upper layer: to look at, not to touch."""
        return self._serf


class World(Protocol):
    """What is outside of a host."""

    scheduler: Scheduler

    def carry_out(self, host: Host, effect: Effect) -> None:
        """Do what concerns others: packets, streams, names."""

    def kill(self, host: Host) -> None:
        """The detector dies and is started again."""

    def recorded(self, host: Host, fields: tuple[Plain, ...]) -> None:
        """A record is in the journal."""

    def took(self, host: Host, consumer: str, event: Event) -> None:
        """A consumer got an event that it did not have."""

    def turned(self, host: Host, effects: list[Effect]) -> None:
        """A turn of the host is over, its effects are carried out."""


class Host:
    """See the module. `core` is None while nothing runs."""

    def __init__(self, name: str, config: CoreConfig, world: World, seed: int) -> None:
        self.name = name
        self.config = config
        self.endpoint: Endpoint = (to_text(config.address), config.port)
        self.core: SeenCore | None = None
        self.generation = 0
        """Of the detector, within one life of the agent."""
        self.life = 0
        """Of the agent: how often it was started from nothing."""
        self.journal: list[tuple[Plain, ...]] = []
        self.events: dict[str, list[Event]] = {}
        self.taken: dict[str, int] = {}
        self.answers: dict[int, Answer] = {}
        self.lifecycles: list[Lifecycle] = []
        self.logs: list[str] = []
        self.counters: dict[str, int] = {}
        self.requests = 0
        self.paused = False
        self.slept = 0.0
        """Seconds for which the machine was suspended: its clock is so far behind."""
        self.silent = False
        """The machine is gone, not only the process: connections are not refused but time out."""
        self.crash_after_records: int | None = None
        """Kill the detector behind so many further records."""
        self.cut_off = False
        """Nothing is there to send or to receive."""
        self._buffered: list[tuple[Input, SeenCore | None]] = []
        """What came meanwhile."""
        self._world = world
        self._seed = seed
        self._clock = world.scheduler
        self._forget()

    def _forget(self) -> None:
        self.journal = []
        self.events = {name: [] for name in CONSUMERS}
        self.taken = dict.fromkeys(CONSUMERS, 0)
        self.lifecycles = []
        self.generation = 0
        self.life += 1
        self._stop()

    def _stop(self) -> None:
        self.core = None
        self._lost_by: SeenCore | None = None
        self._unasked: list[Effect] = []
        self.paused = False
        self.asleep = False
        self._inbox: list[tuple[Input, SeenCore | None]] = []
        self._paused_until = self._planned = 0.0
        self._fenced_until = 0.0
        self._fence_out = False
        self._merging = False
        self._wake_at = float("inf")

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a detector, from the journal if there is one."""
        self.generation += 1
        self.silent = False
        recovered = Recovered.replay(self.journal) if self.journal else None
        rng = Random(f"{self._seed} {self.name} {self.life} {self.generation}")
        self.core = SeenCore(self.config, rng, self.now, self.generation, recovered)
        if self.cut_off:
            self.core.gossip_lost(self.now)
        for consumer in CONSUMERS:
            for event in self.core.outbox(self.taken[consumer]):
                self._take(consumer, event)
        self.settle()

    def stop(self) -> None:
        """The detector is gone, with all that was not handed to it yet."""
        self._stop()

    def start_afresh(self) -> None:
        """A new agent with an empty journal, and new consumers."""
        self._forget()
        self.start()

    def pause(self, seconds: float) -> None:
        """Stop the process for a while."""
        if self.core is None:
            return
        now = self.now
        if not self.paused:
            deadline = self.core.next_deadline()
            longest = now + (WATCHFUL_WAIT if self.core.may_blame else IDLE_WAIT)
            self._planned = min(longest, max(now, deadline)) if deadline is not None else longest
        self.paused = True
        self._paused_until = max(self._paused_until, now + seconds)
        self._clock.at(self._paused_until + self.slept, self._resume)

    def lose_gossip(self, seconds: float) -> None:
        """The gossip process dies; a new one is there after so long."""
        self._lost_by = self.core
        if not self.cut_off:
            self.cut_off = True
            self._clock.after(seconds, self._find_gossip)
        self.hand_in(lambda core: core.gossip_lost(self.now))

    def _find_gossip(self) -> None:
        self.cut_off = False
        unasked, self._unasked = self._unasked, []
        for effect in unasked:
            self._world.carry_out(self, effect)
        lost_by = self._lost_by

        def found(core: SeenCore) -> None:
            if core is lost_by:
                core.gossip_restarted(self.now)
            else:
                core.gossip_found(self.now)

        self.hand_in(found)
        buffered, self._buffered = self._buffered, []
        for action, meant in buffered:
            self.hand_in(action, meant)

    def press(self, level: int) -> None:
        """The host lets the process down that much from now on, as the process reads it from kernel and lateness."""
        self.hand_in(lambda core: core.pressed(self.now, level, level / 10, None))

    @property
    def now(self) -> float:
        """The host's own clock."""
        return self._clock.now - self.slept

    def suspend(self, seconds: float) -> None:
        """The machine sleeps."""
        if self.core is None or self.asleep:
            return
        self.asleep = True
        core = self.core
        self._clock.after(seconds, lambda: self._go_on(core, seconds))

    def _go_on(self, core: SeenCore, seconds: float) -> None:
        self.slept += seconds
        if self.core is not core:
            return
        self.asleep = False
        core.suspended(self.now, seconds)
        kept, self._inbox = self._inbox, []
        for action, _ in kept:
            action(core)
        self._tick()

    def _resume(self) -> None:
        core, now = self.core, self.now
        if core is None or not self.paused or now < self._paused_until:
            return
        self.paused = False
        arrived, self._inbox = self._inbox, []
        for action, meant in arrived:
            if meant is None or meant is core:
                action(core)
        if now - self._planned > STALL:
            core.stalled(now, now - self._planned)
        self._merging = False
        self._tick()

    # --- input and time -----------------------------------------------------------------------------------------------

    def hand_in(self, action: Input, meant: SeenCore | None = None) -> None:
        """Something arrives. `meant`: only for this core, not for a later one."""
        core = self.core
        if core is None or (meant is not None and meant is not core):
            return
        if self.asleep:
            # Packets are lost; how own requests ended is told when the machine goes on.
            if meant is not None:
                self._inbox.append((action, meant))
        elif not self.paused:
            action(core)
            self.settle()
        elif len(self._inbox) < INBOX_LIMIT:
            self._inbox.append((action, meant))

    def deliver(self, action: Input, meant: SeenCore | None = None) -> None:
        """The same for what comes through the gossip process."""
        if not self.cut_off:
            self.hand_in(action, meant)
        elif len(self._buffered) < INBOX_LIMIT:
            self._buffered.append((action, meant))

    def _tick(self) -> None:
        core, now = self.core, self.now
        if core is None or self.paused or self.asleep:
            return
        if not self._fence_out and core.blame_due(now):
            self._fence_out = True
            self._clock.after(FENCE, lambda: self.deliver(lambda _: self._fence_back(now), core))
        core.advance(now, self._fenced_until)
        self.settle()

    def _fence_back(self, sent: float) -> None:
        self._fence_out, self._fenced_until = False, sent
        if self.core is not None:
            self.core.advance(self.now, sent)

    def _wake(self, time: float) -> None:
        if time == self._wake_at:
            self._wake_at = float("inf")
            self._tick()

    def _plan(self, core: SeenCore) -> None:
        """Wake at the next deadline. While a fence is out that is when it comes back."""
        deadline = core.next_deadline()
        if deadline is not None and not self._fence_out and not self.paused and deadline + self.slept < self._wake_at:
            wake_at = max(deadline + self.slept, self._clock.now)
            while wake_at - self.slept < deadline:  # rounding must not wake it before its own clock says so
                wake_at = math.nextafter(wake_at, math.inf)
            self._wake_at = wake_at
            self._clock.at(wake_at, lambda: self._wake(wake_at))

    def _merge_on(self) -> None:
        self._merging = False
        if not self.paused and not self.asleep:
            self.settle()

    # --- output -------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """The end of a turn: a slice of merging, then the effects, the journal first."""
        core = self.core
        if core is None:
            return
        if core.work(self.now, MERGE_BUDGET) and not self._merging:
            self._merging = True
            self._clock.after(TURN, self._merge_on)
        while effects := core.take_effects():
            if not self._write_journal(effects):
                return
            for effect in effects:
                self._carry_out(effect)
                if self.core is not core:
                    return
            self._world.turned(self, effects)
        self._plan(core)

    def _write_journal(self, effects: list[Effect]) -> bool:
        """Append the records of a batch; False if the detector was killed in the middle."""
        for effect in effects:
            if isinstance(effect, Record):
                self.journal.append(effect.fields)
                self._world.recorded(self, effect.fields)
                if self.crash_after_records is not None:
                    self.crash_after_records -= 1
                    if self.crash_after_records <= 0:
                        self.crash_after_records = None
                        self._world.kill(self)
                        return False
        return True

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Publish(event):
                for consumer in CONSUMERS:
                    self._take(consumer, event)
            case Answer(asked):
                self.answers[asked[2]] = effect
            case LifecycleChanged(state):
                self.lifecycles.append(state)
            case Log(level, component, text):
                self.logs.append(f"[{level}] {component}: {text}")
            case Count(name, amount):
                self.counters[name] = self.counters.get(name, 0) + amount
            case SendPacket() if self.cut_off:
                pass
            case OpenStream() | Resolve() if self.cut_off:
                self._unasked.append(effect)
            case _:
                self._world.carry_out(self, effect)

    def _take(self, consumer: str, event: Event) -> None:
        if event.sequence > self.taken[consumer]:
            self.taken[consumer] = event.sequence
            self.events[consumer].append(event)
            self._world.took(self, consumer, event)

    # --- what users see -----------------------------------------------------------------------------------------------

    @property
    def alive(self) -> SeenCore:
        """The core of a host that runs. Raises `InternalError` for one that does not."""
        if self.core is None:
            raise InternalError(f"nothing runs on {self.name}")
        return self.core

    def user_events(self, consumer: str = "rpc") -> list[tuple[str, bytes]]:
        """Name and payload of the user events that the consumer got, in order."""
        return [(event.name, event.payload) for event in self.events[consumer] if isinstance(event, UserEventReceived)]

    def member_events(self, kind: EventKind, consumer: str = "rpc") -> list[str]:
        """Names of the members in events of this kind, in order."""
        return [
            member.name
            for event in self.events[consumer]
            if isinstance(event, MemberEvent) and event.kind is kind
            for member in event.members
        ]

    def statuses(self) -> dict[str, MemberStatus]:
        """The member table by name."""
        return {row.name: row.status for row in self.alive.serf.members}
