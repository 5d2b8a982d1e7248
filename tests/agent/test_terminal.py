"""Standard output is written without waiting, and what is lost is told."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from serfmp.agent.terminal import WAITING_LIMIT, Terminal
from serfmp.bus.frames import LogLine
from serfmp.bus.loop import Loop

if TYPE_CHECKING:
    from pathlib import Path

WHEN = 1_700_000_000.0


def line(level: str, component: str, text: str) -> LogLine:
    return LogLine(1, WHEN, level, component, text)


def test_log_lines_wait_for_the_banner_and_come_in_order(tmp_path: Path) -> None:
    path = tmp_path / "out"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    terminal = Terminal(Loop(), descriptor, "INFO")
    terminal.log(line("INFO", "serf", "first"))
    terminal.log(line("DEBUG", "serf", "hidden"))
    terminal.output("Banner")
    terminal.info()
    terminal.release()
    terminal.log(line("WARN", "agent", "second\nline"))
    terminal.drain(1.0)
    os.close(descriptor)
    lines = path.read_text().split("\n")
    assert lines[:2] == ["==> Banner", ""]
    assert lines[2].startswith("    20")
    assert lines[2].endswith(" [INFO] serf: first")
    assert lines[3].endswith(" [WARN] agent: second")
    assert lines[4] == "line"


def test_a_pipe_that_nobody_reads_never_blocks_and_the_loss_is_told() -> None:
    loop = Loop()
    reader, writer = os.pipe()
    terminal = Terminal(loop, writer, "INFO")
    terminal.release()
    for number in range(20_000):
        terminal.log(line("INFO", "serf", f"line {number} {'x' * 100}"))
    assert terminal.dropped > 0
    os.set_blocking(reader, False)
    received = bytearray()
    while True:
        try:
            received += os.read(reader, 1 << 20)
        except BlockingIOError:
            if received.endswith(b"\n") and len(received) > WAITING_LIMIT:
                break
        loop.call_soon(lambda: None)
        loop.turn()
    terminal.log(line("INFO", "serf", "after"))
    terminal.drain(1.0)
    received += os.read(reader, 1 << 20)
    assert f"{terminal.dropped} log lines were dropped" in received.decode()
    assert received.decode().endswith("serf: after\n")
    os.close(reader)
    os.close(writer)


def test_a_reader_that_went_away_is_no_error() -> None:
    reader, writer = os.pipe()
    terminal = Terminal(Loop(), writer, "INFO")
    terminal.release()
    os.close(reader)
    terminal.output("nobody reads this")
    terminal.drain(0.1)
    os.close(writer)


def test_a_failed_start_explains_itself_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(Loop(), os.open(os.devnull, os.O_WRONLY), "INFO")
    terminal.log(line("ERR", "agent", "the reason"))
    terminal.explain()
    assert "[ERR] agent: the reason" in capfd.readouterr().err
