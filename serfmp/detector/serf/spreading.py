"""Answering a request once gossip has carried its message (spec serf.md 6.2, 16)."""

from __future__ import annotations

from collections.abc import Callable

from serfmp.detector.effects import Answer, RequestId
from serfmp.detector.swim.context import Context


def answer_when_spread(context: Context, id: RequestId, timed_out: str) -> Callable[[], None]:
    """What to call when the message was sent often enough: that answers the request.

    When the broadcast timeout is over before, the request is answered with the error `timed_out`.
    """
    waiting = [id]

    def ended(error: str) -> None:
        if waiting:
            limit.cancel()
            context.effects.append(Answer(waiting.pop(), None, error))

    limit = context.after(context.config.broadcast_timeout, lambda: ended(timed_out))

    def spread() -> None:
        # The queue calls from within its own work: the answer is given outside of it.
        context.after(0.0, lambda: ended(""))

    return spread
