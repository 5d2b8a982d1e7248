"""Requests of RPC clients: which commands there are, what their bodies hold, how both are read (spec agent.md 5).

Rules:

* A request is a header and, for commands that have one, a body. Bodies are read for every command of the protocol, also
  for clients that are not authenticated, so that a connection stays in step.
* Field names are exact. Unknown fields are ignored; missing and nil ones are zero values; text may come as bytes and
  bytes as text; arrays stand for maps, in the order of the fields. Anything else is refused.
* A header without a field has its zero value; it does not inherit the one before (a quirk of Serf).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final

from serfmp.io.rpc_reader import MalformedError, ValueReader

SEQUENCE_MAX: Final = 2**64 - 1
VERSION_MAX: Final = 2**31 - 1
FACTOR_MAX: Final = 255


# --- bodies -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Handshake:
    """The first request of a connection."""

    version: int = 0


@dataclass(frozen=True, slots=True)
class Auth:
    """The token of the agent's `rpc_auth`."""

    key: str = ""


@dataclass(frozen=True, slots=True)
class UserEvent:
    """A user event to send."""

    name: str = ""
    payload: bytes = b""
    coalesce: bool = False


@dataclass(frozen=True, slots=True)
class Join:
    """Addresses of agents to join."""

    existing: tuple[str, ...] = ()
    replay: bool = False


@dataclass(frozen=True, slots=True)
class ForceLeave:
    """The node that shall count as left, and whether it shall be forgotten."""

    node: str = ""
    prune: bool = False


@dataclass(frozen=True, slots=True)
class MembersFiltered:
    """Expressions that members must match; empty ones are no filter."""

    tags: tuple[tuple[str, str], ...] = ()
    status: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Stream:
    """Filters of events, joined by commas."""

    type: str = ""


@dataclass(frozen=True, slots=True)
class Monitor:
    """The lowest level of log lines to send, in any letter case."""

    level: str = ""


@dataclass(frozen=True, slots=True)
class Stop:
    """Sequence number of the stream or monitor that shall end."""

    stop: int = 0


@dataclass(frozen=True, slots=True)
class Key:
    """A key in base64. `force` is an extension: remove it though somebody may still need it."""

    key: str = ""
    force: bool = False


@dataclass(frozen=True, slots=True)
class GetCoordinate:
    """The node whose coordinate is asked for."""

    node: str = ""


@dataclass(frozen=True, slots=True)
class Tags:
    """Tags to set, after those to delete."""

    tags: tuple[tuple[str, str], ...] = ()
    delete: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Query:
    """A query to send. `timeout`: nanoseconds, 0 for the default."""

    nodes: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    ack: bool = False
    relay_factor: int = 0
    timeout: int = 0
    name: str = ""
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Respond:
    """The answer to a query of this connection."""

    id: int = 0
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Why:
    """The node whose history is asked for; empty: the agent's own. An extension."""

    node: str = ""


@dataclass(frozen=True, slots=True)
class Nothing:
    """No body."""


Body = (
    Handshake
    | Auth
    | UserEvent
    | Join
    | ForceLeave
    | MembersFiltered
    | Stream
    | Monitor
    | Stop
    | GetCoordinate
    | Key
    | Tags
    | Query
    | Respond
    | Why
    | Nothing
)


@dataclass(frozen=True, slots=True)
class Request:
    """A complete request. `known`: the protocol has this command."""

    sequence: int
    command: str
    body: Body
    known: bool = True


@dataclass(frozen=True, slots=True)
class Header:
    """A request's header."""

    command: str = ""
    sequence: int = 0


# --- fields -----------------------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if not isinstance(value, str):
        raise MalformedError(f"a {type(value).__name__} where text belongs")
    return value


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if not isinstance(value, bytes):
        raise MalformedError(f"a {type(value).__name__} where bytes belong")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, int) or value not in {0, 1}:
        raise MalformedError(f"a {type(value).__name__} where a boolean belongs")
    return bool(value)


