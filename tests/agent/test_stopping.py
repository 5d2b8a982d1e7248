"""What becomes of running scripts when their agent, or the worker that runs them, ends."""

import os
import signal
from pathlib import Path

import pytest

from tests.events.stage import process_is_there
from tests.harness import Launcher, eventually

DEADLINE_S = 30.0


def pid_in(path: Path) -> int:
    """The process id that a script wrote down."""
    return int(eventually(lambda: path.exists() and path.read_text().strip(), DEADLINE_S, f"{path} is written"))


def test_a_script_gets_the_stated_time_and_its_end_is_told(launch: Launcher, tmp_path: Path) -> None:
    agent = launch.serfmp(
        "one",
        handlers=[f"user=echo $$ > {tmp_path}/pid; until [ -e {tmp_path}/go ]; do sleep .05; done; echo well ended"],
        extra=["-script-grace=60s"],
    )
    agent.event("a")
    pid_in(tmp_path / "pid")
    agent.signal(signal.SIGTERM)
    agent.wait_log("requesting serf shutdown", DEADLINE_S)
    (tmp_path / "go").touch()
    agent.wait_exit(DEADLINE_S)
    assert "script output: well ended" in agent.log()
    assert "SIGTERM" not in agent.log()


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGTERM, 1), (signal.SIGINT, 0)])
def test_a_script_that_does_not_end_is_ended_with_all_that_it_started(
    launch: Launcher, tmp_path: Path, stop: signal.Signals, code: int
) -> None:
    agent = launch.serfmp(
        "one",
        handlers=[
            f"user=trap '' TERM; echo $$ > {tmp_path}/pid; sh -c 'echo $$ > {tmp_path}/below; sleep 600'; sleep 600"
        ],
        extra=["-script-grace=100ms"],
    )
    agent.event("a")
    pids = [pid_in(tmp_path / "pid"), pid_in(tmp_path / "below")]
    agent.signal(stop)
    assert agent.wait_exit(DEADLINE_S) == code
    assert not any(map(process_is_there, pids))
    for text in ("it gets SIGTERM", "it gets SIGKILL", "signal: killed"):
        assert text in agent.log()
    assert agent.left_over() == []


def test_the_scripts_of_a_killed_worker_end_before_anything_runs_again(launch: Launcher, tmp_path: Path) -> None:
    agent = launch.serfmp("one", handlers=[f"user=sleep 600 & echo $! > {tmp_path}/$$; wait"], extra=["-workers=1"])
    agent.event("a")
    eventually(lambda: list(tmp_path.glob("[0-9]*")), DEADLINE_S, "it runs")
    (note,) = tmp_path.glob("[0-9]*")
    pids = [int(note.name), pid_in(note)]
    (worker,) = agent.pids_by_role()["worker"]
    os.kill(worker, signal.SIGKILL)
    agent.wait_log("left 1 running scripts behind; they were ended", DEADLINE_S)
    agent.event("b")
    eventually(lambda: len(list(tmp_path.glob("[0-9]*"))) == 2, DEADLINE_S, "the next event is handled")
    assert not any(map(process_is_there, pids))
