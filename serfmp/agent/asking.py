"""What the supervisor asks of the detector.

Rules: the answer may come from a later generation of it, so each one that serves is asked again what was not answered
yet. One that answers once more is not listened to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from serfmp.bus import frames, plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.detector.effects import JoinRequest, LeaveRequest, TagsRequest


class Asking:
    """See the module. `send(frame)` goes to the present detector, and is lost if that ends."""

    def __init__(self, send: Callable[[frames.Ask], None]) -> None:
        self._send = send
        self._last = 0
        self._open: dict[int, tuple[frames.Ask, Callable[[Any, str], None]]] = {}

    def ask(self, request: JoinRequest | LeaveRequest | TagsRequest, callback: Callable[[Any, str], None]) -> None:
        """Ask; `callback(value, error)` gets the answer."""
        kind, fields = plain.request_to_plain(request)
        self._last += 1
        ask = frames.Ask(self._last, kind, fields)
        self._open[ask.number] = (ask, callback)
        self._send(ask)

    def ask_again(self) -> None:
        """A detector serves."""
        for ask, _callback in self._open.values():
            self._send(ask)

    def on_answered(self, frame: frames.Answered) -> None:
        """A detector has answered."""
        asked = self._open.pop(frame.number, None)
        if asked is not None:
            asked[1](frame.value, frame.error)
