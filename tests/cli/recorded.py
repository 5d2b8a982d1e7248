"""Recorded runs of the real program, played with ours: the data, the play, the comparison and the table of deviations.

Rules:

* A case is equal when exit code, stdout and stderr are, after the same normalisation of both sides: without help texts,
  whose words are ours; rows that Serf writes in random order sorted; ports replaced by the test's own; volatile parts,
  which the recordings mark `<<name>>`, may be anything.
* Of a running agent everything up to the log is compared, and behind that the lines that begin with `==> `. Log lines
  have tests of their own.
* Every case that is not equal stands in `DEVIATIONS` with its reason, every one that is not played in `NOT_PLAYED` with
  what holds it instead. Whoever makes a case equal deletes its row: a row that is not true fails too.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.cli.deviations import DEVIATIONS, NOT_PLAYED
from tests.harness import Agent, LoopbackAllocator, eventually
from tests.harness.addresses import Endpoint
from tests.harness.agents import AgentOptions

ROOT: Final = Path(__file__).parent.parent.parent
RECORDED: Final = ROOT / "tests" / "data" / "transcripts"

_PORT: Final = re.compile(r"\b21[0-2]\d\d\b")
"""Ports of the recordings that somebody listened on; 219xx and port 1 are where nobody did."""
_LOG_LINE: Final = re.compile(r"^    \d{4}/\d\d/\d\d .*\n?(?:\t.*\n|\n)*", re.MULTILINE)
_MARK: Final = re.compile(r"<<[^<>\n]+>>")
HASTY: Final = frozenset({"-timeout=600ms", "-timeout=1s"})
PATIENT: Final = "-timeout=5s"
"""Answers come when they come: on a loaded machine not within the second of the recording."""
TOO_LATE: Final = frozenset({"late"})
"""Queries whose answers are to come too late."""
_HEALTH: Final = re.compile(r'(health_score"?(?: = |: "))\d+')
_STREAMING: Final = "==> Log data will now stream in as it occurs:\n"
_ANY_ORDER: Final = frozenset({"members", "query", "reachability", "keys", "info"})


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `code` is None where nobody waited for the end."""

    code: int | None
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Case:
    """A recorded run."""

    file: str
    id: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    outcome: Outcome
    more: Mapping[str, Any]

    @property
    def command(self) -> str:
        """The command's name, empty where there is none."""
        return self.argv[0] if self.argv else ""


@dataclass(frozen=True)
class Play:
    """What was recorded and what came, both normalised."""

    case: Case
    recorded: Outcome
    came: Outcome

    @property
    def equal(self) -> bool:
        return (
            self.recorded.code == self.came.code
            and _same(self.recorded.stdout, self.came.stdout)
            and _same(self.recorded.stderr, self.came.stderr)
        )


def cases(file: str) -> dict[str, Case]:
    """The cases of a file by their ids."""
    found = {}
    for fields in json.loads((RECORDED / f"{file}.json").read_text())["cases"]:
        code = fields.get("exit_code")
        outcome = Outcome(
            code if isinstance(code, int) else None,
            fields.get("stdout_template", fields.get("stdout", "")),
            fields.get("stderr_template", fields.get("stderr", "")),
        )
        words = tuple(fields.get("argv", ())[1:])
        found[fields["id"]] = Case(file, fields["id"], words, fields.get("env", {}), outcome, fields)
    return found


def judge(file: str, plays: Iterable[Play], *, only: Callable[[str], bool] = lambda _id: True) -> None:
    """Fail unless just the cases of the table deviate, and each case (that `only` picks) was played."""
    played = {play.case.id: play for play in plays}
    wanted = {key for key in cases(file) if only(key) and f"{file}/{key}" not in NOT_PLAYED}
    assert played.keys() == wanted
    wrong = [play for key, play in played.items() if not play.equal and f"{file}/{key}" not in DEVIATIONS]
    assert not wrong, "\n".join(
        f"{play.case.id}:\n  recorded {play.recorded}\n  came     {play.came}" for play in wrong
    )
    stale = [key for key, play in played.items() if play.equal and f"{file}/{key}" in DEVIATIONS]
    assert not stale, f"equal, though the table says that they deviate: {stale}"


