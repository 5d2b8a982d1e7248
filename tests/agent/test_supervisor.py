"""The supervisor with real children: what is killed comes back, what cannot work ends, nothing is left behind."""

import os
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest

from serfmp.agent.restarting import JOURNAL_TRIES
from serfmp.agent.supervisor import EXIT_RESTART_BUDGET
from tests.harness import Agent, Launcher, UserRecord, eventually

DEADLINE_S = 30.0


def pid_of(agent: Agent, role: str) -> int:
    """The pid of a role; 0 while there is none."""
    pids = agent.pids_by_role().get(role, ())
    return pids[0] if pids else 0


def wait_for_other(agent: Agent, role: str, old: int) -> int:
    """Wait for a new process of a role."""

    def other() -> int:
        found = pid_of(agent, role)
        return found if found != old else 0

    return eventually(other, DEADLINE_S, f"a new {role}")


@pytest.mark.parametrize("role", ["gossip", "detector", "rpc", "dispatcher", "worker"])
def test_a_killed_process_is_started_again_and_the_agent_serves_on(launch: Launcher, tmp_path: Path, role: str) -> None:
    seen = tmp_path / "seen"
    agent = launch.serfmp("one", handlers=[f"user=echo $SERF_USER_EVENT >> {seen}"])
    old = eventually(lambda: pid_of(agent, role), DEADLINE_S, f"a {role}")
    os.kill(old, signal.SIGKILL)
    wait_for_other(agent, role, old)
    agent.wait_log(f"{role}{'-0' if role == 'worker' else ''} (pid {old}) ended: signal SIGKILL", DEADLINE_S)

    def event_sent() -> bool:
        with agent.connect() as client:
            client.event("again")
        return True

    eventually(event_sent, DEADLINE_S, "an event is taken", ignoring=(OSError, AssertionError))
    eventually(lambda: seen.exists() and "again" in seen.read_text(), DEADLINE_S, "the handler has run")


def test_a_frozen_process_is_replaced(launch: Launcher) -> None:
    agent = launch.serfmp("one")
    # One that had never served would end the start.
    agent.wait_log("Log data will now stream in", DEADLINE_S)
    old = eventually(lambda: pid_of(agent, "dispatcher"), DEADLINE_S, "a dispatcher")
    os.kill(old, signal.SIGSTOP)
    wait_for_other(agent, "dispatcher", old)
    assert "is stuck: its main loop had not turned" in agent.log()


def test_nothing_is_replaced_when_the_whole_tree_was_frozen(launch: Launcher) -> None:
    agent = launch.serfmp("one")
    agent.wait_log("Log data will now stream in", DEADLINE_S)
    before = agent.pids_by_role()
    agent.pause_tree()
    paused_until = time.monotonic() + 2.5  # longer than the watchdog's patience
    eventually(lambda: time.monotonic() > paused_until, DEADLINE_S, "the pause is over")
    agent.resume_tree()
    agent.event("after")
    assert agent.pids_by_role() == before


def test_children_and_scripts_end_with_a_killed_supervisor_and_the_next_start_works(
    launch: Launcher, tmp_path: Path
) -> None:
    seen = tmp_path / "pid"
    handlers = [f"user:hang=echo $$ > {seen}; exec sleep 600"]
    agent = launch.serfmp("one", handlers=handlers)
    agent.event("hang")
    eventually(lambda: seen.exists() and seen.read_text().strip(), DEADLINE_S, "the script runs")
    script = int(seen.read_text())
    children = [pid for role, pids in agent.pids_by_role().items() if role != "supervisor" for pid in pids]
    os.kill(agent.pid, signal.SIGKILL)
    eventually(
        lambda: not any(psutil.pid_exists(pid) for pid in [*children, script]), DEADLINE_S, "everything has ended"
    )
    again = launch.serfmp("one", bind=agent.options.bind, rpc=agent.options.rpc)
    assert again.statuses() == {"one": "alive"}


