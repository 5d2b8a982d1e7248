"""`-retry-join`: in the background, until somebody answers, or the tries are used up."""

from __future__ import annotations

from tests.harness import Launcher

DEADLINE_S = 30.0


def test_it_joins_as_soon_as_somebody_is_there(launch: Launcher) -> None:
    seed = launch.options("seed")
    one = launch.serfmp("one", extra=[f"-retry-join={seed.bind}", "-retry-interval=1s"])
    one.wait_log("[WARN] agent: Join failed: 1 error occurred:", DEADLINE_S)
    assert one.statuses() == {"one": "alive"}
    two = launch.serfmp("two", bind=seed.bind)
    for agent in (one, two):
        agent.wait_statuses({"one": "alive", "two": "alive"}, DEADLINE_S)
    one.wait_log("[INFO] agent: Join completed. Synced with 1 initial agents", DEADLINE_S)


def test_the_agent_ends_when_the_tries_are_used_up(launch: Launcher) -> None:
    nobody = launch.options("nobody").bind
    one = launch.serfmp("one", extra=[f"-retry-join={nobody}", "-retry-interval=1ms", "-retry-max=1"], wait=False)
    assert one.wait_exit(DEADLINE_S) == 1
    assert "==> Warning: 'RetryInterval' is too low. Setting to 1s" in one.log()
    assert one.log().count("Joining cluster...(replay: false)") == 2
    assert "[ERR] agent: maximum retry join attempts made, exiting" in one.log()
