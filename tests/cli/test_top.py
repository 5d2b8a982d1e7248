"""`top`: one picture, what programs get, and the live view on a terminal with its keys."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from serfmp.cli.main import main
from serfmp.cli.top_state import TopState
from serfmp.cli.top_view import picture, summary
from serfmp.client import BusMessage, Gap
from tests.harness import Agent, Launcher, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from serfmp.client import BusMonitor

DEADLINE_S = 30.0


def command(agent: Agent, *words: str) -> list[str]:
    return [sys.executable, "-m", "serfmp", "top", f"-rpc-addr={agent.options.rpc}", *words]


def top(agent: Agent, *words: str) -> str:
    done = subprocess.run(command(agent, *words), capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_shows_members_handlers_and_processes_to_people_programs_and_on_a_terminal(
    launch: Launcher, tmp_path: Path
) -> None:
    one = launch.serfmp("one", handlers=["user:bad=exit 3"], extra=["-disable-coalescing"])
    launch.serfmp("two", join=[one], tags={"role": "[red]web"})
    one.event("bad")

    def told() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(top(one, "-format=json", "-sort=status"))
        two = {row["name"]: row for row in found["members"]}.get("two", {})
        failed = found["handlers"] and found["handlers"][0]["failed"]
        return found if two.get("round_trip") and failed else {}

    found = eventually(told, DEADLINE_S, "it shows what happened")
    assert (found["node"], found["lifecycle"]) == ("one", "alive")
    assert {"agent", "gossip", "detector", "rpc", "dispatcher"} <= {row["name"] for row in found["processes"]}
    assert found["processes"][1]["pss"] > 1_000_000
    assert found["queues"]["event"]["bound"] > 0
    text = top(one, "-once", "-filter=web")
    assert "role=[red]web" in text
    assert "exit status 3" in text
    svg = tmp_path / "top.svg"
    assert top(one, f"-svg={svg}") == ""
    assert svg.read_text().startswith("<svg")

    parent, child = pty.openpty()
    with subprocess.Popen(command(one), stdin=child, stdout=child, env={**os.environ, "TERM": "xterm"}) as live:
        os.close(child)
        shown = Screen(parent)
        shown.wait("Members by name")
        os.write(parent, b"s")
        shown.wait("Members by status")
        os.write(parent, b"p")
        shown.wait("PAUSED")
        os.write(parent, b"p/two\n\x1b[B\r")
        shown.wait("escape: back")
        os.write(parent, b"q")
        eventually(lambda: shown.read() is not None and live.poll() is not None, DEADLINE_S, "it has ended")
        assert live.returncode == 0
        shown.close()


class Screen:
    """What a program writes to a terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._text = ""

    def read(self) -> str:
        while select.select([self._descriptor], [], [], 0)[0]:
            try:
                data = os.read(self._descriptor, 65536)
            except OSError:  # the other end is closed
                break
            if not data:
                break
            self._text += data.decode(errors="replace")
        return self._text

    def wait(self, text: str) -> None:
        eventually(lambda: text in self.read(), DEADLINE_S, f"{text!r} is shown")

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-format=xml"], "Invalid format: xml"),
        (["-sort=size"], "Invalid order: size. It must be one of: name, status, rtt, age"),
        (["word"], "This command takes no words."),
    ],
)
def test_wrong_words_are_refused(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "-rpc-addr=127.0.0.1:1", *words]) == 1
    assert capsys.readouterr().out.startswith(text)


def watched(*rows: dict[str, Any]) -> BusMonitor:
    """The table of a monitor."""
    table = {"node": "one", "lifecycle": "alive", "recent": [], "stats": {"health_score": "4"}}
    members = {row["name"]: row for row in rows}
    made = SimpleNamespace(table=table, members=members, gauges={}, queues={}, handlers=[], processes=[])
    return cast("BusMonitor", made)


def member(name: str, status: str = "alive", seconds: float | None = None, since: float | None = 5.0) -> dict[str, Any]:
    probe = None if seconds is None else {"seconds": seconds, "timed": True, "incarnation": 3, "score": 0}
    row = {"name": name, "address": "127.0.0.1", "port": 1, "tags": {"role": name}, "status": status}
    return {**row, "versions": [1], "since": since, "probe": probe}


def names(state: TopState, monitor: BusMonitor) -> list[str]:
    return [row["name"] for row in state.rows(monitor)]


def test_keys_order_filter_pause_and_choose() -> None:
    monitor = watched(member("b", seconds=0.5), member("a", "failed", since=9.0), member("c", seconds=0.1, since=None))
    state = TopState()
    for key, order in (("n", "abc"), ("s", "abc"), ("r", "bca"), ("a", "abc")):
        assert state.press(key, monitor)
        assert names(state, monitor) == list(order), key
    for key in "/role=c":
        state.press(key, monitor)
    assert names(state, monitor) == ["c"]
    state.press("escape", monitor)
    assert names(state, monitor) == ["a", "b", "c"]
    state.press("down", monitor)
    state.press("down", monitor)
    state.press("enter", monitor)
    assert (state.chosen, state.inside) == ("b", True)
    state.press("p", monitor)
    monitor.members.clear()
    assert names(state, monitor) == ["a", "b", "c"], "a pause keeps the picture"
    state.press("p", monitor)
    assert names(state, monitor) == []
    assert not state.press("q", monitor)


def test_messages_become_latencies_and_last_events_and_hostile_text_stays_text() -> None:
    monitor, state = watched(member("\x1b[31mevil[/]")), TopState()

    def message(topic: str, **body: Any) -> BusMessage:
        return BusMessage(topic, 1, 1, "one", time.time(), None, body)

    for seconds in (0.001, 0.002, 0.1):
        state.take(message("probe.acked", node="b", seconds=seconds, timed=True))
    state.take(message("probe.failed", node="b", seconds=1.0, timed=False))
    state.take(message("process.ended", name="rpc", pid=7, reason="signal SIGKILL"))
    state.take(message("member.failed", members=[{"name": "\x1b[31mevil[/]"}]))
    state.take(message("log.info", text="not an event"))
    state.take(Gap("user", 4))
    assert state.latency() == {"probes": 4, "missed": 1, "p50": 0.002, "p99": 0.1, "max": 0.1}
    assert [item["topic"] for item in state.recent] == ["process.ended", "member.failed"]
    assert summary(state.recent[0]) == "rpc (pid 7) signal SIGKILL"

    import io

    from rich.console import Console

    for inside in (False, True):
        state.chosen, state.inside = "\x1b[31mevil[/]", inside
        console = Console(file=io.StringIO(), width=120)
        console.print(picture(monitor, state))
        text = cast("io.StringIO", console.file).getvalue()
        assert "\x1b" not in text
        assert "\\x1b[31mevil[/]" in text
        assert "health score 4" in text
