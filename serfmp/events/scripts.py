"""One handler script from its start to its end, on the loop, without ever waiting for it (spec agent.md 4.2, 4.3).

Rules:

* How it is started stands in `serfmp.events.spawn`; the process group is niced as a whole right after.
* The input is written as far as the pipe takes it; a script that does not read it, or closes it, is fine. Without
  input it reads from the null device.
* Output and errors share one pipe, or have one each by the policy; the last bytes are kept, all are counted. Most
  scripts end soon and write less than a pipe holds: a pipe is watched from `attend` on, which comes a little later.
* After its time limit its process group gets TERM, and after the grace KILL, whoever of the group still lives.
* The end is the end of the process, not of its output: a background child that keeps the pipe open delays nothing. What
  is in the pipe at that moment still counts, then it is closed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import termios
import time
from typing import TYPE_CHECKING, Final

from serfmp.bus.loop import ERROR, WRITE
from serfmp.events.policy import RunPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.bus.frames import Run
    from serfmp.bus.loop import Loop
    from serfmp.events.environment import AgentEnvironment
    from serfmp.events.spawn import Spawner

READ_SIZE: Final = 64 * 1024
"""Bytes read or written in one turn."""

NICE_MAX: Final = 19

_INT: Final = struct.Struct("i")
_NOTHING: Final = bytes(_INT.size)


class Output:
    """The reading end of a pipe: the last bytes of what was written to it, and how many there were."""

    __slots__ = ("_descriptor", "_limit", "_loop", "_watched", "size", "tail", "theirs")

    def __init__(self, loop: Loop, limit: int) -> None:
        self._loop = loop
        self._limit = limit
        self._watched = False
        # Blocking, but it is read only when there is something, and by nobody else.
        self._descriptor, self.theirs = os.pipe()
        self.tail = b""
        self.size = 0

    def given(self) -> None:
        """The script has its end now."""
        if self.theirs >= 0:
            os.close(self.theirs)
            self.theirs = -1

    def watch(self) -> None:
        """Begin to read what comes."""
        self._loop.add(self._descriptor, self._readable)
        self._watched = True

    def finish(self) -> None:
        """Take what is in the pipe, and no more than that: others may go on writing."""
        if self._descriptor >= 0:
            (waiting,) = _INT.unpack(fcntl.ioctl(self._descriptor, termios.FIONREAD, _NOTHING))
            if waiting:
                self._read(waiting)
        self.close()

    def close(self) -> None:
        """End it, whatever state it is in."""
        self.given()
        if self._descriptor >= 0:
            if self._watched:
                self._loop.remove(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _readable(self, _events: int) -> None:
        self._read(READ_SIZE)

    def _read(self, size: int) -> None:
        data = os.read(self._descriptor, size)
        if not data:
            self.close()
            return
        self.size += len(data)
        self.tail = (self.tail + data)[-self._limit :] if self._limit else b""


class Script:
    """A script that was started by the constructor, which raises `OSError` or `ValueError` if it cannot be.

    Whoever starts it sees its end, and calls `end`. `on_overdue(script, signal)` is called when it is beyond its time
    limit and gets this signal.
    """

    __slots__ = (
        "_input",
        "_limit",
        "_loop",
        "_on_overdue",
        "_outputs",
        "_stdin",
        "code",
        "group",
        "policy",
        "run",
        "seconds",
        "signal",
        "started_at",
        "timed_out",
    )

    def __init__(
        self,
        loop: Loop,
        run: Run,
        spawner: Spawner,
        environment: AgentEnvironment,
        nice: int,
        on_overdue: Callable[[Script, signal.Signals], None],
    ) -> None:
        """`nice`: the agent's own."""
        self._loop = loop
        self._on_overdue = on_overdue
        self.run = run
        self.policy = policy = RunPolicy.from_plain(run.policy)
        self.code: int | None = None
        """Exit code; None if it ended by a signal, or has not ended."""
        self.signal = 0
        self.timed_out = False
        self.started_at = time.monotonic()
        self.seconds = 0.0
        self._input = memoryview(run.stdin)
        self._outputs: list[Output] = []
        stdin = self._stdin = -1
        try:
            for _ in range(1 + policy.separate):
                self._outputs.append(Output(loop, policy.output_limit))
            if run.stdin:
                stdin, self._stdin = os.pipe()
                if len(run.stdin) <= select.PIPE_BUF:  # an empty pipe takes as much whatever its size
                    os.write(self._stdin, run.stdin)
                    self._close_input()
            self.group = spawner.spawn(
                run.command,
                environment.script(policy.environment, run.environment),
                (stdin if run.stdin else spawner.nothing, self._outputs[0].theirs, self._outputs[-1].theirs),
                limits=policy.limits,
                directory=policy.directory,
            )
            """Its process group, which outlives it if it leaves children behind."""
        except (OSError, ValueError):
            self._close()
            raise
        finally:
            if stdin >= 0:
                os.close(stdin)
        # It runs: from here on nothing may fail, or it would be started twice.
        self._handicap(nice + policy.nice)
        for output in self._outputs:
            output.given()
        self._limit = loop.call_later(policy.timeout, self._overdue) if policy.timeout else None
        if self._stdin >= 0:
            os.set_blocking(self._stdin, False)
            if self._write():
                loop.add(self._stdin, self._writable, WRITE)

    def attend(self) -> None:
        """It has not ended at once: from now on what it writes is read while it runs."""
        for output in self._outputs:
            output.watch()

    def end(self, status: int) -> None:
        """It has ended, with this status of `waitpid`: take what it wrote, and close everything."""
        self.seconds = time.monotonic() - self.started_at
        code = os.waitstatus_to_exitcode(status)
        self.code, self.signal = (code, 0) if code >= 0 else (None, -code)
        # The number of a group that is gone may be somebody else's soon.
        if self._limit is not None and not (self.timed_out and group_lives(self.group)):
            self._limit.cancel()
        for output in self._outputs:
            output.finish()
        self._close_input()

    @property
    def output(self) -> bytes:
        """The last bytes of its standard output, and of its errors where they are not kept apart."""
        return self._outputs[0].tail

    @property
    def output_size(self) -> int:
        """Bytes of all that."""
        return self._outputs[0].size

    @property
    def errors(self) -> bytes:
        """The last bytes of its standard error, where it is kept apart."""
        return self._outputs[1].tail if self.policy.separate else b""

    # --- inner part ---------------------------------------------------------------------------------------------------

    def _overdue(self) -> None:
        self.timed_out = True
        self._end_group(signal.SIGTERM)
        self._limit = self._loop.call_later(self.policy.grace, lambda: self._end_group(signal.SIGKILL))

    def _end_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.group, 0)
            self._on_overdue(self, number)
            os.killpg(self.group, number)

    def _handicap(self, nice: int) -> None:
        """Best effort: it may have ended already, and a container may forbid it."""
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PGRP, self.group, min(nice, NICE_MAX))

    def _writable(self, events: int) -> None:
        if events & ERROR or not self._write():
            self._close_input()

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
        self._close_input()
        return False

    def _close(self) -> None:
        self._close_input()
        for output in self._outputs:
            output.close()

    def _close_input(self) -> None:
        if self._stdin >= 0:
            self._loop.remove(self._stdin)
            os.close(self._stdin)
            self._stdin = -1


def group_lives(group: int) -> bool:
    """Whether there is a process of this group."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