def _whole(value: Any, lowest: int, highest: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise MalformedError(f"a {type(value).__name__} where a number belongs")
    if not lowest <= value <= highest:
        raise MalformedError(f"the number {value} is out of range")
    return value


def _sequence(value: Any) -> int:
    return _whole(value, 0, SEQUENCE_MAX)


def _version(value: Any) -> int:
    return _whole(value, -VERSION_MAX - 1, VERSION_MAX)


def _factor(value: Any) -> int:
    return _whole(value, 0, FACTOR_MAX)


def _nanoseconds(value: Any) -> int:
    return _whole(value, -(2**63), 2**63 - 1)


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise MalformedError(f"a {type(value).__name__} where a list belongs")
    return tuple(_text(item) for item in value)


def _pairs(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):
        raise MalformedError(f"a {type(value).__name__} where a map belongs")
    return tuple((_text(key), _text(item)) for key, item in value.items())


_Fields = tuple[tuple[str, Callable[[Any], Any]], ...]

_HEADER: Final[_Fields] = (("Command", _text), ("Seq", _sequence))

_BODIES: Final[dict[str, tuple[type[Body], _Fields]]] = {
    "handshake": (Handshake, (("Version", _version),)),
    "auth": (Auth, (("AuthKey", _text),)),
    "event": (UserEvent, (("Name", _text), ("Payload", _bytes), ("Coalesce", _boolean))),
    "join": (Join, (("Existing", _texts), ("Replay", _boolean))),
    "force-leave": (ForceLeave, (("Node", _text), ("Prune", _boolean))),
    "members-filtered": (MembersFiltered, (("Tags", _pairs), ("Status", _text), ("Name", _text))),
    "stream": (Stream, (("Type", _text),)),
    "monitor": (Monitor, (("LogLevel", _text),)),
    "stop": (Stop, (("Stop", _sequence),)),
    "query": (
        Query,
        (
            ("FilterNodes", _texts),
            ("FilterTags", _pairs),
            ("RequestAck", _boolean),
            ("RelayFactor", _factor),
            ("Timeout", _nanoseconds),
            ("Name", _text),
            ("Payload", _bytes),
        ),
    ),
    **dict.fromkeys(("install-key", "use-key", "remove-key"), (Key, (("Key", _text), ("Force", _boolean)))),
    "get-coordinate": (GetCoordinate, (("Node", _text),)),
    "tags": (Tags, (("Tags", _pairs), ("DeleteTags", _texts))),
    "respond": (Respond, (("ID", _sequence), ("Payload", _bytes))),
    "why": (Why, (("Node", _text),)),
}
"""Commands with a body: what it is, and its fields on the wire in the order of the class."""

_WITHOUT_BODY: Final = frozenset({"members", "leave", "stats", "list-keys", "handlers", "bus", "config", "reload"})


_Shape = tuple[tuple[str, Callable[[Any], Any], Any], ...]
"""Name, reader and zero value of each field, in the order of the class."""


def _shape(kind: type[Body | Header], on_wire: _Fields) -> _Shape:
    return tuple((name, read, field.default) for (name, read), field in zip(on_wire, fields(kind), strict=True))


_HEADER_SHAPE: Final = _shape(Header, _HEADER)
_SHAPES: Final = {command: (kind, _shape(kind, on_wire)) for command, (kind, on_wire) in _BODIES.items()}


def _make(kind: Callable[..., Any], value: Any, shape: _Shape) -> Any:
    """What a value says, in the fields of `kind`; those that are missing have their zero value."""
    if value is None:
        return kind()
    if isinstance(value, list):
        value = dict(zip((name for name, _, _ in shape), value, strict=False))
    elif not isinstance(value, dict):
        raise MalformedError(f"a {type(value).__name__} where a map belongs")
    get = value.get
    return kind(*[zero if (item := get(name)) is None else read(item) for name, read, zero in shape])


class RequestReader:
    """The requests of one connection, in order."""

    __slots__ = ("_header", "_values")

    def __init__(self) -> None:
        self._values = ValueReader()
        self._header: Header | None = None

    @property
    def in_body(self) -> bool:
        """Whether a header was read whose body is not complete."""
        return self._header is not None

    @property
    def unfinished(self) -> bool:
        """Whether a part of a request is there."""
        return self._header is not None or self._values.unfinished

    @property
    def dry(self) -> bool:
        """Whether there is no whole request until more is fed."""
        return self._values.dry

    def feed(self, data: bytes) -> None:
        """Take what the client sent. Raises `MalformedError`."""
        self._values.feed(data)

    def take(self) -> Request | None:
        """The next complete request. Raises `MalformedError`, after which the connection is of no use."""
        if self._header is None:
            complete, value = self._values.take()
            if not complete:
                return None
            header: Header = _make(Header, value, _HEADER_SHAPE)
            if header.command not in _SHAPES:
                return Request(header.sequence, header.command, Nothing(), header.command in _WITHOUT_BODY)
            self._header = header
        complete, value = self._values.take()
        if not complete:
            return None
        kind, shape = _SHAPES[self._header.command]
        body: Body = _make(kind, value, shape)
        request = Request(self._header.sequence, self._header.command, body)
        self._header = None
        return request
