"""RPC commands that another process of the agent answers; all are extensions of ours.

Rules: the supervisor hands questions and answers on. Whoever does not answer in time is told to the client by an error;
an answer that comes later is dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from serfmp.bus.packing import pack

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.agent.child import Child
    from serfmp.io.rpc_connection import Connection
    from serfmp.io.rpc_protocol import Request

LIMIT: Final = 5.0
"""Seconds that another process has to tell something."""

RELOAD_LIMIT: Final = 20.0
"""Seconds for a reload: files that are read, and all processes that are asked."""


class Inquiries:
    """See the module."""

    def __init__(self, child: Child) -> None:
        self._child = child

    def handlers(self, connection: Connection, request: Request) -> None:
        """The handlers, what they do, and how their last runs ended."""
        error = "the dispatcher cannot tell now; try again"
        self._ask(connection, request, LIMIT, error, lambda rows: {"Handlers": rows})

    def config(self, connection: Connection, request: Request) -> None:
        """The running configuration: keys, values, origins."""

        def body(rows: Any) -> dict[str, Any]:
            return {"Settings": [{"Key": key, "Origin": origin, "Value": value} for key, value, origin in rows]}

        self._ask(connection, request, LIMIT, "the supervisor cannot tell now; try again", body)

    def reload(self, connection: Connection, request: Request) -> None:
        """Reload flags and files: whether that went well, and what was said."""
        self._child.log("INFO", "agent.ipc", f"Reload asked for by {connection.name}")
        error = "the supervisor did not say how the reload ended; see the agent's log"
        self._ask(connection, request, RELOAD_LIMIT, error, lambda told: {"Lines": told["lines"], "Ok": told["ok"]})

    def _ask(
        self,
        connection: Connection,
        request: Request,
        limit: float,
        error: str,
        body: Callable[[Any], dict[str, Any]],
    ) -> None:
        waiting = [connection]

        def answered(told: Any) -> None:
            if not waiting:
                return
            waiting.clear()
            timer.cancel()
            if told is None:
                connection.answer(request, error)
            else:
                connection.answer(request, body=pack(body(told)))

        timer = self._child.loop.call_later(limit, lambda: answered(None))
        self._child.inquire(request.command, answered)
