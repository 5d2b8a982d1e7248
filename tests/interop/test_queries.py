"""Queries that serfmp sends: to both kinds, by filters, through relays, over a killed detector; and its command."""

from __future__ import annotations

import os
import signal
import time

from serfmp.client import Client
from tests.harness import Agent, Launcher, eventually
from tests.harness.commands import run_command

DEADLINE_S = 60.0
WHO = "query:who=echo -n $SERF_SELF_NAME"
NAMES = ("one", "two", "three")


def trio(launch: Launcher) -> Agent:
    """Agents one and three (ours) and two (real), all of which answer."""
    one = launch.serfmp("one", handlers=[WHO], tags={"dc": "east-1"})
    two = launch.serf("two", join=[one], handlers=[WHO], tags={"dc": "east-2"})
    three = launch.serfmp("three", join=[one], handlers=[WHO], tags={"dc": "west-1"})
    for agent in (one, two, three):
        agent.wait_statuses(dict.fromkeys(NAMES, "alive"), DEADLINE_S)
    return one


def answers(client: Client, **options: object) -> tuple[list[str], dict[str, bytes]]:
    """Who acked, each as often as it did, and who responded with what."""
    acks: list[str] = []
    responses: dict[str, bytes] = {}
    for answer in client.query("who", timeout_s=3.0, ack=True, **options):  # type: ignore[arg-type]
        if answer.kind == "ack":
            acks.append(answer.node)
        else:
            assert answer.node not in responses
            responses[answer.node] = answer.payload
    return sorted(acks), responses


def test_both_kinds_answer_and_filters_hold_with_both(launch: Launcher) -> None:
    one = trio(launch)
    with Client(str(one.options.rpc)) as client:
        everybody = {name: name.encode() for name in NAMES}
        assert answers(client) == (sorted(NAMES), everybody)
        assert answers(client, tags={"dc": "east"}) == (["one", "two"], {"one": b"one", "two": b"two"})
        assert answers(client, tags={"dc": "^(east|west)-[12]$"})[1] == everybody
        assert answers(client, nodes=["two", "three"], tags={"dc": "-1"}) == (["three"], {"three": b"three"})
        assert answers(client, tags={"other": "x"}) == ([], {})
        # Copies through the others come, too, and count once.
        assert answers(client, relay_factor=2) == (sorted(NAMES), everybody)


def test_a_query_outlives_the_detector_and_nobody_answers_twice(launch: Launcher) -> None:
    one = launch.serfmp("one")
    two = launch.serf("two", join=[one], handlers=["query:who=sleep 4; echo -n two"])
    launch.serf("three", join=[one], handlers=[WHO])
    for agent in (one, two):
        agent.wait_statuses(dict.fromkeys(NAMES, "alive"), DEADLINE_S)
    with Client(str(one.options.rpc)) as client:
        query = client.query("who", timeout_s=15.0, ack=True, relay_factor=1)
        seen: list[tuple[str, str]] = []
        while len(seen) < 4:  # three acks, and the quick response
            answer = query.next_answer(DEADLINE_S)
            assert answer is not None
            seen.append((answer.kind, answer.node))
        [old] = one.pids_by_role()["detector"]
        os.kill(old, signal.SIGKILL)
        eventually(lambda: one.pids_by_role().get("detector", [old]) != [old], DEADLINE_S, "a new detector")
        seen += [(answer.kind, answer.node) for answer in query]
    acks = [("ack", name) for name in NAMES]
    assert sorted(seen) == sorted([*acks, ("response", "two"), ("response", "three")])


def test_the_command_ends_when_all_have_answered(launch: Launcher) -> None:
    one = trio(launch)
    began = time.monotonic()
    done = run_command(one, "query", "-timeout=50s", "who")
    assert time.monotonic() - began < 45.0
    assert done.returncode == 0
    first, *rest, responses = done.stdout.splitlines()
    assert (first, responses) == ("Query 'who' dispatched", "Total Responses: 3")
    assert {f"Response from '{name}': {name}" for name in NAMES} <= set(rest)
