"""The gossip process' end of the stream to the detector: nothing that was received is lost with a killed detector.

Rules: every frame has a sequence number and is kept until the detector says that it is done with it
(`Transmit.handled`). A new detector gets all that is kept, in order, again; taking a packet twice is harmless (the
network repeats packets too), missing one is not. The window is bounded in frames and bytes; while it is full the
sockets are not read, and the kernel's buffers hold what comes.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import zmq

from serfmp.bus import frames
from serfmp.bus.endpoints import PACKET_HWM, make_socket

if TYPE_CHECKING:
    from serfmp.agent.child import Child

WINDOW_FRAMES: Final = 1024
"""Frames that the detector has not finished."""

WINDOW_BYTES: Final = 8 * 1024 * 1024
"""Bytes that the detector has not finished."""


class DetectorFeed:
    """See the module. `send` never waits and never fails; ask `room` before reading more from the network."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._sequence = 0
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._sent: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._generation = 0
        self._socket: zmq.Socket[bytes] | None = None
        self.resent = 0
        """Frames that a later detector got again."""

    @property
    def room(self) -> bool:
        """Whether the window has room."""
        return len(self._waiting) + len(self._sent) < WINDOW_FRAMES and self._bytes < WINDOW_BYTES

    def connect(self, generation: int) -> None:
        """There is a new detector: give it all that the old one had not finished."""
        self._generation = generation
        if self._socket is not None:
            self._child.loop.remove_socket(self._socket)
            self._socket.close()
        self._socket = make_socket(self._child.context, zmq.PUSH, hwm=PACKET_HWM)
        self._socket.connect(self._child.endpoints.packets(generation))
        self._child.loop.add_socket(self._socket, None)
        self.resent += len(self._sent)
        self._sent.extend(self._waiting)
        self._waiting, self._sent = self._sent, deque()
        self.send(frames.GossipConnected())

    def send(self, frame: object) -> None:
        """Hand a frame to the detector, present or next."""
        self._sequence += 1
        body = frames.encode(frame)
        self._bytes += len(body)
        self._waiting.append((self._sequence, body))
        self._flush()

    def handled(self, sequence: int) -> None:
        """The detector is done with all frames up to this one."""
        while self._sent and self._sent[0][0] <= sequence:
            self._bytes -= len(self._sent.popleft()[1])

    def _flush(self) -> None:
        if self._socket is None:
            return
        while self._waiting:
            sequence, body = self._waiting[0]
            try:
                self._socket.send(frames.seal(body, self._child.generation, self._generation, sequence), zmq.NOBLOCK)
            except zmq.Again:
                self._child.loop.when_writable(self._socket, self._flush)
                return
            self._sent.append(self._waiting.popleft())
