"""SIGHUP: all processes take the new configuration over, or nothing changes; nothing that waits is lost."""

from __future__ import annotations

import base64
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Agent, Launcher, eventually, needs_serf
from tests.harness.files import lines

DEADLINE_S = 30.0


def write(path: Path, **content: Any) -> None:
    path.write_text(json.dumps(content))


def reload(agent: Agent, text: str) -> None:
    agent.wait_log("Log data will now stream in", DEADLINE_S)
    before = agent.log().count(text)
    agent.signal(signal.SIGHUP)
    eventually(lambda: agent.log().count(text) > before, DEADLINE_S, f"{text!r} after the reload")


def test_handlers_come_change_and_go_and_what_waits_is_run(launch: Launcher, tmp_path: Path) -> None:
    file, seen, gate = tmp_path / "c.json", tmp_path / "seen", tmp_path / "gate"
    wait = f"while [ ! -e {gate} ]; do sleep 0.02; done; echo old-$SERF_USER_EVENT >> {seen}"
    write(file, event_handlers=[{"name": "a", "on": ["user"], "run": wait}], log_level="info")
    agent = launch.serfmp("one", extra=[f"-config-file={file}"], log_level="")
    for name in ("e1", "e2"):
        agent.event(name)
    agent.wait_log("Received event: user-event: e2", DEADLINE_S)
    new = {"name": "b", "on": ["user"], "run": f"echo new-$SERF_USER_EVENT >> {seen}"}
    write(file, event_handlers=[new], log_level="debug", snapshot_path="")
    reload(agent, "==> Reloaded: handler added: b")
    assert "==> Reloaded: handler removed: a" in agent.log()
    assert "==> Reloaded: log_level: INFO → DEBUG" in agent.log()
    agent.event("e3")
    eventually(lambda: lines(seen) == ["new-e3"], DEADLINE_S, "the new handler runs")
    gate.touch()
    eventually(lambda: len(lines(seen)) == 3, DEADLINE_S, "what waited runs as it was")
    assert lines(seen) == ["new-e3", "old-e1", "old-e2"]
    assert agent.client().stats()["event_handlers"] == {"user:": new["run"]}
    agent.wait_log("[DEBUG]", DEADLINE_S)


def test_a_hangup_during_the_start_is_a_reload_once_that_is_over(launch: Launcher) -> None:
    agent = launch.serfmp("one", wait=False)
    eventually(lambda: "gossip" in agent.pids_by_role(), DEADLINE_S, "signals are taken")
    agent.signal(signal.SIGHUP)
    agent.wait_log("==> Reloaded: nothing has changed", DEADLINE_S)
    assert agent.statuses() == {"one": "alive"}


def test_a_wrong_file_changes_nothing(launch: Launcher, tmp_path: Path) -> None:
    file, seen = tmp_path / "c.json", tmp_path / "seen"
    write(file, event_handlers=[f"user=echo $SERF_USER_EVENT >> {seen}"], tags={"a": "1"})
    agent = launch.serfmp("one", extra=[f"-config-file={file}"])
    write(file, event_handlers=[{"run": "x", "nice": 99}], tags={"a": "2"})
    reload(agent, "==> Failed to reload configs")
    assert "event_handlers[0].nice: 99 is not between 0 and 19" in agent.log()
    agent.event("still")
    eventually(lambda: lines(seen) == ["still"], DEADLINE_S, "the old handler runs")
    assert agent.members()["one"].tags == {"a": "1"}
    write(file, tags={"a": "x" * 600})
    reload(agent, "Failed to update tags: Encoded length of tags exceeds limit of 512 bytes")
    assert agent.members()["one"].tags == {"a": "1"}


@pytest.mark.parametrize("role", ["dispatcher", "worker", "detector"])
def test_a_process_that_dies_over_it_comes_back_with_what_holds(launch: Launcher, tmp_path: Path, role: str) -> None:
    file, seen = tmp_path / "c.json", tmp_path / "seen"
    write(file, event_handlers=[f"user=echo old >> {seen}"])
    agent = launch.serfmp("one", extra=[f"-config-file={file}"])
    agent.wait_log("Log data will now stream in", DEADLINE_S)
    write(file, event_handlers=[f"user=echo new >> {seen}"])
    victim = agent.pids_by_role()[role][0]
    agent.signal(signal.SIGHUP)
    os.kill(victim, signal.SIGKILL)
    agent.wait_log(f"(pid {victim}) ended", DEADLINE_S)
    eventually(
        lambda: any(text in agent.log() for text in ("Reloaded: handler", "Failed to reload configs")),
        DEADLINE_S,
        "the reload ends",
    )
    expected = "new" if "Reloaded: handler" in agent.log() else "old"
    eventually(lambda: role in agent.pids_by_role(), DEADLINE_S, "it is back")
    agent.event("x")
    eventually(lambda: lines(seen), DEADLINE_S, "a handler has run")
    assert lines(seen) == [expected]


def test_tags_set_at_run_time_survive_a_reload_and_a_killed_detector(launch: Launcher, tmp_path: Path) -> None:
    file, seen = tmp_path / "c.json", tmp_path / "seen"
    write(file, tags={"a": "1", "b": "1"}, event_handlers=[f"user=echo $SERF_TAG_A-$SERF_TAG_RUN >> {seen}"])
    agent = launch.serfmp("one", extra=[f"-config-file={file}"])
    agent.client().tags({"run": "time"})
    write(file, tags={"a": "2"}, event_handlers=[f"user=echo $SERF_TAG_A-$SERF_TAG_RUN >> {seen}"], bind="127.0.0.1:1")
    reload(agent, "==> Reloaded: tag a: 1 → 2")
    assert "==> Reloaded: tag b: 1 → -" in agent.log()
    expected = {"a": "2", "run": "time"}
    eventually(lambda: agent.members()["one"].tags == expected, DEADLINE_S, "the tags are there")
    old = agent.pids_by_role()["detector"]
    os.kill(old[0], signal.SIGKILL)
    eventually(lambda: agent.pids_by_role().get("detector", old) != old, DEADLINE_S, "a new detector")
    eventually(lambda: agent.members()["one"].tags == expected, DEADLINE_S, "the tags are still there")
    agent.event("x")
    eventually(lambda: lines(seen) == ["2-time"], DEADLINE_S, "handlers see them")


@pytest.mark.interop
@needs_serf
def test_a_real_agent_sees_the_change_of_tags(launch: Launcher) -> None:
    one = launch.serfmp("one", tags={"role": "web"})
    two = launch.serf("two", join=[one])
    two.wait_statuses({"one": "alive", "two": "alive"}, DEADLINE_S)
    one.client().tags({"v": "2"}, ["role"])
    eventually(lambda: two.members()["one"].tags == {"v": "2"}, DEADLINE_S, "the real agent has heard")
    two.wait_log("EventMemberUpdate: one", DEADLINE_S)


def test_the_keys_of_a_keyring_file_are_no_change(launch: Launcher, tmp_path: Path) -> None:
    file, ring = tmp_path / "c.json", tmp_path / "ring.json"
    ring.write_text(json.dumps([base64.b64encode(bytes(32)).decode()]))
    write(file, keyring_file=str(ring), log_level="info")
    agent = launch.serfmp("one", extra=[f"-config-file={file}"], log_level="")
    reload(agent, "==> Reloaded: nothing has changed")
    write(file, keyring_file=str(ring), log_level="debug")
    reload(agent, "==> Reloaded: log_level: INFO → DEBUG")
    assert "needs a restart" not in agent.log()
