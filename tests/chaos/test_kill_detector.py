"""The short form of scripts/prove_kill_detector.py. How soon the agent serves again is the script's matter."""

from pathlib import Path

from scripts.proofs.report import Progress
from scripts.prove_kill_detector import Options, prove
from tests.harness import Launcher

FEW_KILLS = Options(duration=14.0, victim_rate=50.0, other_rate=25.0, recovery_bar=10.0)


def test_a_killed_detector_is_missed_by_nobody_and_loses_and_repeats_no_event(launch: Launcher, tmp_path: Path) -> None:
    report = prove(launch, tmp_path, FEW_KILLS, Progress())
    assert not report.missed, report.table()
