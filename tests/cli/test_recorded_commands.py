"""Recorded command lines against standing agents of ours (see `recorded`)."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.recorded import Play, Stage, cases, judge
from tests.harness import Agent, eventually

KEY = "HvY8ubRZMgafUOWvrOadwOckVa1wN3QWAo46FVKbVN8="
FLAGS = ["-profile=local", "-log-level=warn"]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as opened:
        yield opened


def agent(stage: Stage, node: str, number: int, *more: str, files: dict[str, str] | None = None) -> Agent:
    """An agent on the ports 211NN and 212NN of the recordings."""
    where = [
        f"-bind=127.0.0.1:{stage.port(str(21100 + number))}",
        f"-rpc-addr=127.0.0.1:{stage.port(str(21200 + number))}",
    ]
    return stage.start_agent([f"-node={node}", *where, *FLAGS, *more], files)


def pair(stage: Stage) -> tuple[Agent, Agent]:
    """The two agents, not yet joined, of most recordings."""
    return agent(stage, "alpha", 1, "-tag=role=web", "-tag=dc=east"), agent(stage, "beta", 2)


def joined(stage: Stage) -> tuple[Agent, Agent]:
    alpha, beta = pair(stage)
    alpha.join(beta)
    for one in (alpha, beta):
        one.wait_statuses({"alpha": "alive", "beta": "alive"}, 60)
    return alpha, beta


def plays(stage: Stage, file: str) -> list[Play]:
    return [stage.play(case) for case in cases(file).values()]


def test_commands_to_an_agent_that_is_alone_and_then_joins_another(stage: Stage) -> None:
    alpha, _ = pair(stage)
    for file in ("toplevel", "help", "keygen", "members", "event", "join"):
        judge(file, plays(stage, file))
    alpha.wait_statuses({"alpha": "alive", "beta": "alive"}, 60)
    for file in ("info", "keys", "tags"):
        judge(file, plays(stage, file))


def test_queries_reachability_and_round_trips(stage: Stage) -> None:
    alpha, _ = joined(stage)
    eventually(lambda: alpha.client().call("get-coordinate", {"Node": "beta"})["Ok"], 60, "a coordinate of beta")
    for file in ("query", "reachability", "rtt"):
        judge(file, stage.play_together(cases(file).values()))


def test_an_unreachable_node(stage: Stage) -> None:
    agent(stage, "r1", 15)
    peer = agent(stage, "r2", 16, f"-join=127.0.0.1:{stage.port('21115')}")
    peer.wait_statuses({"r1": "alive", "r2": "alive"}, 60)
    peer.pause_tree()
    judge("reachability-failure", plays(stage, "reachability-failure"))
    peer.resume_tree()


def test_tokens(stage: Stage) -> None:
    recorded = cases("rpc-auth")
    started = stage.start(recorded["agent-side"], {"auth.json": '{"rpc_auth": "sekrit"}'})
    found = stage.play_together(case for key, case in recorded.items() if key != "agent-side")
    judge("rpc-auth", [*found, stage.ended(recorded["agent-side"], started)])


def test_keys_of_an_encrypted_cluster(stage: Stage) -> None:
    recorded = cases("keys-encrypted")
    side = stage.start(recorded["agent-side"], {"kr1.json": json.dumps([KEY])})
    other = agent(stage, "k2", 19, "-keyring-file=k2.json", f"-join={side.bind}", files={"k2.json": json.dumps([KEY])})
    other.wait_statuses({"k1": "alive", "k2": "alive"}, 60)
    found = []
    for key, case in recorded.items():
        if key == "list-missing-node":
            other.signal(signal.SIGSTOP)
            other.kill()
        if key != "agent-side":
            found.append(stage.play(case))
            if "keyring_file_after" in case.more:
                kept = json.loads((side.options.directory / "kr1.json").read_text())
                assert kept == json.loads(str(case.more["keyring_file_after"]))
    judge("keys-encrypted", [*found, stage.ended(recorded["agent-side"], side)])
