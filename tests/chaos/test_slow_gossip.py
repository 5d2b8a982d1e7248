"""A gossip process whose successor takes long to come: nothing of what was to be gossiped meanwhile is lost."""

import os
import signal
from collections import Counter

from scripts.proofs.load import EventLoad, outcome
from tests.harness import Launcher, UserRecord, eventually, holds_throughout

DEADLINE_S = 40.0
AWAY_S = 1.2
"""Shorter than it takes until a process counts as stuck."""
RATE = 60.0


def test_events_of_the_time_without_gossip_reach_the_peers(launch: Launcher) -> None:
    """Real agents make up most of the cluster: they do not pass on what they learn from an exchange of state."""
    agent = launch.serfmp("s1", log_level="INFO")
    peer = launch.serfmp("s2", join=[agent])
    for name in ("r1", "r2"):
        launch.serf(name, join=[agent])
    for one in (agent, peer):
        eventually(lambda: len(one.statuses()) == 4, DEADLINE_S, "all are there")  # noqa: B023  called at once
    stream = peer.stream("user")
    (old,) = agent.pids_by_role()["gossip"]
    with EventLoad({agent: RATE}) as load:
        load.start()
        os.kill(old, signal.SIGKILL)
        (new,) = eventually(
            lambda: [pid for pid in agent.pids_by_role().get("gossip", ()) if pid != old],
            DEADLINE_S,
            "a new gossip process",
            interval_s=0.001,
        )
        os.kill(new, signal.SIGSTOP)
        holds_throughout(lambda: agent.pids_by_role()["gossip"] == (new,), AWAY_S, "it is away, and not replaced")
        os.kill(new, signal.SIGCONT)
        eventually(lambda: len(load.sent) > 2 * AWAY_S * RATE, DEADLINE_S, "events after it")

    def lost() -> tuple[bytes, ...]:
        got = Counter(record.payload for record in stream.records if isinstance(record, UserRecord))
        return outcome(load.sent, got, ["s1"]).lost

    eventually(lambda: not lost(), DEADLINE_S, "the peer has all events")
    assert not [sent for sent in load.sent if sent.error]
    assert agent.pids_by_role()["gossip"] == (new,), "it was not taken for stuck"
