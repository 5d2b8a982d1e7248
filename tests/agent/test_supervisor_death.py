"""A killed supervisor takes everything with it, also what is stopped or stuck, and nothing keeps its successor out."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from scripts.proofs.faults import Fault, environment, inject
from tests.events.stage import process_is_there
from tests.harness import Agent, Launcher, eventually

DEADLINE_S = 30.0

ROOT = Path(__file__).resolve().parent.parent.parent

BUSY_S = 0.1
"""Processor time after which a process that shall be stuck is."""


def make_deaf(agent: Agent, fault: str, directory: Path) -> None:
    """Let no child hear of its supervisor's end."""
    roles = agent.pids_by_role()
    children = [
        psutil.Process(pid) for role, pids in roles.items() if role not in {"supervisor", "other"} for pid in pids
    ]
    assert len(children) == 6
    for child in children:
        if fault == "stopped":
            # Those that are stopped when their group loses its last tie are told so by the kernel (HUP and CONT).
            child.send_signal(signal.SIGSTOP)
            eventually(lambda child=child: child.status() == psutil.STATUS_STOPPED, DEADLINE_S, "it is stopped")  # type: ignore[misc]
        else:
            used = child.cpu_times().user
            inject(Fault.SPIN, child.pid, directory)
            eventually(lambda child=child, used=used: child.cpu_times().user > used + BUSY_S, DEADLINE_S, "it is stuck")  # type: ignore[misc]


@pytest.mark.parametrize("fault", ["well", "stopped", "stuck"])
def test_a_killed_supervisor_takes_its_children_and_their_scripts_with_it(
    launch: Launcher, tmp_path: Path, fault: str
) -> None:
    note = tmp_path / "pid"
    handlers = [f"user=sleep 600 & echo $$ $! > {note}.new; mv {note}.new {note}; wait"]
    snapshot = f"-snapshot={tmp_path / 'snapshot'}"
    agent = launch.serfmp("one", handlers=handlers, extra=[snapshot], env=environment(tmp_path))
    agent.event("x")
    eventually(note.exists, DEADLINE_S, "the script runs")
    pids = [int(word) for word in note.read_text().split()]
    pids += [pid for role, pids in agent.pids_by_role().items() for pid in pids]
    if fault != "well":
        make_deaf(agent, fault, tmp_path)
    os.kill(agent.pid, signal.SIGKILL)
    eventually(lambda: not list(filter(process_is_there, pids)), DEADLINE_S, "everything has ended")
    options = agent.options
    again = launch.serfmp("one", bind=options.bind, rpc=options.rpc, extra=[snapshot, f"-runtime-dir={runtime(agent)}"])
    assert again.statuses() == {"one": "alive"}


def runtime(agent: Agent) -> str:
    """The runtime directory that the harness gave it."""
    return next(word.partition("=")[2] for word in agent.command if word.startswith("-runtime-dir="))


FORKS_ONLY = """
import signal, socket
from serfmp.agent.process import Process
ours, theirs = socket.socketpair()
print(Process._fork(None, theirs), flush=True)
signal.pause()
"""
"""A supervisor that never comes to send a child its first frame."""


def test_a_child_that_was_never_told_what_it_is_ends_with_its_supervisor() -> None:
    with subprocess.Popen([sys.executable, "-c", FORKS_ONLY], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        try:
            assert child.is_running()
            parent.kill()
            eventually(lambda: not process_is_there(child.pid), DEADLINE_S, "the child is gone")
        finally:
            if child.is_running():
                child.kill()
