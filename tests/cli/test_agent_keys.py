"""The agent's flags about keys and label: what stops the start, word for word as in the recorded runs of Serf."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serfmp.cli import agent
from serfmp.cli.agent_config import gather, make_config
from serfmp.cli.main import main

KEY = "5K9OtfP7efFrNKe5WCQvXvnaXJ5cWP0SvXiwe0kkjM4="
FILES = {
    "kre.json": "[]",
    "krb.json": "[",
    "krc.json": '["!!"]',
    "krd.json": '["aGVsbG8="]',
    "krok.json": json.dumps([KEY]),
}
CASES = [
    case
    for case in json.loads((Path(__file__).parents[1] / "data/transcripts/agent-keys.json").read_text())["cases"]
    if case["id"].startswith(("encrypt-", "keyring-")) and case["exit_code"] == 1
]


def test_the_recorded_runs_are_there() -> None:
    assert len(CASES) == 8


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_a_bad_key_stops_the_start_as_with_serf(
    case: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        Path(name).write_text(content)
    assert main(list(case["argv"][1:])) == 1
    shown = capsys.readouterr()
    assert shown.out == case["stdout"]
    assert shown.err == ""


def test_a_label_that_is_too_long_stops_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agent", "-node=n", f"-label={'x' * 256}"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("==> Invalid label: the label 'xxx")
    assert out.endswith("is longer than 255 bytes; choose a shorter one\n")


def test_flags_become_keys_and_label() -> None:
    values, _ = agent.COMMAND.values(["-node=n", "-bind=127.0.0.1", f"-encrypt={KEY}", "-label=blue"])
    config = make_config(gather(values), print)
    assert len(config.encrypt_key) == 32
    assert config.keys == (config.encrypt_key,)
    assert config.label == "blue"


def test_the_help_recommends_the_file() -> None:
    assert "prefer -keyring-file" in " ".join(agent.COMMAND.help_text().split())
