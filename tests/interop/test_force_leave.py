"""Force-leave in clusters of serfmp and the real serf, asked of either."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.harness import Agent, Launcher, MemberRecord, Record, eventually, holds_throughout
from tests.harness.commands import run_command

DEADLINE_S = 30.0
THREE = {"one": "alive", "two": "alive", "three": "alive"}

kinds = pytest.mark.parametrize("asked", ["serfmp", "serf"])


def three(launch: Launcher, asked: str, third: str) -> tuple[Agent, Agent, Agent]:
    """Agents one (of the kind that is asked), two (of the other kind) and three."""
    starts = {"serfmp": launch.serfmp, "serf": launch.serf}
    one = starts[asked]("one")
    two = starts["serf" if asked == "serfmp" else "serfmp"]("two", join=[one])
    last = starts[third]("three", join=[one])
    for agent in (one, two, last):
        agent.wait_statuses(THREE, DEADLINE_S)
    wait_for_one_time(one, two, last)
    return one, two, last


def about_three(kind: str) -> Callable[[Record], bool]:
    return lambda record: isinstance(record, MemberRecord) and record.kind == kind and record.names == {"three"}


def member_time(agent: Agent) -> int:
    return int(agent.client().stats()["serf"]["member_time"])


def wait_for_one_time(*agents: Agent) -> None:
    """Until all have heard of all joins: Serf ignores a leave intent that is as old as its own join."""
    eventually(lambda: len({member_time(agent) for agent in agents}) == 1, DEADLINE_S, "the member clocks agree")


def force_leave(agent: Agent, *words: str) -> None:
    """By the command line of the agent's kind."""
    done = run_command(agent, "force-leave", *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@kinds
@pytest.mark.parametrize("prune", [False, True], ids=["left", "pruned"])
def test_a_failed_node_has_left_or_is_gone_everywhere(launch: Launcher, asked: str, prune: bool) -> None:
    one, two, last = three(launch, asked, "serf")
    stream = (one if asked == "serfmp" else two).stream("member-failed,member-leave,member-reap")
    last.kill()
    for agent in (one, two):
        agent.wait_statuses({**THREE, "three": "failed"}, DEADLINE_S)
    # Events are collected: of a node whose failure was told, and that is then left and reaped at once, only that it is
    # reaped, as with Serf; had the failure not been told yet, that it left, too.
    stream.wait_for(about_three("member-failed"), DEADLINE_S, "member-failed")
    force_leave(one, *(["-prune"] if prune else []), "three")
    rest = {"one": "alive", "two": "alive"}
    for agent in (one, two):
        agent.wait_statuses(rest if prune else {**rest, "three": "left"}, DEADLINE_S)
        agent.wait_log("EventMemberLeave (forced): three", DEADLINE_S)
    kind = "member-reap" if prune else "member-leave"
    stream.wait_for(about_three(kind), DEADLINE_S, kind)
    if asked == "serfmp":
        one.wait_log(f"[INFO] agent: Force leaving node{' (prune)' if prune else ''}: three", DEADLINE_S)


@kinds
def test_a_left_node_can_be_pruned(launch: Launcher, asked: str) -> None:
    one, two, last = three(launch, asked, "serfmp")
    last.leave()
    for agent in (one, two):
        agent.wait_statuses({**THREE, "three": "left"}, DEADLINE_S)
    force_leave(one, "-prune", "three")
    for agent in (one, two):
        agent.wait_statuses({"one": "alive", "two": "alive"}, DEADLINE_S)


@kinds
@pytest.mark.parametrize("third", ["serfmp", "serf"])
def test_a_living_node_contradicts_and_stays(launch: Launcher, asked: str, third: str) -> None:
    agents = three(launch, asked, third)
    before = member_time(agents[2])
    force_leave(agents[0], "three")
    eventually(lambda: member_time(agents[2]) >= before + 2, DEADLINE_S, "three has seen the leave and contradicted")
    for agent in agents:
        agent.wait_statuses(THREE, DEADLINE_S)


def test_prune_of_a_living_node_removes_it_nowhere(launch: Launcher) -> None:
    agents = three(launch, "serfmp", "serf")
    force_leave(agents[0], "-prune", "three")
    for agent in agents:
        agent.wait_statuses(THREE, DEADLINE_S)
    # The real serf prunes a node that is leaving after six seconds.
    holds_throughout(lambda: all(len(agent.statuses()) == 3 for agent in agents), 7.0, "nobody forgets it")


def test_a_living_node_of_two_learns_of_it_and_contradicts(launch: Launcher) -> None:
    one = launch.serfmp("one")
    two = launch.serf("two", join=[one])
    for agent in (one, two):
        agent.wait_statuses({"one": "alive", "two": "alive"}, DEADLINE_S)
    wait_for_one_time(one, two)
    force_leave(one, "two")
    two.wait_log("Refuting an older leave intent", DEADLINE_S)
    one.wait_statuses({"one": "alive", "two": "alive"}, DEADLINE_S)
