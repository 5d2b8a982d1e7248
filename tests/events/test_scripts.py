"""One script on the loop: what is kept of its output, how its end is seen, what it leaves open."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from serfmp.bus.frames import Run
from serfmp.bus.loop import Loop
from serfmp.events.environment import AgentEnvironment, base_environment
from serfmp.events.policy import DEFAULT, OUTPUT_LIMIT, RunPolicy
from serfmp.events.scripts import Script
from serfmp.events.spawn import Spawner
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

BASE = AgentEnvironment(os.environb)
SPAWNER = Spawner()
HERE = os.fsencode(Path.cwd())
OWN_NICE = os.getpriority(os.PRIO_PROCESS, 0)


def run(
    command: str | list[str],
    stdin: bytes = b"",
    loop: Loop | None = None,
    policy: RunPolicy = DEFAULT,
    told: list[signal.Signals] | None = None,
    *,
    attend: bool = True,
    **environment: str,
) -> Script:
    """Run a script to its end. `told` gets the signals that were sent to it because its time was over.

    `attend`: read what it writes while it runs.
    """
    loop = loop or Loop()
    signals: list[signal.Signals] = [] if told is None else told
    made = Script(
        loop,
        Run(1, command, environment, stdin, policy.to_plain()),
        SPAWNER,
        BASE,
        OWN_NICE,
        lambda _script, number: signals.append(number),
    )
    SPAWNER.rest()
    if attend:
        made.attend()

    def ended() -> bool:
        pid, status = os.waitpid(made.group, os.WNOHANG)
        if pid:
            made.end(status)
        return bool(pid)

    turning(loop, ended)
    return made


def never(script: Script, _number: signal.Signals) -> None:
    raise AssertionError(f"{script} was started")


def turning(loop: Loop, condition: Callable[[], object]) -> None:
    def turn() -> object:
        loop.call_later(0.005, lambda: None)
        loop.turn()
        return condition()

    eventually(turn, 20.0, "it ends", interval_s=0.0)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_output_and_errors_come_in_one_row_and_the_last_bytes_are_kept() -> None:
    assert run("echo out; echo err >&2; echo out").output == b"out\nerr\nout\n"
    long = run('head -c 300000 /dev/zero | tr "\\0" x; printf END')
    assert (long.output_size, len(long.output), long.output[-5:]) == (300003, OUTPUT_LIMIT, b"xxEND")


@pytest.mark.parametrize(
    ("script", "code", "number"),
    [("true", 0, 0), ("exit 3", 3, 0), ("kill -9 $$", None, signal.SIGKILL), ("kill $$", None, signal.SIGTERM)],
)
def test_its_end_is_a_code_or_a_signal(script: str, code: int | None, number: int) -> None:
    ended = run(script)
    assert (ended.code, ended.signal) == (code, number)


def test_a_large_input_arrives_whole_and_its_end_is_seen() -> None:
    assert run("wc -c", stdin=b"x" * 3_000_000).output.strip() == b"3000000"
    assert run("cat; echo end").output == b"end\n"


def test_bytes_survive_in_script_environment_and_input() -> None:
    ended = run("printf 'a\udcff'; printf \"$V\"; cat", stdin=b"\xfe\0", V="\udcfd")
    assert ended.output == b"a\xff\xfd\xfe\0"


def test_what_is_written_by_a_script_that_nobody_attended_to_is_kept_too() -> None:
    assert run("echo out; echo err >&2", attend=False).output == b"out\nerr\n"
    full = run("head -c 65536 /dev/zero", attend=False)
    assert (full.code, full.output_size, len(full.output)) == (0, 65536, OUTPUT_LIMIT)


def test_without_input_it_reads_nothing_and_cannot_write_there_for_others() -> None:
    assert run("cat; echo $?").output == b"0\n"
    assert run("echo lost > /dev/stdin").code == 0
    assert run("cat; echo $?").output == b"0\n"


def test_its_own_variables_win_over_the_agents() -> None:
    agents = AgentEnvironment({b"A": b"base", b"B": b"base", b"PWD": HERE})
    assert agents.script(None, {"A": "own"}) == {b"A": b"own", b"B": b"base", b"PWD": HERE}
    assert agents.script(["A"], {"A": "own"}) == {b"A": b"own", b"PWD": HERE}


def test_a_list_of_names_is_all_that_is_seen_and_may_hold_secrets() -> None:
    agents = AgentEnvironment({b"PATH": b"/bin", b"HOME": b"/", b"API_KEY": b"k", b"B\xff": b"\xfe", b"PWD": HERE})
    assert agents.script(None, {}) == {b"PATH": b"/bin", b"HOME": b"/", b"B\xff": b"\xfe", b"PWD": HERE}
    assert agents.script(["API_KEY", "B\udcff", "MISSING"], {}) == {b"API_KEY": b"k", b"B\xff": b"\xfe", b"PWD": HERE}
    assert agents.script([], {"SERF_EVENT": "user"}) == {b"SERF_EVENT": b"user", b"PWD": HERE}


def test_the_directory_has_the_name_that_the_agent_was_told_if_that_is_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "name").symlink_to("real")
    monkeypatch.chdir(tmp_path / "real")
    real, name = os.fsencode(tmp_path.resolve() / "real"), os.fsencode(tmp_path / "name")
    for told, expected in ((name, name), (b"/", real), (b".", real), (b"", real)):
        agents = AgentEnvironment({b"PWD": told, b"PATH": os.environb[b"PATH"]})
        assert agents.script(None, {})[b"PWD"] == expected
        assert agents.script([], {})[b"PWD"] == expected


def test_nothing_stays_open() -> None:
    loop = Loop()
    gc.collect()
    before = open_descriptors()
    for script in ("true", "exec 0<&- 1>&- 2>&-; sleep .1", "sleep 5 & echo $!", "cat > /dev/null"):
        ended = run(script, b"x" * 200_000, loop)
        if ended.output:
            os.kill(int(ended.output), signal.SIGKILL)
    assert open_descriptors() == before


def test_what_cannot_start_raises_and_leaves_nothing_open() -> None:
    loop = Loop()
    gc.collect()
    before = open_descriptors()
    with pytest.raises(ValueError, match="null byte"):
        Script(loop, Run(1, "echo \0", {}, b"", {}), SPAWNER, BASE, OWN_NICE, never)
    with pytest.raises(OSError, match="too long"):
        Script(loop, Run(1, "x" * 300_000, {}, b"", {}), SPAWNER, BASE, OWN_NICE, never)
    assert open_descriptors() == before


def test_errors_may_be_kept_apart_each_with_its_last_bytes() -> None:
    ended = run("echo out; echo err >&2; echo more", policy=RunPolicy(separate=True))
    assert (ended.output, ended.errors, ended.output_size) == (b"out\nmore\n", b"err\n", 9)
    ended = run("printf 123456; printf abcdef >&2", policy=RunPolicy(separate=True, output_limit=4))
    assert (ended.output, ended.errors, ended.output_size) == (b"3456", b"cdef", 6)
    assert run("printf 123456; printf abcdef >&2", policy=RunPolicy(output_limit=4)).output == b"cdef"
    ended = run("printf 123456", policy=RunPolicy(output_limit=0))
    assert (ended.output, ended.output_size) == (b"", 6)


def test_a_list_of_words_is_run_without_a_shell_between() -> None:
    assert run(["printf", "%s", "$HOME; echo"]).output == b"$HOME; echo"
    assert run(["cat"], b"input").output == b"input"


def test_a_policy_reaches_the_script(tmp_path: Path) -> None:
    policy = RunPolicy(nice=3, open_files=50, cpu_seconds=9, address_space=2**30, directory=str(tmp_path))
    own = os.getpriority(os.PRIO_PROCESS, 0)
    ended = run("pwd; ulimit -n; ulimit -S -t; ulimit -v; sleep .1; nice", policy=policy)
    assert ended.output.decode().split() == [str(tmp_path), "50", "9", str(2**20), str(min(own + 3, 19))]


def test_beyond_its_time_the_whole_group_is_told_to_end(tmp_path: Path) -> None:
    told: list[signal.Signals] = []
    ended = run("sleep 600 & sleep 600", policy=RunPolicy(timeout=0.1), told=told)
    assert (ended.signal, ended.timed_out, told) == (signal.SIGTERM, True, [signal.SIGTERM])


def test_who_ignores_that_is_killed_after_the_grace_also_when_the_script_itself_has_ended(tmp_path: Path) -> None:
    told: list[signal.Signals] = []
    ended = run("trap '' TERM; while :; do sleep .01; done", policy=RunPolicy(timeout=1.5, grace=0.2), told=told)
    assert (ended.signal, told) == (signal.SIGKILL, [signal.SIGTERM, signal.SIGKILL])
    told.clear()
    loop = Loop()
    stays = f"(trap '' TERM; echo > {tmp_path}/ready; sleep 600) & trap 'exit 4' TERM; wait"
    ended = run(stays, loop=loop, policy=RunPolicy(timeout=1.5, grace=0.2), told=told)
    assert (ended.code, ended.timed_out, (tmp_path / "ready").exists()) == (4, True, True)
    turning(loop, lambda: not group_lives(ended.group))
    assert told == [signal.SIGTERM, signal.SIGKILL]


def test_whoever_gets_the_number_of_its_group_next_is_left_alone() -> None:
    loop = Loop()
    ended = run("exec sleep 600", loop=loop, policy=RunPolicy(timeout=0.1, grace=0.3))
    assert ended.signal == signal.SIGTERM
    other = os.posix_spawn("/bin/sleep", ["sleep", "600"], {}, setpgroup=0)
    try:
        ended.group = other
        later: list[bool] = []
        loop.call_later(0.6, lambda: later.append(True))
        turning(loop, lambda: later)
        assert os.waitpid(other, os.WNOHANG) == (0, 0)
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)


def test_a_script_that_ends_in_time_is_left_alone() -> None:
    told: list[signal.Signals] = []
    loop = Loop()
    ended = run("exit 5", loop=loop, policy=RunPolicy(timeout=2.0, grace=0.1), told=told)
    later: list[bool] = []
    loop.call_later(2.5, lambda: later.append(True))
    turning(loop, lambda: later)
    assert (ended.code, ended.timed_out, told) == (5, False, [])


def group_lives(group: int) -> bool:
    # What was left behind is nobody's child here: init, or whoever stands for it, collects it.
    return any(
        fields[2] == str(group) and fields[0] != "Z"
        for path in Path("/proc").glob("[0-9]*/stat")
        for fields in [stat_of(path)]
    )


def stat_of(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ["Z", "", ""]


def test_secrets_are_known_by_their_names() -> None:
    environment = {
        b"SERF_RPC_AUTH": b"",
        b"AWS_SECRET_ACCESS": b"",
        b"api_key": b"",
        b"GH_TOKEN": b"",
        b"DB_PASSWORD": b"",
        b"PATH": b"/bin",
        b"SERF_RPC_ADDR": b"x",
    }
    assert set(base_environment(environment)) == {b"PATH", b"SERF_RPC_ADDR"}
