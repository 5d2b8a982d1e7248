"""One child process as the supervisor sees it: starting it, by fork or by exec, hearing from it, seeing it end.

Rules: every generation gets a control socketpair (frames), a log socketpair (one line a message) and a slot of the
heartbeat page. All signals are blocked around the fork. After a fork the child never returns into the supervisor's
code: it leaves by `os._exit`.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import time
import traceback
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from serfmp.agent import child
from serfmp.agent.logging import LINE_BYTES, decode_lines
from serfmp.bus import frames
from serfmp.bus.control import ControlSocket, send_blocking

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.bus.loop import Loop

LOG_BUFFER: Final = 256 * 1024
"""Bytes of log lines that wait between a child and the supervisor."""

LOG_MESSAGES_PER_TURN: Final = 16
"""Messages with log lines taken from one child in one turn."""


class ProcessState(Enum):
    """Life of one generation."""

    STARTING = "starting"
    SERVING = "serving"
    ENDED = "ended"


class Process:
    """A role's place in the process table; generations come and go in it."""

    def __init__(self, role: str, index: int, slot: int, descriptors: dict[str, int]) -> None:
        self.role = role
        self.index = index
        self.slot = slot
        self.name = child.process_name(role, index)
        self.descriptors = descriptors
        """What this role owns beside control, log and heartbeat: names and descriptors of the supervisor."""
        self.generation = 0
        self.state = ProcessState.ENDED
        self.pid = 0
        self.started_at = 0.0
        self.serving_since = 0.0
        """When the present generation said that it serves; 0.0 if it has not."""
        self.quick_crashes = 0
        """Generations in a row that ended soon after they began."""
        self.quick_failures = 0
        """Of these, in a row, those that nobody's SIGKILL explains."""
        self.restarts = 0
        self.kill_reason = ""
        """Why the supervisor itself ended the present generation, if it did."""
        self.last_end = ""
        """Why the generation before ended."""
        self.control: ControlSocket | None = None
        self._loop: Loop
        self._pidfd = -1
        self._log: socket.socket | None = None

    def start(
        self,
        loop: Loop,
        method: str,
        frame: Callable[[dict[str, int]], frames.Start],
        on_frame: Callable[[Process, Any], None],
        on_line: Callable[[float, str, str, str], None],
        on_end: Callable[[Process, int], None],
    ) -> None:
        """Begin a new generation.

        `frame(descriptors)` makes its `Start`; `on_end` gets the wait status. Raises OSError, and nothing has begun.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        log_ours, log_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log_theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LOG_BUFFER)
        self.generation += 1
        start = frame({**self.descriptors, "log": log_theirs.fileno()})
        self.pid = self._fork(theirs) if method == "fork" else self._exec(theirs, start.descriptors)
        theirs.close()
        log_theirs.close()
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise
        with contextlib.suppress(OSError):  # one that died at once: its end is told like every other
            send_blocking(ours, start)
        self.state = ProcessState.STARTING
        self.started_at = time.monotonic()
        self.serving_since = 0.0
        self.kill_reason = ""
        self._loop = loop
        self._log = log_ours
        log_ours.setblocking(False)
        loop.add(log_ours, lambda _events: self._read_log(on_line, LOG_MESSAGES_PER_TURN))
        self.control = ControlSocket(ours, loop, lambda received: on_frame(self, received), lambda: None)

        def ended(_events: int) -> None:
            _pid, status = os.waitpid(self.pid, os.WNOHANG)
            if _pid:
                self._read_log(on_line, sys.maxsize)
                self._forget()
                on_end(self, status)

        loop.add(self._pidfd, ended)

    def send(self, frame: object) -> None:
        """Send a frame on the control socket; nothing if the process has ended."""
        if self.control is not None:
            self.control.send(frame)

    def offer(self, frame: object) -> bool:
        """Send a frame that may be lost, without letting any wait; whether it was taken."""
        return self.control is not None and self.control.offer(frame)

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.state is not ProcessState.ENDED:
            signal.pidfd_send_signal(self._pidfd, number)

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self.state is not ProcessState.ENDED

    def _fork(self, control: socket.socket) -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        own = os.getpid()
        try:
            pid = os.fork()
            if pid == 0:
                # It holds the supervisor's end of its own control socket until it has its first frame: an end of file
                # would not tell it of a supervisor that is killed before it sends that.
                child.end_with(own)
                # Nor is garbage of the supervisor, which may hold descriptors whose numbers are reused here.
                gc.freeze()
                # The supervisor's objects stay referenced by the frames below: none is collected, none closes a reused
                # descriptor.
                os._exit(_run_forked(control.fileno()))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, set())
        return pid

    def _exec(self, control: socket.socket, descriptors: dict[str, int]) -> int:
        passed = {control.fileno(), *descriptors.values()}
        for number in passed:
            os.set_inheritable(number, True)
        try:
            command = [sys.executable, "-m", "serfmp.agent.child", str(control.fileno())]
            return os.posix_spawn(sys.executable, command, os.environ)
        finally:
            for number in passed:
                os.set_inheritable(number, False)

    def _read_log(self, on_line: Callable[[float, str, str, str], None], limit: int) -> None:
        if self._log is None:
            return
        for _ in range(limit):
            try:
                message = self._log.recv(LINE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                self._loop.remove(self._log)
                return
            for line in decode_lines(message):
                on_line(*line)

    def _forget(self) -> None:
        self.state = ProcessState.ENDED
        self._loop.remove(self._pidfd)
        os.close(self._pidfd)
        if self._log is not None:
            self._loop.remove(self._log)
            self._log.close()
            self._log = None
        if self.control is not None:
            self.control.close()
            self.control = None


def _run_forked(control: int) -> int:
    try:
        return child.run(control)
    except EOFError:
        return 0
    except OSError as error:
        os.write(2, f"serfmp: a child process could not start: {error.strerror}\n".encode(errors="replace"))
        return child.EXIT_CRASHED
    except Exception:  # noqa: BLE001  nothing may unwind into the supervisor's frames below
        os.write(2, f"serfmp: a child process could not start:\n{traceback.format_exc()}".encode(errors="replace"))
        return child.EXIT_CRASHED


def describe_status(status: int) -> str:
    """A wait status in words: `exit code 1` or `signal SIGKILL`."""
    code = os.waitstatus_to_exitcode(status)
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
