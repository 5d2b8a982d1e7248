"""A leave while processes die: it ends in time with the right exit code, and nobody sees the node again.

One real agent and one of ours watch; nodes come, one after the other, and leave while something is done to them.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.events.stage import process_is_there
from tests.harness import Agent, ConnectionLost, Launcher, LoopbackAllocator, MemberRecord, Stream, eventually

DEADLINE_S = 40.0

LIMIT_S = (2 * 5.0 + 3.0) + (3.0 + 4.0)
"""Two broadcasts and the margin of a leave, then the grace of scripts and the margin of a stop (the supervisor's)."""

KINDS = "member-join,member-leave,member-failed,member-update,member-reap"

LOOK_S = 0.005


@dataclass(frozen=True, slots=True)
class Scene:
    """The agents that stay, a real one and one of ours, with streams of all that they see."""

    launch: Launcher
    peers: tuple[Agent, ...]
    streams: tuple[Stream, ...]

    def come(self, name: str) -> Agent:
        """A node that everybody sees alive."""
        agent = self.launch.serfmp(name, join=[self.peers[0]], log_level="INFO")
        agent.wait_log("Log data will now stream in", DEADLINE_S)
        for peer in self.peers:
            self.wait_status(peer, name, {"alive"})
        return agent

    def wait_status(self, peer: Agent, name: str, wanted: set[str]) -> None:
        """Wait until a peer has a node in one of these states."""
        eventually(lambda: peer.statuses().get(name) in wanted, DEADLINE_S, f"{name} is {wanted}", interval_s=LOOK_S)

    def seen(self, name: str) -> list[list[str]]:
        """What happened to a node, as each peer saw it."""
        return [
            [record.kind for record in stream.records if isinstance(record, MemberRecord) and name in record.names]
            for stream in self.streams
        ]

    def check_left(self, name: str) -> None:
        """All peers have seen the node come and leave, and nothing else.

        Who collects events tells of a node that came and left within the time of collecting only that it left.
        """
        for peer in self.peers:
            self.wait_status(peer, name, {"left"})
        eventually(lambda: all("member-leave" in kinds for kinds in self.seen(name)), DEADLINE_S, "the streams tell it")
        for kinds in self.seen(name):
            assert kinds in (["member-join", "member-leave"], ["member-leave"])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Peers that all nodes of this module meet; at the end none of those has come back to life anywhere."""
    with LoopbackAllocator() as loopback, Launcher(tmp_path_factory.mktemp("leave"), loopback) as launch:
        real = launch.serf("real")
        ours = launch.serfmp("ours", join=[real], log_level="INFO")
        found = Scene(launch, (real, ours), (real.stream(KINDS), ours.stream(KINDS)))
        yield found
        for name in real.statuses().keys() - {"real", "ours"}:
            found.check_left(name)


def pid_of(agent: Agent, role: str) -> int:
    """The pid of a role; 0 while there is none."""
    return agent.pids_by_role().get(role, (0,))[0]


def hurt(agent: Agent, role: str, number: signal.Signals = signal.SIGKILL, times: int = 1) -> None:
    """Send a signal to a process, and to its successors as soon as they are there; none comes after the agent's end."""
    old = 0
    for _ in range(times):

        def other(old: int = old) -> int:
            found = pid_of(agent, role)
            return found if found != old else 0

        eventually(lambda: other() or not process_is_there(agent.pid), DEADLINE_S, f"a new {role}", interval_s=LOOK_S)
        old = other()
        if old:
            with contextlib.suppress(ProcessLookupError):
                os.kill(old, number)


def check_end(agent: Agent, began: float) -> None:
    """It ends as after a complete leave, in time."""
    assert agent.wait_exit(DEADLINE_S) == 0
    assert time.monotonic() - began < LIMIT_S
    assert agent.left_over() == []


@pytest.mark.parametrize("moment", ["at-once", "leaving", "left", "lingering", "again-and-again", "frozen"])
def test_a_node_whose_detector_dies_in_a_leave_has_left_for_good(scene: Scene, moment: str) -> None:
    agent = scene.come(f"detector-{moment}")
    began = time.monotonic()
    agent.signal(signal.SIGINT)
    match moment:
        case "leaving":
            scene.wait_status(scene.peers[1], agent.node, {"leaving", "left"})
        case "left" | "lingering":
            scene.wait_status(scene.peers[1], agent.node, {"left"})
            if moment == "lingering":
                # Of the second for which it stays; at its end the detector says that it has left.
                late = time.monotonic() + 0.9
                eventually(lambda: time.monotonic() >= late, 2.0, "that second is nearly over")
    number = signal.SIGSTOP if moment == "frozen" else signal.SIGKILL
    hurt(agent, "detector", number, times=3 if moment == "again-and-again" else 1)
    check_end(agent, began)
    scene.check_left(agent.node)


@pytest.mark.parametrize("role", ["gossip", "rpc", "dispatcher"])
def test_a_leave_is_complete_though_another_process_dies(scene: Scene, role: str) -> None:
    agent = scene.come(f"other-{role}")
    began = time.monotonic()
    agent.signal(signal.SIGINT)
    agent.wait_log("requesting graceful leave", DEADLINE_S)
    hurt(agent, role)
    check_end(agent, began)
    scene.check_left(agent.node)


@pytest.mark.parametrize("role", ["detector", "rpc"])
def test_a_leave_over_rpc_is_complete_though_a_process_dies(scene: Scene, role: str) -> None:
    agent = scene.come(f"asked-{role}")
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(agent.connect().leave)
        agent.wait_log("Graceful leave triggered", DEADLINE_S)
        hurt(agent, role)
        if role == "rpc":
            with pytest.raises(ConnectionLost):
                asked.result(DEADLINE_S)
        else:
            asked.result(DEADLINE_S)
    check_end(agent, began)
    scene.check_left(agent.node)
