"""Snapshots of real processes: killed, left, exchanged with the real serf."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import Agent, Launcher, UserRecord, eventually
from tests.harness.files import lines

DEADLINE_S = 60.0
BOTH = {"one": "alive", "two": "alive"}


def start(launch: Launcher, kind: str, node: str, **options: object) -> Agent:
    begin = launch.serfmp if kind == "serfmp" else launch.serf
    return begin(node, **options)  # type: ignore[arg-type]


@pytest.mark.timeout(180)
def test_after_a_kill_of_everything_the_agent_finds_back_and_handles_nothing_twice(
    launch: Launcher, tmp_path: Path
) -> None:
    file, seen = tmp_path / "snapshot", tmp_path / "seen"
    settings = {"extra": [f"-snapshot={file}"], "handlers": [f"user=echo $SERF_USER_EVENT >> {seen}"]}
    two = launch.serf("two")
    one = launch.serfmp("one", join=[two], **settings)
    one.wait_statuses(BOTH, DEADLINE_S)
    assert "Snapshot: true" in one.log()
    one.event("first")
    eventually(lambda: two.client().stats()["serf"]["event_time"] == "2", DEADLINE_S, "the other has heard of it")
    two.event("second")
    eventually(lambda: sorted(lines(seen)) == ["first", "second"], DEADLINE_S, "both are handled")
    eventually(lambda: "event-clock: 2" in file.read_text().splitlines(), DEADLINE_S, "the file knows")
    one.kill()
    again = launch.serfmp("one", bind=one.options.bind, rpc=one.options.rpc, **settings)
    again.wait_log("Re-joined to previously known node: two", DEADLINE_S)
    for agent in (again, two):
        agent.wait_statuses(BOTH, DEADLINE_S)
    again.event("third")
    eventually(lambda: len(lines(seen)) == 3, DEADLINE_S, "a new event is handled")
    assert sorted(lines(seen)) == ["first", "second", "third"]


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("writer", "reader"), [("serf", "serfmp"), ("serfmp", "serf")])
def test_a_snapshot_of_either_kind_is_read_by_the_other(
    launch: Launcher, tmp_path: Path, writer: str, reader: str
) -> None:
    file = tmp_path / "snapshot"
    extra = [f"-snapshot={file}"]
    two = launch.serf("two")
    one = start(launch, writer, "one", join=[two], extra=extra)
    one.wait_statuses(BOTH, DEADLINE_S)

    def known() -> bool:
        # The real serf writes its last lines only with those that come later.
        one.event("tick")
        return f"alive: two {two.bind}" in file.read_text().splitlines()

    eventually(known, DEADLINE_S, "the file knows two", interval_s=0.3)
    one.kill()
    other = start(launch, reader, "one", bind=one.options.bind, rpc=one.options.rpc, extra=extra)
    other.wait_log("Re-joined to previously known node: two", DEADLINE_S)
    for agent in (other, two):
        agent.wait_statuses(BOTH, DEADLINE_S)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("rejoin", [False, True])
def test_after_a_leave_the_agent_stays_alone_unless_it_is_to_rejoin(
    launch: Launcher, tmp_path: Path, rejoin: bool
) -> None:
    file = tmp_path / "snapshot"
    extra = [f"-snapshot={file}", *(["-rejoin"] if rejoin else [])]
    two = launch.serf("two")
    one = launch.serfmp("one", join=[two], extra=extra)
    one.wait_statuses(BOTH, DEADLINE_S)
    one.leave()
    one.wait_exit(DEADLINE_S)
    assert "leave" in file.read_text().splitlines()
    again = launch.serfmp("one", bind=one.options.bind, extra=extra)
    if rejoin:
        again.wait_statuses(BOTH, DEADLINE_S)
    else:
        again.event("x")
        assert again.statuses() == {"one": "alive"}


def test_a_killed_detector_goes_on_with_the_file_without_double_lines(launch: Launcher, tmp_path: Path) -> None:
    import os
    import signal

    file = tmp_path / "snapshot"
    one = launch.serfmp("one", extra=[f"-snapshot={file}"])
    two = launch.serfmp("two", join=[one])
    one.wait_statuses(BOTH, DEADLINE_S)
    eventually(lambda: f"alive: two {two.bind}" in file.read_text().splitlines(), DEADLINE_S, "the file knows two")
    for _ in range(3):
        old = one.pids_by_role()["detector"]
        os.kill(old[0], signal.SIGKILL)
        eventually(lambda old=old: one.pids_by_role().get("detector", old) != old, DEADLINE_S, "a new one")  # type: ignore[misc]
        one.wait_statuses(BOTH, DEADLINE_S)
    stream = one.stream("user")
    one.event("after")
    stream.wait_for(lambda r: isinstance(r, UserRecord), DEADLINE_S, "the event")
    eventually(lambda: "event-clock: 1" in file.read_text().splitlines(), DEADLINE_S, "the file goes on")
    found = file.read_text().splitlines()
    assert found.count(f"alive: two {two.bind}") == 1
    assert found.count(f"alive: one {one.bind}") == 1


def test_a_snapshot_belongs_to_one_agent_and_must_be_writable(launch: Launcher, tmp_path: Path) -> None:
    file = tmp_path / "snapshot"
    launch.serfmp("one", extra=[f"-snapshot={file}"])
    for path, text in ((file, "another agent uses"), (tmp_path / "no" / "s", "no such file or directory")):
        refused = launch.serfmp("two", extra=[f"-snapshot={path}"], wait=False)
        assert refused.wait_exit(DEADLINE_S) == 1
        assert "Failed to setup snapshot: " in refused.log()
        assert text in refused.log()
    done = subprocess.run(
        [sys.executable, "-m", "serfmp", "agent", "-rejoin", "-profile=moon"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.stdout.startswith("==> Warning: 'RejoinAfterLeave' enabled without snapshot file\n")
