"""Waiting for a condition with a deadline: the only place in the tests that sleeps.

A wait ends as soon as its condition holds; its deadline is generous, because it costs time only where a test fails.
"""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

INTERVAL_S = 0.02
"""Between two looks at a condition: short against what agents do, long against what a look costs."""


class NeverHeld(AssertionError):  # noqa: N818  reads as what happened
    """A condition did not hold before its deadline."""


class StoppedHolding(AssertionError):  # noqa: N818
    """A condition that should have held all the time did not."""


def eventually(
    condition: Callable[[], T],
    deadline_s: float,
    what: str,
    *,
    ignoring: tuple[type[Exception], ...] = (),
    interval_s: float = INTERVAL_S,
) -> T:
    """The first true value that `condition` gives, looked at until `deadline_s` seconds have passed.

    Exceptions of the types `ignoring` count as "not yet". Raises `NeverHeld` with `what` and the last value.
    """
    deadline = time.monotonic() + deadline_s
    while True:
        try:
            value = condition()
        except ignoring as error:
            last = repr(error)
        else:
            if value:
                return value
            last = repr(value)
        if time.monotonic() >= deadline:
            message = f"not within {deadline_s:g} s: {what}; last seen: {last}"
            raise NeverHeld(message)
        time.sleep(interval_s)


def holds_throughout(
    condition: Callable[[], object], duration_s: float, what: str, *, interval_s: float = INTERVAL_S
) -> None:
    """Look at `condition` for `duration_s` seconds; raises `StoppedHolding` at the first false value."""
    started = time.monotonic()
    while True:
        value = condition()
        after = time.monotonic() - started
        if not value:
            message = f"did not hold after {after:.2f} s of {duration_s:g} s: {what}; seen: {value!r}"
            raise StoppedHolding(message)
        if after >= duration_s:
            return
        time.sleep(interval_s)
