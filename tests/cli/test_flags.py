"""Serf's flag syntax, durations, tables and JSON."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serfmp.cli.flags import BOOLEAN, DURATION, INTEGER, FlagError, GoCommand, flag
from serfmp.cli.output import go_json, table, visible
from serfmp.durations import parse_duration
from serfmp.errors import UserError

COMMAND = GoCommand(
    "c",
    "c [options] word...",
    "One sentence.\n\nAnother paragraph.",
    [
        flag("x", "Text."),
        flag("two-words", "More text.", default="d", env="SERFMP_TEST_TWO"),
        flag("yes", "Boolean.", kind=BOOLEAN, default=False),
        flag("many", "List.", many=True),
        flag("count", "Number.", kind=INTEGER, default=3),
        flag("wait", "Duration.", kind=DURATION, default=1.5),
    ],
)
DEFAULTS = {"x": "", "two_words": "d", "yes": False, "many": (), "count": 3, "wait": 1.5}


@pytest.mark.parametrize(
    ("line", "values", "words"),
    [
        ("", {}, []),
        ("-x v w", {"x": "v"}, ["w"]),
        ("-x=v", {"x": "v"}, []),
        ("--x v", {"x": "v"}, []),
        ("--x=v=w", {"x": "v=w"}, []),
        ("-x=", {"x": ""}, []),
        ("-x -yes", {"x": "-yes"}, []),
        ("-x a -x b", {"x": "b"}, []),
        ("-two-words=v", {"two_words": "v"}, []),
        ("-yes", {"yes": True}, []),
        ("-yes=false -yes", {"yes": True}, []),
        ("-yes=F", {"yes": False}, []),
        ("-yes false", {"yes": True}, ["false"]),
        ("-many a -many=b", {"many": ("a", "b")}, []),
        ("-count 0x10", {"count": 16}, []),
        ("-wait 2m", {"wait": 120.0}, []),
        ("w -x v", {}, ["w", "-x", "v"]),
        ("-yes -- -x v", {"yes": True}, ["-x", "v"]),
        ("-yes - -x v", {"yes": True}, ["-", "-x", "v"]),
    ],
)
def test_flags(line: str, values: dict[str, object], words: list[str]) -> None:
    assert COMMAND.values(line.split()) == ({**DEFAULTS, **values}, words)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("-nope", "flag provided but not defined: -nope"),
        ("--nope=1", "flag provided but not defined: -nope"),
        ("-x", "flag needs an argument: -x"),
        ("---x", "bad flag syntax: ---x"),
        ("-=x", "bad flag syntax: -=x"),
        ("-yes=maybe", 'invalid boolean value "maybe" for -yes: parse error'),
        ("-yes=", 'invalid boolean value "" for -yes: parse error'),
        ("-count many", 'invalid value "many" for flag -count: parse error'),
        ("-wait 5", 'invalid value "5" for flag -wait: parse error'),
        ("-wait 5 -nope", 'invalid value "5" for flag -wait: parse error'),
    ],
)
def test_flags_that_are_none(line: str, text: str) -> None:
    with pytest.raises(FlagError) as failed:
        COMMAND.values(line.split())
    assert str(failed.value) == text


def test_the_environment_stands_between_flag_and_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERFMP_TEST_TWO", "env")
    assert COMMAND.values([])[0]["two_words"] == "env"
    assert COMMAND.values(["-two-words", "flag"])[0]["two_words"] == "flag"
    monkeypatch.setenv("SERFMP_TEST_TWO", "")
    assert COMMAND.values([])[0]["two_words"] == "d"


def test_help_names_every_flag_in_lines_that_fit() -> None:
    lines = COMMAND.help_text().splitlines()
    assert lines[0] == "Usage: serfmp c [options] word..."
    assert [line.split()[0] for line in lines if line.startswith("  -")] == [
        "-x",
        "-two-words",
        "-yes",
        "-many",
        "-count",
        "-wait",
    ]
    assert max(map(len, lines)) < 80


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("-0", 0.0),
        ("300ms", 0.3),
        ("1.5h", 5400.0),
        ("2h45m", 9900.0),
        ("-3s", -3.0),
        ("+3s", 3.0),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("1us", 1e-6),
        ("1µs", 1e-6),
        ("100ns", 1e-7),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("5", 'time: missing unit in duration "5"'),
        ("1h2", 'time: missing unit in duration "1h2"'),
        ("x", 'time: invalid duration "x"'),
        ("", 'time: invalid duration ""'),
        (".", 'time: invalid duration "."'),
        ("-", 'time: invalid duration "-"'),
        ("5x", 'time: unknown unit "x" in duration "5x"'),
        ("99999999h", 'time: invalid duration "99999999h"'),
    ],
)
def test_durations_that_are_none(text: str, error: str) -> None:
    with pytest.raises(UserError) as failed:
        parse_duration(text)
    assert str(failed.value) == error


@given(st.text(max_size=20))
def test_any_text_is_a_duration_or_an_error(text: str) -> None:
    with contextlib.suppress(UserError):
        assert isinstance(parse_duration(text), float)


def test_tables_pad_all_cells_but_the_last_and_trim_the_whole() -> None:
    rows = [["a", "1.1.1.1:1", "alive", "k=a|b,z= x "], ["bb é", "1.1.1.1:22", "failed", ""]]
    assert table(rows).splitlines() == ["a     1.1.1.1:1   alive   k=a  b,z= x", "bb é  1.1.1.1:22  failed"]
    assert table(rows[::-1]).splitlines()[0] == "bb é  1.1.1.1:22  failed  "
    assert table([]) == ""


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert visible("a\x1b[2J\n\x9bé") == "a\\x1b[2J\\x0a\\x9bé"


def test_json_is_written_as_serf_writes_it() -> None:
    value: dict[str, Any] = {"n": 'c<>&\x01\x7f\b\f\n"\\b\u2028é\udcff', "none": None, "empty": {}}
    assert go_json(value) == (
        "{\n"
        '  "n": "c\\u003c\\u003e\\u0026\\u0001\x7f\\u0008\\u000c\\n\\"\\\\b\\u2028é\ufffd",\n'
        '  "none": null,\n'
        '  "empty": {}\n'
        "}"
    )