class Stage:
    """Ports and directory of one play, and a process that runs command lines."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._stack = ExitStack()
        self._loopback = self._stack.enter_context(LoopbackAllocator())
        self._ports: dict[str, int] = {}
        self._started = 0
        self._runtime = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="s"))
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.cli.command_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=directory,
            env={**_environment(), "PYTHONPATH": str(ROOT)},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait(10)
        self._stack.close()

    def port(self, recorded: str) -> int:
        """Our port for a recorded one."""
        if recorded not in self._ports:
            self._ports[recorded] = self._loopback.free_port("127.0.0.1")
        return self._ports[recorded]

    def ours(self, text: str) -> str:
        """A recorded text with our ports."""
        return _PORT.sub(lambda found: str(self.port(found[0])), text)

    def run(self, *lines: tuple[Sequence[str], Mapping[str, str]]) -> list[Outcome]:
        """Run command lines (words and environment) beside each other to their ends."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        requests = [{"words": list(words), "env": dict(env)} for words, env in lines]
        self._server.stdin.write(json.dumps(requests).encode() + b"\n")
        self._server.stdin.flush()
        return [Outcome(**fields) for fields in json.loads(self._server.stdout.readline())]

    def play(self, case: Case) -> Play:
        """Play a case that ends by itself: a command, or an agent that does not start."""
        return self.play_together([case])[0]

    def play_together(self, found: Iterable[Case]) -> list[Play]:
        """Play cases that do not touch each other."""
        chosen = list(found)
        return [self.compare(case, came) for case, came in zip(chosen, self.run(*map(self._line, chosen)), strict=True)]

    def _line(self, case: Case) -> tuple[Sequence[str], Mapping[str, str]]:
        own = [f"-runtime-dir={self._runtime}"] if case.command == "agent" else []
        words = [self.ours(word) for word in case.argv]
        if case.command == "query" and words[-1] not in TOO_LATE:
            words = [PATIENT if word in HASTY else word for word in words]
        return [*words[:1], *own, *words[1:]], {name: self.ours(value) for name, value in case.env.items()}

    def start(self, case: Case, files: Mapping[str, str] | None = None, *, wait: bool = True) -> Agent:
        """Start the agent of a case in a directory with these files; by default wait until it streams its log."""
        words = [self.ours(word) for word in case.argv[1:]]
        return self.start_agent(words, files, wait=wait)

    def start_agent(self, words: Sequence[str], files: Mapping[str, str] | None = None, *, wait: bool = True) -> Agent:
        """Start an agent with these flags, and end it with the stage at the latest."""
        self._started += 1
        directory = self.directory / str(self._started)
        for name, content in (files or {}).items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        runtime = tempfile.TemporaryDirectory(prefix="s")
        command = [sys.executable, "-m", "serfmp", "agent", f"-runtime-dir={runtime.name}", *words]
        options = AgentOptions(f"agent{self._started}", _where(words, "bind"), _where(words, "rpc-addr"), directory)
        agent = self._stack.enter_context(Agent("serfmp", command, options, runtime))
        if wait:
            eventually(lambda: _STREAMING in agent.log() or agent.has_ended, 60, f"{agent!r} runs")
        return agent

    def ended(self, case: Case, agent: Agent) -> Play:
        """Compare an agent: its end where one was recorded, else what it has written so far."""
        code = agent.wait_exit(60) if case.outcome.code is not None or agent.has_ended else None
        return self.compare(case, Outcome(code, agent.log(), agent.errors()))

    def compare(self, case: Case, came: Outcome) -> Play:
        """Normalise both sides."""
        recorded = Outcome(case.outcome.code, self.ours(case.outcome.stdout), self.ours(case.outcome.stderr))
        return Play(case, _normal(case, recorded), _normal(case, came))


def _normal(case: Case, outcome: Outcome) -> Outcome:
    if case.command == "agent":
        head, mark, rest = outcome.stdout.partition(_STREAMING)
        told = [line for line in rest.splitlines() if line.startswith("==> ")]
        stdout = _LOG_LINE.sub("", _without_help(head)) + mark + "\n".join(told)
        return Outcome(outcome.code, stdout.rstrip(), _LOG_LINE.sub("", _without_help(outcome.stderr)))
    stdout = _without_help(outcome.stdout).replace("role=web,dc=east", "dc=east,role=web")
    if case.command == "info":
        stdout = _HEALTH.sub(r"\1N", stdout)
    if case.command in _ANY_ORDER:
        stdout = _sorted(stdout)
    return Outcome(outcome.code, stdout, _without_help(outcome.stderr))


def _without_help(text: str) -> str:
    return re.sub(r"(Usage: |<<help>>).*\Z", "--help--", text, flags=re.DOTALL)


def _sorted(text: str) -> str:
    """Members of a JSON list by their names; other texts line by line, without blanks at the ends of lines."""
    if text.startswith("{"):
        value = json.loads(text)
        for row in value.get("members") or ():
            row["tags"] = dict(sorted(row["tags"].items()))
        if isinstance(value.get("members"), list):
            value["members"].sort(key=lambda row: row["name"])
        if isinstance(value.get("Acks"), list):
            value["Acks"].sort()
        return json.dumps(value, indent=2)
    return "\n".join(sorted(line.rstrip() for line in text.splitlines()))


def _same(template: str, text: str) -> bool:
    pattern = "(?s:.*?)".join(re.escape(part) for part in _MARK.split(template))
    return re.fullmatch(pattern, text) is not None


def _where(words: Sequence[str], flag: str) -> Endpoint:
    given = [word.partition("=")[2] for word in words if word.startswith(f"-{flag}=")]
    host, _, port = (given[-1] if given else "127.0.0.1:1").rpartition(":")
    return Endpoint(host.strip("[]") or "127.0.0.1", int(port) if port.isdecimal() else 1)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("SERF_")}
