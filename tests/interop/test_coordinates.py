"""Coordinates in a mixed cluster: each kind learns from the other, and tells the same of everybody."""

from __future__ import annotations

import os
import re
import signal

import pytest

from serfmp.client import AgentError, Client
from tests.harness import Agent, Launcher, eventually
from tests.harness.commands import run_command

DEADLINE_S = 60.0


def rtt(agent: Agent, *nodes: str) -> tuple[int, str]:
    done = run_command(agent, "rtt", *nodes)
    return done.returncode, done.stdout


@pytest.mark.timeout(150)
def test_either_kind_estimates_round_trips_of_the_other(launch: Launcher) -> None:
    one = launch.serfmp("one")
    two = launch.serf("two", join=[one])
    launch.serfmp("three", join=[one])
    for asked in (one, two):
        for node in ("one", "two", "three"):
            eventually(lambda asked=asked, node=node: rtt(asked, node)[0] == 0, DEADLINE_S, f"{node} at {asked}")  # type: ignore[misc]
        code, text = rtt(asked, "two", "one")
        assert code == 0
        assert re.fullmatch(r"Estimated two <-> one rtt: \d+\.\d{3} ms\n", text)
        assert rtt(asked, "zzz") == (1, 'Could not find a coordinate for node "zzz"\n')
    code, text = rtt(one, "two")
    assert text.startswith("Estimated two <-> one rtt: ")
    assert "serf.coordinate.rejected" not in one.log()
    assert "Failed to decode coordinate" not in two.log()
    with Client(str(one.options.rpc)) as client:

        def moved() -> bool:
            mine = client.coordinate("one")
            return mine is not None and mine.error < 1.5

        eventually(moved, DEADLINE_S, "it has learned")


def test_the_coordinate_survives_a_killed_detector(launch: Launcher) -> None:
    one = launch.serfmp("one")
    launch.serfmp("two", join=[one])

    def error() -> float:
        with Client(str(one.options.rpc)) as client:
            mine = client.coordinate("one")
            return 2.0 if mine is None else mine.error

    # The first lesson is journaled.
    eventually(lambda: error() < 1.5, DEADLINE_S, "it has learned")
    old = one.pids_by_role()["detector"]
    os.kill(old[0], signal.SIGKILL)
    eventually(lambda: one.pids_by_role().get("detector", old) != old, DEADLINE_S, "a new detector")
    assert error() < 1.5
    assert "coordinate_resets" in one.client().stats()["serf"]


def test_coordinates_can_be_switched_off(launch: Launcher) -> None:
    file = launch.options("x").directory.with_suffix(".json")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('{"disable_coordinates": true}')
    one = launch.serfmp("one", extra=[f"-config-file={file}"])
    assert "coordinate_resets" not in one.client().stats()["serf"]
    with Client(str(one.options.rpc)) as client, pytest.raises(AgentError, match="Coordinates are disabled"):
        client.coordinate("one")
    assert rtt(one, "one") == (1, "Error getting coordinates: Coordinates are disabled\n")
