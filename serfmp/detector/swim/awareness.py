"""Lifeguard's local health score: how much the local node should distrust itself (spec swim.md 6)."""

from __future__ import annotations

from serfmp.detector.swim.context import Context


class Awareness:
    """A score from 0 (healthy) to the profile's maximum - 1. Only the deadline of a probe round is scaled by it."""

    __slots__ = ("_context", "_limit", "score")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._limit = context.profile.awareness_max_multiplier
        self.score = 0

    def apply(self, delta: int) -> None:
        """Add to the score, within its bounds."""
        score = min(max(self.score + delta, 0), self._limit - 1)
        if score != self.score:
            self.score = score
            self._context.histories.score = score
            self._context.gauge("memberlist.health.score", score)

    def scale(self, seconds: float) -> float:
        """A duration stretched by the score."""
        return seconds * (self.score + 1)
