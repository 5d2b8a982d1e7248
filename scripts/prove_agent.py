"""Faults of a whole agent and of its host: how long what the user sees of them lasts.

One of our agents with a snapshot, a handler and a script that hangs; another of ours and a real one watch, profile lan.
Each fault is done to a new agent of another name, so that none profits from the last. Bars are those of the promises:
an end in time, the right exit code, no event lost or repeated, nobody failed who lives.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from scripts.proofs.cluster import JOINED_S
from scripts.proofs.command import carry_out, parser
from scripts.proofs.faults import Fault, environment, inject, step_clock
from scripts.proofs.report import Progress, Report
from tests.harness import Agent, Launcher, NeverHeld, eventually
from tests.harness.files import lines
from tests.harness.processes import is_running, tree

LONG_S = 60.0
LOOK_S = 0.005

FAILED_LEAVE_S = 20.0
"""Two broadcasts and a margin, then the grace of scripts and the margin of a stop (docs/architecture.md)."""

EXIT_RESTART_BUDGET = 70


@dataclass
class Stage:
    """The agents that watch, and new ones to be harmed."""

    launch: Launcher
    directory: Path
    report: Report
    progress: Progress
    peers: list[Agent] = field(default_factory=list)

    def begin(self) -> None:
        """Start those that watch."""
        real = self.launch.serf if shutil.which("serf") else self.launch.serfmp
        self.peers = [self.launch.serfmp("peer", profile="lan", log_level="INFO")]
        self.peers.append(real("real", profile="lan", log_level="INFO", join=[self.peers[0]]))

    def place(self, name: str) -> Path:
        """A directory for the files of one agent."""
        place = self.directory / f"of-{name}"
        place.mkdir(exist_ok=True)
        return place

    def come(self, name: str, **options: object) -> Agent:
        """A node that everybody sees alive; its handler writes events to `seen`, and hangs in one of name `hang`."""
        place = self.place(name)
        handlers = [
            f"user:hang=sleep 600 & echo $$ $! > {place}/new; mv {place}/new {place}/hanging; wait",
            f"user:e=cat >> {place}/seen",
        ]
        agent = self.launch.serfmp(
            name,
            profile="lan",
            log_level="INFO",
            handlers=handlers,
            env=environment(place),
            extra=[f"-snapshot={place}/snapshot"],
            **{"join": [self.peers[0]], **options},
        )
        agent.wait_log("Log data will now stream in", JOINED_S)
        self.wait_peers(name, "alive")
        return agent

    def wait_peers(self, name: str, status: str) -> None:
        """Wait until all that watch have a node in this state."""
        for peer in self.peers:
            eventually(lambda peer=peer: peer.statuses().get(name) == status, LONG_S, status, interval_s=LOOK_S)

    def seen(self, name: str) -> list[str]:
        """Payloads of the events that an agent's handler has got."""
        return lines(self.place(name) / "seen")

    def event(self, agent: Agent, payload: str) -> None:
        """An event, and wait until it is handled."""
        agent.event("e", f"{payload}\n".encode())
        eventually(lambda: payload in self.seen(agent.node), LONG_S, f"{payload} is handled", interval_s=LOOK_S)

    @contextlib.contextmanager
    def timed(self, what: str, bar: float) -> Iterator[None]:
        """A row with the seconds that the block takes, infinite if it never comes to its end."""
        began, took = time.monotonic(), float("inf")
        try:
            yield
            took = time.monotonic() - began
        except NeverHeld as error:
            self.progress.say(str(error))
        self.report.require(f"{what}, s", took, f"< {bar:g}", took < bar)
        self.progress.say(f"{what}: {took:.2f} s")


def prove(launch: Launcher, directory: Path, progress: Progress) -> Report:
    """Run it."""
    stage = Stage(launch, directory, Report("faults of a whole agent and of its host"), progress)
    stage.begin()
    _supervisor(stage)
    _all_killed(stage)
    _leaves(stage)
    _frozen(stage)
    _budget(stage)
    _snapshot(stage)
    _runtime(stage)
    _clock(stage)
    accused = [
        line
        for peer in stage.peers
        for line in peer.log().splitlines()
        if "EventMemberFailed" in line and "gone" not in line
    ]
    stage.report.require_none("lines of peers about failed members that were not killed", len(accused))
    for line in accused[:3]:
        stage.report.tell("  for example", line[-70:])
    return stage.report


def _supervisor(stage: Stage) -> None:
    for fault in ("", "stopped", "stuck"):
        name = f"gone-{fault or 'well'}"
        agent = stage.come(name)
        agent.event("hang")
        note = stage.place(name) / "hanging"
        eventually(note.exists, LONG_S, "the script runs")
        processes = tree(psutil.Process(agent.pid))
        for role, pids in agent.pids_by_role().items():
            for pid in pids if fault and role not in {"supervisor", "other"} else ():
                if fault == "stopped":
                    os.kill(pid, signal.SIGSTOP)
                else:
                    inject(Fault.SPIN, pid, stage.place(name))
        if fault:
            time.sleep(0.5)
        with stage.timed(
            f"supervisor killed{', all others ' + fault if fault else ''}: until everything has ended", 8.0
        ):
            os.kill(agent.pid, signal.SIGKILL)
            _ended(processes)
        agent.wait_exit(LONG_S)


def _ended(processes: list[psutil.Process]) -> None:
    eventually(lambda: not any(map(is_running, processes)), LONG_S, "all have ended", interval_s=LOOK_S)


def _knows_all(agent: Agent, count: int) -> None:
    eventually(lambda: len(agent.statuses()) >= count, LONG_S, "it knows them", interval_s=LOOK_S)


