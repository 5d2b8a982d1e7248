"""What is read of the host: lateness under pressure, and suspends."""

from __future__ import annotations

from pathlib import Path

import pytest

from serfmp.detector.pressure import PLACES, STEPS, WINDOW, Pressure
from serfmp.detector.suspending import SHORTEST, SuspendWatch


def told(path: Path, percent: float) -> None:
    path.write_text(f"some avg10={percent:.2f} avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00\n")


def test_lateness_counts_only_while_work_waits_for_processors(tmp_path: Path) -> None:
    place = tmp_path / "cpu"
    told(place, 0.0)
    pressure = Pressure((str(tmp_path / "absent"), str(place)))
    pressure.late(99.0, 0.5)
    pressure.late(100.0, 0.5)
    assert pressure.level(100.0) == 0
    told(place, 55.5)
    assert (pressure.level(100.0), pressure.waiting) == (3, 55.5)
    told(place, 3.0)
    assert pressure.level(100.0) == 0


@pytest.mark.parametrize(("seconds", "level"), [(0.0, 0), (STEPS[0], 1), (STEPS[1], 2), (STEPS[2], 3), (9.0, 3)])
def test_lateness_alone_counts_where_the_kernel_tells_nothing(seconds: float, level: int) -> None:
    pressure = Pressure(("/nowhere",))
    pressure.late(4.0, seconds)
    pressure.late(5.0, seconds)
    assert (pressure.level(5.0), pressure.waiting) == (level, None)


def test_the_second_worst_second_of_the_window_counts_and_is_forgotten_with_it() -> None:
    pressure = Pressure(())
    pressure.late(0.2, 0.5)
    pressure.late(0.9, 0.6)
    assert pressure.worst(1.0) == 0.0, "a single second is no pressure"
    for now, seconds in ((2.0, 0.3), (4.0, 0.11), (6.0, 0.15)):
        pressure.late(now, seconds)
    assert pressure.worst(6.0) == 0.3
    assert pressure.worst(1.0 + WINDOW) == 0.15
    assert pressure.worst(2.5 + WINDOW) == 0.11
    assert pressure.worst(4.5 + WINDOW) == 0.0
    for number in range(100_000):
        pressure.late(20.0 + number / 1000, 0.11)
    assert len(pressure._late) <= WINDOW + 1, "memory does not grow with lateness"


def test_what_the_kernel_says_is_understood_or_nothing(tmp_path: Path) -> None:
    place = tmp_path / "cpu"
    place.write_text("something else\n")
    pressure = Pressure((str(place),))
    pressure.late(0.0, 0.5)
    pressure.late(1.0, 0.5)
    assert (pressure.level(1.0), pressure.waiting) == (3, None)
    if any(Path(name).exists() for name in PLACES):
        waiting = Pressure().look()
        assert waiting is not None
        assert 0 <= waiting <= 100


def test_without_lateness_the_kernel_is_not_asked(tmp_path: Path) -> None:
    place = tmp_path / "cpu"
    told(place, 55.5)
    pressure = Pressure((str(place),))
    assert (pressure.level(1.0), pressure.waiting) == (0, None)
    assert pressure.look() == 55.5


def test_a_suspend_is_told_once_and_small_differences_never() -> None:
    asleep = [5.0]
    watch = SuspendWatch(lambda: asleep[0])
    assert watch.look() == 0.0
    asleep[0] += SHORTEST / 2
    assert watch.look() == 0.0
    asleep[0] += 600
    assert watch.look() == pytest.approx(600 + SHORTEST / 2)
    assert watch.look() == 0.0
    # The real clocks: this host does not sleep just now.
    assert SuspendWatch().look() == 0.0
