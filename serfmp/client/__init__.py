"""The RPC client library, synchronous and asyncio.

Imports `wire` and `errors` only, and starts fast: the command line depends on it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from serfmp.client.errors import (
    AgentError,
    ClientError,
    ConnectError,
    ConnectionLostError,
    DeadlineError,
    JoinError,
    KeysError,
    ProtocolError,
)

if TYPE_CHECKING:
    from serfmp.client.aio import AsyncClient, AsyncQuery, AsyncRecords
    from serfmp.client.bus import BusMessage, BusMonitor, Gap
    from serfmp.client.members import Member
    from serfmp.client.records import (
        Event,
        Evidence,
        Handler,
        HandlerResult,
        History,
        KeyResult,
        MemberEvent,
        QueryAnswer,
        QueryEvent,
        ReloadResult,
        Setting,
        UserEvent,
    )
    from serfmp.client.sync import Client, Monitor, Query, Stream
    from serfmp.client.tls import Tls

__all__ = [
    "AgentError",
    "AsyncClient",
    "AsyncQuery",
    "AsyncRecords",
    "BusMessage",
    "BusMonitor",
    "Client",
    "ClientError",
    "ConnectError",
    "ConnectionLostError",
    "DeadlineError",
    "Event",
    "Evidence",
    "Gap",
    "Handler",
    "HandlerResult",
    "History",
    "JoinError",
    "KeyResult",
    "KeysError",
    "Member",
    "MemberEvent",
    "Monitor",
    "ProtocolError",
    "Query",
    "QueryAnswer",
    "QueryEvent",
    "ReloadResult",
    "Setting",
    "Stream",
    "Tls",
    "UserEvent",
]

_LAZY = {
    **dict.fromkeys(("AsyncClient", "AsyncQuery", "AsyncRecords"), "aio"),
    **dict.fromkeys(("BusMessage", "BusMonitor", "Gap"), "bus"),
    **dict.fromkeys(
        (
            "Event",
            "Evidence",
            "Handler",
            "HandlerResult",
            "History",
            "KeyResult",
            "MemberEvent",
            "QueryAnswer",
            "QueryEvent",
            "ReloadResult",
            "Setting",
            "UserEvent",
        ),
        "records",
    ),
    **dict.fromkeys(("Client", "Monitor", "Query", "Stream"), "sync"),
    "Member": "members",
    "Tls": "tls",
}


def __getattr__(name: str) -> Any:
    """Everything but errors is imported when it is asked for: nobody needs all of it, an agent only addresses."""
    if name in _LAZY:
        return getattr(importlib.import_module(f"serfmp.client.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
