"""`serfmp reload`: makes a running agent read its flags and files again, and tells what has changed.

Rules: asked over RPC the agent answers when the reload is over; exit code 0 if it went well. With `-pid-file` the
process that holds this file locked gets SIGHUP instead, and what it changed is in its own output. Real Serf agents have
no such command.
"""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path
from typing import Any, Final

from serfmp.cli.connection import CommandError, connected, rpc_flags
from serfmp.cli.flags import GoCommand, flag
from serfmp.cli.output import say, visible
from serfmp.client import AgentError, ClientError

COMMAND: Final = GoCommand(
    "reload",
    "reload [options]",
    "Makes the running agent read its flags and files again, and tells what has changed and what needs a restart.",
    [
        flag(
            "pid-file",
            "Send SIGHUP to the agent whose agent.pid, in its runtime directory, this is, instead of asking over RPC.",
            shown="pid-file=path",
        ),
        *rpc_flags(),
    ],
)


def run(values: dict[str, Any], _words: list[str]) -> int:
    """Ask for the reload. Returns the exit code."""
    if values["pid_file"]:
        pid = running_pid(values["pid_file"])
        os.kill(pid, signal.SIGHUP)
        say(f"Asked the agent (pid {pid}) to reload; its output tells what has changed")
        return 0
    with connected(values) as client:
        try:
            result = client.reload()
        except AgentError as error:
            hint = "; this agent has no such command, send it SIGHUP" if str(error) == "Unsupported command" else ""
            raise CommandError(f"Error reloading: {error}{hint}") from error
        except ClientError as error:
            raise CommandError(f"Error reloading: {error}") from error
    for line in result.lines:
        say(visible(line))
    return 0 if result.ok else 1


def running_pid(path: str) -> int:
    """The pid of the agent that holds this file. Raises `CommandError`."""
    try:
        with Path(path).open("r+", encoding="ascii") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return int(file.read())
    except OSError as error:
        raise CommandError(f"Error reading the pid file: {path}: {(error.strerror or str(error)).lower()}") from error
    except ValueError as error:
        raise CommandError(f"Error reading the pid file: {path} holds no pid") from error
    raise CommandError(f"No agent runs that uses {path}")
