"""Keys of mixed clusters: operations asked of either kind, a whole rotation, kills in between, a file that fails."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serfmp.client import Client, KeysError
from tests.harness import Agent, Launcher, eventually
from tests.harness.commands import run_command

DEADLINE_S = 60.0
KEYS = [base64.b64encode(bytes([number]) * 32).decode() for number in range(1, 5)]
BOTH = {"one": "alive", "two": "alive"}
DATA = Path(__file__).parents[1] / "data/transcripts"

pytestmark = pytest.mark.timeout(180)


def pair(launch: Launcher, directory: Path, second: str = "serf") -> tuple[Agent, Agent, Path]:
    """Agents one (ours) and two, with keyring files that hold the first key."""
    files = []
    for name in ("one", "two"):
        file = directory / f"{name}.json"
        file.write_text(json.dumps(KEYS[:1]))
        files.append(file)
    one = launch.serfmp("one", extra=[f"-keyring-file={files[0]}"])
    begin = launch.serf if second == "serf" else launch.serfmp
    two = begin("two", join=[one], extra=[f"-keyring-file={files[1]}"])
    for agent in (one, two):
        agent.wait_statuses(BOTH, DEADLINE_S)
    return one, two, files[0]


def keys(agent: Agent, *words: str) -> tuple[int, str]:
    done = run_command(agent, "keys", *words)
    return done.returncode, done.stdout


def cases(name: str) -> dict[str, Any]:
    return {case["id"]: case for case in json.loads((DATA / f"{name}.json").read_text())["cases"]}


@pytest.mark.parametrize("asked", ["one", "two"])
def test_a_whole_rotation_asked_of_either_kind_fails_nobody(launch: Launcher, tmp_path: Path, asked: str) -> None:
    one, two, file = pair(launch, tmp_path)
    agent = one if asked == "one" else two
    assert keys(agent, f"-install={KEYS[1]}")[0] == 0
    assert json.loads(file.read_text()) == KEYS[:2]
    assert keys(agent, f"-use={KEYS[1]}")[0] == 0
    assert json.loads(file.read_text()) == [KEYS[1], KEYS[0]]
    assert keys(agent, f"-remove={KEYS[0]}")[0] == 0
    assert file.read_text() == json.dumps(KEYS[1:2], indent=2)
    assert file.stat().st_mode & 0o777 == 0o600
    code, text = keys(agent, "-list")
    assert (code, text.splitlines()[-1]) == (0, f"{KEYS[1]}  [2/2]")
    one.event("after")
    for each in (one, two):
        each.wait_statuses(BOTH, DEADLINE_S)
        assert "EventMemberFailed" not in each.log()


def test_the_command_line_says_what_serfs_says(launch: Launcher, tmp_path: Path) -> None:
    one, _two, _file = pair(launch, tmp_path, "serfmp")
    recorded = cases("keys-encrypted")
    first, second, unknown = KEYS[0], KEYS[1], KEYS[2]
    ours = {
        "HvY8ubRZMgafUOWvrOadwOckVa1wN3QWAo46FVKbVN8=": first,
        "T9jncgl9mbLus+baTTa7q7nPSUrXwbDi2dhbtqir37s=": second,
        "5K9OtfP7efFrNKe5WCQvXvnaXJ5cWP0SvXiwe0kkjM4=": unknown,
        "k1": "one",
        "k2": "two",
    }
    for name in [
        "list",
        "install",
        "install-again",
        "list2",
        "use-unknown",
        "use",
        "remove-primary",
        "remove-unknown",
        "remove",
        "list3",
        "install-badlen",
    ]:
        case = recorded[name]
        words, expected = case["argv"][2:], case["stdout"]
        for theirs, mine in ours.items():
            words = [word.replace(theirs, mine) for word in words]
            expected = expected.replace(theirs, mine)
        code, text = keys(one, *words)
        assert code == case["exit_code"], name
        assert sorted(" ".join(line.split()) for line in text.splitlines()) == sorted(
            " ".join(line.split()) for line in expected.splitlines()
        ), name


def test_without_encryption_everything_is_refused_as_by_serf(launch: Launcher) -> None:
    alpha = launch.serfmp("alpha")
    launch.serf("beta", join=[alpha])
    alpha.wait_statuses({"alpha": "alive", "beta": "alive"}, DEADLINE_S)
    for name in (
        "list-unencrypted",
        "install-unencrypted",
        "use-unencrypted",
        "remove-unencrypted",
        "install-badbase64",
    ):
        case = cases("keys")[name]
        code, text = keys(alpha, *case["argv"][2:])
        assert (code, sorted(text.splitlines())) == (1, sorted(case["stdout"].splitlines())), name


def test_killed_processes_keep_the_keys_that_were_changed(launch: Launcher, tmp_path: Path) -> None:
    one, two, _file = pair(launch, tmp_path)
    for operation in (f"-install={KEYS[1]}", f"-use={KEYS[1]}", f"-remove={KEYS[0]}"):
        for role in ("detector", "gossip"):
            old = one.pids_by_role()[role]
            os.kill(old[0], signal.SIGKILL)
            eventually(
                lambda role=role, old=old: one.pids_by_role().get(role, old) != old,  # type: ignore[misc]
                DEADLINE_S,
                f"a new {role}",
            )
        one.wait_statuses(BOTH, DEADLINE_S)
        eventually(lambda operation=operation: keys(one, operation)[0] == 0, DEADLINE_S, operation)  # type: ignore[misc]
    for agent in (one, two):
        agent.wait_statuses(BOTH, DEADLINE_S)
    stale = launch.serfmp("three", extra=[f"-encrypt={KEYS[0]}"])
    with pytest.raises(AssertionError, match=r"decrypt|EOF|error occurred"):
        stale.join(one)


def test_a_file_that_cannot_be_written_changes_nothing(launch: Launcher, tmp_path: Path) -> None:
    place = tmp_path / "d"
    place.mkdir()
    one, _two, file = pair(launch, place)
    # Where a directory stands in the place of the new file nobody can write it, not even root.
    (place / ".one.json.new").mkdir()
    code, text = keys(one, f"-install={KEYS[1]}")
    assert code == 1
    assert "one  Failed to write keyring file: is a directory" in text
    assert json.loads(file.read_text()) == KEYS[:1]
    with Client(str(one.options.rpc)) as client:
        assert dict(client.list_keys().keys) == {KEYS[0]: 2, KEYS[1]: 1}


def test_a_key_is_not_taken_from_somebody_who_does_not_answer(launch: Launcher, tmp_path: Path) -> None:
    one, two, _file = pair(launch, tmp_path)
    with Client(str(one.options.rpc)) as client:
        client.install_key(KEYS[1])
        client.use_key(KEYS[1])
        two.pause_tree()
        try:
            with pytest.raises(KeysError) as caught:
                client.remove_key(KEYS[0])
        finally:
            two.resume_tree()
        assert caught.value.result.messages == {"two": "did not answer"}
        assert "because of two" in str(caught.value)
        for agent in (one, two):
            agent.wait_statuses(BOTH, DEADLINE_S)
        client.remove_key(KEYS[0], force=True)
        assert dict(client.list_keys().keys) == {KEYS[1]: 2}


def test_a_new_key_is_one_that_can_be_used() -> None:
    for words in ([], ["a", "b"]):
        command = [sys.executable, "-m", "serfmp", "keygen", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE_S)
        assert len(base64.b64decode(done.stdout, validate=False)) == 32
