"""The formats of results beyond Serf's: lines of JSON, CSV, tables; and the limit of waiting."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from serfmp.cli.formats import Rows, csv_text, display_width, json_line, table_text
from tests.cli.recorded import Outcome, Stage
from tests.harness import Agent

ROOT: Final = Path(__file__).parents[2]

ODD: Final = Rows(("name", "status"), [("a\x1b[2J", "alive"), ("名前", "failed"), ("x" * 50, None), ("\udcff", True)])


def test_cells_of_a_table_are_aligned_and_cut_to_the_width() -> None:
    lines = table_text(ODD, 30, coloured=False).split("\n")
    assert lines[0].split() == ["name", "status"]
    assert lines[1] == "a\\x1b[2J" + " " * 14 + "  alive"
    assert lines[2] == "名前" + " " * 18 + "  failed"
    assert lines[3] == "x" * 21 + "…"
    assert max(map(display_width, lines)) <= 30
    whole = table_text(ODD, None, coloured=False)
    assert "x" * 50 in whole
    assert table_text(Rows(("a",), []), 10, coloured=False) == "a"


def test_colours_are_of_words_and_of_the_header_and_change_no_width() -> None:
    plain, coloured = (table_text(ODD, 40, coloured=value) for value in (False, True))
    assert "\x1b[31mfailed\x1b[0m" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain


def test_csv_and_json_lines_carry_any_text() -> None:
    rows: list[list[Any]] = [["a,b", 'say "x"', "two\nlines"], [{"k": "v", "a": 1}, ["x", 2], None]]
    read = list(csv.reader(io.StringIO(csv_text(rows))))
    assert read == [["a,b", 'say "x"', "two\\x0alines"], ["a=1,k=v", "x,2", ""]]
    assert json.loads(json_line({"a": "\udcff<\n"})) == {"a": "\ufffd<\n"}
    assert "\n" not in json_line({"a": "\n"})


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, Agent]]:
    with Stage(tmp_path_factory.mktemp("formats")) as stage:
        where = [f"-bind=127.0.0.1:{stage.port('21101')}", f"-rpc-addr=127.0.0.1:{stage.port('21201')}"]
        flags = ["-node=a", "-profile=local", "-tag=role=web", "-tag=x=a|b", "-event-handler=query:load=echo 1 2"]
        yield stage, stage.start_agent([*where, *flags])


COMMANDS: Final = {
    "members": (["members"], {"name": "a", "status": "alive", "tags": {"role": "web", "x": "a|b"}}),
    "info": (["info"], {"section": "agent", "key": "name", "value": "a"}),
    "tags": (["tags", "-list"], {"key": "role", "value": "web"}),
    "query": (["query", "load"], {"node": "a", "kind": "ack"}),
    "reachability": (["reachability"], {"node": "a", "status": "alive", "outcome": "answered", "acks": 1}),
    "handlers": (["handlers"], {"name": "echo 1 2", "on": ["query:load"]}),
    "why": (["why", "a"], None),
    "rtt": (["rtt", "a"], {"from": "a", "to": "a"}),
    "keys": (["keys", "-list"], {"node": "a", "message": "Keyring is empty (encryption not enabled)"}),
}


def asked(agent: tuple[Stage, Agent], words: list[str], form: str) -> Outcome:
    stage, started = agent
    env = {"SERF_RPC_ADDR": str(started.options.rpc)}
    return stage.run(([words[0], f"-format={form}", *words[1:]], env))[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_format_of_a_command_can_be_read(agent: tuple[Stage, Agent], name: str) -> None:
    words, wanted = COMMANDS[name]
    code = 1 if name == "keys" else 0
    came = {form: asked(agent, words, form) for form in ("json", "jsonl", "csv", "table")}
    assert {form: outcome.code for form, outcome in came.items()} == dict.fromkeys(came, code)
    json.loads(came["json"].stdout)
    rows = [json.loads(line) for line in came["jsonl"].stdout.splitlines()]
    table = list(csv.DictReader(io.StringIO(came["csv"].stdout)))
    if wanted is not None:
        assert rows[0] | wanted == rows[0]
        assert len(table) == len(rows)
    header = came["table"].stdout.splitlines()[0]
    assert header.split() == came["csv"].stdout.splitlines()[0].split(",")
    assert "\x1b" not in came["table"].stdout
    refused = asked(agent, words, "xml")
    assert (refused.code, "xml" in refused.stdout) == (1, True)


def on_a_terminal(words: list[str], env: dict[str, str]) -> str:
    """What a command writes to a terminal of 70 columns."""
    leader, follower = pty.openpty()
    os.set_blocking(leader, True)
    process = subprocess.Popen(
        [sys.executable, "-m", "serfmp", *words],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "70", "TERM": "xterm", **env},
    )
    os.close(follower)
    shown = b""
    try:
        while data := os.read(leader, 65536):
            shown += data
    except OSError:
        pass  # the terminal's other end is closed
    os.close(leader)
    assert process.wait(30) == 0
    return shown.decode()


def test_a_table_fits_the_terminal_and_has_colours_there_unless_they_are_not_wanted(agent: tuple[Stage, Agent]) -> None:
    words = ["members", f"-rpc-addr={agent[1].options.rpc}", "-format=table"]
    shown = on_a_terminal(words, {})
    assert "\x1b[32malive\x1b[0m" in shown
    plain = on_a_terminal(words, {"NO_COLOR": "1"})
    assert "\x1b" not in plain
    assert max(map(len, plain.splitlines())) <= 70
    assert "…" in plain


def test_an_agent_that_does_not_answer_is_waited_for_as_long_as_said(agent: tuple[Stage, Agent]) -> None:
    stage, started = agent
    env: dict[str, str] = {"SERF_RPC_ADDR": str(started.options.rpc)}
    started.pause_tree()
    began = time.monotonic()
    lines: list[tuple[list[str], Any]] = [
        ([name, "-rpc-timeout=300ms", *rest], env) for name, *rest in (["members"], ["leave"])
    ]
    members, leave = stage.run(*lines)
    took = time.monotonic() - began
    started.resume_tree()
    reason = "the agent did not answer 'handshake' within 0.3 s"
    assert members == leave == Outcome(1, f"Error connecting to Serf agent: {reason}\n", "")
    assert took < 5
    refused = stage.run((["members", "-rpc-timeout=-1s"], env))[0]
    assert refused == Outcome(1, "Invalid -rpc-timeout: -1s is negative; 0 means without a limit\n", "")
