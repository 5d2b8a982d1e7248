"""Syslog gets what it should, and a full or missing one costs lines and nothing else."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serfmp.agent.syslog import CALM, Syslog, facility_number, find_daemon
from serfmp.bus.frames import LogLine
from serfmp.bus.loop import Loop
from serfmp.errors import UserError
from tests.harness import Launcher


class Daemon:
    """A socket as that of a syslog daemon, and the lines that came."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))

    def lines(self) -> list[str]:
        found = []
        self.socket.setblocking(False)
        while True:
            try:
                found.append(self.socket.recv(65536).decode())
            except BlockingIOError:
                return found

    def close(self) -> None:
        self.socket.close()
        self.path.unlink(missing_ok=True)


class StreamDaemon(Daemon):
    """One whose socket is a stream; the connection counts, and lines end with line breaks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(str(path))
        self.socket.listen()
        self.socket.setblocking(False)
        self._clients: list[socket.socket] = []
        self._unfinished = b""

    def lines(self) -> list[str]:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._clients.append(self.socket.accept()[0])
                self._clients[-1].setblocking(False)
        for client in self._clients:
            with contextlib.suppress(BlockingIOError):
                while data := client.recv(65536):
                    self._unfinished += data
        *found, self._unfinished = self._unfinished.split(b"\n")
        return [f"{line.decode()}\n" for line in found]

    def close(self) -> None:
        for client in self._clients:
            client.close()
        super().close()


class Stage:
    """A sink whose loop has the test's clock."""

    def __init__(self, path: Path, level: str = "INFO") -> None:
        self.now = 1000.0
        self.loop = Loop(lambda: self.now)
        self.told: list[str] = []
        self.sink = Syslog(self.loop, str(path), "LOCAL3", level, lambda _level, _part, text: self.told.append(text))

    def log(self, text: str, level: str = "INFO", component: str = "serf") -> None:
        self.sink.log(LogLine(1, 1_700_000_000.0, level, component, text))
        self.loop.call_soon(lambda: None)
        self.loop.turn()


@pytest.fixture
def stages() -> Iterator[Callable[..., Stage]]:
    made: list[Stage] = []

    def make(daemon: Daemon, level: str = "INFO") -> Stage:
        made.append(Stage(daemon.path, level))
        return made[-1]

    yield make
    for stage in made:
        stage.sink.close()


@pytest.fixture(params=[Daemon, StreamDaemon])
def daemon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    made: Daemon = request.param(Path(tmp_path_factory.mktemp("s")) / "log")
    yield made
    made.close()


def test_facilities_are_those_of_serf() -> None:
    assert [facility_number(name) for name in ("KERN", "daemon", "AUTHPRIV", "LOCAL0", "LOCAL7")] == [0, 3, 10, 16, 23]
    with pytest.raises(UserError, match=r"^Syslog setup failed: invalid syslog facility: NOPE$"):
        facility_number("NOPE")


def test_a_daemon_that_is_not_there_is_refused(tmp_path: Path, daemon: Daemon) -> None:
    assert find_daemon(str(daemon.path)) == str(daemon.path)
    with pytest.raises(UserError, match=r"^Syslog setup failed: Unix syslog delivery error"):
        find_daemon(str(tmp_path / "nobody"))


def test_priority_time_identity_and_text(daemon: Daemon, stages: Callable[..., Stage]) -> None:
    stage = stages(daemon, "TRACE")
    for level in ("TRACE", "DEBUG", "INFO", "WARN", "ERR", "ODD"):
        stage.log(f"a {level}\n", level, "agent.ipc")
    lines = daemon.lines()
    form = re.compile(r"<(\d+)>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d serf\[\d+\]: agent\.ipc: a ([A-Z]+)\n")
    found = [match.groups() for match in map(form.fullmatch, lines) if match]
    severities = {"TRACE": 7, "DEBUG": 6, "INFO": 5, "WARN": 4, "ERR": 3, "ODD": 5}
    assert found == [(str(19 * 8 + severity), level) for level, severity in severities.items()]


def test_lines_below_the_level_are_not_sent(daemon: Daemon, stages: Callable[..., Stage]) -> None:
    stage = stages(daemon)
    stage.log("x", "DEBUG")
    stage.sink.set_level("DEBUG")
    stage.log("y", "DEBUG")
    assert [line.rpartition(" ")[2] for line in daemon.lines()] == ["y\n"]


def test_a_full_socket_never_blocks_is_counted_and_told_once(daemon: Daemon, stages: Callable[..., Stage]) -> None:
    stage = stages(daemon)
    for number in range(3000):
        stage.log(f"line {number}")
    lost = stage.sink.dropped
    assert lost > 0
    assert len(stage.told) == 1
    assert "it is not fast enough" in stage.told[0]
    assert len(daemon.lines()) == 3000 - lost
    stage.log("between")
    stage.now += CALM
    stage.log("after")
    assert [line.rpartition(" ")[2] for line in daemon.lines()] == ["between\n", "after\n"]
    assert stage.told[1:] == [f"Syslog takes log lines again; {lost} were lost"]


def test_a_daemon_that_goes_is_told_once_and_found_again(daemon: Daemon, stages: Callable[..., Stage]) -> None:
    stage = stages(daemon)
    stage.log("one")
    assert len(daemon.lines()) == 1
    daemon.close()
    for _ in range(100):
        stage.log("lost")
    assert stage.sink.dropped == 100
    assert len(stage.told) == 1
    again = type(daemon)(daemon.path)
    stage.now += CALM
    stage.log("two")
    assert [line.rpartition(" ")[2] for line in again.lines()] == ["two\n"]
    assert stage.told[1:] == ["Syslog takes log lines again; 100 were lost"]
    again.close()


def test_on_a_stream_a_line_is_whole_and_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    daemon = StreamDaemon(tmp_path_factory.mktemp("s") / "log")
    stage = Stage(daemon.path)
    large = "x" * 1_000_000
    stage.log("a\nb")
    stage.log(large)
    stage.log("lost, because the one before is not yet through")
    assert stage.sink.dropped == 1
    lines = daemon.lines()
    while len(lines) < 3:
        stage.log("next")
        lines += daemon.lines()
    assert [line.partition("serf: ")[2] for line in lines[:3]] == ["a#012b\n", f"{large}\n", "next\n"]
    stage.sink.close()
    daemon.close()


def test_an_agent_sends_its_log_there(launch: Launcher, daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(f'{{"enable_syslog": true, "syslog_facility": "daemon", "syslog_socket": "{daemon.path}"}}')
    agent = launch.serfmp("one", extra=[f"-config-file={file}"], log_level="INFO")
    agent.event("deploy")
    agent.wait_log("Received event: user-event: deploy", 20)
    lines = daemon.lines()
    assert any(line.endswith("]: agent: Serf agent starting\n") for line in lines)
    assert any(line.endswith("]: agent: Received event: user-event: deploy\n") for line in lines)
    assert all(line.startswith(("<28>", "<29>")) for line in lines)
