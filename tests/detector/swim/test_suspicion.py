"""Suspicion: the numbers of spec swim.md 5.5, and who counts."""

from __future__ import annotations

import pytest

from serfmp.detector.config import LAN, LOCAL, WAN, Profile
from serfmp.detector.swim.suspicion import Suspicion, SuspicionWindow


@pytest.mark.parametrize(
    ("profile", "size", "wanted", "timeouts"),
    [
        (LAN, 3, 0, [4]),
        (LAN, 4, 2, [24, 11.381, 4]),
        (LAN, 10, 2, [24, 11.381, 4]),
        (LAN, 32, 2, [36.12, 17.129, 6.02]),
        (LAN, 100, 2, [48, 22.762, 8]),
        (LAN, 1000, 2, [72, 34.144, 12]),
        (LAN, 10000, 2, [96, 45.525, 16]),
        (WAN, 5, 0, [30]),
        (WAN, 6, 4, [180, 115.398, 77.609, 50.797, 30]),
        (WAN, 100, 4, [360, 230.797, 155.218, 101.594, 60]),
        (LOCAL, 3, 1, [18, 3]),
        (LOCAL, 10, 1, [18, 3]),
    ],
)
def test_the_window_has_the_worked_values_of_the_spec(
    profile: Profile, size: int, wanted: int, timeouts: list[float]
) -> None:
    window = SuspicionWindow.for_cluster(size, profile)
    assert window.wanted == wanted
    assert [window.timeout(count) for count in range(wanted + 1)] == pytest.approx(timeouts, abs=0.0011)


def test_the_first_accuser_and_repeated_ones_confirm_nothing() -> None:
    suspicion = Suspicion(SuspicionWindow(2, 4, 24), "a", 100)
    assert [suspicion.confirm(sender) for sender in "aabbcd"] == [False, False, True, False, True, False]
    assert suspicion.deadline == 104


def test_a_suspicion_without_an_accuser_counts_everybody() -> None:
    suspicion = Suspicion(SuspicionWindow(2, 4, 24), None, 100)
    assert suspicion.deadline == 124
    assert suspicion.confirm("a")
    assert suspicion.deadline < 124
