"""One child process of the agent, started for real; the test is its supervisor and the other processes."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zmq

from serfmp.agent import heartbeat
from serfmp.agent.process import Process
from serfmp.bus import frames
from serfmp.bus.loop import Loop
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.agent.config import AgentConfig


class Role:
    """A role's process. `turn` must be called to hear from it; `until` does that while it waits."""

    def __init__(
        self,
        role: str,
        config: AgentConfig,
        descriptors: dict[str, int],
        generations: dict[str, int],
        method: str = "fork",
    ) -> None:
        self.loop = Loop()
        self.config = config
        self.method = method
        self.generations = generations
        self.frames: list[Any] = []
        self.log: list[str] = []
        self.status: int | None = None
        self._temporary = tempfile.TemporaryDirectory(prefix="s")
        self.directory = Path(self._temporary.name)
        self._page = heartbeat.create()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.process = Process(role, 0, 0, {**descriptors, "heartbeat": self._page})
        self.start()

    def start(self) -> None:
        """Start the first or the next generation and wait until it serves."""
        self.status = None
        self.frames.clear()

        def frame(descriptors: dict[str, int]) -> frames.Start:
            return frames.Start(
                frames.FORMAT,
                self.process.role,
                0,
                self.process.generation,
                0,
                str(self.directory),
                descriptors,
                self.generations,
                self.config.to_plain(),
                True,
            )

        self.process.start(
            self.loop,
            self.method,
            frame,
            lambda _process, received: self.frames.append(received),
            lambda _when, level, component, text: self.log.append(f"[{level}] {component}: {text}"),
            self._ended,
        )
        self.until(lambda: frames.Ready() in self.frames, "the role serves")

    def _ended(self, _process: Process, status: int) -> None:
        self.status = status

    def until(self, condition: Callable[[], Any], what: str, deadline_s: float = 20.0) -> Any:
        """Take turns until the condition holds."""

        def turn() -> Any:
            self.loop.call_later(0.002, lambda: None)
            self.loop.turn()
            return condition()

        return eventually(turn, deadline_s, what)

    def announce(self, name: str, generation: int) -> None:
        """Tell it, as the supervisor would, that another process was started again."""
        self.generations[name] = generation
        self.process.send(frames.Generations({name: generation}))

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.process.signal(signal.SIGKILL)
        self.until(lambda: self.status is not None, "the role is dead")

    def stop(self) -> int:
        """Stop it in good order; returns its exit code."""
        self.process.send(frames.Stop(1.0))
        self.until(lambda: self.status is not None, "the role has stopped")
        return os.waitstatus_to_exitcode(self.status or 0)

    def close(self) -> None:
        """End it, whatever it does."""
        if self.process.running:
            self.kill()
        self.context.destroy(linger=0)
        os.close(self._page)
        self._temporary.cleanup()


def udp_pair(host: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
    """A UDP and a listening TCP socket on one port of `host`."""
    for _ in range(50):
        tcp = socket.socket()
        tcp.bind((host, 0))
        tcp.listen(16)
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.bind(tcp.getsockname())
        except OSError:
            tcp.close()
            udp.close()
            continue
        return udp, tcp
    raise RuntimeError("no port is free for both UDP and TCP")


__all__ = ["Role", "udp_pair"]
