"""Handlers as objects, with real processes: queries answered, retries, order, places, drops, kills in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serfmp.detector.effects import EventKind, Member, MemberEvent, MemberStatus, QueryReceived
from tests.events.stage import Stage, stage_config
from tests.harness.files import lines


def stage_with(*handlers: dict[str, Any] | str, **changes: Any) -> Stage:
    return Stage(stage_config(*handlers, **changes))  # type: ignore[arg-type]


def joined(sequence: int, name: str) -> MemberEvent:
    row = Member(name, bytes((127, 0, 0, 1)), 7946, {}, MemberStatus.ALIVE, (1, 5, 2, 2, 5, 5))
    return MemberEvent(sequence, EventKind.MEMBER_JOIN, (row,))


def nodes_in(file: Path) -> list[str]:
    """The names in members' rows; other lines do not begin with n."""
    return [line.split("\t")[0] for line in lines(file) if line.startswith("n")]


def test_the_output_of_a_script_answers_the_query_it_ran_for(tmp_path: Path) -> None:
    stage = stage_with("query:load=cat; echo $SERF_QUERY_NAME $SERF_QUERY_LTIME", "query:bad=echo no; exit 3")
    try:
        far = stage.loop.clock() + 60
        stage.publish(
            QueryReceived(1, 7, 70, "load", b"pp", "asker", far),
            QueryReceived(2, 8, 80, "bad", b"", "asker", far),
            QueryReceived(3, 9, 90, "load", b"", "asker", stage.loop.clock() - 1),
        )
        stage.until(lambda: stage.asked, "an answer")
        stage.until(lambda: stage.logged("exit status 3"), "the other has failed")
        stage.until(lambda: stage.logged("a query whose time is over"), "the late one is not started")
        assert stage.asked == [("respond", [7, 70, b"pp\nload 7\n"])]
    finally:
        stage.close()