def test_scripts_get_their_grace_and_are_ended_when_the_agent_stops(launch: Launcher, tmp_path: Path) -> None:
    seen = tmp_path / "pid"
    stubborn = f"user:hang=trap '' TERM; echo $$ > {seen}; while :; do sleep 1; done"
    agent = launch.serfmp("one", handlers=[stubborn])
    agent.event("hang")
    eventually(lambda: seen.exists() and seen.read_text().strip(), DEADLINE_S, "the script runs")
    agent.signal(signal.SIGINT)
    assert agent.wait_exit(DEADLINE_S) == 0
    assert not psutil.pid_exists(int(seen.read_text()))


def test_a_process_that_cannot_be_kept_running_ends_the_agent_with_a_reason(launch: Launcher) -> None:
    agent = launch.serfmp("one")
    old = 0

    def killed_again() -> bool:
        nonlocal old
        if not psutil.pid_exists(agent.pid) or psutil.Process(agent.pid).status() == psutil.STATUS_ZOMBIE:
            return True
        found = pid_of(agent, "detector")
        if found and found != old:
            old = found
            os.kill(found, signal.SIGKILL)
        return False

    eventually(killed_again, DEADLINE_S, "the agent gives up")
    assert agent.wait_exit(DEADLINE_S) == EXIT_RESTART_BUDGET
    assert "Error: detector cannot be kept running" in agent.log()
    assert not agent.left_over()


def test_after_quick_crashes_the_detector_starts_without_its_journal_and_events_still_arrive(launch: Launcher) -> None:
    agent = launch.serfmp("one")
    peer = launch.serfmp("two", join=[agent])
    peer.wait_statuses({"one": "alive", "two": "alive"}, DEADLINE_S)
    old = 0
    fresh = "detector starts without the state of its predecessors"
    # A kill that comes late, as the first one may, is not a quick crash, and the count starts anew.
    for _ in range(3 * JOURNAL_TRIES):
        old = wait_for_other(agent, "detector", old)
        if fresh in agent.log():
            break
        os.kill(old, signal.SIGSEGV)
    agent.wait_log(fresh, DEADLINE_S)
    agent.join(peer)
    stream = agent.stream("user")
    peer.event("after")
    stream.wait_for(lambda r: isinstance(r, UserRecord) and r.name == "after", DEADLINE_S, "an event")
    peer.wait_statuses({"one": "alive", "two": "alive"}, DEADLINE_S)


@pytest.mark.parametrize("kind", ["tcp", "udp", "rpc"])
def test_an_address_in_use_is_an_error_of_the_start(launch: Launcher, kind: str) -> None:
    options = launch.options("one")
    where = options.rpc if kind == "rpc" else options.bind
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(kind != "udp"))
        taken.bind((where.host, where.port))
        if kind != "udp":
            taken.listen(1)
        agent = launch.serfmp("one", bind=options.bind, rpc=options.rpc, wait=False)
        assert agent.wait_exit(DEADLINE_S) == 1
    last = agent.log().splitlines()[-1]
    assert last.startswith("==> ")
    assert last.endswith(f"{where}: bind: address already in use")


def test_a_join_that_fails_ends_the_start_with_the_error(launch: Launcher) -> None:
    nobody = launch.options("nobody").bind
    agent = launch.serfmp("one", join=[str(nobody)], wait=False)
    assert agent.wait_exit(DEADLINE_S) == 1
    assert f"* Failed to join {nobody.host}: dial tcp {nobody}: connect: connection refused" in agent.log()


def test_hangup_without_a_change_says_so(launch: Launcher) -> None:
    agent = launch.serfmp("one")
    agent.wait_log("Log data will now stream in", DEADLINE_S)
    agent.signal(signal.SIGHUP)
    agent.wait_log("==> Reloaded: nothing has changed", DEADLINE_S)
    assert agent.statuses() == {"one": "alive"}
