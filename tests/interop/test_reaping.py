"""Reaping and reconnecting in mixed clusters, with timeouts of seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.harness import Launcher, MemberRecord

DEADLINE_S = 60.0
SHORT = {"reconnect_interval": "200ms", "reconnect_timeout": "4s", "tombstone_timeout": "4s"}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("left", [False, True], ids=["failed", "left"])
def test_both_kinds_reap_what_is_gone(launch: Launcher, tmp_path: Path, left: bool) -> None:
    file = tmp_path / "short.json"
    file.write_text(json.dumps(SHORT))
    extra = [f"-config-file={file}"]
    one = launch.serfmp("one", extra=extra)
    two = launch.serf("two", join=[one], extra=extra)
    three = launch.serf("three", join=[one])
    everybody = dict.fromkeys(("one", "two", "three"), "alive")
    for agent in (one, two, three):
        agent.wait_statuses(everybody, DEADLINE_S)
    stream = one.stream("member-reap")
    if left:
        three.leave()
    else:
        three.kill()
    for agent in (one, two):
        agent.wait_statuses({"one": "alive", "two": "alive"}, DEADLINE_S)
        agent.wait_log("EventMemberReap: three", DEADLINE_S)
    if not left:
        one.wait_log("[INFO] serf: attempting reconnect to three 127.", DEADLINE_S)
    stream.wait_for(lambda r: isinstance(r, MemberRecord) and r.names == {"three"}, DEADLINE_S, "its reaping")


@pytest.mark.timeout(180)
def test_a_failed_real_agent_that_returns_is_found_again(launch: Launcher, tmp_path: Path) -> None:
    file = tmp_path / "short.json"
    file.write_text(json.dumps({"reconnect_interval": "1s"}))
    one = launch.serfmp("one", extra=[f"-config-file={file}"])
    two = launch.serf("two", join=[one])
    one.wait_statuses({"one": "alive", "two": "alive"}, DEADLINE_S)
    two.kill()
    one.wait_statuses({"one": "alive", "two": "failed"}, DEADLINE_S)
    again = launch.serf("two", bind=two.options.bind)
    for agent in (one, again):
        agent.wait_statuses({"one": "alive", "two": "alive"}, DEADLINE_S)
