"""Clients that watch the log: what they get, and what slow ones lose."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serfmp.io.rpc_logs import MONITOR_LIMIT
from tests.io.rpc_stage import RawClient, RpcStage, kernel_memory_is_small, member


@pytest.fixture
def stage() -> Iterator[RpcStage]:
    with RpcStage(member("rpc1")) as made:
        yield made


def header(sequence: int, error: str = "") -> dict[str, object]:
    return {"Error": error, "Seq": sequence}


def texts(values: list[dict[str, str]]) -> list[str]:
    """Of records: their lines without the time."""
    return [value["Log"][20:] for value in values[1::2]]


def watch(stage: RpcStage, level: str, sequence: int = 2) -> RawClient:
    client = stage.client()
    assert client.ask("monitor", {"LogLevel": level}, sequence=sequence) == [header(sequence)]
    return client


def test_the_last_lines_come_first_from_the_level_up_and_then_new_ones(stage: RpcStage) -> None:
    stage.lines.say("DEBUG", "serf", "hidden")
    stage.lines.say("WARN", "serf", "old")
    stage.lines.say("ODD", "serf", "of no level")
    client = watch(stage, "wArn")
    values = client.take(4)
    assert values[::2] == [header(2)] * 2
    assert texts(values) == ["[WARN] serf: old", "[ODD] serf: of no level"]
    stage.lines.say("INFO", "serf", "hidden")
    stage.lines.say("ERR", "agent", "two\nlines\n")
    assert texts(client.take(2)) == ["[ERR] agent: two\nlines"]


def test_there_is_one_monitor_at_a_time_and_stop_ends_it(stage: RpcStage) -> None:
    client = watch(stage, "err")
    assert client.ask("monitor", {"LogLevel": "err"}, sequence=3) == [header(3, "Monitor already exists")]
    assert client.ask("stop", {"Stop": 2}, sequence=4) == [header(4)]
    stage.lines.say("ERR", "agent", "first")
    assert client.ask("monitor", {"LogLevel": "err"}, sequence=5) == [header(5)]
    assert texts(client.take(2)) == ["[ERR] agent: first"]
    stage.lines.say("ERR", "agent", "second")
    assert client.take(2)[0] == header(5)


def test_a_restarted_process_knows_the_last_lines(stage: RpcStage) -> None:
    stage.lines.say("ERR", "agent", "before")
    watch(stage, "err").take(2)
    stage.kill()
    stage.lines.say("ERR", "agent", "meanwhile")
    stage.start()
    assert texts(watch(stage, "err").take(4)) == ["[ERR] agent: before", "[ERR] agent: meanwhile"]


def test_lines_that_the_process_was_too_slow_for_are_told(stage: RpcStage) -> None:
    client = watch(stage, "info")
    stage.lines.say("INFO", "agent", "one")
    stage.lines._last += 41
    stage.lines.say("INFO", "agent", "two")
    assert texts(client.take(6)) == [
        "[INFO] agent: one",
        "[WARN] agent: 41 log lines did not reach the rpc process: it was not fast enough",
        "[INFO] agent: two",
    ]


def test_a_slow_monitor_loses_lines_is_told_how_many_and_holds_up_nobody(stage: RpcStage) -> None:
    slow, quick = watch(stage, "info"), watch(stage, "info")
    slow.reading = False
    kernel_memory_is_small(slow.sock)
    told = f"[WARN] agent.ipc: Dropping logs to ipc.client: {slow.name}"
    sent = 0
    while told not in stage.log:
        for _ in range(256):
            stage.lines.say("INFO", "agent", f"{sent} {'x' * 4000}")
            sent += 1
        assert len(quick.take(512)) == 512
        assert sent < 20_000
    for _ in range(200):
        stage.lines.say("INFO", "agent", f"{sent} {'x' * 4000}")
        sent += 1
    quick.take(400)
    assert stage.log.count(told) == 1
    slow.reading = True
    stage.until(lambda: len(slow.values) >= 2 * MONITOR_LIMIT, "the slow one takes what waited")
    notice = " log lines were dropped: this monitor does not read fast enough"

    def caught_up() -> bool:
        stage.lines.say("INFO", "agent", "more")
        return any(value.endswith(notice) for value in texts(slow.values))

    stage.until(caught_up, "it is told what it lost")
    got = texts(slow.values)
    place = next(number for number, text in enumerate(got) if text.endswith(notice))
    lost = int(got[place].split()[2])
    assert place + lost >= sent
    assert not any(quick.name in entry for entry in stage.log if "Dropping" in entry)
