"""A budget of bytes: so many a second, with some saved up for bursts (a token bucket). Ours."""

from __future__ import annotations

from typing import Final

SAVED_S: Final = 0.1
"""Seconds of the rate that may be saved up."""


class ByteBudget:
    """`rate`: bytes a second. Spending is never refused; whoever can wait asks `left` first."""

    __slots__ = ("_left", "_rate", "_time")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._time = now
        self._left = rate * SAVED_S

    def spend(self, size: int) -> None:
        """Count bytes that were sent; debts are limited to what can be saved."""
        self._left = max(self._left - size, -self._rate * SAVED_S)

    def left(self, now: float) -> bool:
        """Whether something is left."""
        self._left = min(self._left + (now - self._time) * self._rate, self._rate * SAVED_S)
        self._time = now
        return self._left > 0
