"""Tags that change while the node runs (spec serf.md 16).

Rules: first delete, then set. What is too large is refused before anything changes. The request is answered when gossip
has sent the news often enough, or with an error when the broadcast timeout is over; the new tags stay in any case. Tags
live in the node's own row, which the journal has: a detector that is started again goes on with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from serfmp.detector.effects import Answer, RequestId
from serfmp.detector.serf.layer import Serf
from serfmp.detector.swim.context import Context
from serfmp.detector.swim.swim import Swim
from serfmp.errors import UserError
from serfmp.wire.tags import encode_tags

TIMED_OUT: Final = "timeout waiting for update broadcast"


class Tagging:
    """See the module."""

    __slots__ = ("_context", "_serf", "_swim")

    def __init__(self, context: Context, swim: Swim, serf: Serf) -> None:
        self._context = context
        self._swim = swim
        self._serf = serf

    def request(self, id: RequestId, changed: Mapping[str, str], deleted: tuple[str, ...]) -> None:
        """Somebody asks for a change."""
        context = self._context
        present = self._serf.own_tags()
        tags = {key: value for key, value in present.items() if key not in deleted} | dict(changed)
        try:
            meta = encode_tags(tags, context.config.serf_protocol)
        except UserError as error:
            context.effects.append(Answer(id, None, str(error)))
            return
        if tags == present:
            context.effects.append(Answer(id, None))
            return
        waiting = [id]

        def ended(error: str) -> None:
            if waiting:
                limit.cancel()
                context.effects.append(Answer(waiting.pop(), None, error))

        limit = context.after(context.config.broadcast_timeout, lambda: ended(TIMED_OUT))
        somebody = self._serf.members.others_alive()

        def spread() -> None:
            # The queue calls from within its own work: the answer is given outside of it.
            context.after(0.0, lambda: ended(""))

        self._swim.membership.change_meta(meta, spread)
        if not somebody:
            ended("")
