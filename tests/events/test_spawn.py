"""What the process of a handler inherits, what it does not, and the limits that hold from its first word on."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from serfmp.events.spawn import SCRIPT_OOM_SCORE, Limits, Spawner

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ENVIRONMENT = {b"PATH": os.fsencode(os.environ["PATH"])}

SPAWNER = Spawner()

OWN_OF_THE_C_LIBRARY = 1 << 31 | 1 << 32
"""Signals 32 and 33, which glibc's posix_spawn ignores, and glibc takes back when it needs them."""


def run(
    command: str | Sequence[str],
    limits: Limits = Limits(),  # noqa: B008
    directory: str = "",
    environment: dict[bytes, bytes] = ENVIRONMENT,
) -> tuple[int, str]:
    """Run a command to its end: exit code or negative signal, and what it wrote."""
    ours, theirs = os.pipe()
    empty = os.open(os.devnull, os.O_RDONLY)
    try:
        pid = SPAWNER.spawn(command, environment, (empty, theirs, theirs), limits=limits, directory=directory)
    except BaseException:
        os.close(ours)
        raise
    finally:
        SPAWNER.rest()
        os.close(theirs)
        os.close(empty)
    with os.fdopen(ours, encoding="utf-8") as output:
        text = output.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text


@pytest.fixture
def leaky() -> Iterator[None]:
    """A process that ignores and blocks signals, with an inheritable pipe beside others that are not."""
    before = signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGTERM})
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    signal.signal(signal.SIGQUIT, before)


@pytest.mark.parametrize("command", ["cat /proc/self/status", ["cat", "/proc/self/status"]])
def test_no_signal_is_blocked_or_ignored(leaky: None, command: str | list[str]) -> None:
    status = dict(line.split(":", 1) for line in run(command)[1].splitlines())
    assert int(status["SigBlk"], 16) == 0
    assert int(status["SigIgn"], 16) & ~OWN_OF_THE_C_LIBRARY == 0


@pytest.mark.parametrize("command", ["ls -l /proc/self/fd", ["ls", "-l", "/proc/self/fd"]])
def test_no_descriptor_but_the_three_is_open(command: str | list[str]) -> None:
    # What whoever started the tests left open is not ours; a worker has closed it (tests/events/test_hardness.py).
    left_open = {entry.name for entry in Path("/proc/self/fd").iterdir() if inheritable(int(entry.name))}
    rows = [line.split() for line in run(command)[1].splitlines() if "->" in line]
    (own,) = [row for row in rows if row[-1].startswith("/proc/")]
    assert {row[8] for row in rows if row is not own} - left_open == {"0", "1", "2"} - left_open


def inheritable(descriptor: int) -> bool:
    try:
        return os.get_inheritable(descriptor)
    except OSError:
        return False


def test_badness_when_memory_runs_out_is_set_before_the_first_word_and_inherited() -> None:
    own = int(Path("/proc/self/oom_score_adj").read_text(encoding="ascii"))
    assert run("cat /proc/self/oom_score_adj")[1].split() == [str(min(own + SCRIPT_OOM_SCORE, 1000))]
    seen = run("read -r first < /proc/self/oom_score_adj; echo $first; (exec cat /proc/self/oom_score_adj)")[1].split()
    assert seen == [str(min(own + SCRIPT_OOM_SCORE, 1000))] * 2
    assert int(Path("/proc/self/oom_score_adj").read_text(encoding="ascii")) == own


@pytest.mark.parametrize("wrap", [False, True])
def test_limits_hold_soft_and_hard_from_the_beginning(wrap: bool) -> None:
    ask = "ulimit -S -n; ulimit -H -n; ulimit -S -t; ulimit -H -t; ulimit -S -v; ulimit -H -v"
    command: str | list[str] = ["sh", "-c", ask] if wrap else ask
    code, text = run(command, Limits(address_space=512 * 2**20 + 5, cpu_seconds=7, open_files=33))
    assert (code, text.split()) == (0, ["33", "33", "7", "8", "524288", "524288"])


def test_a_limit_above_the_agents_own_is_lowered_to_it() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert run("ulimit -H -n", Limits(open_files=hard + 1)) == (0, f"{hard}\n")


def test_a_script_beyond_its_processor_time_ends_by_a_signal_that_says_so() -> None:
    assert run("while :; do :; done", Limits(cpu_seconds=1))[0] == -signal.SIGXCPU


def test_a_script_beyond_its_address_space_gets_no_memory() -> None:
    code, _text = run("exec head -c 10 /dev/zero", Limits(address_space=512 * 2**20))
    assert code == 0
    assert run("x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo $?", Limits(address_space=64 * 2**20)) != (0, "0\n")


