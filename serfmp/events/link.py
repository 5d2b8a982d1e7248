"""A worker's end of the bus to the dispatcher.

Rules:

* Every generation of the dispatcher gets a socket of its own: what an old one had sent and was not yet read is gone
  with its socket, and only then the worker says what it holds (`WorkerReady`, repeated until answered).
* Until the answer nothing else is sent; with it, everything that the dispatcher does not know is told again.
* Nothing waits: what the socket does not take stays here, in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from serfmp.bus import frames
from serfmp.bus.dealer import Dealer

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.agent.child import Child

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
        self._dealer = Dealer(
            child, "dispatcher", lambda _generation: child.endpoints.workers, self._on_connect, self._on_any_frame
        )
        self._dealer.begin()

    def send(self, frame: object) -> None:
        """Send a frame, now or soon; nothing while the dispatcher is not live (it will be told again)."""
        if self.live:
            self._dealer.send(frame)

    # --- inner part ---------------------------------------------------------------------------------------------------

    def _on_connect(self) -> None:
        self.live = False
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
