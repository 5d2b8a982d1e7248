"""All processes of an agent are killed at once and it is started again, real agents watching."""

from pathlib import Path

import pytest

from tests.harness import Agent, Launcher, MemberRecord, eventually
from tests.harness.files import lines

DEADLINE_S = 60.0
NAMES = ("one", "real-1", "real-2")
ALIVE = dict.fromkeys(NAMES, "alive")


def next_event(agent: Agent) -> int:
    """The Lamport time that a real agent's next event will have."""
    return int(agent.client().stats()["serf"]["event_time"])


@pytest.mark.timeout(240)
def test_it_is_the_same_node_again_and_repeats_no_event(launch: Launcher, tmp_path: Path) -> None:
    file, seen = tmp_path / "snapshot", tmp_path / "seen"
    settings = {"extra": [f"-snapshot={file}"], "handlers": [f"user=echo $SERF_USER_EVENT >> {seen}"]}
    one = launch.serfmp("one", **settings)
    peers = [launch.serf(name, join=[one]) for name in NAMES[1:]]
    for agent in (one, *peers):
        agent.wait_statuses(ALIVE, DEADLINE_S)
    stream = peers[0].stream("member-leave,member-update,member-reap")
    expected: list[str] = []
    for noticed in (False, True):
        for sender in (one, peers[1]):
            expected.append(f"event-{len(expected)}")
            sender.event(expected[-1])
            eventually(lambda: lines(seen) == expected, DEADLINE_S, "it is handled")
        clock = f"event-clock: {next_event(peers[1]) - 1}"
        eventually(lambda clock=clock: clock in file.read_text().splitlines(), DEADLINE_S, "the file knows")  # type: ignore[misc]
        one.kill()
        if noticed:
            peers[0].wait_statuses({**ALIVE, "one": "failed"}, DEADLINE_S)
        one = launch.serfmp("one", bind=one.options.bind, rpc=one.options.rpc, **settings)
        for agent in (one, *peers):
            agent.wait_statuses(ALIVE, DEADLINE_S)
        assert peers[0].members()["one"].address == one.bind.host
        assert peers[0].members()["one"].port == one.bind.port
    peers[0].event("last")
    eventually(lambda: "last" in lines(seen), DEADLINE_S, "a new event is handled")
    assert lines(seen) == [*expected, "last"]
    assert not [record for record in stream.records if isinstance(record, MemberRecord)]
    for peer in peers:
        assert "conflict" not in peer.log().lower()