def test_the_directory_may_have_any_name(tmp_path: Path) -> None:
    for name in ("-", "a 'b'", "$HOME", "..."):
        (tmp_path / name).mkdir()
        assert run("pwd", directory=str(tmp_path / name)) == (0, f"{tmp_path / name}\n")
        assert run(["pwd"], directory=str(tmp_path / name)) == (0, f"{tmp_path / name}\n")
    with pytest.raises(FileNotFoundError, match="missing"):
        run("pwd", directory=str(tmp_path / "missing"))


def test_words_of_a_list_arrive_as_they_are(tmp_path: Path) -> None:
    words = ["$HOME", "a b", "'", '"', "", "-n", ";exit 9", "\n"]
    assert run(["printf", "%s|", *words]) == (0, "".join(f"{word}|" for word in words))


def test_a_list_whose_program_cannot_be_executed_is_refused_before(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("#!/bin/sh\necho no\n", encoding="utf-8")
    for command, error in (
        (["serfmp-is-no-program"], FileNotFoundError),
        ([str(tmp_path / "missing")], FileNotFoundError),
        ([str(tmp_path / "plain")], PermissionError),
        ([str(tmp_path)], FileNotFoundError),
    ):
        with pytest.raises(error):
            run(command)
    with pytest.raises(ValueError, match="null byte"):
        run(["echo", "\0"])
    (tmp_path / "plain").chmod(0o755)
    assert run(["./plain"], directory=str(tmp_path)) == (0, "no\n")


def test_the_first_line_of_a_script_keeps_its_number_and_its_parameters() -> None:
    code, text = run("echo $0 $#\nif")
    assert code == 2
    assert text.startswith("/bin/sh 0\n")
    assert ": 2: " in text or "line 2:" in text
    assert run("# nothing") == (0, "")
    assert run("") == (0, "")


def test_the_shell_and_what_it_executes_are_one_process() -> None:
    shell, program = run("echo $$; exec sh -c 'echo $$'")[1].split()
    assert shell == program
    shell, program = run(["sh", "-c", "echo $$; exec sh -c 'echo $$'"])[1].split()
    assert shell == program


def test_a_line_of_words_needs_no_shell_and_means_the_same(tmp_path: Path) -> None:
    script = tmp_path / "parent"
    script.write_text('#!/bin/sh\ntr "\\0" " " < /proc/$PPID/cmdline; echo "$0 $*"; exit 4\n', encoding="utf-8")
    script.chmod(0o755)
    code, text = run(f"  {script} a  b=c\t-d ")
    assert code == 4
    parent, words = text.rsplit(str(script), 1)
    assert words == " a b=c -d\n"
    assert "sh -c" not in parent
    assert run(f"{script} 'a'")[1].startswith("/bin/sh -c ")


def test_what_cannot_be_executed_is_told_in_the_shells_words(tmp_path: Path) -> None:
    without_marker = tmp_path / "old"
    without_marker.write_text("echo old $1\n", encoding="utf-8")
    without_marker.chmod(0o755)
    for command in (f"{without_marker} style", [str(without_marker), "style"]):
        assert run(command) == (0, "old style\n")
    bad_interpreter = tmp_path / "bad"
    bad_interpreter.write_text("#!/no/such/interpreter\n", encoding="utf-8")
    bad_interpreter.chmod(0o755)
    plain = tmp_path / "plain"
    plain.write_text("", encoding="utf-8")
    for line, code in ((f"{bad_interpreter}", {126, 127}), (f"{plain}", {126}), ("serfmp-is-no-program x", {127})):
        status, text = run(line)
        assert status in code
        assert line.split()[0] in text


def test_a_program_stands_where_it_is_found_before_others(tmp_path: Path) -> None:
    for name, mode in (("first", 0o644), ("second", 0o755), ("third", 0o755)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "which-one").write_text(f"#!/bin/sh\necho {name}\n", encoding="utf-8")
        (tmp_path / name / "which-one").chmod(mode)
    path = os.pathsep.join(str(tmp_path / name) for name in ("none", "first", "second", "third"))
    for command in ("which-one", ["which-one"], "exec which-one"):
        assert run(command, environment={b"PATH": os.fsencode(path)}) == (0, "second\n")


def test_a_line_with_a_directory_or_limits_needs_no_process_for_the_shell(tmp_path: Path) -> None:
    script = tmp_path / "own"
    script.write_text("#!/bin/sh\ncut -d ' ' -f 4 /proc/$$/stat; pwd; ulimit -n\n", encoding="utf-8")
    script.chmod(0o755)
    code, text = run("./own", Limits(open_files=33), str(tmp_path))
    assert (code, text.split()) == (0, [str(os.getpid()), str(tmp_path), "33"])
