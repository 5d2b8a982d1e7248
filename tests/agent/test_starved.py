"""A host that starves an agent of processor time: nobody is taken for stuck."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import Launcher, holds_throughout

DEADLINE_S = 60.0

STARVED_S = 5.0
"""More than twice as long as a main loop may stand still (agent/watchdog.py)."""

BURNERS_PER_PROCESSOR = 3

WAITED_S = 1.0
"""Of the starved time, that a process of the agent must have waited for a processor, to have been starved at all."""


def waited(pid: int) -> float:
    """Seconds that a process has waited for a processor."""
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[1]) / 1e9


def test_a_starved_agent_starts_nothing_again(launch: Launcher) -> None:
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("this kernel does not tell how long a process waits")
    agent = launch.serfmp("one")
    agent.wait_log("Log data will now stream in", DEADLINE_S)
    pids = agent.pids_by_role()
    everyone = [pid for group in pids.values() for pid in group]
    with contextlib.ExitStack() as stack:
        for _ in range(BURNERS_PER_PROCESSOR * (os.cpu_count() or 1)):
            burner = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(burner.kill)
        for pid in everyone:
            # It runs only when nobody else wants to.
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
        before = {pid: waited(pid) for pid in everyone}
        holds_throughout(lambda: agent.pids_by_role() == pids, STARVED_S, "the same processes run", interval_s=0.5)
        most = max(waited(pid) - before[pid] for pid in everyone)
    agent.wait_statuses({"one": "alive"}, DEADLINE_S)
    assert agent.pids_by_role() == pids
    assert "is stuck" not in agent.log()
    assert most > WAITED_S
