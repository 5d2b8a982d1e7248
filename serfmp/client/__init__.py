"""The RPC client library, synchronous and asyncio.

Imports `wire` and `errors` only, and starts fast: the command line depends on it.
"""

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
from serfmp.client.records import (
    Event,
    Evidence,
    Handler,
    HandlerResult,
    History,
    KeyResult,
    Member,
    MemberEvent,
    QueryAnswer,
    QueryEvent,
    ReloadResult,
    Setting,
    UserEvent,
)
from serfmp.client.sync import Client, Monitor, Query, Stream

if TYPE_CHECKING:
    from serfmp.client.bus import BusMessage, BusMonitor, Gap

__all__ = [
    "AgentError",
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
    "UserEvent",
]

_LAZY = frozenset({"BusMessage", "BusMonitor", "Gap"})


def __getattr__(name: str) -> Any:
    """The monitor of the bus is imported when it is asked for: it needs ZeroMQ, which nothing else here does."""
    if name in _LAZY:
        from serfmp.client import bus

        return getattr(bus, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
