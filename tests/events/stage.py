"""Dispatcher and workers as real processes, with the test in the place of supervisor and detector."""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
import tempfile
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import zmq

from serfmp.agent import heartbeat, journal
from serfmp.agent.config import AgentConfig
from serfmp.agent.process import Process, ProcessState
from serfmp.bus import frames
from serfmp.bus.endpoints import Endpoints
from serfmp.bus.loop import Loop
from serfmp.detector.effects import Event, UserEventReceived
from serfmp.detector.hub import Hub
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from serfmp.agent.child import Child

DEADLINE_S = 30.0


class Stage:
    """The processes run from the constructor to `close`; they are heard from while `until` waits."""

    def __init__(self, config: AgentConfig, method: str = "fork") -> None:
        self.config = config
        self.method = method
        self.loop = Loop()
        self.log: list[str] = []
        self.statuses: dict[str, int] = {}
        self.events: list[Event] = []
        self.acknowledged = 0
        self.asked: list[tuple[str, list[Any]]] = []
        """Kinds and fields of what the dispatcher asked of the detector; all of it is granted."""
        self._temporary = tempfile.TemporaryDirectory(prefix="s")
        self.directory = Path(self._temporary.name)
        self._page = heartbeat.create()
        self.ledger = journal.create("ledger")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        detector = SimpleNamespace(
            context=self._context, endpoints=Endpoints(str(self.directory)), generation=1, loop=self.loop
        )
        self._hub = Hub(
            cast("Child", detector),
            acknowledged=lambda _consumer: self.acknowledged,
            outbox=self._outbox,
            members=list,
            on_ask=self._on_ask,
            on_acknowledge=self._on_acknowledge,
        )
        owned: list[tuple[str, int, dict[str, int]]] = [("dispatcher", 0, {"ledger": self.ledger})]
        owned += [("worker", index, {}) for index in range(config.workers)]
        self.processes = {
            process.name: process
            for process in (
                Process(role, index, slot, {**descriptors, "heartbeat": self._page})
                for slot, (role, index, descriptors) in enumerate(owned)
            )
        }
        for name in self.processes:
            self.start(name)
        self.until(lambda: all(p.state is ProcessState.SERVING for p in self.processes.values()), "all serve")

    def start(self, name: str) -> None:
        """Start the first or the next generation of a process, and tell the others."""
        process = self.processes[name]
        self.statuses.pop(name, None)

        def frame(descriptors: dict[str, int]) -> frames.Start:
            return frames.Start(
                format=frames.FORMAT,
                role=process.role,
                index=process.index,
                generation=process.generation,
                slot=0,
                directory=str(self.directory),
                descriptors=descriptors,
                generations={"detector": 1, **{p.name: p.generation for p in self.processes.values()}},
                config=self.config.to_plain(),
                recover=True,
            )

        # Garbage of other tests must not be collected in the child: it would close descriptors that are now others'.
        gc.collect()
        gc.freeze()
        process.start(self.loop, self.method, frame, self._on_frame, self._on_line, self._on_end)
        gc.unfreeze()
        if process.generation > 1:
            for other in self.processes.values():
                if other is not process:
                    other.send(frames.Generations({name: process.generation}))

    def publish(self, *events: Event) -> None:
        """Hand out events as the detector would."""
        self.events += events
        self._hub.pump()

    def user_events(self, *names: str) -> None:
        """Publish user events of these names, without payload."""
        first = len(self.events) + 1
        self.publish(
            *(UserEventReceived(first + n, first + n, name, b"", coalesce=False) for n, name in enumerate(names))
        )

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Take turns until the condition holds."""

        def turn() -> Any:
            self.loop.call_later(0.005, lambda: None)
            self.loop.turn()
            return condition()

        return eventually(turn, DEADLINE_S, f"{what}; log: {self.log[-8:]}", interval_s=0.0)

    def logged(self, *parts: str) -> list[str]:
        """The log lines that hold all these texts."""
        return [line for line in self.log if all(part in line for part in parts)]

    def kill(self, name: str) -> None:
        """SIGKILL one process, and wait for its end."""
        self.processes[name].signal(signal.SIGKILL)
        self.until(lambda: name in self.statuses, f"{name} is dead")

    def restart(self, name: str) -> None:
        """SIGKILL one process, and start its next generation at once."""
        self.kill(name)
        self.start(name)

    def stop(self, grace_s: float) -> list[int]:
        """Stop all in good order. Returns their exit codes."""
        for process in self.processes.values():
            process.send(frames.Stop(grace_s))
        self.until(lambda: len(self.statuses) == len(self.processes), "all have stopped")
        return [os.waitstatus_to_exitcode(status) for status in self.statuses.values()]

    def close(self) -> None:
        """End everything: workers in good order, so that they end their scripts."""
        for process in self.processes.values():
            process.send(frames.Stop(0.0))
        try:
            self.until(lambda: not any(p.running for p in self.processes.values()), "all have ended")
        finally:
            for name, process in self.processes.items():
                if process.running:
                    self.kill(name)
            self._context.destroy(linger=0)
            os.close(self._page)
            os.close(self.ledger)
            self._temporary.cleanup()

    # --- inner part ---------------------------------------------------------------------------------------------------

    def _outbox(self, after: int) -> Iterator[Event]:
        return islice(self.events, max(after, 0), None)

    def _on_ask(self, consumer: str, generation: int, ask: frames.Ask) -> None:
        self.asked.append((ask.kind, ask.fields))
        self._hub.answer(consumer, generation, frames.Answered(ask.number, None, ""))

    def _on_acknowledge(self, consumer: str, sequence: int) -> None:
        if consumer == "dispatcher":
            self.acknowledged = max(self.acknowledged, sequence)

    def _on_frame(self, process: Process, frame: Any) -> None:
        if isinstance(frame, frames.Ready):
            process.state = ProcessState.SERVING

    def _on_line(self, _when: float, level: str, component: str, text: str) -> None:
        self.log.append(f"[{level}] {component}: {text}")

    def _on_end(self, process: Process, status: int) -> None:
        self.statuses[process.name] = status


def stage_config(*handlers: str, **changes: Any) -> AgentConfig:
    """The configuration of an agent with these handlers."""
    return dataclasses.replace(AgentConfig(node="alpha", handlers=handlers, log_level="DEBUG"), **changes)


def process_is_there(pid: int) -> bool:
    """Whether a process exists and is more than a zombie."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0] != "Z"
        )
    except (FileNotFoundError, ProcessLookupError):
        return False
