"""The agent's flags about keys and label."""

from __future__ import annotations

import pytest

from serfmp.cli import agent
from serfmp.cli.agent_config import gather, make_config
from serfmp.cli.main import main

KEY = "5K9OtfP7efFrNKe5WCQvXvnaXJ5cWP0SvXiwe0kkjM4="


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
