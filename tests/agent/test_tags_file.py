"""The tags file: read at the start, written with every change before it holds, and never spoilt."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from serfmp.agent.tags_file import read_tags_file, tags_file_content
from serfmp.errors import UserError
from tests.harness import Launcher, RpcError

DEADLINE_S = 20.0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "unexpected end of JSON input"),
        ('{"a": ', "unexpected end of JSON input"),
        ('{"a": 1}', "the value of 'a' is a number, not a text"),
        ('["a"]', "it holds a list, not a map of texts"),
        ('"a"', "it holds a text, not a map of texts"),
        ("{\n x}", "Expecting property name enclosed in double quotes at line 2, column 2"),
        ("[" * 100_000, "it is not JSON text"),
    ],
)
def test_what_is_no_map_of_texts_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    file = tmp_path / "tags.json"
    file.write_text(content)
    with pytest.raises(UserError) as caught:
        read_tags_file(str(file))
    assert str(caught.value) == f"Failed to decode tags file: {reason}"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "tags.json"
    assert read_tags_file(str(file)) == {}
    tags = {"b": "ü\n", "a": "", "c": "<&>"}
    file.write_bytes(tags_file_content(tags))
    assert read_tags_file(str(file)) == tags
    assert file.read_text().startswith('{\n  "a": "",\n  "b"')
    file.write_text("null")
    assert read_tags_file(str(file)) == {}


def test_tags_outlive_the_agent_and_a_refused_change_leaves_the_file_alone(launch: Launcher, tmp_path: Path) -> None:
    file = tmp_path / "tags.json"

    def held() -> Any:
        return json.loads(file.read_text())

    agent = launch.serfmp("one", extra=[f"-tags-file={file}"])
    assert "Restored" not in agent.log()
    assert not file.exists()
    agent.client().call("tags", {"Tags": {"a": "1", "b": "2"}, "DeleteTags": []})
    assert held() == {"a": "1", "b": "2"}
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(RpcError, match="Encoded length of tags exceeds limit of 512 bytes"):
        agent.client().call("tags", {"Tags": {"big": "x" * 600}, "DeleteTags": []})
    assert held() == {"a": "1", "b": "2"}
    agent.signal(signal.SIGHUP)
    agent.wait_log("==> Reloaded: nothing has changed", DEADLINE_S)
    assert held() == {"a": "1", "b": "2"}
    assert agent.members()["one"].tags == {"a": "1", "b": "2"}
    os.kill(agent.pids_by_role()["detector"][0], signal.SIGKILL)
    agent.wait_log("starting generation 2", DEADLINE_S)
    agent.client().call("tags", {"Tags": {}, "DeleteTags": ["a"]})
    assert held() == {"b": "2"}
    agent.close()
    again = launch.serfmp("one", extra=[f"-tags-file={file}"], bind=agent.bind)
    again.wait_log(f"[INFO] agent: Restored 1 tag(s) from {file}", DEADLINE_S)
    assert again.members()["one"].tags == {"b": "2"}


def test_tags_do_not_change_where_the_file_cannot_be_written(launch: Launcher, tmp_path: Path) -> None:
    agent = launch.serfmp("one", extra=[f"-tags-file={tmp_path / 'gone' / 'tags.json'}"])
    with pytest.raises(RpcError, match="failed to write the tags file: no such file or directory"):
        agent.client().call("tags", {"Tags": {"a": "1"}, "DeleteTags": []})
    assert agent.members()["one"].tags == {}
    (tmp_path / "gone").mkdir()
    agent.client().call("tags", {"Tags": {"a": "1"}, "DeleteTags": []})
    assert agent.members()["one"].tags == {"a": "1"}
