"""`monitor`: log lines and events as the real program shows them, each program with each agent."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from serfmp.cli.monitor import described, quoted
from serfmp.client import Client, Event, Member, MemberEvent, QueryEvent, UserEvent
from tests.harness import Agent, Launcher, eventually, needs_serf

DATA: Final = Path(__file__).parent.parent / "data" / "transcripts" / "monitor.json"
RECORDED: Final = {case["id"]: case for case in json.loads(DATA.read_text())["cases"]}
SERFMP: Final = (sys.executable, "-m", "serfmp")
DEADLINE_S: Final = 20.0


class Watching:
    """A `monitor` command that runs."""

    def __init__(self, program: tuple[str, ...], agent: Agent, path: Path, *words: str) -> None:
        self._path = path
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SERF_")}
        with path.open("wb") as file:
            self.process = subprocess.Popen(
                [*program, "monitor", f"-rpc-addr={agent.options.rpc}", *words],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    def output(self) -> str:
        return self._path.read_text()

    def wait(self, text: str) -> None:
        eventually(lambda: text in self.output(), DEADLINE_S, f"{text!r} in the output of monitor")

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)


@contextmanager
def watching(program: tuple[str, ...], agent: Agent, path: Path, *words: str) -> Iterator[Watching]:
    made = Watching(program, agent, path, *words)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait(DEADLINE_S)


def events(output: str) -> list[set[str]]:
    """The events of an output, each as the set of its lines (Serf's order is random)."""
    blocks = re.findall(r"^Event Info:\n((?:\t.*\n)+)", output, flags=re.MULTILINE)
    return [set(block.splitlines()) for block in blocks]


def test_events_are_shown_as_recorded() -> None:
    alpha = Member("alpha", "127.0.0.1", 21111, {"role": "lb", "k": "v"}, "alive", 1, 5, 2, 2, 5, 5)
    shown: list[Event] = [
        UserEvent("deploy", b"p1", 2, False),
        QueryEvent(1, "load", b"1m", 1),
        MemberEvent("member-update", (alpha,)),
    ]
    assert events("".join(f"{described(event)}\n" for event in shown)) == events(RECORDED["debug"]["stdout"])


def test_text_is_quoted_as_in_go() -> None:
    assert quoted('a"\\\n\x01\x7f\udcffé\u2028😀') == '"a\\"\\\\\\n\\x01\\x7f\\xffé\\u2028😀"'


def test_refusals_and_the_end_of_the_agent_are_as_recorded(launch: Launcher, tmp_path: Path) -> None:
    agent = launch.serfmp("alpha")
    with watching(SERFMP, agent, tmp_path / "bad", "-log-level=verbose") as bad:
        assert bad.process.wait(DEADLINE_S) == RECORDED["bad-level"]["exit_code"]
        assert bad.output() == RECORDED["bad-level"]["stdout"]
    with watching(SERFMP, agent, tmp_path / "dies") as watched:
        watched.wait("[INFO] agent: Serf agent starting\n")
        agent.kill()
        assert watched.process.wait(DEADLINE_S) == RECORDED["agent-dies"]["exit_code"]
        assert watched.output().endswith(RECORDED["agent-dies"]["stdout"])


def test_it_can_be_interrupted_where_a_shell_has_begun_it_in_the_background(launch: Launcher, tmp_path: Path) -> None:
    ignoring = ("/bin/sh", "-c", """trap '' INT; exec "$@" """, "sh", sys.executable, "-m", "serfmp")
    agent = launch.serfmp("alpha", log_level="INFO")
    with watching(ignoring, agent, tmp_path / "shown") as watched:
        watched.wait("[INFO] agent: Serf agent starting\n")
        assert watched.end(signal.SIGINT) == 0


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        (SERFMP, "serfmp"),
        pytest.param(("serf",), "serfmp", marks=[needs_serf, pytest.mark.interop]),
        pytest.param(SERFMP, "serf", marks=[needs_serf, pytest.mark.interop]),
    ],
)
def test_log_and_events_are_shown_until_interrupted(
    launch: Launcher, tmp_path: Path, program: tuple[str, ...], kind: str
) -> None:
    agent = getattr(launch, kind)("alpha", log_level="INFO", tags={"role": "web"})
    with watching(program, agent, tmp_path / "debug", "-log-level=debug") as watched:
        watched.wait("[INFO] agent: Serf agent starting\n")
        # Told for itself: a change of tags that comes meanwhile would be part of the join.
        watched.wait("[INFO] agent: Received event: member-join\n")
        with Client(str(agent.options.rpc)) as client:
            client.event("deploy", b"v1", coalesce=False)
            client.tags({"k": "v"})
        watched.wait('\tName: "deploy"\n')
        watched.wait('\tEvent: "member-update"\n')
        watched.wait('[DEBUG] agent: Requesting user event send: deploy. Coalesced: false. Payload: "v1"\n')
        user, update = events(watched.output())[-2:]
        assert user == events(f"{described(UserEvent('deploy', b'v1', 1, False))}\n")[0]
        host, port = agent.bind.host, agent.bind.port
        row = Member("alpha", host, port, {"k": "v", "role": "web"}, "alive", 1, 5, 2, 2, 5, 5)
        assert update == events(f"{described(MemberEvent('member-update', (row,)))}\n")[0]
        assert watched.end(signal.SIGINT) == 0
    assert "[DEBUG]" not in agent.log()
