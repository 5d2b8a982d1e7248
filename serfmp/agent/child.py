"""What every child process is made of: identity, loop, control socket, log, heartbeat, signals.

Rules:

* A child learns all it needs from the first frame on its control socket (`Start`), whether it was forked or exec'd
  (`python -m serfmp.agent.child DESCRIPTOR`): there is one way to become a role.
* It keeps the descriptors that `Start` names and closes every other one.
* The end of the control socket is the supervisor's death: the child ends. A parent-death signal stands behind that:
  KILL, and for workers, which first end their scripts, TERM with `LAST_CALL` behind it.
* INT, TERM, HUP and USR1 do nothing else here (a terminal sends them to the whole group; only the supervisor acts).
  They have handler *functions*: an ignored signal would be inherited by scripts.
* An exception that nobody handles is logged with its traceback and ends the process with `EXIT_CRASHED`: the supervisor
  starts it again.
"""

from __future__ import annotations

import ctypes
import dataclasses
import faulthandler
import gc
import importlib
import os
import signal
import socket
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any, Final

import setproctitle
import zmq

from serfmp.agent.config import AgentConfig
from serfmp.agent.heartbeat import HeartbeatPage
from serfmp.agent.logging import ChildLog
from serfmp.agent.memory import PERIOD as MEMORY_PERIOD
from serfmp.agent.memory import Spare
from serfmp.agent.orphans import end_orphans
from serfmp.bus import frames
from serfmp.bus.control import ControlSocket, receive_blocking
from serfmp.bus.endpoints import Endpoints
from serfmp.bus.loop import Loop
from serfmp.bus.reports import ReportClock, Reporter

if TYPE_CHECKING:
    from collections.abc import Callable

ROLES: Final = {
    "gossip": "serfmp.io.gossip",
    "detector": "serfmp.detector.process",
    "rpc": "serfmp.io.rpc",
    "dispatcher": "serfmp.events.dispatcher",
    "worker": "serfmp.events.worker",
    "logger": "serfmp.agent.log_writer",
    "mdns": "serfmp.io.mdns",
}
"""Role names and the modules whose `main(child)` is the role."""

INQUIRIES_OPEN: Final = 256
"""Inquiries of one process that were not answered; beyond that the oldest is forgotten."""

GC_THRESHOLDS: Final = (20_000, 50, 100)
"""Of Python's collector of cycles: allocations before the youngest generation is looked at, then the older ones."""

RAN_AGE: Final = 0.02
"""Seconds for which the processor time on the heartbeat page counts as the present one: asking costs a microsecond."""

EXIT_CRASHED: Final = 1
"""An unhandled exception."""

EXIT_DO_NOT_RESTART: Final = 78
"""The child found something that a restart cannot mend (EX_CONFIG of sysexits.h)."""

LAST_CALL: Final = 5
"""Seconds after the supervisor's death after which a stuck worker ends its scripts and itself: others need less."""

_PR_SET_PDEATHSIG: Final = 1


def process_name(role: str, index: int) -> str:
    """The name of a process in logs, generations and titles: its role, with its index where there are several."""
    return f"{role}-{index}" if role == "worker" else role


