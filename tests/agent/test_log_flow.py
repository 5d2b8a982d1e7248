"""The log goes on while the process that shows it to clients is frozen, and clients of the next one have all of it."""

from __future__ import annotations

import os
import signal

from serfmp.client import Client, ClientError
from tests.harness import Launcher, eventually

DEADLINE_S = 30.0
EVENTS = 100


def test_a_frozen_rpc_process_holds_up_no_line_and_its_successor_knows_them(launch: Launcher) -> None:
    one = launch.serfmp("one", log_level="INFO")
    two = launch.serfmp("two", join=[one])
    two.wait_statuses({"one": "alive", "two": "alive"}, DEADLINE_S)
    one.wait_log("Log data will now", DEADLINE_S)
    (frozen,) = one.pids_by_role()["rpc"]
    os.kill(frozen, signal.SIGSTOP)
    for number in range(EVENTS):
        two.event(f"e{number}")
    told = "[INFO] agent: Received event: user-event: e"
    eventually(lambda: one.log().count(told) == EVENTS, DEADLINE_S, "all lines are written")
    eventually(
        lambda: one.pids_by_role().get("rpc", (frozen,)) != (frozen,), DEADLINE_S, "the frozen process is replaced"
    )
    with eventually(
        lambda: Client(str(one.options.rpc), limit_s=2.0), DEADLINE_S, "the next one answers", ignoring=(ClientError,)
    ) as client:
        monitor = client.monitor("info")
        seen: list[str] = []
        while len(seen) < EVENTS:
            line = monitor.next_line(DEADLINE_S)
            assert line is not None, f"{len(seen)} of {EVENTS} lines came"
            if told in line:
                seen.append(line.rpartition(" ")[2])
    assert sorted(seen) == sorted(f"e{number}" for number in range(EVENTS))
