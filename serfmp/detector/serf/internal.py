"""Internal queries: those whose name begins with `_serf_`, which no handler and no client ever sees (spec serf.md 11).

Rules:

* The table maps a name, without the prefix, to what answers it: a handler gets the query and a call that sends the
  answer. It may answer later, until the deadline, once.
* `ping` has no answer: it exists for its acks. A name that is not in the table is told in a warning.
* Internal queries are acked and gossiped like all others.
"""

from __future__ import annotations

from collections.abc import Callable

from serfmp.detector.swim.context import Context
from serfmp.wire.internal_queries import INTERNAL
from serfmp.wire.serf_messages import Query

Respond = Callable[[bytes], None]
"""Sends the answer; raises `UserError` if it cannot be sent."""

Handler = Callable[[Query, Respond], None]


class InternalQueries:
    """See the module."""

    __slots__ = ("_context", "_handlers")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._handlers: dict[str, Handler] = {"ping": lambda _query, _respond: None}

    def add(self, name: str, handler: Handler) -> None:
        """Let a handler answer the queries of this name (without prefix)."""
        self._handlers[name] = handler

    def handle(self, query: Query, respond: Respond) -> None:
        """Answer an internal query, if it is to be answered."""
        handler = self._handlers.get(query.name.removeprefix(INTERNAL))
        if handler is None:
            self._context.count("serfmp.query.unhandled")
            if not self._context.quiet("unhandled query"):
                self._context.log("WARN", "serf", f"Unhandled internal query '{query.name}'")
        else:
            handler(query, respond)
