"""Timers fire in order, once, and those that blame only behind a fence."""

from __future__ import annotations

import random
from itertools import pairwise

from serfmp.detector.swim.timers import Ticker, Timers


def test_timers_fire_in_the_order_of_their_deadlines() -> None:
    timers, fired = Timers(), list[str]()
    timers.at(2, lambda: fired.append("second"))
    timers.at(1, lambda: fired.append("first"), blames=True)
    timers.at(3, lambda: fired.append("third"), blames=True)
    timers.at(4, lambda: fired.append("late"))
    timers.fire(3.5, 3.5)
    assert fired == ["first", "second", "third"]
    assert timers.next_deadline() == 4


def test_a_cancelled_timer_does_not_fire_even_if_another_callback_cancels_it() -> None:
    timers, fired = Timers(), list[str]()
    victim = timers.at(2, lambda: fired.append("victim"))
    timers.at(1, victim.cancel)
    timers.fire(5, 5)
    assert fired == []
    assert timers.next_deadline() is None


def test_a_timer_that_blames_waits_for_the_fence_and_others_do_not() -> None:
    timers, fired = Timers(), list[str]()
    timers.at(1, lambda: fired.append("blame"), blames=True)
    timers.at(2, lambda: fired.append("plain"))
    timers.fire(5, blame_until=0.5)
    assert fired == ["plain"]
    assert timers.blame_due(5)
    assert timers.next_deadline() == 1
    timers.fire(5, blame_until=1)
    assert fired == ["plain", "blame"]
    assert not timers.blame_due(5)


def test_postponing_moves_only_what_blames() -> None:
    timers, fired = Timers(), list[str]()
    timers.at(1, lambda: fired.append("blame"), blames=True)
    timers.at(2, lambda: fired.append("plain"))
    timers.postpone_blame(10)
    timers.fire(5, 5)
    assert fired == ["plain"]
    assert timers.next_deadline() == 11


def test_a_late_ticker_drops_missed_ticks_and_keeps_its_phase() -> None:
    now = [0.0]
    timers, ticks = Timers(), list[float]()
    Ticker(timers, lambda: now[0], random.Random(1), 1.0, lambda: ticks.append(now[0]))
    phase = timers.next_deadline()
    assert phase is not None
    assert 0 <= phase < 1
    for time in (phase, phase + 7.3, phase + 8.0):
        now[0] = time
        timers.fire(time, time)
    assert ticks == [phase, phase + 7.3, phase + 8.0]


def test_jitter_keeps_the_distance_of_ticks_within_its_share() -> None:
    now = [0.0]
    timers, ticks = Timers(), list[float]()
    Ticker(timers, lambda: now[0], random.Random(1), 1.0, lambda: ticks.append(now[0]), jitter=0.1)
    while len(ticks) < 200:
        now[0] = timers.next_deadline() or 0.0
        timers.fire(now[0], now[0])
    gaps = [after - before for before, after in pairwise(ticks)]
    assert 0.9 <= min(gaps) < 0.99
    assert 1.01 < max(gaps) <= 1.1
    assert abs((ticks[-1] - ticks[0]) / 199 - 1) < 0.001


def test_a_resting_ticker_sets_no_timer_and_goes_on_at_its_old_phase() -> None:
    now = [0.0]
    timers, ticks = Timers(), list[float]()
    ticker = Ticker(timers, lambda: now[0], random.Random(1), 1.0, lambda: ticks.append(now[0]))
    phase = timers.next_deadline()
    assert phase is not None
    ticker.rest()
    ticker.rest()
    assert timers.next_deadline() is None
    now[0] = phase + 7.3
    ticker.wake()
    ticker.wake()
    assert timers.next_deadline() == phase + 8.0
    now[0] = phase + 8.0
    timers.fire(now[0], now[0])
    assert (ticks, timers.next_deadline()) == ([phase + 8.0], phase + 9.0)


def test_it_is_known_whether_anything_may_come_to_blame() -> None:
    timers = Timers()
    timers.at(1, lambda: None)
    assert not timers.may_blame
    blaming = timers.at(9, lambda: None, blames=True)
    assert timers.may_blame
    assert not timers.blame_due(8)
    blaming.cancel()
    assert not timers.may_blame
