"""The real command line against our agent, and ours against the real agent."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from serfmp.client import Client, UserEvent
from tests.harness import Agent, Launcher, needs_serf
from tests.harness.commands import SERF, SERFMP, run_command

pytestmark = [needs_serf, pytest.mark.interop]


def run(program: Sequence[str], agent: Agent, *words: str) -> tuple[int, str]:
    done = run_command(agent, *words, program=program)
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.mark.parametrize(("program", "kind"), [(SERF, "serfmp"), (SERFMP, "serf")])
def test_each_command_line_works_with_the_other_agent(launch: Launcher, program: Sequence[str], kind: str) -> None:
    agent, other = (getattr(launch, kind)(name) for name in ("a", "b"))
    assert run(program, agent, "members") == (0, f"a  {agent.bind}  alive  \n".replace("  \n", "\n"))
    joined = (0, "Successfully joined cluster by contacting 1 nodes.\n")
    assert run(program, agent, "join", str(other.bind)) == joined
    agent.wait_statuses({"a": "alive", "b": "alive"}, 10)
    with Client(str(other.options.rpc)) as client:
        stream = client.stream("user:deploy")
        dispatched = (0, "Event 'deploy' dispatched! Coalescing enabled: false\n")
        assert run(program, agent, "event", "-coalesce=false", "deploy", "v1") == dispatched
        event = stream.next_event(10)
        assert isinstance(event, UserEvent)
        assert event.payload == b"v1"
    code, output = run(program, agent, "members", "-name=(")
    assert code == 1
    assert output.startswith("Error retrieving members: ")
    assert run(program, agent, "leave") == (0, "Graceful leave complete\n")
    assert agent.wait_exit(10) == 0


@pytest.mark.parametrize(
    "words", [["members"], ["members", "-detailed"], ["members", "-format=json"], ["members", "-tag", "k=.*"]]
)
def test_both_command_lines_print_the_same_about_one_agent(launch: Launcher, words: list[str]) -> None:
    agent = launch.serfmp("a é", tags={"k": "a|b"})
    assert run(SERF, agent, *words) == run(SERFMP, agent, *words)


def test_both_command_lines_show_the_same_of_either_agent(launch: Launcher) -> None:
    ours = launch.serfmp("a", tags={"role": "web"})
    real = launch.serf("b", tags={"role": "web"})

    def masked(program: Sequence[str], agent: Agent, *words: str) -> tuple[int, str]:
        code, text = run(program, agent, "info", *words)
        return code, re.sub(r"(goroutines\W+)\d+", r"\1N", text)

    for agent in (ours, real):
        code, text = masked(SERFMP, agent)
        assert (code, text) == masked(SERF, agent)
        assert code == 0
        assert text.startswith(f"agent:\n\tname = {agent.options.node}\nevent_handlers:\nruntime:\n\tarch = ")
        assert text.endswith("\ntags:\n\trole = web\n")
        assert masked(SERFMP, agent, "-format=json") == masked(SERF, agent, "-format=json")
        assert run(SERFMP, agent, "info", "-format=xml") == run(SERF, agent, "info", "-format=xml")

    def shape(text: str) -> list[str]:
        return [line.partition(" = ")[0] for line in text.splitlines()]

    assert shape(run(SERF, ours, "info")[1]) == shape(run(SERF, real, "info")[1])