class Child:
    """What a role's `main(child)` works with."""

    def __init__(self, start: frames.Start, control: socket.socket) -> None:
        self.role = start.role
        self.index = start.index
        self.name = process_name(start.role, start.index)
        self.generation = start.generation
        self.recover = start.recover
        """False if the state in shared memory must not be used (it made earlier generations crash)."""
        self.directory = start.directory
        self.public = start.public
        """Directory of the public monitor bus; empty: there is none."""
        self.descriptors = start.descriptors
        self.config = AgentConfig.from_plain(start.config)
        self.endpoints = Endpoints(start.directory)
        self.generations = dict(start.generations)
        self.on_generation: list[Callable[[str, int], None]] = []
        """Called with process name and generation when another process was started again."""
        self.on_ask: Callable[[frames.Ask], None] | None = None
        """Called with requests of the supervisor."""
        self.on_keys: Callable[[list[bytes]], None] | None = None
        """Called with the keys that hold from now on."""
        self.on_propose: Callable[[AgentConfig], str] | None = None
        """Asked whether this configuration can be taken over; gives the reason if not."""
        self.on_commit: Callable[[], None] | None = None
        """Called when `config` has changed."""
        self.on_joined: Callable[[str, str], None] | None = None
        """Called with an address that was discovered, and the error of joining it."""
        self.on_reopen: Callable[[], None] | None = None
        """Called when files may have been moved away."""
        self._proposed: tuple[int, AgentConfig] | None = None
        self.on_inquiry: Callable[[str], Any] | None = None
        """Called with the subject of another process' inquiry; gives what there is to tell."""
        self._inquiries: dict[int, Callable[[Any], None]] = {}
        self._last_inquiry = 0
        self.on_stop: Callable[[float], None] | None = None
        """Called with the seconds that are left; default: stop the loop."""
        self.log_sink = ChildLog(socket.socket(fileno=start.descriptors["log"]), self.name, self.config.log_level)
        self.loop = Loop()
        self._page = HeartbeatPage(start.descriptors["heartbeat"])
        self.loop.phase = self._page.phase
        self.log_sink.call_later = self.loop.call_later
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._control = ControlSocket(control, self.loop, self._on_control, self._on_supervisor_gone)
        self.reporter = Reporter(self.name)
        self.metrics = self.reporter.metrics
        self.before_report: list[Callable[[], None]] = []
        """Called before each report of metrics: to set gauges."""
        self.tell: Callable[[frames.Report], bool] = self._control.offer
        """Sends a report, or says that it could not."""
        self.on_report: Callable[[frames.Report], None] | None = None
        """Called with other processes' reports."""
        self.on_processes: Callable[[frames.ProcessTable], None] | None = None
        """Called with the table of processes when it has changed."""
        self._lateness = 0.0
        self._slot = start.slot
        self._turns = 0
        self._ran = self._ran_at = 0.0
        """Processor time of the main thread, and when it was asked."""
        self.loop.on_look = self._stamp
        self.loop.before_wait.append(self.log_sink.end_turn)
        self._stamp(self.loop.clock())
        self.loop.call_every(MEMORY_PERIOD, Spare().look)
        self._report_clock = ReportClock(self.loop, self.reporter, lambda: self._page.watched, self._report)

    def log(self, level: str, component: str, text: str) -> None:
        """Write a log line (level: TRACE DEBUG INFO WARN ERR). Never waits."""
        self.log_sink.write(level, component, text)

    def send_control(self, frame: object) -> None:
        """Send a frame to the supervisor. Never waits."""
        self._control.send(frame)

    def inquire(self, subject: str, answered: Callable[[Any], None]) -> None:
        """Ask the process that knows about a subject, through the supervisor; None if it cannot tell."""
        if len(self._inquiries) >= INQUIRIES_OPEN:
            # One whose owner died is never answered: who asked has a deadline of its own.
            del self._inquiries[next(iter(self._inquiries))]
        self._last_inquiry += 1
        self._inquiries[self._last_inquiry] = answered
        self._control.send(frames.Inquire(self._last_inquiry, subject))

    def ready(self) -> None:
        """Tell the supervisor that this process serves."""
        self._control.send(frames.Ready())

    @property
    def watched(self) -> bool:
        """Whether somebody watches the agent. While nobody does, what only watchers want need not be told."""
        return self._page.watched > self.loop.looked_at

    @property
    def page(self) -> HeartbeatPage:
        """The page on which all processes of the agent show that they live, and where it stands who watches."""
        return self._page

    def _stamp(self, now: float) -> None:
        self._turns += 1
        if now - self._ran_at > RAN_AGE:
            self._ran, self._ran_at = time.thread_time(), now
        self._page.stamp(self._slot, now, self._turns, self._ran)
        self._lateness = max(self._lateness, self.loop.lateness)

    def _report(self, *, metrics: bool) -> None:
        if metrics:
            self.metrics.gauge(f"serfmp.loop.late_ms.{self.name}", round(self._lateness * 1000, 1))
            self._lateness = 0.0
            self.metrics.counters["serfmp.log.dropped.process"] = self.log_sink.dropped
            self.metrics.counters["serfmp.log.dropped.debug"] = self.log_sink.dropped_for_monitors
            for prepare in self.before_report:
                prepare()
        report = self.reporter.take(metrics=metrics)
        if report is not None and not self.tell(report):
            self.reporter.not_told(report)

    def _on_control(self, frame: Any) -> None:
        match frame:
            case frames.Generations(generations):
                changed = [(name, new) for name, new in generations.items() if self.generations.get(name) != new]
                self.generations.update(generations)
                for name, generation in changed:
                    for callback in self.on_generation:
                        callback(name, generation)
            case frames.Stop(grace):
                if self.on_stop is not None:
                    self.on_stop(grace)
                else:
                    self.loop.stop()
            case frames.DiscoveredJoined(address, error) if self.on_joined is not None:
                self.on_joined(address, error)
            case frames.Reopen() if self.on_reopen is not None:
                self.on_reopen()
            case frames.Ask() if self.on_ask is not None:
                self.on_ask(frame)
            case frames.Propose() | frames.Commit() | frames.KeysNotice() | frames.TagsNotice():
                self._on_configuration(frame)
            case frames.Report() if self.on_report is not None:
                self.on_report(frame)
            case frames.ProcessTable() if self.on_processes is not None:
                self.on_processes(frame)
            case frames.Inquiry(asker, number, subject):
                body = None if self.on_inquiry is None else self.on_inquiry(subject)
                self._control.send(frames.Findings(asker, number, body))
            case frames.Findings(_asker, number, body):
                answered = self._inquiries.pop(number, None)
                if answered is not None:
                    answered(body)

    def _on_configuration(self, frame: Any) -> None:
        match frame:
            case frames.Propose(number, config):
                self._propose(number, AgentConfig.from_plain(config))
            case frames.Commit(number) if self._proposed is not None and self._proposed[0] == number:
                self.config, self._proposed = self._proposed[1], None
                self.log_sink.set_level(self.config.log_level)
                if self.on_commit is not None:
                    self.on_commit()
            case frames.KeysNotice(keys):
                self.config = dataclasses.replace(self.config, keyring=tuple(keys))
                if self.on_keys is not None:
                    self.on_keys(keys)
            case frames.TagsNotice(tags):
                self.config = dataclasses.replace(self.config, tags=tags)

    def _propose(self, number: int, config: AgentConfig) -> None:
        error = "" if self.on_propose is None else self.on_propose(config)
        if not error:
            self._proposed = number, config
        self._control.send(frames.Agreed(number, error))

    def _on_supervisor_gone(self) -> None:
        if self.on_stop is not None:
            self.on_stop(0.0)
        else:
            self.loop.stop()


