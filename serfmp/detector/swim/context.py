"""What all parts of one core share: the present time, randomness, timers, numbers, and the list of effects.

Rules: one `Context` per core. `now` is set by whoever enters the core and never goes back. Parts append effects in the
order in which things happen; records of changed node rows are folded: one per node and batch, made when the batch is
taken.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from serfmp.detector.config import CoreConfig
from serfmp.detector.effects import Count, Effect, Endpoint, Gauge, Log, Noted, Plain
from serfmp.detector.swim.evidence import Finding, Histories
from serfmp.detector.swim.timers import Timer, Timers

TOKEN_SHIFT = 40
"""Tokens are `generation << TOKEN_SHIFT` + a number: no answer meant for a dead generation matches."""

LOG_LIMIT_INTERVAL = 1.0
"""Seconds between two log lines about one thing that a peer repeats. Ours."""

LOG_LIMIT_KEYS = 1024
"""Things remembered for that; beyond it the memory starts afresh. Ours."""

StreamAnswer = Callable[[bytes | None, str, bool], None]
"""Told how an outbound stream ended: message or None, error text, whether the remote side is to blame."""


class Context:
    """See the module."""

    __slots__ = (
        "_sequence",
        "_silence",
        "_token",
        "changed_nodes",
        "config",
        "effects",
        "generation",
        "histories",
        "now",
        "profile",
        "rng",
        "samples",
        "source",
        "stopwatch",
        "streams",
        "timers",
    )

    def __init__(
        self,
        config: CoreConfig,
        rng: Random,
        now: float,
        generation: int,
        stopwatch: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.config = config
        self.profile = config.profile
        self.rng = rng
        self.now = now
        self.source: Endpoint | None = None
        """Where the message that is being handled came from; None while none is."""
        self.stopwatch = stopwatch
        """Seconds of a clock that runs on within a turn: for metrics of how long something took, and nothing else."""
        self.histories = Histories()
        self.timers = Timers()
        self.effects: list[Effect] = []
        self.samples: dict[str, list[float]] = {}
        """Values by name that were measured in this batch: there are many, so they become one effect a name."""
        self.changed_nodes: dict[str, None] = {}
        """Names of node rows that changed in this batch, in the order of their first change."""
        self.streams: dict[int, StreamAnswer] = {}
        """Outbound streams that are open, by token."""
        self._sequence = rng.getrandbits(32)
        self.generation = generation
        self._token = generation << TOKEN_SHIFT
        self._silence: dict[str, float] = {}

    def next_sequence(self) -> int:
        """A new sequence number for a ping: 32 bits, wraps, starts at random so that no old ack matches."""
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        return self._sequence

    def next_token(self) -> int:
        """A new token, unique over all generations."""
        self._token += 1
        return self._token

    def after(self, seconds: float, callback: Callable[[], None], blames: bool = False) -> Timer:
        """Call back in `seconds`."""
        return self.timers.at(self.now + seconds, callback, blames)

    def log(self, level: str, component: str, text: str) -> None:
        """A log line."""
        self.effects.append(Log(level, component, text))

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter."""
        self.effects.append(Count(name, amount))

    def gauge(self, name: str, value: float) -> None:
        """Set a gauge."""
        self.effects.append(Gauge(name, value))

    def sample(self, name: str, value: float) -> None:
        """One value of a sample: milliseconds, bytes or items."""
        found = self.samples.get(name)
        if found is None:
            self.samples[name] = [value]
        else:
            found.append(value)

    def sample_all(self, name: str, values: list[float]) -> None:
        """Several values of a sample."""
        found = self.samples.get(name)
        if found is None:
            self.samples[name] = values
        else:
            found += values

    def note(self, node: str, finding: Finding, by: str = "", **facts: Plain) -> None:
        """Note evidence about a node, by another or, by default, by the local one."""
        by = by or self.config.node
        self.histories.note(self.now, node, finding, by, self.source, **facts)
        self.effects.append(Noted(node, finding.value, by, self.source, facts))

    def quiet(self, key: str, interval: float = LOG_LIMIT_INTERVAL) -> bool:
        """Whether something with this key was let through less than `interval` seconds ago; if not, it is now."""
        until = self._silence.get(key)
        if until is not None and self.now < until:
            return True
        if len(self._silence) >= LOG_LIMIT_KEYS:
            self._silence.clear()
        self._silence[key] = self.now + interval
        return False

    def time(self) -> float:
        """The present time of the core."""
        return self.now
