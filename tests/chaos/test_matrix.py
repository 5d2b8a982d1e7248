"""The short form of scripts/chaos.py. How soon a process serves again is the script's matter."""

from pathlib import Path

import pytest

from scripts.chaos import DISCOVERS, Options, prove
from scripts.proofs.faults import Fault
from scripts.proofs.multicast import can_discover
from scripts.proofs.report import Progress
from tests.harness import Launcher

PATIENT_S = 15.0


@pytest.mark.parametrize("fault", [Fault.KILL, Fault.STOP, Fault.RAISE, Fault.SPIN, Fault.MEMORY])
def test_whatever_happens_to_a_process_no_peer_notices_and_no_event_is_lost(
    launch: Launcher, tmp_path: Path, fault: Fault
) -> None:
    roles: tuple[str, ...] = ("gossip", "detector", "rpc", "dispatcher", "worker-0")
    if fault is Fault.KILL:
        roles = (*roles, "logger")
    if fault in {Fault.KILL, Fault.STOP} and can_discover():
        roles = (*roles, DISCOVERS)
    options = Options(roles=roles, faults=(fault,), calm=0.5, serving_bar=PATIENT_S)
    report = prove(launch, tmp_path, options, Progress())
    assert not report.missed, report.table()