def run(control_descriptor: int) -> int:
    """Be the child that the first frame on this descriptor describes. Returns the exit code."""
    control = socket.socket(fileno=control_descriptor)
    start = receive_blocking(control)
    if start.format != frames.FORMAT:
        text = f"serfmp: this process speaks bus format {frames.FORMAT}, its supervisor {start.format}\n"
        os.write(2, text.encode())
        return EXIT_DO_NOT_RESTART
    _keep_only({0, 1, 2, control_descriptor, *start.descriptors.values()})
    _prepare_signals(has_scripts=start.role == "worker")
    # What was imported and built so far stays; the rest is collected rarely, because a full collection among ten
    # thousand members takes 140 ms.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    child = Child(start, control)
    setproctitle.setproctitle(f"serfmp: {child.name} ({child.config.node})")
    try:
        importlib.import_module(ROLES[start.role]).main(child)
    except Exception:  # noqa: BLE001  the last line of defence: logged, then the supervisor starts a new one
        for line in traceback.format_exc().rstrip().splitlines():
            child.log("ERR", "agent", f"{child.name}: {line}")
        return EXIT_CRASHED
    child.log_sink.flush()
    return 0


def _keep_only(wanted: set[int]) -> None:
    """Close all other descriptors; of those that stay, only the standard ones outlive an exec."""
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208  names of descriptors, not paths
        number = int(entry)
        try:
            if number not in wanted:
                os.close(number)
            elif number > 2:
                os.set_inheritable(number, False)
        except OSError:
            continue


def _nothing(_number: int, _frame: object) -> None:
    """Handle a signal by doing nothing."""


def _prepare_signals(*, has_scripts: bool) -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, _nothing)
        signal.siginterrupt(number, False)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    faulthandler.enable(2)
    parent = os.getppid()
    if has_scripts:
        _end_after(parent)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    end_with(parent, signal.SIGTERM if has_scripts else signal.SIGKILL)


def end_with(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Get this signal when the parent dies; end at once if it has died."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(EXIT_CRASHED)


def _end_after(parent: int) -> None:
    """Let TERM, once the parent is dead, give this process `LAST_CALL` seconds: a loop that turns needs less."""

    def on_signal(number: int, _frame: object) -> None:
        if os.getppid() == parent:
            return
        if number == signal.SIGTERM:
            signal.alarm(LAST_CALL)
        else:
            end_orphans(set())
            os._exit(EXIT_CRASHED)

    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, on_signal)
        signal.siginterrupt(number, False)


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1])))
