"""Runs command lines, each in a process of its own that is forked where everything is imported: 5 ms instead of 120.

Protocol: a line of JSON comes in on stdin, a list of maps with `words` and `env`; all of them run beside each other,
and a line with a list of maps with `code`, `stdout` and `stderr` goes out.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import tempfile

import serfmp.agent.supervisor  # noqa: F401 (imported once, before the forks)
from serfmp.cli.main import COMMANDS, main

AGENT_S = 60
"""An agent that was meant to refuse to start, and did not, is ended."""


class Running:
    """A command line that runs."""

    def __init__(self, words: list[str], env: dict[str, str]) -> None:
        self._files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115 (closed in end)
        self._pid = os.fork()
        if self._pid == 0:
            os.environ.update(env)
            for number, file in enumerate(self._files, start=1):
                os.dup2(file.fileno(), number)
            if words[:1] == ["agent"]:
                signal.alarm(AGENT_S)
            code = 70
            try:
                code = main(words)
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)

    def end(self) -> dict[str, object]:
        """Wait for its end."""
        _, status = os.waitpid(self._pid, 0)
        texts = []
        for file in self._files:
            with file:
                file.seek(0)
                texts.append(file.read().decode(errors="surrogateescape"))
        return {"code": os.waitstatus_to_exitcode(status), "stdout": texts[0], "stderr": texts[1]}


if __name__ == "__main__":
    for name in COMMANDS:
        importlib.import_module(f"serfmp.cli.{name.replace('-', '_')}")
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        running = [Running(request["words"], request["env"]) for request in json.loads(line)]
        answers.write(json.dumps([one.end() for one in running]) + "\n")
        answers.flush()
