"""Collected events: handlers of both programs see the same of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness import Agent, Launcher, eventually, needs_serf
from tests.harness.files import lines

pytestmark = [needs_serf, pytest.mark.interop]

TOLD_S = 20.0
"""For what is collected to be told: 3 s at most, and the machine's time."""


def wait_lines(path: Path, count: int) -> list[str]:
    eventually(lambda: len(lines(path)) >= count, TOLD_S, f"{count} lines in {path.name}")
    return lines(path)


def wait_names(path: Path, names: set[str]) -> None:
    eventually(lambda: names <= set(" ".join(lines(path)).split()), TOLD_S, f"{names} in {path.name}")


def quiet(agents: list[Agent]) -> None:
    """Wait until everybody has told that everybody has joined."""
    for agent in agents:
        agent.wait_statuses({other.node: "alive" for other in agents}, TOLD_S)
        agent.wait_log("Received event: member-join", TOLD_S)


def test_of_events_that_may_be_collected_both_tell_the_latest(launch: Launcher, tmp_path: Path) -> None:
    agents: list[Agent] = []
    for kind in ("serf", "serfmp"):
        script = f'user:deploy=echo "$(cat)" >> {tmp_path}/{kind}'
        agents.append(getattr(launch, kind)(kind, join=agents[:1], handlers=[script], log_level="INFO"))
    quiet(agents)
    for payload in (b"v1", b"v2", b"v3"):
        agents[0].event("deploy", payload, coalesce=True)
    agents[0].event("deploy", b"last", coalesce=False)
    for kind in ("serf", "serfmp"):
        # What may not be collected does not wait for what may.
        assert wait_lines(tmp_path / kind, 2) == ["last", "v3"]


def test_members_that_come_together_are_one_event_for_both(launch: Launcher, tmp_path: Path) -> None:
    agents: list[Agent] = []
    for kind in ("serf", "serfmp"):
        script = f'member-join=cat | cut -f1 | sort | tr "\\n" " " >> {tmp_path}/{kind}; echo >> {tmp_path}/{kind}'
        agents.append(getattr(launch, kind)(kind, join=agents[:1], handlers=[script], log_level="INFO"))
    quiet(agents)
    late = [launch.serfmp("one"), launch.serf("two")]
    for kind in ("serf", "serfmp"):
        wait_names(tmp_path / kind, {"serf", "serfmp"})
    known = [len(lines(tmp_path / kind)) for kind in ("serf", "serfmp")]
    agents[0].join(*late)
    for kind, before in zip(("serf", "serfmp"), known, strict=True):
        assert wait_lines(tmp_path / kind, before + 1)[before:] == ["one two "]
