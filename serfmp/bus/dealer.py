"""A process' end of the stream to a process that is started again from time to time.

Rules: each generation of the other side gets a socket of its own, so nothing is written into the dying connection to
the old one, and what the old one had sent and was not yet read is gone with it. Frames of or for other generations are
dropped and counted. Nothing waits: what the socket does not take stays here, in order.
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
    from serfmp.bus.loop import Watched

FRAMES_PER_TURN: Final = 64
"""Frames taken in one turn."""

TAKING_TIME: Final = 0.05
"""Seconds after which a turn takes no further frame: each may hold thousands of members, and a main loop that does not
turn for seconds counts as stuck."""


class Dealer:
    """See the module.

    `peer` is the other process' name, `address(generation)` where it binds; `on_connect()` is called for each new
    generation, `on_frame(frame)` for each frame of the present one.
    """

    def __init__(
        self,
        child: Child,
        peer: str,
        address: Callable[[int], str],
        on_connect: Callable[[], None],
        on_frame: Callable[[Any], None],
    ) -> None:
        self._child = child
        self._peer = peer
        self._address = address
        self._on_connect = on_connect
        self._on_frame = on_frame
        self.generation = 0
        """The other side's; 0 before there is one."""
        self.stale = 0
        """Frames of or for dead generations that were dropped."""
        self._waiting: deque[bytes] = deque()
        self._socket: zmq.Socket[bytes] | None = None
        self._watched: Watched | None = None

    def begin(self) -> None:
        """Connect, now and whenever the supervisor tells of a new generation."""
        self._child.on_generation.append(self._on_generation)
        self._on_generation(self._peer, self._child.generations.get(self._peer, 0))

    def send(self, frame: object) -> None:
        """Send a frame, now or as soon as the socket takes it."""
        self._waiting.append(self._seal(frame))
        self._flush()

    def try_to_send(self, frame: object) -> None:
        """Send a frame if the socket takes it at once; it is lost otherwise."""
        if self._socket is not None and self._watched is not None:
            self._watched.used = True
            with suppress(zmq.Again):
                self._socket.send(self._seal(frame), zmq.NOBLOCK)

    def _seal(self, frame: object) -> bytes:
        return frames.seal(frames.encode(frame), self._child.generation, self.generation)

    def _on_generation(self, name: str, generation: int) -> None:
        if name != self._peer or not generation or generation == self.generation:
            return
        self.generation = generation
        self._waiting.clear()
        if self._socket is not None:
            self._child.loop.remove_socket(self._socket)
            self._socket.close()
        self._socket = make_socket(self._child.context, zmq.DEALER, hwm=CHANNEL_HWM)
        self._socket.setsockopt(zmq.IDENTITY, self._child.name.encode())
        self._socket.connect(self._address(generation))
        self._watched = self._child.loop.add_socket(self._socket, self._receive, told=True)
        self._on_connect()

    def _flush(self) -> None:
        if self._socket is None or self._watched is None:
            return
        self._watched.used = True
        while self._waiting:
            try:
                self._socket.send(self._waiting[0], zmq.NOBLOCK)
            except zmq.Again:
                self._child.loop.when_writable(self._socket, self._flush)
                return
            self._waiting.popleft()

    def _receive(self) -> None:
        clock = self._child.loop.clock
        until = clock() + TAKING_TIME
        for _ in range(FRAMES_PER_TURN):
            if self._socket is None or self._watched is None:
                return
            try:
                message = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            envelope, frame = frames.open_sealed(message)
            if envelope.sender != self.generation or envelope.receiver != self._child.generation:
                self.stale += 1
            elif isinstance(frame, frames.Together):
                for body in frame.frames:
                    self._on_frame(frames.decode(body))
            else:
                self._on_frame(frame)
            if clock() >= until or not self._watched.ready():  # cheaper than to be refused a message
                return
