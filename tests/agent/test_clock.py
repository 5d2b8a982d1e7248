"""Steps of the wall clock: it is shown to people and gives nothing else; whatever it says, an agent goes on."""

import ast
import math
import signal
from pathlib import Path

import pytest

from scripts.proofs.faults import environment, step_clock
from serfmp.io.gossip import arrival_time
from tests.harness import Launcher, UserRecord, eventually, holds_throughout

DEADLINE_S = 30.0
BOTH = {"one": "alive", "two": "alive"}

PACKAGE = Path(__file__).resolve().parents[2] / "serfmp"

TIMED_BY_THE_MONOTONIC_CLOCK = (
    "wire/*.py",
    "detector/**/*.py",
    "bus/loop.py",
    *(
        f"agent/{name}.py"
        for name in ("child", "heartbeat", "journal", "process", "retry_join", "supervisor", "watchdog")
    ),
    *(
        f"events/{name}.py"
        for name in ("dispatcher", "lanes", "ledger", "policy", "pool", "scripts", "spawn", "worker")
    ),
)
"""Modules that decide by time."""


def reads_wall_clock(path: Path) -> bool:
    """Whether a module calls `time.time`, or anything of `datetime`."""
    calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
    return any(call in {"time.time", "time.time_ns"} or "datetime" in call for call in calls)


def test_what_decides_by_time_does_not_read_the_wall_clock() -> None:
    paths = {path for pattern in TIMED_BY_THE_MONOTONIC_CLOCK for path in PACKAGE.glob(pattern)}
    assert len(paths) > 60
    assert not {str(path.relative_to(PACKAGE)) for path in paths if reads_wall_clock(path)}


@pytest.mark.parametrize("stamp", [99.0, 109.0, -math.inf, math.inf, 100.0 - 3600, 105.0 + 3600])
def test_a_stamp_that_cannot_be_right_means_now(stamp: float) -> None:
    assert arrival_time(stamp, earliest=100.0, now=105.0) == (105.0, False)


def test_a_stamp_since_the_last_look_is_taken() -> None:
    for stamp in (100.0, 103.5, 105.0):
        assert arrival_time(stamp, earliest=100.0, now=105.0) == (stamp, True)


@pytest.mark.parametrize("step", [-3600.0, 3600.0], ids=["back", "forward"])
def test_an_agent_whose_wall_clock_is_stepped_goes_on_probing_and_accuses_nobody(
    launch: Launcher, tmp_path: Path, step: float
) -> None:
    seen = tmp_path / "seen"
    one = launch.serfmp("one", env=environment(tmp_path), handlers=[f"user=echo $SERF_USER_EVENT >> {seen}"])
    two = launch.serfmp("two", join=[one])
    for agent in (one, two):
        agent.wait_statuses(BOTH, DEADLINE_S)
    stream = two.stream("user")
    pids = one.pids_by_role()
    step_clock(step, [pid for group in pids.values() for pid in group], tmp_path)
    two.event("there")
    eventually(lambda: seen.exists() and "there" in seen.read_text(), DEADLINE_S, "the handler has run")
    one.event("back")
    stream.wait_for(lambda record: isinstance(record, UserRecord) and record.name == "back", DEADLINE_S, "the event")
    holds_throughout(lambda: one.statuses() == two.statuses() == BOTH, 1.0, "both see both", interval_s=0.1)
    assert one.pids_by_role() == pids
    # It still probes: a peer that dies is noticed.
    two.kill()
    one.wait_statuses({**BOTH, "two": "failed"}, DEADLINE_S)
    for text in ("Suspect", "suspect"):
        assert text not in two.log()
    one.signal(signal.SIGINT)
    assert one.wait_exit(DEADLINE_S) == 0
