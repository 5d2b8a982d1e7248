"""Dispatcher and workers, started for real: scripts of every kind, and kills at the worst moment."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from serfmp.detector.effects import EventKind, Member, MemberEvent, MemberStatus, UserEventReceived
from serfmp.events.policy import QUEUE_LIMIT
from tests.events.stage import process_is_there, stage_config
from tests.harness.files import lines

VERSIONS = (1, 5, 2, 2, 5, 5)


def dumped(path: Path) -> tuple[dict[str, str], bytes]:
    """Environment and input as `dump_script` wrote them."""
    head, _, stdin = path.read_bytes().partition(b"stdin:\n")
    pairs = (line.split("=", 1) for line in head.decode().splitlines())
    return {name: value for name, value in pairs if name.startswith("SERF_")}, stdin


def dump_script(directory: Path) -> str:
    return f"{{ env; echo stdin:; cat; }} > {directory}/new; mv {directory}/new {directory}/$(ls {directory} | wc -l)"


@pytest.mark.parametrize("method", ["fork", "exec"])
def test_a_script_gets_what_serf_gave_it(stage: Any, tmp_path: Path, method: str) -> None:
    recorded = json.loads((Path(__file__).parents[1] / "data/handlers.json").read_text(encoding="utf-8"))["env-stdin"]
    runs = [run for run in recorded["runs"] if run["event"] != "query"]
    on = stage(stage_config(dump_script(tmp_path), tags=recorded["tags"]), method)
    for sequence, run in enumerate(runs, 1):
        if run["event"] == "user":
            environment = run["environment"]
            payload = run["stdin"].encode()
            name, ltime = environment["SERF_USER_EVENT"], int(environment["SERF_USER_LTIME"])
            on.publish(UserEventReceived(sequence, ltime, name, payload, coalesce=False))
        else:
            kind = EventKind[run["event"].upper().replace("-", "_")]
            on.publish(MemberEvent(sequence, kind, tuple(map(member, run["stdin"].splitlines()))))
    on.until(lambda: len(list(tmp_path.glob("[0-9]*"))) == len(runs), "every event was handled")
    for number, run in enumerate(runs, 1):
        environment, stdin = dumped(tmp_path / str(number))
        assert environment == run["environment"]
        assert sorted_tags(stdin.decode()) == sorted_tags(run["stdin"])


def member(line: str) -> Member:
    name, address, _role, tags = line.split("\t")
    raw = bytes(map(int, address.split(".")))
    pairs = (pair.split("=", 1) for pair in tags.split(","))
    unescaped = {key: value.replace("\\t", "\t").replace("\\n", "\n") for key, value in pairs}
    return Member(name, raw, 7946, unescaped, MemberStatus.ALIVE, VERSIONS)


def sorted_tags(text: str) -> list[list[str]]:
    """The order of tags is random in Serf."""
    return [[*line.split("\t")[:3], *sorted("".join(line.split("\t")[3:]).split(","))] for line in text.splitlines()]


def test_the_handlers_that_serf_ran_run_in_serfs_order_of_each_handler(stage: Any, tmp_path: Path) -> None:
    recorded = json.loads((Path(__file__).parents[1] / "data/handlers.json").read_text(encoding="utf-8"))["filters"]
    ran = [line for line in recorded["ran"] if " query " not in line]
    target = tmp_path / "f.txt"
    on = stage(stage_config(*(text.replace("f.txt", str(target)) for text in recorded["handlers"])))
    filt = Member("filt", bytes([127, 0, 0, 1]), 7946, {}, MemberStatus.ALIVE, VERSIONS)
    on.publish(MemberEvent(1, EventKind.MEMBER_JOIN, (filt,)))
    on.user_events("deploy", "a", "x:y")
    on.until(lambda: len(lines(target)) == len(ran), "all handlers ran")
    for handler in {line.split()[0] for line in ran}:
        assert [x for x in lines(target) if x.split()[0] == handler] == [x for x in ran if x.split()[0] == handler]
    assert [line.rpartition("Received event: ")[2] for line in on.logged("[INFO] agent: Received event")] == [
        "member-join",
        "user-event: deploy",
        "user-event: a",
        "user-event: x:y",
    ]


def test_endings_are_logged_in_serfs_words(stage: Any, tmp_path: Path) -> None:
    big_script = 'head -c 1000000 /dev/zero | tr "\\0" x; echo END'
    on = stage(
        stage_config(
            "user:exit3=echo out; echo err >&2; exit 3",
            "user:nofile=./nosuch.sh",
            "user:sig=kill -9 $$",
            'user:bin=printf "a\\001\\377b"',
            f"user:big={big_script}",
            "user:slow=sleep 1.5; echo done",
        )
    )
    on.user_events("exit3", "nofile", "sig", "bin", "big", "slow")
    on.until(lambda: on.logged("script output: done"), "all ended")
    for line in (
        "[DEBUG] agent: Event 'user' script output: out\nerr\n",
        "[ERR] agent: Error invoking script 'echo out; echo err >&2; exit 3': exit status 3",
        "[ERR] agent: Error invoking script './nosuch.sh': exit status 127",
        "[ERR] agent: Error invoking script 'kill -9 $$': signal: killed",
        "[DEBUG] agent: Event 'user' script output: a\x01\udcffb",
        f"[WARN] agent: Script '{big_script}' generated 1000004 bytes of output, truncated to 8192",
        "[WARN] agent: Script 'sleep 1.5; echo done' slow, execution exceeding 1s",
    ):
        assert on.log.count(line) == 1, line
    (big,) = on.logged("script output: xxx")
    assert big.count("x") >= 8000
    assert len(on.logged("[ERR]")) == 3


def test_a_background_child_that_holds_the_output_delays_nothing(stage: Any, tmp_path: Path) -> None:
    on = stage(stage_config(f"user=sleep 600 & echo $! > {tmp_path}/pid; echo mine"))
    on.user_events("a", "b")
    on.until(lambda: len(on.logged("script output: mine")) == 2, "both ended")
    background = int((tmp_path / "pid").read_text())
    assert process_is_there(background)
    assert on.stop(0.0) == [0, 0, 0]
    assert not process_is_there(background)


def test_a_script_need_not_read_its_input(stage: Any, tmp_path: Path) -> None:
    """Neither one that ignores it nor one that closes it blocks or logs anything; one that reads it gets all of it."""
    members = tuple(
        Member(f"n{n}", bytes([127, 0, 0, 1]), 7946, {"t": "x" * 400}, MemberStatus.ALIVE, VERSIONS)
        for n in range(2000)
    )
    on = stage(stage_config("exec 0<&-; sleep .2; echo closed", "echo ignored", "wc -c"))
    on.publish(MemberEvent(1, EventKind.MEMBER_JOIN, members))
    on.until(lambda: len(on.logged("script output")) == 3, "all ended")
    size = sum(len(f"n{n}\t127.0.0.1\t\tt={'x' * 400}\n") for n in range(2000))
    assert on.logged(f"script output: {size}\n")
    assert not on.logged("[ERR]")
    assert not on.logged("[WARN]")


def test_a_script_that_cannot_start_is_an_error_and_the_next_one_runs(stage: Any) -> None:
    too_long = "echo " + "x" * 200_000  # longer than one argument may be
    on = stage(stage_config(f"user:long={too_long}", "user:nul=echo \0", "user:fine=echo fine"))
    on.user_events("long", "nul", "fine")
    on.until(lambda: len(on.logged("[ERR]")) == 2 and on.logged("script output: fine"), "all ended")
    assert on.logged("fork/exec /bin/sh: ") or on.logged("characters, cut")


def test_events_of_one_handler_run_in_order_and_a_slow_handler_delays_no_other(stage: Any, tmp_path: Path) -> None:
    on = stage(stage_config("user=exec sleep 600", f'user=echo "$SERF_USER_EVENT" >> {tmp_path}/order'))
    names = [f"e{number}" for number in range(200)]
    on.user_events(*names)
    on.until(lambda: len(lines(tmp_path / "order")) == 200, "all events were handled beside the hung handler")
    assert lines(tmp_path / "order") == names
    on.until(lambda: on.acknowledged == 200, "all events are acknowledged")
    assert on.stop(0.0) == [0, 0, 0]
    assert on.logged("[WARN]", "198 invocations of handlers are given up")


def test_secrets_of_the_agent_stay_with_it(stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERF_RPC_AUTH", "hidden")
    monkeypatch.setenv("CLOUD_token", "hidden")
    monkeypatch.setenv("PLAIN_SETTING", "shown")
    on = stage(stage_config(f"env > {tmp_path}/e; mv {tmp_path}/e {tmp_path}/env", tags={"api-key": "mine"}))
    on.user_events("a")
    on.until((tmp_path / "env").exists, "it ran")
    seen = lines(tmp_path / "env")
    assert "PLAIN_SETTING=shown" in seen
    assert "SERF_TAG_API_KEY=mine" in seen
    assert not [line for line in seen if "hidden" in line]


def test_scripts_lead_groups_of_their_own_in_the_agents_session_and_are_nice(stage: Any, tmp_path: Path) -> None:
    on = stage(stage_config(f"sleep .2; cat /proc/$$/stat > {tmp_path}/s; mv {tmp_path}/s {tmp_path}/stat"))
    on.user_events("a")
    on.until((tmp_path / "stat").exists, "it ran")
    pid, _, rest = (tmp_path / "stat").read_text().partition(" (")
    fields = rest.rpartition(")")[2].split()
    own = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    assert fields[2] == pid  # group
    assert fields[3] == own[3]  # session
    assert int(fields[16]) == min(int(own[16]) + 10, 19)  # nice


def test_a_script_that_ignores_term_is_killed_at_the_stop(stage: Any, tmp_path: Path) -> None:
    on = stage(stage_config(f"trap '' TERM; echo $$ > {tmp_path}/p; while :; do sleep .1; done"))
    on.user_events("a")
    on.until(lambda: lines(tmp_path / "p"), "it runs")
    assert on.stop(0.1) == [0, 0, 0]
    assert on.logged("[WARN]", "gets SIGTERM")
    assert on.logged("[WARN]", "gets SIGKILL")
    assert not process_is_there(int(lines(tmp_path / "p")[0]))


def test_a_script_may_end_within_the_grace_and_a_daemon_is_left_alone(stage: Any, tmp_path: Path) -> None:
    daemon = f"setsid sh -c 'echo $$ > {tmp_path}/daemon; exec sleep 600' > /dev/null 2>&1 &"
    on = stage(stage_config(f"{daemon} echo > {tmp_path}/runs; sleep .3; echo ended"))
    on.user_events("a")
    on.until(lambda: (tmp_path / "runs").exists() and lines(tmp_path / "daemon"), "it runs")
    pid = int(lines(tmp_path / "daemon")[0])
    try:
        assert on.stop(20.0) == [0, 0, 0]
        assert on.logged("script output: ended")
        assert not on.logged("SIGTERM")
        assert process_is_there(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_scripts_end_when_the_supervisor_dies(stage: Any, tmp_path: Path) -> None:
    on = stage(stage_config(f"echo $$ > {tmp_path}/pid; exec sleep 600"))
    on.user_events("a")
    on.until(lambda: lines(tmp_path / "pid"), "it runs")
    for process in on.processes.values():
        process.control.close()  # all that a child sees of its supervisor's death
    on.until(lambda: len(on.statuses) == len(on.processes), "all have ended")
    assert not process_is_there(int(lines(tmp_path / "pid")[0]))


def test_a_hung_handler_loses_its_oldest_events_beyond_the_bound_and_it_is_said(stage: Any, tmp_path: Path) -> None:
    on = stage(stage_config(f"touch {tmp_path}/runs; exec sleep 600", log_level="WARN"))
    on.user_events("first")
    on.until((tmp_path / "runs").exists, "it runs")
    on.user_events(*(f"e{number}" for number in range(QUEUE_LIMIT + 10)))
    told = re.compile(r"the (\d+) oldest that waited were dropped")
    on.until(lambda: sum(int(told.findall(line)[0]) for line in on.logged("were dropped")) == 9, "nine were dropped")
    assert len(on.logged("were dropped")) <= 3
    on.restart("dispatcher")
    on.user_events("last")
    on.until(lambda: on.acknowledged == QUEUE_LIMIT + 12, "the next dispatcher took it all up")


def test_a_dispatcher_that_is_killed_twice_loses_and_repeats_nothing(stage: Any, tmp_path: Path) -> None:
    target = tmp_path / "handled"
    handlers = [f'user=echo "{n} $SERF_USER_EVENT" >> {target}.{n}; sleep 0.01' for n in range(3)]
    on = stage(stage_config(*handlers))
    names = [f"e{number}" for number in range(200)]
    for at, chunk in ((30, names[:100]), (90, names[100:])):
        on.user_events(*chunk)
        on.until(lambda at=at: len(lines(Path(f"{target}.0"))) >= at, "some events were handled")
        on.restart("dispatcher")
    for n in range(3):
        on.until(lambda n=n: len(lines(Path(f"{target}.{n}"))) >= 200, f"handler {n} handled all events")
    on.until(lambda: on.acknowledged == 200, "all events are acknowledged")
    for n in range(3):
        assert lines(Path(f"{target}.{n}")) == [f"{n} {name}" for name in names]
    received = [line.rpartition(": ")[2] for line in on.logged("Received event")]
    assert sorted(received) == sorted(names)
    assert not on.logged("cut short")


def test_a_script_that_runs_while_the_dispatcher_is_killed_is_reported_to_the_next_one(
    stage: Any, tmp_path: Path
) -> None:
    on = stage(
        stage_config(f"user=echo run >> {tmp_path}/runs; until [ -e {tmp_path}/go ]; do sleep .02; done; echo ok")
    )
    on.user_events("a")
    on.until(lambda: lines(tmp_path / "runs"), "it runs")
    on.restart("dispatcher")
    on.user_events("b")
    on.until(lambda: on.acknowledged == 2, "the next dispatcher works")
    (tmp_path / "go").touch()
    on.until(lambda: len(on.logged("script output: ok")) == 2, "both ended")
    assert lines(tmp_path / "runs") == ["run", "run"]


def test_a_script_that_ends_while_no_dispatcher_is_there_is_reported_to_the_next_one(
    stage: Any, tmp_path: Path
) -> None:
    on = stage(
        stage_config(f"user=echo run >> {tmp_path}/runs; until [ -e {tmp_path}/go ]; do sleep .02; done; echo ok")
    )
    on.user_events("a")
    on.until(lambda: lines(tmp_path / "runs"), "it runs")
    on.kill("dispatcher")
    (tmp_path / "go").touch()
    on.user_events("b")
    on.start("dispatcher")
    on.until(lambda: len(on.logged("script output: ok")) == 2, "both ended")
    assert lines(tmp_path / "runs") == ["run", "run"]


def test_what_a_killed_worker_ran_is_reported_and_all_else_is_handled(stage: Any, tmp_path: Path) -> None:
    """One worker. The script that ran is cut short, once; what waited behind it and what comes later is handled."""
    hang = f"user:hang=echo $$ > {tmp_path}/hung; exec sleep 600"
    on = stage(stage_config(hang, f'user=echo "$SERF_USER_EVENT" >> {tmp_path}/handled', workers=1))
    on.user_events("hang", "a")
    on.until(lambda: lines(tmp_path / "hung") and len(on.logged("script output")) == 2, "one hangs, the other ended")
    hung = int(lines(tmp_path / "hung")[0])
    on.restart("worker-0")
    os.kill(hung, signal.SIGKILL)  # as the supervisor does
    on.user_events("b", "c")
    on.until(lambda: lines(tmp_path / "handled")[-1] == "c", "later events are handled")
    assert lines(tmp_path / "handled") == ["hang", "a", "b", "c"]
    assert len(on.logged("[WARN]", "was cut short")) == 1
    on.user_events("hang")
    on.until(lambda: lines(tmp_path / "hung") not in ([], [str(hung)]), "its handler runs again for the next event")


@pytest.mark.parametrize("dead", [("worker-0", "dispatcher"), ("dispatcher", "worker-0")])
def test_worker_and_dispatcher_may_die_together(stage: Any, tmp_path: Path, dead: tuple[str, str]) -> None:
    on = stage(stage_config(f'user=echo "$SERF_USER_EVENT" >> {tmp_path}/handled; sleep 0.01', workers=1))
    names = [f"e{number}" for number in range(100)]
    on.user_events(*names[:50])
    on.until(lambda: len(lines(tmp_path / "handled")) >= 20, "some were handled")
    for name in dead:
        on.kill(name)
    for name in dead:
        on.start(name)
    on.user_events(*names[50:])
    on.until(lambda: lines(tmp_path / "handled")[-1] == names[-1], "the last one was handled")
    handled = lines(tmp_path / "handled")
    # The script that ran at the kill may have been cut before its first word.
    assert len(on.logged("was cut short")) <= 1
    assert len(set(names) - set(handled)) <= len(on.logged("was cut short"))
    assert handled == [name for name in names if name in handled]
