"""A worker's end of the bus to the dispatcher.

Rules:

* Every generation of the dispatcher gets a socket of its own: what an old one had sent and was not yet read is gone
  with its socket, and only then the worker says what it holds (`WorkerReady`, repeated until answered).
* Until the answer nothing else is sent; with it, everything that the dispatcher does not know is told again.
* Nothing waits: what the socket does not take stays here, in order.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import zmq

from serfmp.bus import frames
from serfmp.bus.endpoints import CHANNEL_HWM, make_socket

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.agent.child import Child

HELLO_PERIOD: Final = 0.02
"""Seconds between two tries to be heard by the dispatcher."""

FRAMES_PER_TURN: Final = 64
"""Frames taken in one turn."""


class DispatcherLink:
    """See the module.

    `held()` gives the numbers of all invocations that the worker has; `on_live()` is called when the dispatcher has
    answered, and `on_frame(frame)` gets `Run` and `Recorded`.
    """

    def __init__(
        self,
        child: Child,
        *,
        credits: int,
        held: Callable[[], list[int]],
        on_live: Callable[[], None],
        on_frame: Callable[[Any], None],
    ) -> None:
        self._child = child
        self._credits = credits
        self._held = held
        self._on_live = on_live
        self._on_frame = on_frame
        self.live = False
        """Whether the present dispatcher has answered."""
        self.stale = 0
        """Frames of or for dead generations that were dropped."""
        self._generation = 0
        self._socket: zmq.Socket[bytes] | None = None
        self._outgoing: deque[bytes] = deque()
        child.on_generation.append(self._on_generation)
        self._on_generation("dispatcher", child.generations.get("dispatcher", 0))

    def send(self, frame: object) -> None:
        """Send a frame, now or soon; nothing while the dispatcher is not live (it will be told again)."""
        if self.live:
            self._outgoing.append(self._seal(frame))
            self._flush()

    # --- inner part ---------------------------------------------------------------------------------------------------

    def _seal(self, frame: object) -> bytes:
        return frames.seal(frames.encode(frame), self._child.generation, self._generation)

    def _on_generation(self, name: str, generation: int) -> None:
        if name != "dispatcher" or not generation or generation == self._generation:
            return
        self._generation = generation
        self.live = False
        self._outgoing.clear()
        if self._socket is not None:
            self._child.loop.remove_socket(self._socket)
            self._socket.close()
        self._socket = make_socket(self._child.context, zmq.DEALER, hwm=CHANNEL_HWM)
        self._socket.setsockopt(zmq.IDENTITY, self._child.name.encode())
        self._socket.connect(self._child.endpoints.workers)
        self._child.loop.add_socket(self._socket, self._receive)
        self._hello(generation)

    def _hello(self, generation: int) -> None:
        if self.live or generation != self._generation or self._socket is None:
            return
        ready = frames.WorkerReady(self._child.index, self._credits, self._held())
        with suppress(zmq.Again):  # not connected yet
            self._socket.send(self._seal(ready), zmq.NOBLOCK)
        self._child.loop.call_later(HELLO_PERIOD, lambda: self._hello(generation))

    def _flush(self) -> None:
        if self._socket is None:
            return
        while self._outgoing:
            try:
                self._socket.send(self._outgoing[0], zmq.NOBLOCK)
            except zmq.Again:
                self._child.loop.when_writable(self._socket, self._flush)
                return
            self._outgoing.popleft()

    def _receive(self) -> None:
        for _ in range(FRAMES_PER_TURN):
            if self._socket is None:
                return
            try:
                message = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            envelope, frame = frames.open_sealed(message)
            if envelope.sender != self._generation or envelope.receiver != self._child.generation:
                self.stale += 1
                continue
            if not self.live:
                self.live = True
                self._on_live()
            self._on_frame(frame)
