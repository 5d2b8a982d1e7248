"""The supervisor: the process that the operator starts, and the only one that never does the agent's work.

It reads no network and runs no script. It binds the sockets, owns the shared memory, starts the children, writes their
log lines, takes the signals, restarts what dies, and ends with the agent's exit code. It is single-threaded and makes
no ZeroMQ context, so it may fork at any time.

Start (spec agent.md 2.1): sockets, then gossip, detector, rpc, dispatcher, workers; when all serve, the banner, then
the joins of the command line, then the log. A child that ends is started again by the rules of
`serfmp.agent.restarting`, and all others learn of the new generation.

Exit codes: 0 after a complete leave, 1 otherwise (spec agent.md 2.5), `EXIT_RESTART_BUDGET` when a process cannot be
kept running.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import gc
import importlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any, Final

import setproctitle

from serfmp.agent import heartbeat, journal, restarting
from serfmp.agent.asking import Asking
from serfmp.agent.banner import show_banner, status
from serfmp.agent.child import EXIT_DO_NOT_RESTART, ROLES
from serfmp.agent.limits import descriptor_warning
from serfmp.agent.log_outlets import LogOutlets
from serfmp.agent.orphans import become_subreaper, end_orphans, reap_orphans
from serfmp.agent.process import Process, ProcessState, describe_status
from serfmp.agent.reload_desk import ENDING, STARTING, FixedSource, ReloadDesk
from serfmp.agent.retry_join import RetryJoin
from serfmp.agent.rpc_socket import RpcSocket
from serfmp.agent.runtime import RuntimeDirectory, lock_snapshot
from serfmp.agent.runtime_guard import RuntimeGuard
from serfmp.agent.sd_notify import ServiceManager
from serfmp.agent.signals import SignalInbox
from serfmp.agent.sockets import MetricsSocket, advertised_address, bind_gossip
from serfmp.agent.stopping import LAST_ROLE, Stopping
from serfmp.agent.watchdog import CHECK_OFFSET, CHECK_PERIOD, CLOSE_PERIOD, OWN_LATENESS, Watchdog
from serfmp.agent.watching import SELF, Watching
from serfmp.bus import frames
from serfmp.bus.loop import Loop
from serfmp.detector.effects import JoinRequest, LeaveRequest, TagsRequest
from serfmp.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.agent.config import AgentConfig
    from serfmp.agent.reload_desk import ConfigSource

EXIT_RESTART_BUDGET: Final = 70
"""A process could not be kept running (EX_SOFTWARE of sysexits.h)."""

START_LIMIT: Final = 20.0
"""Seconds within which all processes must serve."""

SAME_SIGNAL: Final = 0.05
"""Seconds within which a second signal is the first once more: `timeout` and some shells signal process and group."""

INQUIRIES: Final = {"handlers": "dispatcher"}
"""What children may ask of each other, and who knows it."""

LEAVE_MARGIN: Final = 3.0
"""Seconds that a leave may take beyond its two broadcasts: the propagate delay and a restart of the detector."""


def run_agent(config: AgentConfig, source: ConfigSource | None = None) -> int:
    """Run an agent until it leaves, is told to stop, or cannot go on. Returns the exit code.

    `source` knows the flags and files that it came from.
    """
    supervisor = Supervisor(config, source or FixedSource(config))
    try:
        supervisor.start()
    except UserError as error:
        supervisor.give_up(str(error))
    except OSError as error:
        supervisor.give_up(f"Failed to start the Serf agent: {_shortage(error)}")
    else:
        supervisor.loop.run()
    return supervisor.end()


class Supervisor:
    """See the module."""

    def __init__(self, config: AgentConfig, source: ConfigSource) -> None:
        self.config = config
        self.loop = Loop()
        self.exit_code = 1
        self._outlets = LogOutlets(self.loop, config)
        self._terminal, self._log = self._outlets.terminal, self._outlets.hub.say
        self._source = source
        self._manager = ServiceManager(self.loop, os.environ, self._say)
        self._processes: list[Process] = []
        self._reload = ReloadDesk(
            self.loop,
            config,
            source,
            lambda: (self.config, self._processes, status(self.config)),
            self._adopt,
            self._terminal.output,
            self._manager,
        )
        self._runtime: RuntimeDirectory | None = None
        self._runtime_guard: RuntimeGuard | None = None
        self._lost = 0.0
        """Seconds by which the loop was late since the last look at the processes."""
        self._journals: dict[str, int] = {}
        self._started = False
        self._released = False
        self._hangup_waits = False
        """A SIGHUP came before the start was complete."""
        self._leaving = False
        self._signalled_at = 0.0
        self._stopping = Stopping(self.loop, self._processes, self._say)
        self._asking = Asking(lambda ask: self._process("detector").send(ask))
        self._retry_join = RetryJoin(self.loop, config, self._asking.ask, self._say, self._retries_used_up)
        self._metrics: MetricsSocket | None = None
        self._rpc: RpcSocket | None = None
        self._watching = Watching(self.loop, self._processes)
        self._watching.totals = self._outlets.totals

    def _say(self, level: str, text: str) -> None:
        """A line of the agent's own log."""
        self._log(level, "agent", text)

    # --- start --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Bind, fork, begin. Raises `UserError`; the loop goes on from there."""
        self._terminal.output("Starting Serf agent...")
        setproctitle.setproctitle(f"serfmp: agent ({self.config.node})")
        self._runtime = RuntimeDirectory(self.config)
        if self.config.snapshot_path:
            self._snapshot_lock = lock_snapshot(self.config.snapshot_path)
        gossip = bind_gossip(self.config.bind_host, self.config.bind_port)
        self._rpc = RpcSocket(self.config.rpc_address)
        if self.config.metrics_address:
            self._metrics = MetricsSocket(self.config.metrics_address)
        self._terminal.output("Starting Serf agent RPC...")
        self.config = dataclasses.replace(
            self.config,
            bind_port=gossip.port,
            advertise_port=self.config.advertise_port or gossip.port,
            advertise_address=advertised_address(gossip.host, self.config.advertise_host),
            rpc_address=self._rpc.address,
        )
        become_subreaper()
        self._signals = SignalInbox(self.loop, self._on_signal)
        beat = heartbeat.create()
        self._page = heartbeat.HeartbeatPage(beat)
        self.loop.phase = self._page.phase + CHECK_OFFSET
        self._watching.begin(lambda: self._page.watched)
        self._watchdog = Watchdog(self._page, self._say)
        self._journals = {"detector": journal.create("journal"), "dispatcher": journal.create("ledger")}
        owned: list[tuple[str, int, dict[str, int]]] = [
            ("gossip", 0, {"udp": gossip.udp.fileno(), "tcp": gossip.tcp.fileno()}),
            ("detector", 0, {"journal": self._journals["detector"]}),
            ("rpc", 0, {"rpc": self._rpc.socket.fileno(), "feed": self._outlets.rpc_feed.reader.fileno()}),
            ("dispatcher", 0, {"ledger": self._journals["dispatcher"]}),
            *(("worker", index, {}) for index in range(self.config.workers)),
        ]
        if self.config.discover:
            owned.append(("mdns", 0, {}))
            if self.config.mdns_interface:
                text = f"Starting mDNS listener on interface {self.config.mdns_interface}"
                self._say("INFO", text)
        if self._outlets.file_feed is not None:
            owned.append((LAST_ROLE, 0, {"lines": self._outlets.file_feed.reader.fileno()}))
        if self._metrics is not None:
            owned[2][2]["metrics"] = self._metrics.socket.fileno()
        self._gossip = gossip
        self._processes[:] = [
            Process(role, index, slot, {**descriptors, "heartbeat": beat})
            for slot, (role, index, descriptors) in enumerate(owned)
        ]
        for role in dict.fromkeys(process.role for process in self._processes):
            importlib.import_module(ROLES[role])
        gc.collect()
        _trim()
        gc.freeze()
        if self.config.tags_file and self.config.tags:
            self._say("INFO", f"Restored {len(self.config.tags)} tag(s) from {self.config.tags_file}")
        if self.config.keyring:
            count, path = len(self.config.keyring), self.config.keyring_file
            self._say("INFO", f"Restored keyring with {count} keys from {path}")
        self._say("INFO", "Serf agent starting")
        if warning := descriptor_warning():
            self._say("WARN", warning)
        for process in self._processes:
            self._spawn(process)
        self._runtime_guard = RuntimeGuard(
            self.loop, self._runtime, self._processes, self._say, lambda: self._stopping.begun
        )
        self.loop.on_look = self._note_lateness
        self._check()
        self.loop.call_later(START_LIMIT, self._start_is_overdue)

    def _retries_used_up(self) -> None:
        self.exit_code = 1
        self._stop()

    def give_up(self, text: str) -> None:
        """The start failed: say why, and show the log lines that were held back."""
        self._terminal.output(text)
        self._terminal.explain()
        self.exit_code = 1

    def end(self) -> int:
        """Clean up after the loop has ended. Returns the exit code."""
        for process in self._processes:
            if process.running:
                process.signal(signal.SIGKILL)
        if self._runtime_guard is not None:
            self._runtime_guard.close()
        if self._runtime is not None:
            self._runtime.release()
        if self._metrics is not None:
            self._metrics.close()
        if self._rpc is not None:
            self._rpc.close()
        self._terminal.drain(1.0)
        return self.exit_code

    def _start_is_overdue(self) -> None:
        if not self._started and not self._stopping.begun:
            late = ", ".join(p.name for p in self._processes if p.state is not ProcessState.SERVING)
            self.give_up(f"Failed to start the Serf agent: {late} did not serve within {START_LIMIT:.0f} s")
            self._stop()

    def _spawn(self, process: Process) -> None:
        self._page.clear(process.slot)
        recover = restarting.may_recover(process)
        shared = self._journals.get(process.name)
        if not recover and shared is not None:
            self._say("WARN", f"{process.name} starts without the state of its predecessors, which ended too quickly")
            journal.erase(shared)

        directory = str(self._runtime.bus) if self._runtime is not None else ""

        def frame(descriptors: dict[str, int]) -> frames.Start:
            generations = {p.name: p.generation for p in self._processes}
            return frames.Start(
                format=frames.FORMAT,
                role=process.role,
                index=process.index,
                generation=process.generation,
                slot=process.slot,
                directory=directory,
                descriptors=descriptors,
                generations=generations,
                config=self.config.to_plain(process.role),
                recover=recover,
                public=str(self._runtime.public) if self._runtime is not None else "",
            )

        if process.role == "rpc":
            self._outlets.rpc_feed.begin(self._outlets.hub.ring)
        on_line = self._outlets.hub.add
        try:
            process.start(self.loop, self.config.start_method, frame, self._on_any_frame, on_line, self._on_end)
        except OSError as error:
            if not process.restarts:
                raise UserError(f"Failed to start the Serf agent: {process.name}: {_shortage(error)}") from error
            process.quick_crashes += 1
            self._spawn_later(process, f"could not be started: {_shortage(error)}")
            return
        told = frames.Generations({process.name: process.generation})
        for other in self._processes:
            if other is not process:
                other.send(told)
        self._watching.started(process)

    def _announce(self) -> None:
        """All processes serve for the first time: the banner, the joins, the log."""
        self._started = True
        config = self.config
        show_banner(self._terminal, config)
        if config.start_join:
            self._terminal.output(f"Joining cluster...(replay: {'true' if config.replay else 'false'})")
            self._say("INFO", f"joining: [{' '.join(config.start_join)}] replay: {str(config.replay).lower()}")
            self._asking.ask(JoinRequest(config.start_join, config.replay), self._joined)
        else:
            self._release_log()

    def _joined(self, reached: Any, error: str) -> None:
        if error:
            self._say("WARN", f"error joining: {error}")
            self.give_up(error)
            self._stop()
            return
        self._say("INFO", f"joined: {reached} nodes")
        self._terminal.info(f"Join completed. Synced with {reached} initial agents")
        self._release_log()

    def _release_log(self) -> None:
        self._terminal.info()
        self._terminal.output("Log data will now stream in as it occurs:")
        self._terminal.info()
        self._terminal.release()
        self._released = True
        self._retry_join.begin()
        self._manager.ready(status(self.config))
        self._manager.watch(lambda: not self._watchdog.beyond_mending(self.loop.clock()))
        if self._hangup_waits:
            self._on_hangup()

    # --- children -----------------------------------------------------------------------------------------------------

    def _process(self, name: str) -> Process:
        return next(process for process in self._processes if process.name == name)

    def _on_any_frame(self, process: Process, frame: Any) -> None:
        match frame:
            case frames.Report():
                self._watching.forward(frame)
            case frames.Findings(asker, _, body) if asker == SELF:
                self._watching.dumped(body)
            case frames.Discovered(address):
                request = JoinRequest((address,), self.config.replay)
                self._asking.ask(request, lambda _n, error: process.send(frames.DiscoveredJoined(address, error)))
            case frames.CannotStart(text):
                self.give_up(text)
                self._stop()
            case _:
                self._on_frame(process, frame)

    def _on_frame(self, process: Process, frame: Any) -> None:
        match frame:
            case frames.Ready():
                process.state = ProcessState.SERVING
                process.serving_since = time.monotonic()
                self._watching.serves()
                if process.name == "detector":
                    self._asking.ask_again()
                if not self._started and all(p.state is ProcessState.SERVING for p in self._processes):
                    self._announce()
            case frames.Answered():
                self._asking.on_answered(frame)
            case frames.KeysNotice(keys):
                self.config = dataclasses.replace(self.config, keyring=tuple(keys))
                self._process("gossip").send(frame)
            case frames.TagsNotice(tags):
                self.config = dataclasses.replace(self.config, tags=tags)
                for other in self._processes:
                    if other is not process:
                        other.send(frame)
            case frames.Agreed():
                self._reload.on_agreed(process, frame)
            case frames.Inquire(number, subject):
                self._inquire(process, number, subject)
            case frames.Findings(asker):
                self._process(asker).send(frame)
            case frames.LifecycleNotice(state):
                self._on_lifecycle(state)

    def _adopt(self, config: AgentConfig, tags: TagsRequest) -> None:
        """All processes have agreed to this configuration."""
        self._outlets.set_level(config.log_level)
        self.config = config
        if tags.set or tags.delete:
            self._asking.ask(tags, self._tagged)

    def _tagged(self, _value: Any, error: str) -> None:
        if error:
            self._terminal.output(f"Failed to update tags: {error}")

    def _inquire(self, asker: Process, number: int, subject: str) -> None:
        """Ask who knows; a process that dies over it leaves the asker to its own deadline."""
        if subject == "config":
            asker.send(frames.Findings(asker.name, number, self._source.rows(self.config)))
            return
        if subject == "reload":
            self._reload_for(lambda told: asker.send(frames.Findings(asker.name, number, told)))
            return
        owner = INQUIRIES.get(subject)
        target = None if owner is None else self._process(owner)
        if target is None or target.state is not ProcessState.SERVING:
            asker.send(frames.Findings(asker.name, number, None))
        else:
            target.send(frames.Inquiry(asker.name, number, subject))

    def _on_lifecycle(self, state: str) -> None:
        if state == "left" and not self._stopping.begun:
            self.exit_code = 0
            self._stop()
        elif state == "shutdown" and not self._stopping.begun:
            self._say("WARN", "Serf shutdown detected, quitting")
            self.exit_code = 0
            self._stop()

    def _on_end(self, process: Process, status: int) -> None:
        self._reload.on_end(process)
        # What stood behind it among those that have ended.
        reap_orphans({p.pid for p in self._processes if p.running})
        process.last_end = process.kill_reason or describe_status(status)
        self._watching.ended(process)
        if process.role == "worker":
            self._end_scripts_of(process)
        if self._stopping.begun:
            self._stopping.go_on()
            return
        reason = process.last_end
        if os.waitstatus_to_exitcode(status) == EXIT_DO_NOT_RESTART:
            self._give_up_running(process, reason)
            return
        failed = restarting.failed_by_itself(process, status)
        if failed and not self._started and not process.serving_since:
            self.give_up(f"Failed to start the Serf agent: {process.name} ended before it served ({reason})")
            self._stop()
            return
        restarting.note_end(process, failed=failed)
        if self._runtime_guard is not None:
            self._runtime_guard.look()
        self._spawn_later(process, f"(pid {process.pid}) ended: {reason}")

    def _end_scripts_of(self, worker: Process) -> None:
        try:
            ended = end_orphans({p.pid for p in self._processes if p.running})
        except OSError as error:
            text = f"{worker.name} may have left running scripts behind, which were not ended: {_shortage(error)}"
            self._say("ERR", text)
            return
        if ended and not self._stopping.begun:
            self._say("WARN", f"{worker.name} left {ended} running scripts behind; they were ended")

    def _spawn_later(self, process: Process, reason: str) -> None:
        """Start the next generation, now or after a pause; give up when the budget is spent."""
        if restarting.is_spent(process):
            self._give_up_running(
                process, f"it failed {process.quick_crashes} times in a row right after its start, at last: {reason}"
            )
            return
        delay = restarting.pause_before(process)
        self._say(
            "WARN",
            f"{process.name} {reason}; starting generation {process.generation + 1}"
            + (f" in {delay:.1f} s" if delay else ""),
        )
        if delay:
            self.loop.call_later(delay, lambda: None if self._stopping.begun else self._spawn(process))
        else:
            self._spawn(process)

    def _give_up_running(self, process: Process, reason: str) -> None:
        self._terminal.output(f"Error: {process.name} cannot be kept running: {reason}; the agent ends")
        self._terminal.explain()
        self.exit_code = EXIT_RESTART_BUDGET
        self._stop()

    def _note_lateness(self, _now: float) -> None:
        if self.loop.lateness > OWN_LATENESS:
            self._lost += self.loop.lateness

    def _check(self) -> None:
        """Look at the processes and the runtime directory, and plan the next look."""
        if self._stopping.begun:
            return
        now = self.loop.clock()
        pause = self._watchdog.check(self._processes, now, self._lost)
        self._lost = 0.0
        if self._runtime_guard is not None:
            self._runtime_guard.look()
            if self._runtime_guard.must_look_often:
                pause = min(pause, CLOSE_PERIOD)
        self.loop.call_at(min(now + pause, self.loop.next_multiple(CHECK_PERIOD)), self._check)

    # --- stopping -----------------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        self._terminal.output("Gracefully shutting down agent...")
        self._manager.stopping("Leaving the cluster")
        self._say("INFO", "requesting graceful leave from Serf")
        self._leaving = self._retry_join.stopped = True
        self._asking.ask(LeaveRequest(), self._left)
        limit = 2 * self.config.broadcast_timeout + LEAVE_MARGIN
        self.loop.call_later(limit, lambda: self._leave_is_overdue(limit))

    def _left(self, _value: Any, error: str) -> None:
        if error:
            self._terminal.output(f"Error: {error}")
        else:
            self._on_lifecycle("left")

    def _leave_is_overdue(self, limit: float) -> None:
        if not self._stopping.begun:
            self._say("WARN", f"the leave did not end within {limit:.0f} s; stopping without it")
            self._stop()

    def _stop(self) -> None:
        """End all."""
        if self._stopping.begun:
            return
        self._retry_join.stopped = True
        self._terminal.release()
        self._manager.stopping("Shutting down")
        self._say("INFO", "requesting serf shutdown")
        if self.exit_code:
            self._log("WARN", "serf", "Shutdown without a Leave")
        self._stopping.begin(self.config.script_grace)

    # --- signals ------------------------------------------------------------------------------------------------------

    def _on_signal(self, number: int) -> None:
        match number:
            case signal.SIGCHLD:
                reap_orphans({p.pid for p in self._processes if p.running})
            case signal.SIGUSR1:
                self._watching.dump()
            case signal.SIGHUP if not self._released and not self._stopping.begun:
                self._hangup_waits = True
            case signal.SIGHUP if not self._leaving:
                self._on_hangup()
            case signal.SIGINT | signal.SIGTERM | signal.SIGHUP:
                self._on_stop_signal(number)

    def _on_hangup(self) -> None:
        for process in self._processes:
            if process.role == LAST_ROLE:
                process.send(frames.Reopen())
        self._reload.begin("Caught signal: hangup")

    def _reload_for(self, answer: Callable[[dict[str, Any]], None]) -> None:
        if self._released and not self._leaving and not self._stopping.begun:
            self._reload.begin("Asked to reload", answer)
        else:
            answer({"ok": False, "lines": [ENDING if self._released else STARTING]})

    def _on_stop_signal(self, number: int) -> None:
        now = time.monotonic()
        if self._stopping.begun or now - self._signalled_at < SAME_SIGNAL:
            return
        self._signalled_at = now
        if self._leaving:
            self._stop()
            return
        interrupt = number == signal.SIGINT
        self._terminal.output(f"Caught signal: {'interrupt' if interrupt else 'terminated'}")
        graceful = not self.config.skip_leave_on_interrupt if interrupt else self.config.leave_on_terminate
        if graceful and self._started:
            self._leave()
        else:
            self._stop()


def _trim() -> None:
    """Give back the memory that importing has left free: all children would share it, and none use it."""
    # Only glibc has it.
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _shortage(error: OSError) -> str:
    """Why something could not be had, and what helps."""
    reason = (error.strerror or str(error)).lower()
    return f"{reason}; raise the limit (ulimit -n)" if error.errno == errno.EMFILE else reason
