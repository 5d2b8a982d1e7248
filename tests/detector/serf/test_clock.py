"""Lamport clocks (spec serf.md 2)."""

from __future__ import annotations

import pytest

from serfmp.detector.serf.clock import LamportClock


@pytest.mark.parametrize(("clock", "seen", "after"), [(5, 4, 5), (5, 5, 6), (5, 9, 10), (1, 0, 1)])
def test_witnessing_moves_a_clock_above_what_was_seen(clock: int, seen: int, after: int) -> None:
    lamport = LamportClock(clock)
    lamport.witness(seen)
    assert lamport.time == after


def test_incrementing_issues_the_present_time() -> None:
    clock = LamportClock()
    assert [clock.increment(), clock.increment(), clock.time] == [1, 2, 3]


def test_a_clock_never_wraps() -> None:
    clock = LamportClock()
    clock.witness(2**64 - 2)
    clock.increment()
    clock.witness(2**64 - 2)
    assert clock.time == 2**64 - 2
