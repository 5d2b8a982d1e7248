"""The commands of the RPC as values: what is sent, and what is made of the answer (spec agent.md 5.3).

Both clients carry these out, so that they cannot differ. A call's `make` raises `AgentError` and its kinds for what the
agent refused, `ProtocolError` for what it may not send. A call imports the records that it makes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from serfmp.client.errors import AgentError, DeadlineError, JoinError, KeysError
from serfmp.client.fields import field
from serfmp.client.members import Member, to_members
from serfmp.client.protocol import RPC_VERSION, Reply

if TYPE_CHECKING:
    from serfmp.client.records import Handler, History, KeyResult, QueryEvent, ReloadResult, Setting
    from serfmp.wire.coordinate import Coordinate

DEFAULT_ADDRESS: Final = "127.0.0.1:7373"

DIAL_LIMIT_S: Final = 10.0
"""For connecting, and for writing one request (spec agent.md 3.1)."""

CALL_LIMIT_S: Final = 30.0
"""Default deadline of a call."""

SLOW_CALL_LIMIT_S: Final = 120.0
"""Default deadline of `join` and `leave`, which wait for other nodes."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request, and what its answer becomes."""

    command: str
    body: Mapping[str, Any] | None
    make: Callable[[Reply], T]


def overdue(command: str, limit_s: float | None) -> DeadlineError:
    """What a call ends with whose answer did not come within its limit."""
    return DeadlineError(f"the agent did not answer '{command}' within {limit_s:g} s")


def handshake() -> Call[None]:
    """The first request of every connection."""
    return Call("handshake", {"Version": RPC_VERSION}, _nothing)


def auth(token: str) -> Call[None]:
    """The second one, where the agent wants a token."""
    return Call("auth", {"AuthKey": token}, _nothing)


def members() -> Call[tuple[Member, ...]]:
    """All members."""
    return Call("members", None, _body(to_members))


def members_filtered(name: str, status: str, tags: Mapping[str, str] | None) -> Call[tuple[Member, ...]]:
    """The members for which all expressions match."""
    return Call("members-filtered", {"Name": name, "Status": status, "Tags": dict(tags or {})}, _body(to_members))


def join(addresses: Sequence[str], *, replay: bool) -> Call[int]:
    """Join others; how many were reached."""
    return Call("join", {"Existing": list(addresses), "Replay": replay}, _reached)


def event(name: str, payload: bytes, *, coalesce: bool) -> Call[None]:
    """Send a user event."""
    return Call("event", {"Name": name, "Payload": payload, "Coalesce": coalesce}, _nothing)


def leave() -> Call[None]:
    """Leave the cluster."""
    return Call("leave", None, _nothing)


def force_leave(node: str, *, prune: bool) -> Call[None]:
    """Make the cluster take a node for one that left."""
    return Call("force-leave", {"Node": node, "Prune": prune}, _nothing)


def stats() -> Call[dict[str, dict[str, str]]]:
    """The agent's figures."""
    from serfmp.client.records import to_stats

    return Call("stats", None, _body(to_stats))


def handlers() -> Call[tuple[Handler, ...]]:
    """The agent's handlers."""
    from serfmp.client.records import to_handlers

    return Call("handlers", None, _body(to_handlers))


def bus() -> Call[tuple[str, str]]:
    """Addresses of the public bus."""
    from serfmp.client.records import to_bus

    return Call("bus", None, _body(to_bus))


def config() -> Call[tuple[Setting, ...]]:
    """The configuration that the agent runs with."""
    from serfmp.client.records import to_settings

    return Call("config", None, _body(to_settings))


def reload() -> Call[ReloadResult]:
    """Read flags and files again."""
    from serfmp.client.records import to_reload_result

    return Call("reload", None, _body(to_reload_result))


def why(node: str) -> Call[History]:
    """The evidence about a node."""
    from serfmp.client.records import to_history

    return Call("why", {"Node": node}, _body(to_history))


def tags(change: Mapping[str, str] | None, delete: Sequence[str]) -> Call[None]:
    """Change tags of the agent's node."""
    return Call("tags", {"DeleteTags": list(delete), "Tags": dict(change or {})}, _nothing)


def keys(operation: str, key: str = "", *, force: bool = False) -> Call[KeyResult]:
    """`install-key`, `use-key`, `remove-key` (with `force` without a look at who may need it) or `list-keys`."""
    if operation == "list-keys":
        return Call(operation, None, _key_result)
    return Call(operation, {"Force": True, "Key": key} if force else {"Key": key}, _key_result)


def coordinate(node: str) -> Call[Coordinate | None]:
    """A node's coordinate."""
    from serfmp.client.records import to_coordinate

    return Call("get-coordinate", {"Node": node}, _body(to_coordinate))


def respond(query: QueryEvent | int, payload: bytes) -> Call[None]:
    """Answer a query that came on this connection."""
    return Call("respond", {"ID": query if isinstance(query, int) else query.id, "Payload": payload}, _nothing)


def stream(filters: str) -> Call[None]:
    """Subscribe to events."""
    return Call("stream", {"Type": filters}, _nothing)


def monitor(level: str) -> Call[None]:
    """Subscribe to the log."""
    return Call("monitor", {"LogLevel": level}, _nothing)


def stop(sequence: int) -> Call[None]:
    """End a subscription."""
    return Call("stop", {"Stop": sequence}, _nothing)


def query(
    name: str,
    payload: bytes,
    *,
    nodes: Sequence[str],
    tags: Mapping[str, str] | None,
    ack: bool,
    relay_factor: int,
    timeout_s: float,
) -> Call[None]:
    """Ask nodes."""
    body = {
        "FilterNodes": list(nodes),
        "FilterTags": dict(tags or {}),
        "Name": name,
        "Payload": payload,
        "RelayFactor": relay_factor,
        "RequestAck": ack,
        "Timeout": int(timeout_s * 1e9),
    }
    return Call("query", body, _nothing)


def _nothing(reply: Reply) -> None:
    if reply.error:
        raise AgentError(reply.error)


def _body(make: Callable[[Any], T]) -> Callable[[Reply], T]:
    def made(reply: Reply) -> T:
        _nothing(reply)
        return make(reply.body)

    return made


def _reached(reply: Reply) -> int:
    reached = field(reply.body, "Num", int) if reply.body is not None else 0
    if reply.error:
        raise JoinError(reply.error, reached)
    return reached


def _key_result(reply: Reply) -> KeyResult:
    if reply.error and reply.body is None:
        raise AgentError(reply.error)
    from serfmp.client.records import to_key_result

    result = to_key_result(reply.body)
    if reply.error:
        raise KeysError(reply.error, result)
    return result
