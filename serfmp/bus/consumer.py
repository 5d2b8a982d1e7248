"""The consumers' end of the stream between the detector and its consumers (rpc, dispatcher).

Rules:

* A consumer subscribes when it starts and, on a new socket, whenever it hears of a new generation of the detector.
* Frames for dead generations are dropped. Events are numbered for the life of the agent: a number at or below the last
  one is a repeat and is dropped; so a killed detector neither loses nor repeats an event.
* Requests keep their number until they are answered: a new detector gets them again, and knows by the number what it
  has done already.
* Nothing waits: what the socket does not take stays here, in order.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

import zmq

from serfmp.bus import frames, plain
from serfmp.bus.endpoints import CHANNEL_HWM, make_socket

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.agent.child import Child
    from serfmp.detector.effects import Event, Request

TURN_LIMIT: Final = 64
"""Messages taken in one turn."""

PENDING_LIMIT: Final = 65536
"""Messages that wait for a socket; beyond it new requests fail with an error."""


class DetectorLink:
    """See the module's rules.

    `on_event(event)` gets every event once and in order. `on_frame(frame)` gets MemberRows, MemberRow, MemberGone and
    DetectorState frames, in the same order as they stand with events and answers. `after` is the last event that this
    consumer is done with (-1: whatever its earlier generations acknowledged).
    """

    def __init__(
        self,
        child: Child,
        *,
        members: bool,
        on_event: Callable[[Event], None],
        on_frame: Callable[[Any], None] | None = None,
        after: int = -1,
    ) -> None:
        self._child = child
        self._members = members
        self._on_event = on_event
        self._on_frame = on_frame
        self._after = after
        self._acknowledged = -1
        self._acknowledge = -1
        self.repeats = 0
        """Events that came again and were dropped."""
        self.stale = 0
        """Messages of dead generations that were dropped."""
        self._generation = 0
        self._live = False
        self._numbers = 0
        self._asked: dict[int, tuple[frames.Ask, Callable[[Any, str], None]]] = {}
        self._pending: deque[bytes] = deque()
        self._socket: zmq.Socket[bytes] | None = None
        child.loop.before_wait.append(self._send_acknowledgement)
        child.on_generation.append(self._on_generation)
        self._on_generation("detector", child.generations.get("detector", 0))

    @property
    def live(self) -> bool:
        """Whether the present detector has answered."""
        return self._live

    def ask(self, request: Request, callback: Callable[[Any, str], None]) -> None:
        """Hand a request to the core; `callback(value, error)` gets the answer, maybe of a later detector."""
        if len(self._asked) >= PENDING_LIMIT:
            callback(None, f"too many requests wait for the detector ({PENDING_LIMIT}); try again later")
            return
        self._numbers += 1
        kind, fields = plain.request_to_plain(request)
        ask = frames.Ask(self._numbers, kind, fields)
        self._asked[ask.number] = (ask, callback)
        if self._live:
            self._send(ask)

    def acknowledge(self, sequence: int) -> None:
        """All events up to this one are safe: the detector may forget them. Sent once a turn."""
        self._acknowledge = max(self._acknowledge, sequence)

    # --- inner part ---------------------------------------------------------------------------------------------------

    def _on_generation(self, name: str, generation: int) -> None:
        if name != "detector" or not generation or generation == self._generation:
            return
        self._generation = generation
        self._live = False
        self._pending.clear()
        self._acknowledged = -1
        if self._socket is not None:
            self._child.loop.remove_socket(self._socket)
            self._socket.close()
        self._socket = make_socket(self._child.context, zmq.DEALER, hwm=CHANNEL_HWM)
        self._socket.setsockopt(zmq.IDENTITY, self._child.name.encode())
        self._socket.connect(self._child.endpoints.consumers(generation))
        self._child.loop.add_socket(self._socket, self._receive)
        self._send(frames.Subscribe(self._members, self._after))

    def _send_acknowledgement(self) -> None:
        if self._live and self._acknowledge > self._acknowledged:
            self._acknowledged = self._acknowledge
            self._send(frames.Acknowledge(self._acknowledge))

    def _send(self, frame: object) -> None:
        self._pending.append(frames.seal(frames.encode(frame), self._child.generation, self._generation))
        self._flush()

    def _flush(self) -> None:
        if self._socket is None:
            return
        while self._pending:
            try:
                self._socket.send(self._pending[0], zmq.NOBLOCK)
            except zmq.Again:
                self._child.loop.when_writable(self._socket, self._flush)
                return
            self._pending.popleft()

    def _receive(self) -> None:
        for _ in range(TURN_LIMIT):
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
            if not self._live:
                self._live = True
                for ask, _callback in self._asked.values():
                    self._send(ask)
            self._handle(frame)

    def _handle(self, frame: Any) -> None:
        match frame:
            case frames.Events(events):
                for item in events:
                    event = plain.event_from_plain(item)
                    if event.sequence <= self._after:
                        self.repeats += 1
                        self._acknowledged = -1
                        continue
                    self._after = event.sequence
                    self._on_event(event)
            case frames.Answered(number, value, error):
                asked = self._asked.pop(number, None)
                if asked is not None:
                    asked[1](value, error)
            case _:
                if self._on_frame is not None:
                    self._on_frame(frame)
