"""Lifeguard's suspicion: how long a suspect has to refute, shorter the more nodes confirm (spec swim.md 5).

Rules:

* The window is fixed when the suspicion starts; later changes of the cluster's size do not matter.
* The first accuser is not a confirmation, and nobody confirms twice.
* A suspicion that was only read in somebody's push/pull starts without a counted accuser (B13).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from serfmp.detector.config import Profile
from serfmp.detector.swim.timers import Timer


@dataclass(frozen=True, slots=True)
class SuspicionWindow:
    """Confirmations wanted (k), shortest and longest time-out in seconds."""

    wanted: int
    shortest: float
    longest: float

    @classmethod
    def for_cluster(cls, size: int, profile: Profile) -> SuspicionWindow:
        """The window for a cluster of `size` nodes (spec swim.md 5.1: n, with log10 truncated to three decimals)."""
        wanted = profile.suspicion_mult - 2
        if size - 2 < wanted:
            wanted = 0
        scale = max(1.0, math.log10(max(1, size)))
        shortest = profile.suspicion_mult * math.trunc(scale * 1000) * profile.probe_interval / 1000
        return cls(wanted, shortest, profile.suspicion_max_timeout_mult * shortest)

    def timeout(self, confirmations: int) -> float:
        """Seconds from the start until a suspect with so many confirmations counts as dead (spec swim.md 5.2)."""
        if self.wanted < 1:
            return self.shortest
        if confirmations < 1:
            return self.longest
        share = math.log(confirmations + 1) / math.log(self.wanted + 1)
        raw = self.longest - share * (self.longest - self.shortest)
        return max(self.shortest, math.floor(raw * 1000) / 1000)


class Suspicion:
    """One running suspicion. `timer` is set by whoever arms it."""

    __slots__ = ("_seen", "confirmations", "started", "timer", "window")

    def __init__(self, window: SuspicionWindow, accuser: str | None, started: float) -> None:
        self.window = window
        self.started = started
        self.confirmations = 0
        self.timer: Timer | None = None
        self._seen = set() if accuser is None else {accuser}

    @property
    def deadline(self) -> float:
        """When the suspect counts as dead if nothing more is heard."""
        return self.started + self.window.timeout(self.confirmations)

    def confirm(self, sender: str) -> bool:
        """Another accusation: whether it counts as news (spec swim.md 5.3)."""
        if self.confirmations >= self.window.wanted or sender in self._seen:
            return False
        self._seen.add(sender)
        self.confirmations += 1
        return True

    def cancel(self) -> None:
        """The suspect is no suspect any more."""
        if self.timer is not None:
            self.timer.cancel()
