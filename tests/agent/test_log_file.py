"""The log in a file: whole, in order, rotated at any time; a disk that fails costs lines, and they are told."""

from __future__ import annotations

import json
import os
import re
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from serfmp.agent.config import AgentConfig
from serfmp.agent.line_feed import LineFeed
from serfmp.agent.log_hub import LogHub
from serfmp.agent.logging import json_line
from serfmp.bus import frames
from serfmp.bus.frames import LogLine
from serfmp.cli.main import main
from tests.harness import Launcher, eventually
from tests.harness.role import Role

DEADLINE_S = 20.0


class Writer(Role):
    """The logger process for real."""

    def __init__(self, path: Path, *, log_json: bool = False) -> None:
        self.hub = LogHub()
        self.feed: LineFeed | None = None
        config = AgentConfig(node="n", log_file=str(path), log_json=log_json, log_level="INFO")
        super().__init__("logger", config, {}, {})

    def start(self) -> None:
        if self.feed is None:
            self.feed = LineFeed(self.loop, "INFO")
            self.hub.takers.append(self.feed.add)
            self.process.descriptors["lines"] = self.feed.reader.fileno()
        super().start()

    def close(self) -> None:
        super().close()
        assert self.feed is not None
        self.feed.close()


def lines(path: Path) -> list[str]:
    """Without their times."""
    return [line[20:] for line in path.read_text().splitlines()] if path.exists() else []


def test_lines_are_written_in_order_and_a_moved_file_is_followed(tmp_path: Path) -> None:
    path, old = tmp_path / "serf.log", tmp_path / "serf.log.1"
    writer = Writer(path)
    try:
        for number in range(1000):
            writer.hub.say("INFO", "agent", f"line {number}")
            if not number % 10:
                writer.hub.say("DEBUG", "agent", "hidden")
        writer.until(lambda: len(lines(path)) == 1000, "all lines are there")
        assert lines(path) == [f"[INFO] agent: line {number}" for number in range(1000)]
        path.rename(old)
        writer.hub.say("INFO", "agent", "to the old one or the new one")
        writer.process.send(frames.Reopen())

        def followed() -> bool:
            writer.hub.say("INFO", "agent", "to the new one")
            return "[INFO] agent: to the new one" in lines(path)

        writer.until(followed, "the new file is written")
        path.unlink()
        writer.until(followed, "a removed file is made again without a signal")
        assert writer.stop() == 0
    finally:
        writer.close()


def test_a_disk_that_takes_nothing_costs_lines_and_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "serf.log"
    writer = Writer(path)
    try:
        writer.hub.say("INFO", "agent", "one")
        writer.until(lambda: lines(path) == ["[INFO] agent: one"], "the first line is there")
        path.unlink()
        path.mkdir()
        writer.process.send(frames.Reopen())

        def failed() -> bool:
            writer.hub.say("INFO", "agent", "lost")
            return any("Failed to write the log file" in line for line in writer.log)

        writer.until(failed, "the failure is told")
        for _ in range(100):
            writer.hub.say("INFO", "agent", "lost")
        path.rmdir()

        def works() -> bool:
            writer.hub.say("INFO", "agent", "again")
            return any("The log file is written again" in line for line in writer.log)

        writer.until(works, "it works again")
        told = [line for line in writer.log if "log file" in line]
        assert len(told) == 2
        assert int(re.findall(r"again; (\d+) log lines were lost", told[1])[0]) > 0
    finally:
        writer.close()


def test_a_writer_that_hangs_holds_up_nobody_and_the_gap_is_told(tmp_path: Path) -> None:
    path = tmp_path / "serf.log"
    writer = Writer(path)
    try:
        writer.hub.say("INFO", "agent", "one")
        writer.until(lambda: len(lines(path)) == 1, "the first line is there")
        writer.process.signal(signal.SIGSTOP)
        for number in range(20_000):
            writer.hub.say("INFO", "agent", f"line {number}")
        writer.process.signal(signal.SIGCONT)
        writer.hub.say("INFO", "agent", "last")
        writer.until(lambda: "[INFO] agent: last" in lines(path), "the last line is there")
        gaps = [line for line in lines(path) if "did not reach the log file" in line]
        lost = sum(int(line.split()[2]) for line in gaps)
        assert writer.feed is not None
        assert lost == writer.feed.dropped > 0
        assert len(lines(path)) == 20_002 - lost + len(gaps)
    finally:
        writer.close()


def test_json_lines_hold_all_and_are_json_whatever_the_text(tmp_path: Path) -> None:
    line = LogLine(1, 1_700_000_000.25, "WARN", "agent.ipc", 'a "b"\n\udcff\n')
    assert json.loads(json_line(line, "né")) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "WARN",
        "component": "agent.ipc",
        "node": "né",
        "message": 'a "b"\n�',
    }
    assert "\n" not in json_line(line, "n")


def test_an_agent_logs_to_a_file_to_its_very_end(launch: Launcher, tmp_path: Path) -> None:
    path = tmp_path / "serf.log"
    agent = launch.serfmp("one", extra=[f"-log-file={path}", "-log-json"], log_level="INFO")
    eventually(lambda: "logger" in agent.pids_by_role(), DEADLINE_S, "the logger runs")
    agent.event("deploy")
    agent.wait_log("Received event: user-event: deploy", DEADLINE_S)
    os.kill(agent.pids_by_role()["logger"][0], signal.SIGKILL)
    agent.wait_log("logger (pid", DEADLINE_S)
    eventually(lambda: "starting generation 2" in path.read_text(), DEADLINE_S, "the next logger goes on")
    agent.signal(signal.SIGTERM)
    agent.wait_exit(DEADLINE_S)
    for text in (agent.log(), path.read_text()):
        rows = [json.loads(row) for row in text.splitlines()]
        assert {"Serf agent starting", "shutdown complete"} <= {row["message"] for row in rows}
        assert {row["node"] for row in rows} == {"one"}
        assert abs(datetime.fromisoformat(rows[-1]["time"]) - datetime.now(UTC)).total_seconds() < 60
    assert "Serf agent running!" in agent.log()


def test_a_check_refuses_what_a_start_would_refuse_and_makes_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check = ["agent", "-check", "-node=n"]
    assert main([*check, f"-log-file={tmp_path / 'serf.log'}"]) == 0
    assert list(tmp_path.iterdir()) == []
    for path, reason in ((tmp_path, "is a directory"), (tmp_path / "gone" / "x", "no such file or directory")):
        capsys.readouterr()
        assert main([*check, f"-log-file={path}"]) == 1
        assert capsys.readouterr().out == f"==> Failed to open the log file: {path}: {reason}\n"


def test_a_log_file_that_cannot_be_written_is_refused(launch: Launcher, tmp_path: Path) -> None:
    agent = launch.serfmp("one", extra=[f"-log-file={tmp_path / 'gone' / 'serf.log'}"], wait=False)
    assert agent.wait_exit(DEADLINE_S) == 1
    assert agent.log().startswith("==> Failed to open the log file: ")
    assert agent.log().endswith("serf.log: no such file or directory\n")