def test_a_query_does_not_wait_behind_events_of_its_handler(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = f"if [ $SERF_EVENT = user ]; then while [ ! -e {gate} ]; do sleep 0.02; done; else echo fine; fi"
    stage = stage_with({"name": "slow", "on": ["user", "query"], "run": script})
    try:
        stage.user_events("hang", "hang")
        stage.publish(QueryReceived(3, 7, 70, "load", b"", "asker", stage.loop.clock() + 60))
        stage.until(lambda: stage.asked, "the query is answered")
        assert not stage.logged("script output", "user")
        gate.touch()
        stage.until(lambda: len(stage.logged("Event 'user' script output")) == 2, "the events, too")
    finally:
        stage.close()


def test_what_fails_is_tried_again_and_later_ones_wait_for_it(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    script = f"echo $SERF_USER_EVENT >> {seen}; [ $SERF_USER_EVENT = ok ] || [ $(wc -l < {seen}) -ge 3 ]"
    stage = stage_with({"run": script, "on": ["user"], "retries": 5, "backoff": "10ms"})
    try:
        stage.user_events("flaky", "ok")
        stage.until(lambda: lines(seen)[-1:] == ["ok"], "all have run")
        assert lines(seen) == ["flaky", "flaky", "flaky", "ok"]
        assert len(stage.logged("is tried again")) == 2
    finally:
        stage.close()


def test_a_killed_dispatcher_forgets_no_retry(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    times = tmp_path / "times"
    script = f"date +%s.%N >> {times}; echo $SERF_USER_EVENT >> {seen}; [ $(wc -l < {seen}) -ge 2 ]"
    stage = stage_with({"run": script, "on": ["user"], "retries": 1, "backoff": "2s"})
    try:
        stage.user_events("one", "two")
        stage.until(lambda: stage.logged("is tried again in 2 s"), "it has failed once")
        stage.restart("dispatcher")
        stage.until(lambda: lines(seen) == ["one", "one", "two"], "it is tried again, in its place")
        first, second, _ = map(float, lines(times))
        assert second - first >= 2.0
    finally:
        stage.close()


@pytest.mark.parametrize("killed", ["", "dispatcher", "worker-0"])
def test_order_is_kept_under_load_by_sequence_numbers(tmp_path: Path, killed: str) -> None:
    count = 200
    seen = tmp_path / "seen"
    stage = stage_with({"run": f"cat >> {seen}; echo $SERF_USER_EVENT >> {seen}", "on": ["user"]}, workers=1)
    try:
        stage.user_events(*(str(number) for number in range(count)))
        if killed:
            stage.until(lambda: len(lines(seen)) > 20, "some have run")
            stage.restart(killed)
        stage.until(lambda: lines(seen)[-1:] == [str(count - 1)], "all have run")
        numbers = [int(line) for line in lines(seen)]
        assert numbers == sorted(set(numbers)), "in order, none twice"
        # A script that ran in a killed worker is cut short, and said so.
        assert count - len(numbers) <= len(stage.logged("was cut short"))
    finally:
        stage.close()


def test_members_of_one_node_run_in_order_and_others_beside_them(tmp_path: Path) -> None:
    gate, seen = tmp_path / "gate", tmp_path / "seen"
    script = f"read name rest; [ $name != slow ] || while [ ! -e {gate} ]; do sleep 0.02; done; echo $name >> {seen}"
    stage = stage_with({"run": script, "order": "node", "concurrency": 4})
    try:
        stage.publish(*(joined(number, name) for number, name in enumerate(["slow", "slow", "a", "b"], 1)))
        stage.until(lambda: sorted(lines(seen)) == ["a", "b"], "others go on")
        gate.touch()
        stage.until(lambda: len(lines(seen)) == 4, "the slow one, too")
    finally:
        stage.close()


def test_the_newest_are_refused_or_members_join_what_waits(tmp_path: Path) -> None:
    gate, seen, begun = tmp_path / "gate", tmp_path / "seen", tmp_path / "begun"
    wait = f"echo x >> {begun}; while [ ! -e {gate} ]; do sleep 0.02; done; cat >> {seen}; echo end >> {seen}"
    members = {"name": "m", "on": ["member-join"], "run": wait, "queue": {"policy": "coalesce"}}
    refusing = {"name": "u", "on": ["user"], "run": wait, "queue": {"limit": 1, "policy": "drop-newest"}}
    stage = stage_with(members, refusing)
    try:
        stage.publish(joined(1, "n1"))
        stage.user_events("a")
        stage.until(lambda: len(lines(begun)) == 2, "both run")
        stage.publish(*(joined(number, f"n{number}") for number in range(3, 8)))
        stage.user_events("b", "c", "d")
        stage.until(lambda: stage.logged("Script 'u'", "2 newest were refused"), "the newest are refused")
        gate.touch()
        stage.until(lambda: lines(seen).count("end") == 4, "two runs of each handler")
        assert nodes_in(seen) == ["n1", "n3", "n4", "n5", "n6", "n7"]
    finally:
        stage.close()


def test_a_worker_does_what_a_handlers_object_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOWN", "yes")
    monkeypatch.setenv("API_KEY", "named")
    (tmp_path / "in").mkdir()
    common = {"cwd": str(tmp_path / "in"), "env": ["PATH", "SHOWN", "API_KEY"], "limits": {"open_files": 77}}
    stage = stage_with(
        {"on": ["user:a"], "run": ["sh", "-c", "pwd; ulimit -n; echo $SHOWN.$API_KEY.$HOME.; echo bad >&2"], **common},
        {"on": ["user:b"], "run": "trap 'exit 0' TERM; sleep 600 & wait", "timeout": "1s"},
        {"on": ["user:c"], "run": ["./missing"], "cwd": str(tmp_path / "in")},
        {"on": ["query:q"], "run": "echo answer; echo apart >&2"},
        {"on": ["user:d"], "run": "while :; do :; done", "limits": {"cpu_seconds": 1}},
        workers=1,
    )
    try:
        stage.user_events("a", "b", "c", "d")
        stage.publish(QueryReceived(5, 7, 70, "q", b"", "asker", stage.loop.clock() + 60))
        stage.until(lambda: stage.logged("script output: ", f"{tmp_path}/in\n77\nyes.named..\n"), "what was allowed")
        stage.until(lambda: stage.logged("script errors: bad"), "errors are told apart")
        stage.until(
            lambda: stage.logged("[WARN]", "exceeds its time limit of 1 s; it gets SIGTERM"), "the time is over"
        )
        stage.until(lambda: stage.logged("[ERR]", "time limit exceeded (exit status 0)"), "which is an error")
        stage.until(lambda: stage.logged("[ERR]", "fork/exec ./missing: no such file or directory"), "nothing to run")
        stage.until(lambda: stage.logged("[ERR]", "signal: cpu time limit exceeded"), "the processor time is over")
        stage.until(lambda: stage.asked, "the query is answered")
        assert stage.asked == [("respond", [7, 70, b"answer\n"])]
    finally:
        stage.close()


def test_a_killed_dispatcher_keeps_joined_members_places_and_the_answer_to_a_query(tmp_path: Path) -> None:
    """Everything at once: members that joined what waits, two places for three events, a query under way, drops."""
    gate, seen, begun = tmp_path / "gate", tmp_path / "seen", tmp_path / "begun"
    wait = f"while [ ! -e {gate} ]; do sleep 0.02; done"
    stage = stage_with(
        {"on": ["member-join"], "run": f"echo m >> {begun}; {wait}; cat >> {seen}", "queue": {"policy": "coalesce"}},
        {"on": ["user:p"], "run": f"echo p >> {begun}; {wait}; echo p >> {seen}", "order": "none", "concurrency": 2},
        {"on": ["user:d"], "run": f"echo d >> {begun}; {wait}; echo d >> {seen}", "queue": {"limit": 1}},
        {"on": ["query:q"], "run": f"echo q >> {begun}; {wait}; echo answer"},
    )
    try:
        stage.user_events("p", "p", "p", "d")
        stage.publish(joined(5, "n5"), QueryReceived(6, 7, 70, "q", b"", "asker", stage.loop.clock() + 600))
        stage.until(lambda: sorted(lines(begun)) == ["d", "m", "p", "p", "q"], "all run that may")
        stage.publish(joined(7, "n7"), joined(8, "n8"))
        stage.user_events("d", "d", "d")
        stage.until(lambda: stage.acknowledged == 11, "the rest waits")
        stage.restart("dispatcher")
        stage.publish(joined(12, "n12"))
        stage.until(lambda: stage.acknowledged == 12, "the next dispatcher works")
        assert len(lines(begun)) == 5
        gate.touch()
        stage.until(lambda: stage.asked, "the query is answered")
        stage.until(lambda: len(lines(begun)) == 8 and lines(seen).count("d") == 2, "what waited has run")
        stage.until(lambda: "n12" in nodes_in(seen) and lines(seen).count("p") == 3, "all has ended")
        assert stage.asked == [("respond", [7, 70, b"answer\n"])]
        assert nodes_in(seen) == ["n5", "n7", "n8", "n12"]
        assert sorted(lines(begun)) == ["d", "d", "m", "m", "p", "p", "p", "q"]
    finally:
        stage.close()
