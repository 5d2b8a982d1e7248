"""A worker process: runs up to `CREDITS` scripts at once and never waits for any of them.

Rules:

* Of a lane one script runs at a time, in the order in which they came; the next one begins when its end is seen.
* At most `SPAWNS_PER_TURN` scripts are started in one turn, so that the heartbeat stays fresh.
* A host that is out of descriptors, processes or memory is waited for: the script stays first in the row, the wait
  doubles from `RETRY_MIN` to `RETRY_MAX`, and the log says it once.
* What is begun is claimed in shared memory first (`serfmp.events.claims`), so that a killed worker leaves no doubt.
* The end of a script is kept until the dispatcher has it in its ledger; a new dispatcher is told again.
* The worker is a sub-reaper: what a script leaves behind becomes its child, is collected when it ends, and is ended
  with its process group when the worker stops. A daemon with a session of its own is left alone.
* When the agent stops, or its supervisor has died, nothing new is started; the groups that still live get the given
  time, then TERM, then `TERM_TIME`, then KILL.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from serfmp.agent.orphans import become_subreaper
from serfmp.bus import frames
from serfmp.events.children import Children
from serfmp.events.claims import Claims
from serfmp.events.environment import AgentEnvironment
from serfmp.events.link import DispatcherLink
from serfmp.events.scripts import Script, group_lives
from serfmp.events.spawn import SHELL, SHORTAGES, Spawner

if TYPE_CHECKING:
    from serfmp.agent.child import Child

CREDITS: Final = 256
"""Scripts of one worker at once: with two or three descriptors each, within the usual limit of 1024."""

SPAWNS_PER_TURN: Final = 4
"""Scripts started in one turn: 3 ms of work."""

FEW: Final = 2
"""Of a lane of which no more are behind the one that runs, an end is told at once."""

RETRY_MIN: Final = 0.05
RETRY_MAX: Final = 1.0
"""Seconds before a start that failed of a shortage is tried again."""

QUICK: Final = 0.01
"""Seconds within which most scripts have ended; the output of others is read while they run."""

SLOW: Final = 1.0
"""Seconds after which a script is called slow, once (spec agent.md 4.3)."""

LOOK_PERIOD: Final = 1.0
"""Seconds between two looks at what scripts have left behind, and at the nice value that an operator may change."""

TERM_TIME: Final = 2.0
"""Seconds between TERM and KILL."""

KILL_TIME: Final = 1.0
"""Seconds after KILL after which the worker ends whatever still hangs in the kernel."""

REPORT_TIME: Final = 0.5
"""Seconds that the dispatcher gets at the end to take the last results."""

STOP_POLL: Final = 0.02
"""Seconds between two looks whether everything has ended."""


class _ShortageError(Exception):
    """A script was not started, because the host lacks something that others may give back."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Worker:
    """See the module."""

    def __init__(self, child: Child, claims: Claims) -> None:
        self._child = child
        self._loop = child.loop
        self._environment = AgentEnvironment(os.environb)
        self._spawner = Spawner()
        self._waiting: deque[frames.Run] = deque()
        self._lanes: dict[str, deque[frames.Run]] = {}
        """By lane, while one of it waits to be started or runs: those behind it."""
        self._running: dict[int, Script] = {}
        """By number of the invocation, oldest first."""
        self._groups_running: dict[int, Script] = {}
        """The same by process group."""
        self._new: deque[Script] = deque()
        """Scripts whose output is not read yet, oldest first; ended ones among them."""
        self._fast: deque[Script] = deque()
        """The same for scripts that have not been called slow."""
        self._ended: dict[int, frames.Finished] = {}
        """Results that the dispatcher has not recorded yet."""
        self._left_behind: set[int] = set()
        """Process groups whose script has ended and that still live."""
        self._shortage = 0.0
        """Seconds that the last start waited for a shortage to end; 0.0: there is none."""
        self._short = False
        """It waits for that."""
        self._stopping = False
        self._claims = claims
        become_subreaper()
        child.on_stop = self._on_stop
        self._children = Children(self._loop, self._on_child)
        self._nice = os.getpriority(os.PRIO_PROCESS, 0)
        self._loop.call_every(LOOK_PERIOD, self._look)
        self._link = DispatcherLink(
            child, credits=CREDITS, held=self._held, on_live=self._tell_all, on_frame=self._on_frame
        )
        # Behind the link's: ends are told before the next scripts are started, which takes a while.
        self._loop.before_wait.append(self._spawn_some)

    # --- dispatcher ---------------------------------------------------------------------------------------------------

    def _held(self) -> list[int]:
        behind = (run.invocation for lane in self._lanes.values() for run in lane)
        return [*(run.invocation for run in self._waiting), *behind, *self._running, *self._ended]

    def _tell_all(self) -> None:
        """Tell a new dispatcher what it may not know."""
        for finished in self._ended.values():
            self._link.send(finished)

    def _on_frame(self, frame: Any) -> None:
        match frame:
            case frames.Run():
                if self._stopping:
                    self._finish(_not_started(frame, "not started, because the agent stops"))
                    return
                if frame.lane in self._lanes:
                    self._lanes[frame.lane].append(frame)
                    return
                if frame.lane:
                    self._lanes[frame.lane] = deque()
                self._waiting.append(frame)
            case frames.Recorded(numbers):
                for number in numbers:
                    self._ended.pop(number, None)
                    self._claims.forget(number)

    # --- scripts ------------------------------------------------------------------------------------------------------

    def _spawn_some(self) -> None:
        """At the end of each turn: start what has its turn."""
        if self._short:
            return
        for _ in range(SPAWNS_PER_TURN):
            if not self._waiting:
                break
            run = self._waiting.popleft()
            try:
                self._spawn(run)
            except _ShortageError as error:
                self._waiting.appendleft(run)
                self._wait_for_means(error.reason)
                break
            # A start takes as long as many a script: the next of its lane may have its turn.
            # The ends seen here leave with the next turn, which their signal does not let wait.
            if self._groups_running:
                self._children.look()
        self._spawner.rest()
        if self._waiting and not self._short:
            self._go_on()

    def _go_on(self) -> None:
        """There is something to do: the next turn does not wait."""
        self._loop.call_soon(_nothing)

    def _wait_for_means(self, reason: str) -> None:
        if not self._shortage:
            self._log(f"No script can be started: {reason}; {len(self._waiting)} wait until it is possible")
        self._shortage = min(max(RETRY_MIN, 2 * self._shortage), RETRY_MAX)
        self._short = True
        self._loop.call_later(self._shortage, self._try_again)

    def _try_again(self) -> None:
        self._short = False

    def _spawn(self, run: frames.Run) -> None:
        self._claims.begin(run.invocation)
        try:
            script = Script(self._loop, run, self._spawner, self._environment, self._nice, self._on_overdue)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            if error.errno in SHORTAGES:
                self._claims.forget(run.invocation)
                raise _ShortageError(reason) from None
            self._not_started(run, f"fork/exec {error.filename or SHELL}: {reason}")
            return
        except ValueError:
            self._not_started(run, f"fork/exec {SHELL}: the script's text holds a NUL byte")
            return
        if self._shortage:
            self._shortage = 0.0
            self._log("Scripts can be started again")
        self._running[run.invocation] = self._groups_running[script.group] = script
        if not self._new:
            self._loop.call_at(script.started_at + QUICK, self._attend)
        self._new.append(script)
        if not self._fast:
            self._loop.call_at(script.started_at + SLOW, self._call_slow)
        self._fast.append(script)

    def _attend(self) -> None:
        """Read from now on what scripts write that have not ended at once, and look again when that is due."""
        now = self._loop.clock()
        while self._new:
            script = self._new[0]
            if script.started_at + QUICK > now:
                self._loop.call_at(script.started_at + QUICK, self._attend)
                return
            self._new.popleft()
            if script.run.invocation in self._running:
                script.attend()

    def _call_slow(self) -> None:
        """Tell which scripts have become slow, and look again when the next one may be."""
        now = self._loop.clock()
        while self._fast:
            script = self._fast[0]
            if script.run.invocation in self._running:
                if script.started_at + SLOW > now:
                    self._loop.call_at(script.started_at + SLOW, self._call_slow)
                    return
                self._log(f"Script '{_shown(script.run.command)}' slow, execution exceeding 1s")
            self._fast.popleft()

    def _not_started(self, run: frames.Run, reason: str) -> None:
        self._finish(_not_started(run, reason))
        self._next_of(run.lane)
        self._go_on()  # what this turn had to tell has left already

    def _next_of(self, lane: str) -> None:
        """The turn of the next one of a lane has come."""
        behind = self._lanes.get(lane)
        if behind:
            self._waiting.append(behind.popleft())
        elif behind is not None:
            del self._lanes[lane]

    def _on_child(self, pid: int, status: int) -> None:
        script = self._groups_running.pop(pid, None)
        if script is None:
            return  # somebody's that a script had left behind
        script.end(status)
        number = script.run.invocation
        del self._running[number]
        self._claims.end(number, -script.signal if script.code is None else script.code)
        if group_lives(script.group):
            self._left_behind.add(script.group)
        self._finish(
            frames.Finished(
                number,
                script.code,
                script.signal,
                "",
                script.output,
                script.output_size,
                script.seconds,
                script.timed_out,
                script.errors,
            ),
            soon=len(self._lanes.get(script.run.lane, ())) <= FEW,
        )
        self._next_of(script.run.lane)

    def _on_overdue(self, script: Script, number: signal.Signals) -> None:
        limit = script.policy.timeout
        self._log(f"Script '{_shown(script.run.command)}' exceeds its time limit of {limit:g} s; it gets {number.name}")

    def _finish(self, finished: frames.Finished, *, soon: bool = True) -> None:
        """`soon`: whether its lane, or somebody else, waits for that."""
        self._ended[finished.invocation] = finished
        self._link.send(finished, soon=soon)

    def _look(self) -> None:
        self._nice = os.getpriority(os.PRIO_PROCESS, 0)
        self._children.look()
        self._left_behind = {group for group in self._left_behind if group_lives(group)}

    # --- stopping -----------------------------------------------------------------------------------------------------

    def _on_stop(self, grace: float) -> None:
        """Start nothing more; the running groups get so many seconds.

        The supervisor's death (no grace) overrules a grace that was given before.
        """
        if not self._stopping:
            self._stopping = True
            for behind in self._lanes.values():
                self._waiting.extend(behind)
            self._lanes.clear()
            while self._waiting:
                self._finish(_not_started(self._waiting.popleft(), "not started, because the agent stops"))
            self._wait_for_ends()
            self._loop.call_later(grace + TERM_TIME + KILL_TIME, self._loop.stop)
        elif grace:
            return
        self._loop.call_later(grace, lambda: self._end_groups(signal.SIGTERM))
        self._loop.call_later(grace + TERM_TIME, lambda: self._end_groups(signal.SIGKILL))

    def _end_groups(self, number: signal.Signals) -> None:
        for script in self._running.values():
            self._log(f"Script '{_shown(script.run.command)}' still runs while the agent stops; it gets {number.name}")
        self._look()
        for group in self._groups():
            try:
                os.killpg(group, number)
            except (ProcessLookupError, PermissionError):
                continue

    def _groups(self) -> set[int]:
        return self._left_behind | self._groups_running.keys()

    def _wait_for_ends(self, report_until: float = 0.0) -> None:
        self._look()
        if not self._groups():
            now = self._loop.clock()
            report_until = report_until or now + REPORT_TIME
            if not (self._ended and self._link.live) or now >= report_until:
                self._loop.stop()
                return
        self._loop.call_later(STOP_POLL, lambda: self._wait_for_ends(report_until))

    def _log(self, text: str) -> None:
        self._child.log("WARN", "agent", text)


def _nothing() -> None:
    """Do nothing."""


def _not_started(run: frames.Run, reason: str) -> frames.Finished:
    return frames.Finished(run.invocation, None, 0, reason, b"", 0, 0.0)


def _shown(command: str | list[str]) -> str:
    """A command as one text."""
    return command if isinstance(command, str) else " ".join(command)


def main(child: Child) -> None:
    """Be a worker process."""
    told = False

    def begin() -> None:
        nonlocal told
        try:
            claims = Claims(child.directory, child.name, child.generation)
        except OSError as error:
            if not told:
                told = True
                reason = (error.strerror or str(error)).lower()
                text = f"{child.name} runs no script until it can write to '{child.directory}': {reason}"
                child.log("ERR", "agent", text)
            child.loop.call_later(RETRY_MAX, begin)
            return
        Worker(child, claims)
        child.ready()

    begin()
    child.loop.run()
