"""Which events a stream of an RPC client wants (the filters of spec agent.md 4.1).

Rules: filters are joined by commas, without blanks; an empty text is `*`. `user:NAME` and `query:NAME` want exactly that
name, and `user:` any. An event goes to a stream once for each filter that it matches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from serfmp.detector.effects import EventKind

_KINDS: Final = {kind.label: kind for kind in EventKind}
_NAMED: Final = frozenset({EventKind.USER, EventKind.QUERY})


@dataclass(frozen=True, slots=True)
class EventFilter:
    """A kind of events (None: any) and a name (empty: any)."""

    kind: EventKind | None = None
    name: str = ""

    def matches(self, kind: EventKind, name: str) -> bool:
        """Whether an event of this kind and name is wanted."""
        return (self.kind is None or self.kind is kind) and (not self.name or self.name == name)


def parse_filter(text: str) -> EventFilter | None:
    """One filter; None if the text is none."""
    if text == "*":
        return EventFilter()
    label, colon, name = text.partition(":")
    kind = _KINDS.get(label)
    if kind is None or (colon and kind not in _NAMED):
        return None
    return EventFilter(kind, name)


def parse_filters(text: str) -> tuple[EventFilter, ...] | None:
    """The filters of a comma separated text; None if one of them is none."""
    found = tuple(parse_filter(part) for part in (text or "*").split(","))
    known = tuple(item for item in found if item is not None)
    return known if len(known) == len(found) else None
