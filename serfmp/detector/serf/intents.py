"""Intents about nodes that are not known yet (spec serf.md 5, recent intent table)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from serfmp.detector.effects import Record
from serfmp.detector.records import RecordKind, SavedIntent, fields
from serfmp.detector.swim.context import Context


class RecentIntents:
    """One intent per node, that with the latest Lamport time. Reading one does not consume it; time does."""

    __slots__ = ("_context", "_intents")

    def __init__(self, context: Context, saved: Iterable[SavedIntent] = ()) -> None:
        self._context = context
        self._intents = {intent.node: intent for intent in saved}

    def __iter__(self) -> Iterator[SavedIntent]:
        """All of them."""
        return iter(self._intents.values())

    def get(self, node: str) -> SavedIntent | None:
        """The intent about this node."""
        return self._intents.get(node)

    def upsert(self, node: str, leaving: bool, ltime: int) -> bool:
        """Keep an intent if it is later than what is kept; whether it was."""
        present = self._intents.get(node)
        if present is None and len(self._intents) >= self._context.config.intent_limit:
            self._context.count("serfmp.intent.refused")
            return False
        if present is not None and ltime <= present.ltime:
            return False
        intent = SavedIntent(node, leaving, ltime, self._context.now)
        self._intents[node] = intent
        self._context.effects.append(Record(fields(RecordKind.INTENT, intent)))
        return True

    def expire(self) -> None:
        """Drop those that are too old."""
        oldest = self._context.now - self._context.config.recent_intent_timeout
        for node in [intent.node for intent in self._intents.values() if intent.time < oldest]:
            del self._intents[node]
