"""Noticing that the host was suspended: the clock that counts suspends ran ahead of the one that does not.

Rules: timers follow the monotonic clock, which stands still while a host is suspended, so no timer is late when it goes
on; but acks and refutations of that time are lost. The difference of CLOCK_BOOTTIME and CLOCK_MONOTONIC grows by
exactly what was slept. It is looked at before anybody is blamed, and once a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

SHORTEST: Final = 0.25
"""Seconds of a suspend that is worth telling, as with a stall."""


def _asleep() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


class SuspendWatch:
    """See the module. `asleep()` gives the seconds that the host has slept since its start."""

    def __init__(self, asleep: Callable[[], float] = _asleep) -> None:
        self._asleep = asleep
        self._seen = asleep()

    def look(self) -> float:
        """Seconds that were slept since the last look that found some; 0.0 if there is nothing to tell."""
        asleep = self._asleep()
        slept = asleep - self._seen
        if slept < SHORTEST:
            return 0.0
        self._seen = asleep
        return slept
