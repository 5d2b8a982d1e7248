"""The consumers' end of the stream between the detector and its consumers (rpc, dispatcher).

Rules:

* A consumer subscribes when it starts and, on a new socket, whenever it hears of a new generation of the detector.
* Frames for dead generations are dropped. Events are numbered for the life of the agent: a number at or below the last
  one is a repeat and is dropped; so a killed detector neither loses nor repeats an event.
* Requests keep their number until they are answered: a new detector gets them again, and knows by the number what it
  has done already.
* Nothing waits: what the socket does not take stays here, in order. What a turn brings leaves at its end, as one
  message. Acknowledgements may be late: they only let the detector forget.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from serfmp.bus import frames, plain
from serfmp.bus.dealer import Dealer

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.agent.child import Child
    from serfmp.bus.loop import Timer
    from serfmp.detector.effects import Event, Request

ACKNOWLEDGE_PERIOD: Final = 0.1
"""Seconds between two acknowledgements of events, as long as few are waiting for one."""

ACKNOWLEDGE_EVENTS: Final = 256
"""So many are acknowledged at once: the detector has no more than 1024 on their way."""

PENDING_LIMIT: Final = 65536
"""Requests that wait for an answer; beyond it new ones fail with an error."""


class DetectorLink:
    """See the module's rules.

    `on_event(event)` gets every event once and in order. `on_frame(frame)` gets MemberRows, MemberRow, MemberGone,
    QueryNews and DetectorState frames, in the same order as they stand with events and answers. `after` is the last
    event that this consumer is done with (-1: whatever its earlier generations acknowledged).
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
        self._acknowledge_at = 0.0
        """When the next acknowledgement may be sent."""
        self._timer: Timer | None = None
        self.repeats = 0
        """Events that came again and were dropped."""
        self._live = False
        self._numbers = 0
        self._turn: list[object] = []
        """What leaves at the end of this turn."""
        self._asked: dict[int, tuple[frames.Ask, Callable[[Any, str], None]]] = {}
        self._dealer = Dealer(child, "detector", child.endpoints.consumers, self._on_connect, self._on_any_frame)
        child.loop.before_wait.append(self._flush)
        self._dealer.begin()

    @property
    def live(self) -> bool:
        """Whether the present detector has answered."""
        return self._live

    def ask(self, request: Request, callback: Callable[[Any, str], None]) -> int:
        """Hand a request to the core; `callback(value, error)` gets the answer, maybe of a later detector.

        Returns the request's number, 0 if it was refused: news of a query come under it.
        """
        if len(self._asked) >= PENDING_LIMIT:
            callback(None, f"too many requests wait for the detector ({PENDING_LIMIT}); try again later")
            return 0
        self._numbers += 1
        kind, fields = plain.request_to_plain(request)
        ask = frames.Ask(self._numbers, kind, fields)
        self._asked[ask.number] = (ask, callback)
        if self._live:
            self._turn.append(ask)
        return ask.number

    def acknowledge(self, sequence: int) -> None:
        """All events up to this one are safe: the detector may forget them, and is told soon."""
        self._acknowledge = max(self._acknowledge, sequence)

    # --- inner part ---------------------------------------------------------------------------------------------------

    def _on_connect(self) -> None:
        self._live = False
        self._acknowledged = -1
        self._turn.clear()
        self._dealer.send(frames.Subscribe(self._members, self._after))

    def _send_acknowledgement(self) -> None:
        if not self._live or self._acknowledge <= self._acknowledged:
            return
        few = self._acknowledge < self._acknowledged + ACKNOWLEDGE_EVENTS
        if few and self._timer is not None:
            return
        now, loop = self._child.loop.clock(), self._child.loop
        if few and now < self._acknowledge_at:
            self._timer = loop.call_at(self._acknowledge_at, self._wake)
        else:
            self._acknowledged = self._acknowledge
            self._acknowledge_at = now + ACKNOWLEDGE_PERIOD
            self._turn.append(frames.Acknowledge(self._acknowledge))

    def _wake(self) -> None:
        """It is time to acknowledge: that follows at the end of this turn."""
        self._timer = None

    def _flush(self) -> None:
        """Send what the turn brought, as one message."""
        self._send_acknowledgement()
        if self._turn:
            turn, self._turn = self._turn, []
            self._dealer.send(turn[0] if len(turn) == 1 else frames.Together([frames.encode(frame) for frame in turn]))

    def _on_any_frame(self, frame: Any) -> None:
        if not self._live:
            self._live = True
            for ask, _callback in self._asked.values():
                self._dealer.send(ask)
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
