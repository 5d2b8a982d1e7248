"""`handlers`: what an agent's handlers do, seen from outside, for people and for programs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.harness import Agent, Launcher, eventually, needs_serf
from tests.harness.commands import SERFMP, run_command

DEADLINE_S = 30.0


def handlers(agent: Agent, *words: str, code: int = 0) -> str:
    done = run_command(agent, "handlers", *words, program=SERFMP)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def rows(agent: Agent) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(handlers(agent, "-format=json"))["handlers"]
    return found


def test_it_shows_what_runs_waits_and_how_the_last_ones_ended(launch: Launcher) -> None:
    agent = launch.serfmp("one", handlers=["user:bad=echo oops; exit 3", "user:hang=exec sleep 600"])
    agent.event("bad")
    for _ in range(3):
        agent.event("hang")

    def told() -> bool:
        bad, hang = rows(agent)
        return (bad["failed"], hang["running"], hang["queued"]) == (1, 1, 2)

    eventually(told, DEADLINE_S, "both have been told")
    (last,) = rows(agent)[0]["last"]
    assert (last["code"], last["signal"], last["error"], last["output"]) == (3, 0, "exit status 3", "oops\n")
    text = handlers(agent)
    assert text.splitlines()[0].split() == ["handler", "on", "queued", "running", "ended", "failed", "dropped", "last"]
    assert "exit status 3" in text
    one = handlers(agent, "echo oops; exit 3")
    assert "    oops" in one
    assert "sleep" not in one
    assert handlers(agent, "nobody", code=1) == "The agent has no handler 'nobody'\n"


def test_an_agent_without_handlers_says_so(launch: Launcher) -> None:
    assert handlers(launch.serfmp("one")) == "The agent has no handlers.\n"


@pytest.mark.interop
@needs_serf
def test_a_real_agent_does_not_know_the_command_and_says_so(launch: Launcher) -> None:
    assert handlers(launch.serf("one"), code=1) == "Error asking the agent: Unsupported command\n"
