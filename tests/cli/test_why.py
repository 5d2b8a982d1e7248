"""`why`: the true story of a node that was killed, frozen or never heard of, from a cluster of both kinds."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from serfmp.cli.why import sentence
from serfmp.client import Client, Evidence
from serfmp.detector.swim.evidence import Finding
from tests.harness import Agent, Launcher, eventually, needs_serf
from tests.harness.commands import SERFMP, run_command

DEADLINE_S = 30.0


def why(agent: Agent, *words: str, code: int = 0) -> str:
    done = run_command(agent, "why", *words, program=SERFMP)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def findings(agent: Agent, node: str) -> list[str]:
    with Client(str(agent.options.rpc)) as client:
        return [entry.finding for entry in client.why(node).entries]


@pytest.mark.interop
@needs_serf
def test_a_killed_node_has_the_story_of_its_death_and_its_return(launch: Launcher) -> None:
    one = launch.serfmp("one")
    two = launch.serf("two", join=[one])
    three = launch.serfmp("three", join=[one])
    for agent in (one, two, three):
        agent.wait_statuses(dict.fromkeys(("one", "two", "three"), "alive"), DEADLINE_S)
    assert why(one, "two").endswith("Nothing was ever held against it here, as far as the agent remembers.\n")
    two.kill()
    one.wait_statuses({"one": "alive", "two": "failed", "three": "alive"}, DEADLINE_S)
    told = findings(one, "two")
    assert told.index("suspected") < told.index("dead")
    assert {"suspected", "dead"} <= set(told)
    text = why(one, "two")
    assert text.startswith("two is failed.\n")
    assert "declared it failed" in text
    entries = json.loads(why(one, "-format=json", "two"))["entries"]
    assert [entry["finding"] for entry in entries][: len(told)] == told
    launch.serf("two", join=[one], bind=two.options.bind)

    def returned() -> bool:
        # What busy processors make of it later may follow.
        story = findings(one, "two")
        return "alive" in story[story.index("dead") :]

    eventually(returned, DEADLINE_S, "its return is told")


def test_a_frozen_node_knows_who_accused_it(launch: Launcher) -> None:
    one = launch.serfmp("one")
    two = launch.serfmp("two", join=[one])
    one.wait_statuses({"one": "alive", "two": "alive"}, DEADLINE_S)

    two.pause_tree()
    one.wait_log("Suspect two has failed", DEADLINE_S)
    two.resume_tree()
    eventually(lambda: "accused" in findings(two, ""), DEADLINE_S, "it heard of the accusation")
    text = why(two, "-self")
    assert "one called this node" in text
    assert "this agent was frozen or starved for" in text
    eventually(lambda: findings(one, "two")[-1] in {"refuted", "alive"}, DEADLINE_S, "the accuser heard of it")


def test_an_unknown_node_has_no_story(launch: Launcher) -> None:
    assert why(launch.serfmp("one"), "nobody").startswith("nobody is not known here.\n")


def test_wrong_words_are_refused_before_anything_is_asked() -> None:
    command = [sys.executable, "-m", "serfmp", "why", "-rpc-addr=127.0.0.1:1"]
    for words, text in (
        (["a", "b"], "At most one node name may be given"),
        (["-self", "a"], "At most one node name may be given"),
        (["-format=xml"], "Invalid format: xml"),
    ):
        done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert done.returncode == 1
        assert done.stdout.startswith(text)


@pytest.mark.parametrize("finding", list(Finding))
def test_every_finding_has_a_sentence_even_without_its_facts(finding: Finding) -> None:
    entry = Evidence(1.5, finding.value, "other", "127.0.0.2:7946", 1, 0.5, {})
    text = sentence(entry)
    assert text.endswith("(own health score 1, this agent had just been late by 0.5 s)")
    assert "by other, heard from" not in text, "no sentence of its own"
