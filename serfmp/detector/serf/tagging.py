"""Tags that change while the node runs (spec serf.md 16).

Rules: first delete, then set. What is too large is refused before anything changes. The request is answered when gossip
has sent the news often enough, or with an error when the broadcast timeout is over; the new tags stay in any case. Tags
live in the node's own row, which the journal has: a detector that is started again goes on with them. Where there is a
tags file it has the new tags before they hold; if it cannot be written nothing changes. At most `WAITING` changes wait
for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from serfmp.detector.effects import Answer, RequestId, StoreTags
from serfmp.detector.serf.layer import Serf
from serfmp.detector.serf.spreading import answer_when_spread
from serfmp.detector.swim.context import Context
from serfmp.detector.swim.swim import Swim
from serfmp.errors import UserError
from serfmp.wire.tags import encode_tags

WAITING: Final = 64
"""Changes of tags that wait for the tags file."""

TIMED_OUT: Final = "timeout waiting for update broadcast"


@dataclass(frozen=True, slots=True)
class _Change:
    id: RequestId
    changed: Mapping[str, str]
    deleted: tuple[str, ...]


class Tagging:
    """See the module."""

    __slots__ = ("_context", "_meta", "_serf", "_swim", "_token", "_waiting")

    def __init__(self, context: Context, swim: Swim, serf: Serf) -> None:
        self._context = context
        self._swim = swim
        self._serf = serf
        self._waiting: deque[_Change] = deque()
        """The first is being stored."""
        self._token = 0
        self._meta = b""

    def request(self, id: RequestId, changed: Mapping[str, str], deleted: tuple[str, ...]) -> None:
        """Somebody asks for a change."""
        if len(self._waiting) >= WAITING:
            self._context.effects.append(Answer(id, None, f"{WAITING} changes of tags wait for the tags file already"))
            return
        self._waiting.append(_Change(id, changed, deleted))
        if len(self._waiting) == 1:
            self._go_on()

    def stored(self, token: int, error: str) -> None:
        """How writing the tags file ended."""
        if token != self._token or not self._waiting:
            return
        change = self._waiting.popleft()
        if error:
            self._context.log("ERR", "agent", f"Failed to write the tags file: {error}")
            self._context.effects.append(Answer(change.id, None, f"failed to write the tags file: {error}"))
        else:
            self._apply(change.id, self._meta)
        self._go_on()

    def _go_on(self) -> None:
        context = self._context
        while self._waiting:
            change = self._waiting[0]
            present = self._serf.own_tags()
            tags = {key: value for key, value in present.items() if key not in change.deleted} | dict(change.changed)
            try:
                meta = encode_tags(tags, context.config.serf_protocol)
            except UserError as error:
                context.effects.append(Answer(change.id, None, str(error)))
            else:
                if tags == present:
                    context.effects.append(Answer(change.id, None))
                elif context.config.tags_file:
                    self._token, self._meta = context.next_token(), meta
                    context.effects.append(StoreTags(self._token, tags))
                    return
                else:
                    self._apply(change.id, meta)
            self._waiting.popleft()

    def _apply(self, id: RequestId, meta: bytes) -> None:
        if self._serf.members.others_alive():
            self._swim.membership.change_meta(meta, answer_when_spread(self._context, id, TIMED_OUT))
        else:
            self._swim.membership.change_meta(meta)
            self._context.effects.append(Answer(id, None))
