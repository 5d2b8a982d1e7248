"""Lifeguard's local health score: how much the local node should distrust itself (spec swim.md 6).

Rules:

* What probes, missing nacks and refutations teach is earned and unlearned step by step, as in the reference.
* What the host is known to do to this node (`press`: late wakes under pressure) is added while it lasts, before the
  first wrong accusation. It is never sent to anybody.
* The sum stays below the profile's maximum.
"""

from __future__ import annotations

from serfmp.detector.swim.context import Context


class Awareness:
    """A score from 0 (healthy) to the profile's maximum - 1. Only the deadline of a probe round is scaled by it."""

    __slots__ = ("_context", "_earned", "_limit", "_pressed", "score")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._limit = context.profile.awareness_max_multiplier
        self._earned = 0
        self._pressed = 0
        self.score = 0

    def apply(self, delta: int) -> None:
        """Add to what was earned, within its bounds."""
        self._earned = min(max(self._earned + delta, 0), self._limit - 1)
        self._tell()

    def press(self, level: int) -> bool:
        """The host's pressure is at this level from now on; whether that is news."""
        news = level != self._pressed
        self._pressed = level
        self._tell()
        return news

    def _tell(self) -> None:
        score = min(self._earned + self._pressed, self._limit - 1)
        if score != self.score:
            self.score = score
            self._context.histories.score = score
            self._context.gauge("memberlist.health.score", score)

    def scale(self, seconds: float) -> float:
        """A duration stretched by the score."""
        return seconds * (self.score + 1)
