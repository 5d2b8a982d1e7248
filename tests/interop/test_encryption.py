"""Encrypted and labelled gossip, beside the real serf: keys that fit, and keys that do not."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import Agent, Launcher, Record, RpcError, UserRecord, eventually

DEADLINE_S = 30.0
KEYS = {length: base64.b64encode(bytes(range(length))).decode() for length in (16, 24, 32)}
OTHER_KEY = base64.b64encode(bytes(range(100, 132))).decode()
BOTH = {"one": "alive", "two": "alive"}

mixed = pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param("serfmp", "serf", id="serf-joins-serfmp"),
        pytest.param("serf", "serfmp", id="serfmp-joins-serf"),
    ],
)


def start(launch: Launcher, kind: str, node: str, *extra: str, join: tuple[Agent, ...] = ()) -> Agent:
    starts = launch.serfmp if kind == "serfmp" else launch.serf
    return starts(node, extra=extra, join=join)


def encrypted(key: str) -> tuple[str, ...]:
    return (f"-encrypt={key}",) if key else ()


def keyring_file(directory: Path, name: str, *keys: str) -> str:
    path = directory / name
    path.write_text(json.dumps(keys))
    return f"-keyring-file={path}"


def event_from(sender: Agent) -> Callable[[Record], bool]:
    return lambda record: isinstance(record, UserRecord) and record.name == f"from-{sender.node}"


def talk(one: Agent, two: Agent) -> None:
    """Both know each other, and events go both ways."""
    for agent in (one, two):
        agent.wait_statuses(BOTH, DEADLINE_S)
    streams = {agent.node: agent.stream("user") for agent in (one, two)}
    for sender, receiver in ((one, two), (two, one)):
        sender.event(f"from-{sender.node}")
        streams[receiver.node].wait_for(event_from(sender), DEADLINE_S, f"the event of {sender.node}")


@mixed
@pytest.mark.parametrize("length", [16, 24, 32])
def test_agents_with_the_same_key_are_one_cluster(launch: Launcher, first: str, second: str, length: int) -> None:
    one = start(launch, first, "one", *encrypted(KEYS[length]))
    two = start(launch, second, "two", *encrypted(KEYS[length]), join=(one,))
    talk(one, two)
    for agent in (one, two):
        agent.wait_log("Encrypted: true", DEADLINE_S)
        assert agent.client().stats()["serf"]["encrypted"] == "true"


@mixed
def test_each_opens_what_the_other_seals_with_its_second_key(
    launch: Launcher, tmp_path: Path, first: str, second: str
) -> None:
    one = start(launch, first, "one", keyring_file(tmp_path, "one.json", KEYS[32], KEYS[16]))
    two = start(launch, second, "two", keyring_file(tmp_path, "two.json", KEYS[16], KEYS[32]), join=(one,))
    talk(one, two)
    for agent, name in ((one, "one.json"), (two, "two.json")):
        agent.wait_log(f"[INFO] agent: Restored keyring with 2 keys from {tmp_path / name}", DEADLINE_S)


@mixed
@pytest.mark.parametrize(
    ("key_one", "key_two", "seen"),
    [
        pytest.param(KEYS[32], OTHER_KEY, "it does not decrypt with any of our 1 keys", id="another-key"),
        pytest.param(
            KEYS[32],
            "",
            {
                "one": "it is not encrypted, and this agent has a key",
                "two": "it is encrypted, and this agent has no key",
            },
            id="only-the-first-has-one",
        ),
        pytest.param(
            "",
            KEYS[32],
            {
                "one": "it is encrypted, and this agent has no key",
                "two": "it is not encrypted, and this agent has a key",
            },
            id="only-the-second-has-one",
        ),
    ],
)
def test_a_wrong_key_is_refused_both_ways_and_says_so_in_one_line(
    launch: Launcher, first: str, second: str, key_one: str, key_two: str, seen: str | dict[str, str]
) -> None:
    one = start(launch, first, "one", *encrypted(key_one))
    two = start(launch, second, "two", *encrypted(key_two))
    ours, real = (one, two) if first == "serfmp" else (two, one)
    text = seen if isinstance(seen, str) else seen[ours.node]
    with pytest.raises(RpcError, match=text) as caught:
        ours.join(real)
    assert f"the answer of {real.bind} is refused" in str(caught.value)
    for _ in range(3):
        with pytest.raises(RpcError):
            real.join(ours)
    ours.wait_log(f"[ERR] memberlist: failed to receive: {text}", DEADLINE_S)
    assert ours.log().count(f"failed to receive: {text}") == 1
    assert real.bind.host not in {member.address for member in ours.members().values()}
    for agent in (one, two):
        assert agent.statuses() == {agent.node: "alive"}


@pytest.mark.parametrize("key", [KEYS[32], ""], ids=["encrypted", "plain"])
def test_agents_with_the_same_label_are_one_cluster(launch: Launcher, key: str) -> None:
    one = launch.serfmp("one", extra=["-label=blue", *encrypted(key)])
    two = launch.serfmp("two", extra=["-label=blue", *encrypted(key)], join=[one])
    talk(one, two)


@pytest.mark.parametrize(
    ("label_one", "label_two", "seen"),
    [
        pytest.param("blue", "green", "it has another label than 'blue', or none", id="another"),
        pytest.param("blue", "", "it has another label than 'blue', or none", id="none-dials"),
        pytest.param("", "green", "it has a label and this agent has none", id="none-is-dialled"),
    ],
)
def test_a_wrong_label_is_refused_and_both_sides_hear_what_to_look_at(
    launch: Launcher, label_one: str, label_two: str, seen: str
) -> None:
    one = launch.serfmp("one", extra=[f"-label={label_one}"])
    two = launch.serfmp("two", extra=[f"-label={label_two}"])
    with pytest.raises(RpcError, match=r"EOF; the other side closed without an answer.*is -label the same on both"):
        two.join(one)
    with pytest.raises(RpcError):
        one.join(two)
    one.wait_log(f"[ERR] memberlist: failed to receive: {seen}", DEADLINE_S)
    for agent in (one, two):
        assert agent.statuses() == {agent.node: "alive"}


def test_a_labelled_agent_and_serf_refuse_each_other(launch: Launcher) -> None:
    one, two = launch.serfmp("one", extra=["-label=blue"]), launch.serf("two")
    for here, there in ((one, two), (two, one)):
        with pytest.raises(RpcError):
            here.join(there)
    for agent in (one, two):
        assert agent.statuses() == {agent.node: "alive"}


@pytest.mark.parametrize("method", ["fork", "exec"])
def test_no_process_title_and_no_log_line_shows_the_key(launch: Launcher, method: str) -> None:
    key = KEYS[32]
    one = launch.serfmp("one", extra=[f"-encrypt={key}", f"-start-method={method}"], log_level="TRACE")
    one.wait_log("Log data will now stream", DEADLINE_S)
    pids = [pid for found in one.pids_by_role().values() for pid in found]
    assert len(pids) >= 6
    secret = base64.b64decode(key)
    for shown in (one.log(), one.errors(), *(Path(f"/proc/{pid}/cmdline").read_text() for pid in pids)):
        assert key not in shown
        assert secret.hex() not in shown
        assert repr(secret) not in shown


def test_a_new_gossip_process_still_has_the_keys(launch: Launcher, tmp_path: Path) -> None:
    one = launch.serfmp("one", extra=[keyring_file(tmp_path, "keys.json", KEYS[24])])
    (old,) = one.pids_by_role()["gossip"]
    Path(tmp_path / "keys.json").unlink()
    os.kill(old, signal.SIGKILL)
    eventually(lambda: one.pids_by_role().get("gossip", (old,)) != (old,), DEADLINE_S, "a new gossip process")
    two = launch.serf("two", extra=[f"-encrypt={KEYS[24]}"], join=[one])
    talk(one, two)