def _all_killed(stage: Stage) -> None:
    agent = stage.come("gone-killed")
    extra = {"bind": agent.options.bind, "rpc": agent.options.rpc, "join": ()}
    for number, noticed in enumerate((False, True)):
        stage.event(agent, f"before-{number}")
        # Lines reach the file within 0.1 s.
        time.sleep(0.5)
        agent.kill()
        what = "all processes killed, started again at once"
        if noticed:
            with stage.timed("all processes killed: until peers show it as failed", 30.0):
                stage.wait_peers(agent.node, "failed")
            what = "started again after that"
        with stage.timed(f"{what}: until peers show it as alive, and it them", 30.0):
            agent = stage.come("gone-killed", **extra)
            _knows_all(agent, 1 + len(stage.peers))
        stage.event(agent, f"after-{number}")
    got = stage.seen(agent.node)
    stage.report.require_none("  events lost or repeated", len(got) - 4 + len(got) - len(set(got)))
    agent.kill()


def _leaves(stage: Stage) -> None:
    cases: list[tuple[str, str, int, signal.Signals]] = [
        ("undisturbed", "", 0, signal.SIGKILL),
        ("its detector killed", "detector", 1, signal.SIGKILL),
        ("its detector killed three times", "detector", 3, signal.SIGKILL),
        ("its detector frozen", "detector", 1, signal.SIGSTOP),
        ("its gossip killed", "gossip", 1, signal.SIGKILL),
        ("its rpc killed", "rpc", 1, signal.SIGKILL),
        ("its dispatcher killed", "dispatcher", 1, signal.SIGKILL),
    ]
    for number, (what, role, times, sent) in enumerate(cases):
        agent = stage.come(f"leaver-{number}")
        code = 0
        with stage.timed(f"leave, {what}: until the agent has ended", FAILED_LEAVE_S):
            agent.signal(signal.SIGINT)
            agent.wait_log("requesting graceful leave", LONG_S)
            old = 0
            for _ in range(times):
                old = eventually(_other(agent, role, old), LONG_S, role, interval_s=LOOK_S)
                os.kill(old, sent)
            code = agent.wait_exit(LONG_S)
        stage.report.require("  exit code", code, "0", code == 0)
        stage.wait_peers(agent.node, "left")


def _other(agent: Agent, role: str, old: int) -> Callable[[], int]:
    def find() -> int:
        found = agent.pids_by_role().get(role, (0,))[0]
        return found if found != old else 0

    return find


def _frozen(stage: Stage) -> None:
    agent = stage.come("frozen")
    pids = agent.pids_by_role()
    agent.pause_tree()
    time.sleep(3.0)
    agent.resume_tree()
    with stage.timed("all processes stopped for 3 s: until clients are answered", 1.0):
        agent.statuses()
    stage.report.require_none(
        "  processes started again", sum(agent.pids_by_role().get(role) != pids[role] for role in pids)
    )


def _budget(stage: Stage) -> None:
    agent = stage.come("gone-budget")
    resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (8, 8))
    code = 0
    with stage.timed("a process that cannot be started again: until the agent has ended", 15.0):
        os.kill(agent.pids_by_role()["detector"][0], signal.SIGKILL)
        code = agent.wait_exit(LONG_S)
    stage.report.require("  exit code", code, str(EXIT_RESTART_BUDGET), code == EXIT_RESTART_BUDGET)


def _snapshot(stage: Stage) -> None:
    agent = stage.come("full")
    file = stage.place("full") / "snapshot"
    (pid,) = agent.pids_by_role()["detector"]
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (file.stat().st_size, before[1]))
    with stage.timed("snapshot that cannot grow: until an event is handled all the same", 2.0):
        stage.event(agent, "meanwhile")
    with stage.timed("  until the log tells it", 5.0):
        agent.wait_log("Failed to update snapshot", LONG_S)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    with stage.timed("  once it can: until the file has everything", 10.0):
        agent.wait_log("is written again", LONG_S)
    agent.signal(signal.SIGINT)
    agent.wait_exit(LONG_S)


def _runtime(stage: Stage) -> None:
    agent = stage.come("homeless")
    base = next(word.partition("=")[2] for word in agent.command if word.startswith("-runtime-dir="))
    shutil.rmtree(base)
    with stage.timed("runtime directory removed: until it is noticed", 3.0):
        agent.wait_log("its sockets were removed", LONG_S)
    with stage.timed("  until events are taken and handled again", 3.0):
        eventually(lambda: stage.event(agent, "after") is None, LONG_S, "an event", ignoring=(OSError, AssertionError))
    agent.signal(signal.SIGINT)
    agent.wait_exit(LONG_S)


def _clock(stage: Stage) -> None:
    agent = stage.come("untimely")
    for step in (-3600.0, 3600.0):
        step_clock(step, [pid for pids in agent.pids_by_role().values() for pid in pids], stage.place("untimely"))
        with stage.timed(f"wall clock stepped by {step / 3600:+.0f} h: until an event is handled", 1.0):
            stage.event(agent, f"at{step:.0f}")
    # Three probe rounds of profile lan.
    time.sleep(3.0)
    views = [peer.statuses().get(agent.node) for peer in stage.peers]
    stage.report.require_none("  peers that see it in another state than alive", sum(view != "alive" for view in views))
    agent.signal(signal.SIGINT)
    agent.wait_exit(LONG_S)


def main() -> int:
    """The command line."""
    given = parser("Faults of a whole agent and of its host, and how long they are felt.").parse_args()
    return carry_out(given, lambda place: prove(place.launch, place.directory, Progress()))


if __name__ == "__main__":
    sys.exit(main())
