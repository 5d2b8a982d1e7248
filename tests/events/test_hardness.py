"""Scripts that do their worst, in real workers: each ends as it must, and nobody else is held up."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.events.stage import process_is_there, stage_config
from tests.harness.files import lines


def test_every_kind_of_bad_script_ends_as_it_must_beside_a_good_one(stage: Any, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("#!/bin/sh\n", encoding="utf-8")
    scripts = {
        "head -c 1000000 /dev/zero | tr '\\0' x": "generated 1000000 bytes of output, truncated to 8192",
        "sleep 600 & echo $! >> PIDS; echo holds": "script output: holds",
        "exec 0<&-; echo closed": "script output: closed",
        f"{tmp_path}/plain": f"Error invoking script '{tmp_path}/plain': exit status 126",
        f"{tmp_path}/missing": f"Error invoking script '{tmp_path}/missing': exit status 127",
        "exit 3": "Error invoking script 'exit 3': exit status 3",
        "kill -SEGV $$": "Error invoking script 'kill -SEGV $$': signal: segmentation fault",
        "setsid sleep 600 >/dev/null 2>&1 & echo $! >> PIDS; echo daemon": "script output: daemon",
    }
    pids = tmp_path / "pids"
    scripts = {script.replace("PIDS", str(pids)): wanted for script, wanted in scripts.items()}
    on = stage(stage_config(*(f"*={script}" for script in scripts)))
    on.user_events("a", "b")
    for wanted in scripts.values():
        on.until(lambda wanted=wanted: len(on.logged(wanted)) == 2, f"twice: {wanted}")
    for pid in lines(pids):
        assert process_is_there(int(pid))
        os.kill(int(pid), signal.SIGKILL)


@pytest.mark.parametrize("method", ["fork", "exec"])
def test_nothing_of_the_agent_leaks_into_a_script(stage: Any, tmp_path: Path, method: str) -> None:
    """Descriptors, signals, whoever started the agent and with whatever it left open or ignored."""
    left_open = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(left_open, True)
    before = signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    try:
        on = stage(
            stage_config(f"ls -l /proc/self/fd > {tmp_path}/f; cp /proc/self/status {tmp_path}/s; echo done"), method
        )
    finally:
        signal.signal(signal.SIGQUIT, before)
        os.close(left_open)
    on.user_events("a")
    on.until(lambda: on.logged("script output: done"), "it ran")
    rows = [line.split() for line in lines(tmp_path / "f") if "->" in line and "/proc/" not in line.split()[-1]]
    assert [row[8] for row in rows] == ["0", "1", "2"]
    status = dict(line.split(":", 1) for line in lines(tmp_path / "s"))
    assert int(status["SigBlk"], 16) == 0
    assert int(status["SigIgn"], 16) & (1 << signal.SIGQUIT - 1 | 1 << signal.SIGPIPE - 1 | 0xFF) == 0


def test_a_thousand_at_once_all_end(stage: Any) -> None:
    on = stage(stage_config(*(f"sleep .3; echo ended {number}." for number in range(1000))))
    on.user_events("a")
    on.until(lambda: len(on.logged("script output: ended")) == 1000, "all ended")
    assert all(on.logged(f"ended {number}.") for number in (0, 500, 999))
    assert not on.logged("[ERR]")


def test_two_hundred_hung_handlers_of_one_worker_hold_up_no_other(stage: Any, tmp_path: Path) -> None:
    hung = [f"user=until [ -e {tmp_path}/go ]; do sleep 1; done"] * 200
    on = stage(stage_config(*hung, "user=echo instant $SERF_USER_EVENT", workers=1))
    names = [f"e{number}" for number in range(20)]
    on.user_events(*names)
    on.until(lambda: len(on.logged("script output: instant")) == 20, "the instant handler runs beside them")
    assert [line.split()[-1] for line in on.logged("script output: instant")] == names
    (tmp_path / "go").touch()


@pytest.mark.parametrize("what", [resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC])
def test_a_shortage_of_the_host_delays_scripts_and_loses_none(stage: Any, tmp_path: Path, what: int) -> None:
    if what == resource.RLIMIT_NPROC and os.geteuid() == 0:
        pytest.skip("root has no limit of processes")
    on = stage(
        stage_config(
            *(f"until [ -e {tmp_path}/go ]; do sleep .05; done; echo ended {number}." for number in range(60)),
            workers=1,
        )
    )
    worker = on.processes["worker-0"].pid
    before = resource.prlimit(worker, what)
    in_use = len(list(Path(f"/proc/{worker}/fd").iterdir())) if what == resource.RLIMIT_NOFILE else 20
    resource.prlimit(worker, what, (in_use + 20, before[1]))
    on.user_events("a")
    on.until(lambda: on.logged("[WARN]", "No script can be started", "wait until it is possible"), "it is said")
    (tmp_path / "go").touch()
    on.until(lambda: len(on.logged("script output: ended")) == 60, "all ended")
    assert all(len(on.logged(f"ended {number}.")) == 1 for number in range(60))
    on.until(lambda: on.logged("Scripts can be started again"), "its end is said")
    assert not on.logged("[ERR]")
