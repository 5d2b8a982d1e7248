"""The short form of scripts/prove_burners.py."""

from scripts.proofs.report import Progress
from scripts.prove_burners import Options, prove
from tests.harness import Launcher

SOME_BURNERS = Options(burners=16, control=2.0, burn=8.0)


def test_handlers_that_burn_all_processors_delay_no_ack_and_cause_no_suspicion(launch: Launcher) -> None:
    report = prove(launch, SOME_BURNERS, Progress())
    assert not report.missed, report.table()
