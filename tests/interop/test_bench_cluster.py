"""A very short form of scripts/bench_cluster.py: what it measures beside the real serf, it can measure."""

import math
from pathlib import Path

import pytest

from scripts.bench_cluster import KINDS, Options, bench
from scripts.proofs.noise import compiled
from scripts.proofs.report import Progress
from tests.harness import Launcher, can_sniff, needs_serf

TINY = Options(sizes=(3,), rounds=1, events=2, kills=1, leaves=1, idle_s=1.0)


@pytest.mark.interop
@pytest.mark.timeout(300)
@needs_serf
def test_clusters_of_both_kinds_join_and_see_events_a_kill_and_a_leave(launch: Launcher, tmp_path: Path) -> None:
    report = bench(launch, TINY, Progress(), compiled(tmp_path))
    unmeasured = {row.what for row in report.missed}
    assert unmeasured == (set() if can_sniff() else {"3 agents: packets of idle clusters"}), report.table()
    figures = {row.what: row.figure for row in report.rows}
    for what in (
        "join, s until each shows all alive",
        "kill -9, s until the last does",
        "leave, s until the last does",
    ):
        for kind in KINDS:
            text = str(figures[f"3 agents: {what}: {kind}"])
            assert 0 < float(text.split(maxsplit=1)[0]) < math.inf, report.table()
