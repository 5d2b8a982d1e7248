"""Too few descriptors: what cannot be done waits or is told, nothing spins, and it passes with the shortage."""

import contextlib
import os
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from serfmp.agent.supervisor import EXIT_RESTART_BUDGET
from tests.harness import Agent, Launcher, eventually

DEADLINE_S = 30.0
BOTH = {"one": "alive", "two": "alive"}


def pid_of(agent: Agent, role: str) -> int:
    """The pid of a role; 0 while there is none."""
    return agent.pids_by_role().get(role, (0,))[0]


@contextlib.contextmanager
def no_more_descriptors(pid: int, spare: int = 0) -> Iterator[None]:
    """A process gets no descriptor beyond those that it has and `spare` more, until the end of the block."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    # The limit is the first number that is not given out; a process has gaps below its highest descriptor.
    numbers = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    free = (number for number in range(1 << 16) if number not in numbers)
    limit = next(free)
    for _ in range(spare):
        limit = next(free)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("limit", [8, 24, 30])
def test_a_limit_too_low_for_an_agent_ends_the_start_with_the_reason(launch: Launcher, limit: int) -> None:
    options = launch.options("one")
    with tempfile.TemporaryDirectory(prefix="s") as runtime:
        command = [sys.executable, "-m", "serfmp", "agent", *options.flags(), f"-runtime-dir={runtime}"]
        done = subprocess.run(
            ["/bin/sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
            cwd=Path(__file__).resolve().parents[2],
        )
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert "==> Failed to start the Serf agent: " in done.stdout
    assert "too many open files" in said.lower()
    assert f"a process may open {limit} files at most" in said or limit == 8
    assert "Traceback" not in said


@pytest.mark.parametrize("role", ["gossip", "rpc"])
def test_connections_wait_while_a_process_has_no_descriptor(launch: Launcher, role: str) -> None:
    one, two = launch.serfmp("one"), launch.serfmp("two")
    pid = pid_of(one, role)
    where = one.bind if role == "gossip" else one.options.rpc
    text = "Error accepting TCP connection" if role == "gossip" else "Failed to accept client"
    with no_more_descriptors(pid), contextlib.ExitStack() as stack:
        used = psutil.Process(pid).cpu_times().user
        for _ in range(3):
            stack.enter_context(socket.create_connection((where.host, where.port), DEADLINE_S))
        one.wait_log(text, DEADLINE_S)
        if role == "gossip":
            # Its own connections fail, with a reason.
            with pytest.raises(AssertionError, match="too many open files"):
                one.join(two)
        assert psutil.Process(pid).cpu_times().user - used < 1.0
    two.join(one)
    for agent in (one, two):
        agent.wait_statuses(BOTH, DEADLINE_S)
    with one.connect() as client:
        assert len(client.members()) == 2
    assert pid_of(one, role) == pid
    assert one.log().count(text) <= 2


def test_an_agent_that_cannot_start_its_processes_again_ends_with_the_reason(launch: Launcher) -> None:
    agent = launch.serfmp("one")
    agent.wait_log("Log data will now stream in", DEADLINE_S)
    resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (8, 8))
    os.kill(pid_of(agent, "detector"), 9)
    assert agent.wait_exit(DEADLINE_S) == EXIT_RESTART_BUDGET, agent.log() + agent.errors()
    assert "Error: detector cannot be kept running: it failed 9 times in a row" in agent.log()
    assert "could not be started: too many open files; raise the limit (ulimit -n)" in agent.log()
    assert agent.left_over() == []


def test_a_process_that_could_not_be_started_again_is_started_when_it_can_be(launch: Launcher) -> None:
    agent = launch.serfmp("one")
    agent.wait_log("Log data will now stream in", DEADLINE_S)
    before = resource.prlimit(agent.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (8, before[1]))
    os.kill(pid_of(agent, "detector"), 9)
    agent.wait_log("detector could not be started: too many open files", DEADLINE_S)
    resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, before)
    eventually(lambda: pid_of(agent, "detector"), DEADLINE_S, "a new detector")
    agent.event("x")
    assert agent.statuses() == {"one": "alive"}
