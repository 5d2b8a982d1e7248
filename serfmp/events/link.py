"""A worker's end of the bus to the dispatcher.

Rules:

* Every generation of the dispatcher gets a socket of its own: what an old one had sent and was not yet read is gone
  with its socket, and only then the worker says what it holds (`WorkerReady`, repeated until answered).
* Until the answer nothing else is sent; with it, everything that the dispatcher does not know is told again.
* Nothing waits: what the socket does not take stays here, in order. What a turn brings leaves at its end, as one
  message; ends that nobody is waiting for, at most once in `PACE`: a message costs more than a script's end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from serfmp.bus import frames
from serfmp.bus.dealer import Dealer

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.agent.child import Child
    from serfmp.bus.loop import Timer

PACE: Final = 0.02
"""Seconds between two messages, if nobody is waiting for what they tell."""

HELLO_PERIOD: Final = 0.02
"""Seconds between two tries to be heard by the dispatcher."""


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
        self._turn: list[bytes] = []
        """What leaves at the end of the turn, or when its time has come."""
        self._due = False
        """Somebody is waiting for it."""
        self._next_at = 0.0
        """When what nobody is waiting for may leave."""
        self._timer: Timer | None = None
        child.loop.before_wait.append(self._flush)
        self._dealer = Dealer(
            child, "dispatcher", lambda _generation: child.endpoints.workers, self._on_connect, self._on_any_frame
        )
        self._dealer.begin()

    def send(self, frame: object, *, soon: bool = True) -> None:
        """Send a frame at the end of the turn, or when it suits; nothing while the dispatcher is not live.

        (It will be told again.)
        """
        if self.live:
            self._turn.append(frames.encode(frame))
            self._due |= soon

    # --- inner part ---------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        if not self._turn:
            return
        now = self._child.loop.clock()
        if not self._due and now < self._next_at:
            if self._timer is None:
                self._timer = self._child.loop.call_at(self._next_at, self._wake)
            return
        turn, self._turn = self._turn, []
        self._due, self._next_at = False, now + PACE
        self._dealer.send(frames.Together(turn))

    def _wake(self) -> None:
        """The time has come: what waits leaves at the end of this turn."""
        self._timer = None

    def _on_connect(self) -> None:
        self.live = False
        self._turn.clear()
        self._hello(self._dealer.generation)

    def _hello(self, generation: int) -> None:
        if self.live or generation != self._dealer.generation:
            return
        # Not waiting in the socket's queue: what the worker holds may be different by then.
        self._dealer.try_to_send(frames.WorkerReady(self._child.index, self._credits, self._held()))
        self._child.loop.call_later(HELLO_PERIOD, lambda: self._hello(generation))

    def _on_any_frame(self, frame: Any) -> None:
        if not self.live:
            self.live = True
            self._on_live()
        self._on_frame(frame)
