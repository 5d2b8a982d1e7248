"""The short form of scripts/soak.py: too short for slopes of the memory, long enough for everything else."""

from pathlib import Path

import pytest

from scripts.proofs.report import Progress
from scripts.proofs.resources import slope
from scripts.soak import SHORT, prove
from tests.harness import Launcher


def test_the_slope_is_that_of_the_line_with_the_least_squares() -> None:
    assert slope([(0.0, 1.0), (1800.0, 2.0), (3600.0, 3.0)]) == pytest.approx(2.0)
    assert slope([(0.0, 0.0), (1.0, 1.0), (2.0, 0.0)]) == pytest.approx(0.0)
    assert slope([(5.0, 1.0)]) == slope([]) == slope([(1.0, 1.0), (1.0, 3.0)]) == 0.0


@pytest.mark.soak
@pytest.mark.timeout(200)
def test_under_steady_load_nothing_grows_and_nothing_is_lost(launch: Launcher, tmp_path: Path) -> None:
    report, samples = prove(launch, tmp_path, SHORT, Progress())
    assert not report.missed, report.table()
    assert len(samples) > SHORT.duration / SHORT.every / 2
