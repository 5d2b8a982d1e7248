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
from serfmp.detector.serf.spreading import answer_when_spread
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
        if self._serf.members.others_alive():
            self._swim.membership.change_meta(meta, answer_when_spread(context, id, TIMED_OUT))
        else:
            self._swim.membership.change_meta(meta)
            context.effects.append(Answer(id, None))
