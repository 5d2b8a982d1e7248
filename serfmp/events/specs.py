"""Which handler wants which event: Serf's grammar of handler texts (spec agent.md 4.1).

    handler = script | filters "=" script          split at the first "="
    filters = filter *( "," filter )               nothing before "=" means "*"
    filter  = "*" | KIND | "user" | "query" | "user:" name | "query:" name

Rules: nothing is trimmed; names are exact; an empty name is no restriction. A text becomes one spec per filter, in
order, and every spec that matches an event runs, so `user,*=x` runs `x` twice. The specs of one text share its `index`:
they are one handler, whose invocations run one at a time and in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from serfmp.detector.effects import Event, EventKind, MemberEvent
from serfmp.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

_KINDS: Final = {kind.label: kind for kind in EventKind}
_NAMED: Final = frozenset({EventKind.USER, EventKind.QUERY})


@dataclass(frozen=True, slots=True)
class HandlerSpec:
    """One filter of one handler text."""

    kind: EventKind | None
    """None: every kind."""
    name: str
    """Name of the user event or query; empty: any."""
    script: str
    index: int
    """Place of the text among all handler texts, from 0."""

    def matches(self, event: Event) -> bool:
        """Whether the handler runs for this event."""
        if self.kind is None:
            return True
        if self.kind is not event.kind:
            return False
        return isinstance(event, MemberEvent) or self.name in {"", event.name}


def parse_handlers(texts: Iterable[str]) -> tuple[HandlerSpec, ...]:
    """The specs of these handler texts, in order. Raises `UserError` with Serf's words for a filter that is none."""
    return tuple(spec for index, text in enumerate(texts) for spec in _parse(text, index))


def _parse(text: str, index: int) -> list[HandlerSpec]:
    filters, separator, script = text.partition("=")
    if not separator:
        filters, script = "*", text
    return [_parse_filter(found, script, index) for found in (filters or "*").split(",")]


def _parse_filter(text: str, script: str, index: int) -> HandlerSpec:
    if text == "*":
        return HandlerSpec(None, "", script, index)
    label, colon, name = text.partition(":")
    kind = _KINDS.get(label)
    if kind is None or (colon and kind not in _NAMED):
        raise UserError(f"Invalid event script: Event '{text}' invoking '{script}'")
    return HandlerSpec(kind, name, script, index)
