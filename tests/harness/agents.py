"""A running agent of either kind: starting it, talking to it, hurting it, and always ending it.

Rules:

* An agent's output goes through a pipe, as under a service manager, and a thread writes it to a file: the agent is
  never held up by its reader, and a test reads the file whenever it likes. Standard error has a file of its own.
* Readiness is an answered RPC handshake, not a log line.
* Whatever an agent started is ended with it, by process id; what outlived a stopped agent is told in `left_over`.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import psutil

from tests.harness import processes
from tests.harness.addresses import Endpoint
from tests.harness.records import Member
from tests.harness.rpc import ConnectionLost, RpcClient, Stream
from tests.harness.waiting import eventually

READY_S = 20.0
"""For an agent to answer: a second on an idle machine; generous, because it costs nothing when it is not needed."""

LOOK_S = 2.0
"""For one try at connecting and shaking hands."""

END_S = 10.0
"""For a killed process to be gone."""

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """How an agent is started. `directory` takes its log.

    `extra` is appended to the command line, `env` is added to the environment.
    """

    node: str
    bind: Endpoint
    rpc: Endpoint
    directory: Path
    join: Sequence[str] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    handlers: Sequence[str] = ()
    profile: str = "local"
    log_level: str = "DEBUG"
    extra: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    def flags(self) -> list[str]:
        """The flags that both kinds of agents share."""
        flags = [f"-node={self.node}", f"-bind={self.bind}", f"-rpc-addr={self.rpc}"]
        flags += [f"-profile={self.profile}", f"-log-level={self.log_level}"]
        flags += [f"-tag={key}={value}" for key, value in self.tags.items()]
        flags += [f"-event-handler={handler}" for handler in self.handlers]
        flags += [f"-join={address}" for address in self.join]
        return flags


def start_serfmp(options: AgentOptions) -> "Agent":
    """Start our agent, with the Python that runs this."""
    # Not below options.directory: the path of a unix socket has 107 bytes, and pytest's names are long.
    runtime = tempfile.TemporaryDirectory(prefix="s")
    command = [
        sys.executable,
        "-m",
        "serfmp",
        "agent",
        *options.flags(),
        f"-runtime-dir={runtime.name}",
        *options.extra,
    ]
    return Agent("serfmp", command, options, runtime)


def start_serf(options: AgentOptions) -> "Agent":
    """Start the real agent. Raises FileNotFoundError where it is not installed."""
    program = shutil.which("serf")
    if program is None:
        message = "the real serf is not on PATH"
        raise FileNotFoundError(message)
    return Agent("serf", [program, "agent", *options.flags(), *options.extra], options)


class Agent:
    """One agent, from its start to the end of all its processes."""

    def __init__(
        self,
        kind: str,
        command: Sequence[str],
        options: AgentOptions,
        runtime: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        self._runtime = runtime
        self.kind = kind
        self.options = options
        self.command = tuple(command)
        self._mark = uuid.uuid4().hex
        self._client: RpcClient | None = None
        self._others: list[RpcClient] = []
        options.directory.mkdir(parents=True, exist_ok=True)
        self._out = options.directory / "stdout.log"
        self._err = options.directory / "stderr.log"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SERF_")}
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with self._err.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**inherited, "PYTHONPATH": path, **options.env, processes.MARK: self._mark},
                cwd=options.directory,
                # Ctrl-C at the terminal is for the test runner, which then ends the agent in order.
                process_group=0,
            )
        self._root = psutil.Process(self._process.pid)
        assert self._process.stdout is not None
        self._writer = threading.Thread(
            target=_copy, args=(self._process.stdout, self._out), name=f"stdout of {options.node}", daemon=True
        )
        self._writer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{self.kind} {self.options.node} {self.options.bind} pid {self.pid} exit {self._process.returncode}>"

    @property
    def node(self) -> str:
        """The node's name."""
        return self.options.node

    @property
    def bind(self) -> Endpoint:
        """Where it gossips."""
        return self.options.bind

    @property
    def pid(self) -> int:
        """The process id of the agent's first process."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether its first process has ended."""
        return self._process.poll() is not None

    # --- watching ----------------------------------------------------------------------------------------

    def log(self) -> str:
        """All that it has written to standard output so far."""
        return self._out.read_text(errors="surrogateescape") if self._out.exists() else ""

    def log_after(self, position: int) -> bytes:
        """What it has written to standard output beyond so many bytes, in whole lines."""
        with self._out.open("rb") as file:
            file.seek(position)
            text = file.read()
        return text[: text.rfind(b"\n") + 1]

    def errors(self) -> str:
        """All that it has written to standard error so far."""
        return self._err.read_text(errors="surrogateescape")

    def wait_ready(self, deadline_s: float = READY_S) -> Self:
        """Wait until RPC answers a handshake. An agent that ended before is an error at once, with its output."""

        def answers() -> bool:
            if self._process.poll() is not None:
                message = f"{self!r} ended before it was ready:\n{self.log()}{self.errors()}"
                raise RuntimeError(message)
            with RpcClient(self.options.rpc, deadline_s=LOOK_S):
                return True

        eventually(answers, deadline_s, f"{self!r} answers on {self.options.rpc}", ignoring=(OSError, ConnectionLost))
        return self

    def wait_log(self, text: str, deadline_s: float) -> None:
        """Wait until the output holds a text."""
        eventually(lambda: text in self.log(), deadline_s, f"{text!r} in the log of {self!r}")

    def wait_exit(self, deadline_s: float) -> int:
        """Wait for the first process's end; its exit code, or minus the signal that ended it. The log is complete."""
        try:
            code = self._process.wait(deadline_s)
        except subprocess.TimeoutExpired as error:
            message = f"{self!r} still ran after {deadline_s:g} s:\n{self.log()[-4000:]}"
            raise AssertionError(message) from error
        # A handler's daemon may hold the pipe: then the log is as complete as it gets.
        self._writer.join(LOOK_S)
        return code

    def pids_by_role(self) -> dict[str, tuple[int, ...]]:
        """Process ids by role, as the titles say; `supervisor` is the first process, `other` what has no title."""
        found: dict[str, list[int]] = {}
        for process in processes.tree(self._root):
            if processes.is_running(process):
                role = "supervisor" if process.pid == self.pid else processes.role_of(process) or "other"
                found.setdefault(role, []).append(process.pid)
        return {role: tuple(sorted(pids)) for role, pids in found.items()}

    def left_over(self) -> list[psutil.Process]:
        """Processes with this agent's mark that run though the agent has ended; all of them while it runs."""
        return processes.marked(self._mark)

    # --- talking -----------------------------------------------------------------------------------------

    def connect(self, *, auth_key: str = "") -> RpcClient:
        """A new RPC connection, closed with the agent at the latest."""
        client = RpcClient(self.options.rpc, auth_key=auth_key)
        self._others.append(client)
        return client

    def client(self) -> RpcClient:
        """The connection that the methods below share; a new one when the last was lost."""
        if self._client is None or not self._client.is_connected:
            if self._client is not None:
                self._client.close()
            self._client = RpcClient(self.options.rpc)
        return self._client

    def members(self) -> dict[str, Member]:
        """The members that it knows, by name."""
        return {member.name: member for member in self.client().members()}

    def statuses(self) -> dict[str, str]:
        """The members' status, by name."""
        return {member.name: member.status for member in self.client().members()}

    def wait_statuses(self, expected: Mapping[str, str], deadline_s: float) -> None:
        """Wait until it knows exactly these members in these states."""

        def seen() -> bool:
            statuses.clear()
            statuses.update(self.statuses())
            return statuses == dict(expected)

        statuses: dict[str, str] = {}
        try:
            eventually(seen, deadline_s, f"{self!r} sees {dict(expected)}", ignoring=(OSError, ConnectionLost))
        except AssertionError as error:
            error.add_note(f"members at the end: {statuses}")
            raise

    def join(self, *others: "Agent | str", replay: bool = False) -> int:
        """Join others; how many were reached."""
        addresses = [other if isinstance(other, str) else str(other.bind) for other in others]
        return self.client().join(addresses, replay=replay)

    def event(self, name: str, payload: bytes = b"", *, coalesce: bool = False) -> None:
        """Send a user event."""
        self.client().event(name, payload, coalesce=coalesce)

    def leave(self) -> None:
        """Leave over RPC; the agent then ends."""
        self.client().leave()

    def stream(self, kinds: str = "*") -> Stream:
        """Record events, on a connection of its own."""
        return self.connect().stream(kinds)

    # --- hurting -----------------------------------------------------------------------------------------

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the first process only."""
        self._process.send_signal(number)

    def pause_tree(self) -> None:
        """Stop every process of the agent where it is."""
        processes.stop_tree(self._root)

    def resume_tree(self) -> None:
        """Let every process go on, the last one stopped first."""
        processes.send(reversed(processes.tree(self._root)), signal.SIGCONT)

    def kill(self) -> None:
        """End every process of the agent at once, without a word to anybody, and wait until they are gone."""
        doomed = processes.kill_tree(self._root) if self._process.poll() is None else []
        if doomed:
            self._process.wait(END_S)
        eventually(lambda: not any(map(processes.is_running, doomed)), END_S, f"{self!r} and its tree are gone")

    def close(self) -> None:
        """End all that the agent started, whatever state it is in. May be called again."""
        for client in filter(None, [self._client, *self._others]):
            client.close()
        self._client = None
        self._others.clear()
        try:
            self.kill()
            remaining = self.left_over()
            processes.send(remaining, signal.SIGKILL)
        finally:
            self._writer.join(LOOK_S)
            if self._process.stdout is not None and not self._writer.is_alive():
                self._process.stdout.close()
            if self._runtime is not None:
                self._runtime.cleanup()


def _copy(source: IO[bytes], target: Path) -> None:
    """Write all that comes from a pipe to a file, until its last writer has closed it."""
    with target.open("ab", buffering=0) as file, contextlib.suppress(OSError, ValueError):
        while data := os.read(source.fileno(), 65536):
            file.write(data)
