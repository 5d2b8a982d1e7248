"""The runtime directory of a running agent is removed, as those of users are when they log out."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.harness import Agent, Launcher, eventually

DEADLINE_S = 30.0
BOTH = {"one": "alive", "two": "alive"}


def runtime(agent: Agent) -> Path:
    """The agent's own directory in the one that the harness gave it."""
    base = next(word.partition("=")[2] for word in agent.command if word.startswith("-runtime-dir="))
    (found,) = Path(base).iterdir()
    return found


@pytest.mark.parametrize("what", ["all", "all, again and again", "sockets", "the dispatcher's socket"])
def test_the_directory_is_made_again_and_everybody_finds_everybody(launch: Launcher, tmp_path: Path, what: str) -> None:
    seen = tmp_path / "seen"
    one = launch.serfmp("one", handlers=[f"user=echo $SERF_USER_EVENT >> {seen}"])
    two = launch.serfmp("two", join=[one])
    for agent in (one, two):
        agent.wait_log("Log data will now stream in", DEADLINE_S)
        agent.wait_statuses(BOTH, DEADLINE_S)
    place = runtime(one)
    before = one.pids_by_role()["dispatcher"]
    match what:
        case "all":
            shutil.rmtree(place.parent, ignore_errors=True)  # it may be made again meanwhile
        case "all, again and again":
            # Who removes it is not done when it is made again, and nobody has bound his sockets by then.
            for _ in range(4):
                shutil.rmtree(place, ignore_errors=True)
                eventually((place / "public").exists, DEADLINE_S, "it is made again")
        case "sockets":
            for socket in (place / "bus").glob("consumers.*"):
                socket.unlink()
        case _:
            (place / "bus" / "workers").unlink()
    one.wait_log("its sockets were removed from the runtime directory", DEADLINE_S)
    eventually(lambda: list((place / "bus").glob("consumers.*")), DEADLINE_S, "it is bound again")
    eventually((place / "bus" / "workers").exists, DEADLINE_S, "it is bound again")
    if what != "sockets":
        eventually(lambda: one.pids_by_role().get("dispatcher", before) != before, DEADLINE_S, "a new dispatcher")
    assert place.stat().st_mode & 0o777 == 0o711
    assert (place / "bus").stat().st_mode & 0o777 == 0o700
    for role in ("gossip", "worker"):
        old = one.pids_by_role()[role]
        os.kill(old[0], signal.SIGKILL)
        eventually(
            lambda role=role, old=old: len(new := one.pids_by_role().get(role, ())) == len(old) and new != old,  # type: ignore[misc]
            DEADLINE_S,
            f"a new {role}",
        )
    two.event("after")
    eventually(lambda: seen.exists() and seen.read_text() == "after\n", DEADLINE_S, "it is handled")
    for agent in (one, two):
        agent.wait_statuses(BOTH, DEADLINE_S)
        assert "EventMemberFailed" not in agent.log()
