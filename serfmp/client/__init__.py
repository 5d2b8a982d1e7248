"""The RPC client library, synchronous and asyncio.

Imports `wire` and `errors` only, and starts fast: the command line depends on it.
"""

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
    UserEvent,
)
from serfmp.client.sync import Client, Monitor, Query, Stream

__all__ = [
    "AgentError",
    "Client",
    "ClientError",
    "ConnectError",
    "ConnectionLostError",
    "DeadlineError",
    "Event",
    "Evidence",
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
    "Stream",
    "UserEvent",
]
