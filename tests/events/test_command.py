"""Which lines need a shell: where none is used, a shell would have made the same words of the line."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serfmp.events.command import OF_SHELLS, REMEMBERED, Programs, find_program, plain_words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("true", ("true",)),
        (" /usr/local/bin/handler.sh --on  web\t-x=1 ", ("/usr/local/bin/handler.sh", "--on", "web", "-x=1")),
        ("./a @b %c +d e:f g,h _", ("./a", "@b", "%c", "+d", "e:f", "g,h", "_")),
        ("-a", ("-a",)),
    ],
)
def test_words_that_no_shell_changes(line: str, words: tuple[str, ...]) -> None:
    assert plain_words(line) == words


@pytest.mark.parametrize(
    "line",
    [
        *("", " ", "a\nb", "a;b", "a|b", "a&", "a>b", "a<b", "a 'b'", 'a "b"', "a $b", "a `b`", "a *", "a b?", "a [b]"),
        *(
            "a ~",
            "a {b,c}",
            "(a)",
            "a #b",
            "!",
            "! a",
            "a\\ b",
            "A=1 b",
            "A=1",
            "a=b",
            "a\rb",
            "a\x0bb",
            "ä",
            "a\0",
            "a ^b",
        ),
    ],
)
def test_what_a_shell_may_do_something_with(line: str) -> None:
    assert plain_words(line) is None


@pytest.mark.parametrize("word", sorted(OF_SHELLS))
def test_what_a_shell_does_itself(word: str) -> None:
    assert plain_words(f"{word} x") is None


@given(st.text("ab%@:=-+,./ \t_01 $'*~#!", min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_a_shell_makes_the_same_words_of_it(line: str) -> None:
    words = plain_words(line)
    if words is not None:
        # As arguments: the first word would be looked for as a program.
        shown = subprocess.run(
            ["/bin/sh", "-c", f"printf '%s\\n' {line}"], capture_output=True, check=True, text=True, timeout=20
        ).stdout
        assert tuple(shown.splitlines()) == words


def test_what_dash_has_itself_is_not_looked_for() -> None:
    asked = subprocess.run(
        [
            "/bin/sh",
            "-c",
            "for word in $*; do type $word; done",
            "sh",
            "echo",
            "test",
            "kill",
            "cd",
            "printf",
            "exit",
            "if",
        ],
        capture_output=True,
        check=True,
        text=True,
        timeout=20,
    ).stdout
    assert all("builtin" in line or "keyword" in line for line in asked.splitlines())
    assert {line.split()[0] for line in asked.splitlines()} <= OF_SHELLS


def test_a_program_is_looked_for_along_the_path_of_the_script() -> None:
    assert find_program("true", b"/nowhere:/bin") == "/bin/true"
    assert find_program("true") == "/bin/true"
    assert find_program("/bin/true", b"/nowhere") == "/bin/true"
    assert find_program("bin/true", directory="/") == "bin/true"
    with pytest.raises(FileNotFoundError, match="true"):
        find_program("true", b"/nowhere")
    with pytest.raises(FileNotFoundError, match="bin"):
        find_program("/bin")
    with pytest.raises(PermissionError, match="passwd"):
        find_program("/etc/passwd")


def test_a_place_is_remembered_for_a_while_and_for_each_path(tmp_path: Path) -> None:
    now = 100.0
    programs = Programs(lambda: now)
    both = os.fsencode(f"{tmp_path}:/bin")
    assert programs.find("true", {b"PATH": both}) == "/bin/true"
    shutil.copy("/bin/true", tmp_path)
    assert programs.find("true", {b"PATH": os.fsencode(tmp_path)}) == f"{tmp_path}/true"
    assert programs.find("true", {b"PATH": both}) == "/bin/true"
    now += REMEMBERED
    assert programs.find("true", {b"PATH": both}) == f"{tmp_path}/true"
    with pytest.raises(FileNotFoundError, match="later"):
        programs.find("later", {b"PATH": both})
    shutil.copy("/bin/true", tmp_path / "later")
    assert programs.find("later", {b"PATH": both}) == f"{tmp_path}/later"
