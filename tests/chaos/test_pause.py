"""The short form of scripts/prove_pause.py, without the long pause."""

from scripts.proofs.report import Progress
from scripts.prove_pause import Options, prove
from tests.harness import Launcher

SHORT_PAUSES = Options(short_pauses=3, long_pauses=0, between=(1.0, 2.0))


def test_an_agent_that_was_frozen_for_longer_than_a_probe_may_take_accuses_nobody(launch: Launcher) -> None:
    report = prove(launch, SHORT_PAUSES, Progress())
    assert not report.missed, report.table()
