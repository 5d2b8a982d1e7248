"""One handler script from its start to its end, on the loop, without ever waiting for it (spec agent.md 4.2, 4.3).

Rules:

* `/bin/sh -c SCRIPT` leads a process group of its own in the agent's session, niced as a group. (A session of its own
  would cancel the nice value where the kernel groups sessions.) Nothing runs between fork and exec, so that the fast
  way of forking is taken.
* The input is written as far as the pipe takes it; a script that does not read it, or closes it, is fine.
* Output and errors share one pipe; the last `OUTPUT_LIMIT` bytes are kept, all are counted.
* The end is the end of the process, not of its output: a background child that keeps the pipe open delays nothing. What
  is in the pipe at that moment still counts, then it is closed.
* The environment is the agent's without what looks like a secret, and the additions.
"""

from __future__ import annotations

import array
import fcntl
import os
import signal
import subprocess
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from serfmp.bus.loop import ERROR, WRITE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from serfmp.bus.frames import Run
    from serfmp.bus.loop import Loop

SHELL: Final = "/bin/sh"

OUTPUT_LIMIT: Final = 8192
"""Bytes of output that are kept, the last ones (spec agent.md 4.3)."""

READ_SIZE: Final = 64 * 1024
"""Bytes read or written in one turn."""

SCRIPT_NICE: Final = 10
"""By how much scripts are nicer than the agent: they must not delay the answer to a ping."""

SCRIPT_OOM_SCORE: Final = 500
"""Added badness of scripts when memory runs out (0 to 1000): they go before the agent does."""

SECRET_NAMES: Final = frozenset({"SERF_RPC_AUTH"})
SECRET_PARTS: Final = ("KEY", "TOKEN", "SECRET", "PASSWORD")
"""Variables of the agent that scripts do not see: by name, and by a part of the name."""


def base_environment(environment: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """The agent's environment without its secrets."""
    return {name: value for name, value in environment.items() if not _is_secret(name)}


def _is_secret(name: bytes) -> bool:
    text = name.decode(errors="replace").upper()
    return text in SECRET_NAMES or any(part in text for part in SECRET_PARTS)


class Script:
    """A script that was started by the constructor, which raises `OSError` or `ValueError` if it cannot be.

    `on_end(script)` is called once, after `code` and `signal` are set; all descriptors are closed by then.
    """

    def __init__(
        self, loop: Loop, run: Run, environment: Mapping[bytes, bytes], on_end: Callable[[Script], None]
    ) -> None:
        self._loop = loop
        self._on_end = on_end
        self.run = run
        self.code: int | None = None
        """Exit code; None if it ended by a signal, or has not ended."""
        self.signal = 0
        self.output = b""
        """The last bytes of its output."""
        self.output_size = 0
        """Bytes of all its output."""
        self.started_at = time.monotonic()
        self.seconds = 0.0
        self._input = memoryview(run.stdin)
        self._stdin = self._stdout = self._pidfd = -1
        theirs: list[int] = []
        try:
            stdin, self._stdin = os.pipe()
            theirs.append(stdin)
            self._stdout, stdout = os.pipe()
            theirs.append(stdout)
            self._process = subprocess.Popen(
                [SHELL.encode(), b"-c", _encoded(run.script)],
                stdin=stdin,
                stdout=stdout,
                stderr=stdout,
                env={**environment, **{_encoded(name): _encoded(text) for name, text in run.environment.items()}},
                process_group=0,
            )
            self.group = self._process.pid
            """Its process group, which outlives it if it leaves children behind."""
            self._pidfd = self._open_pidfd()
        except (OSError, ValueError):
            self._close()
            raise
        finally:
            for number in theirs:
                os.close(number)
        self._handicap()
        os.set_blocking(self._stdin, False)
        os.set_blocking(self._stdout, False)
        loop.add(self._pidfd, lambda _events: self._ended())
        loop.add(self._stdout, lambda _events: self._read())
        if self._write():
            loop.add(self._stdin, self._writable, WRITE)

    # --- inner part ---------------------------------------------------------------------------------------------------

    def _open_pidfd(self) -> int:
        try:
            return os.pidfd_open(self._process.pid)
        except OSError:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            raise

    def _handicap(self) -> None:
        """Best effort: it may have ended already, and a container may forbid it."""
        try:
            nice = min(os.getpriority(os.PRIO_PROCESS, 0) + SCRIPT_NICE, 19)
            os.setpriority(os.PRIO_PGRP, self.group, nice)
            Path(f"/proc/{self.group}/oom_score_adj").write_text(f"{SCRIPT_OOM_SCORE}\n", encoding="ascii")
        except OSError:
            return

    def _writable(self, events: int) -> None:
        if events & ERROR or not self._write():
            self._stdin = self._closed(self._stdin)

    def _write(self) -> bool:
        """Write what the pipe takes. False if the input is at its end and was closed."""
        try:
            if self._input:
                self._input = self._input[os.write(self._stdin, self._input[:READ_SIZE]) :]
        except BlockingIOError:
            return True
        except OSError:  # EPIPE: it does not want its input
            self._input = self._input[:0]
        if self._input:
            return True
        self._stdin = self._closed(self._stdin)
        return False

    def _read(self, size: int = READ_SIZE) -> None:
        try:
            data = os.read(self._stdout, size)
        except BlockingIOError:
            return
        if not data:
            self._stdout = self._closed(self._stdout)
            return
        self.output_size += len(data)
        self.output = (self.output + data)[-OUTPUT_LIMIT:]

    def _ended(self) -> None:
        status = self._process.poll()
        if status is None:
            return
        self.seconds = time.monotonic() - self.started_at
        self.code, self.signal = (status, 0) if status >= 0 else (None, -status)
        if self._stdout >= 0:
            waiting = array.array("i", [0])
            fcntl.ioctl(self._stdout, termios.FIONREAD, waiting)
            if waiting[0]:
                self._read(waiting[0])
        self._close()
        self._on_end(self)

    def _close(self) -> None:
        self._stdin = self._closed(self._stdin)
        self._stdout = self._closed(self._stdout)
        self._pidfd = self._closed(self._pidfd)

    def _closed(self, number: int) -> int:
        if number >= 0:
            self._loop.remove(number)
            os.close(number)
        return -1


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
