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
from serfmp.events.scripts import OUTPUT_LIMIT, Script, base_environment
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

BASE = base_environment(os.environb)


def run(script: str, stdin: bytes = b"", loop: Loop | None = None, **environment: str) -> Script:
    """Run a script to its end."""
    loop = loop or Loop()
    ended: list[Script] = []
    made = Script(loop, Run(1, script, environment, stdin, {}), BASE, ended.append)
    turning(loop, lambda: ended)
    assert ended == [made]
    return made


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


def test_its_own_variables_win_over_the_agents() -> None:
    loop = Loop()
    ended: list[Script] = []
    Script(loop, Run(1, 'echo "$A $B"', {"A": "own"}, b"", {}), {**BASE, b"A": b"base", b"B": b"base"}, ended.append)
    turning(loop, lambda: ended)
    assert ended[0].output == b"own base\n"


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
        Script(loop, Run(1, "echo \0", {}, b"", {}), BASE, lambda _script: None)
    with pytest.raises(OSError, match="too long"):
        Script(loop, Run(1, "x" * 300_000, {}, b"", {}), BASE, lambda _script: None)
    assert open_descriptors() == before


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
