"""A very short form of a part of scripts/bench_agent.py: memory under traffic, beside the real serf."""

from pathlib import Path

import pytest

from scripts.bench_agent import Options, measure
from scripts.proofs.noise import compiled
from scripts.proofs.report import Progress
from tests.harness import Launcher, needs_serf

TINY = Options(crowds=(60,), traffic_s=5.0, parts=("memory",))


@pytest.mark.interop
@pytest.mark.timeout(200)
@needs_serf
def test_agents_of_both_kinds_get_the_traffic_of_a_crowd_and_their_memory_is_told(
    launch: Launcher, tmp_path: Path
) -> None:
    report = measure(launch, TINY, Progress(), compiled(tmp_path))
    assert not report.missed, report.table()
    figures = {row.what: row.figure for row in report.rows}
    for kind in ("serfmp", "serf"):
        assert float(figures[f"memory with 60 members (PSS), MB: {kind}"]) > 1, report.table()
    for what in ("events sent", "members that left or failed", "times that members were asked for"):
        assert int(figures[f"  traffic: {what}"]) > 0, report.table()
