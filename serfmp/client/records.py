"""What an agent tells, as values made from decoded maps (`serfmp.client.fields` has their rules).

Making the classes takes longer than a command with a few answers: whoever may need none of them imports this late.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serfmp.client.errors import ProtocolError
from serfmp.client.fields import field, text
from serfmp.client.members import Member, to_members
from serfmp.wire.coordinate import Coordinate


@dataclass(frozen=True, slots=True)
class MemberEvent:
    """`kind` is member-join, member-leave, member-failed, member-update or member-reap."""

    kind: str
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class UserEvent:
    """A user event; `ltime` is the Lamport time that its sender gave it."""

    name: str
    payload: bytes
    ltime: int
    coalesce: bool


@dataclass(frozen=True, slots=True)
class QueryEvent:
    """A query that reached the agent; `id` is what an answer to it names."""

    id: int
    name: str
    payload: bytes
    ltime: int


Event = MemberEvent | UserEvent | QueryEvent


@dataclass(frozen=True, slots=True)
class QueryAnswer:
    """News of a query: `kind` is ack, response (with its payload) or done, which is the last.

    Real agents sometimes tell an ack or a response of nobody when a query ends: clients leave it out.
    """

    kind: str
    node: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class KeyResult:
    """What came of a question about keys. `messages` by node; `keys`: how many nodes hold each (base64), for a list."""

    messages: Mapping[str, str]
    keys: Mapping[str, int]
    nodes: int
    responses: int
    errors: int


@dataclass(frozen=True, slots=True)
class Setting:
    """A key of the agent's configuration; `origin`: a flag, a file with its line, or `default`."""

    key: str
    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """How a reload ended, and what the agent said of it, line by line."""

    ok: bool
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HandlerResult:
    """How a run of a handler ended. `code` is None after a signal; `error` says why it failed, empty if it did not."""

    at: float
    event: str
    attempt: int
    code: int | None
    signal: int
    error: str
    seconds: float
    output: bytes
    output_size: int


@dataclass(frozen=True, slots=True)
class Handler:
    """A handler of the agent; `ended`, `failed` and `dropped` count since its dispatcher started."""

    name: str
    on: tuple[str, ...]
    command: str
    queued: int
    running: int
    ended: int
    failed: int
    dropped: int
    last: tuple[HandlerResult, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What spoke against a node or for it. Times are seconds since the epoch; `late` and facts with times are seconds.

    `by` is the node that says so; `source` the address from which the news came, empty for what the agent saw itself.
    `score` and `late` are the agent's own health score and lateness at that moment.
    """

    at: float
    finding: str
    by: str
    source: str
    score: int
    late: float
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class History:
    """The evidence behind a node's state, the oldest first; `now` is the agent's time when it answered."""

    node: str
    status: str
    now: float
    entries: tuple[Evidence, ...]


def to_history(fields: Any) -> History:
    """A history from its map."""
    rows: list[Any] = field(fields, "Entries", list)
    entries = tuple(
        Evidence(
            field(row, "At", float),
            field(row, "Finding", str),
            field(row, "By", str),
            field(row, "Source", str),
            field(row, "Score", int),
            field(row, "Late", float),
            field(row, "Facts", dict),
        )
        for row in rows
    )
    return History(field(fields, "Node", str), field(fields, "Status", str), field(fields, "Now", float), entries)


def to_event(fields: Any) -> Event:
    """An event from its record."""
    kind = field(fields, "Event", str)
    name = field(fields, "Name", str)
    payload = field(fields, "Payload", bytes)
    ltime = field(fields, "LTime", int)
    if kind == "user":
        return UserEvent(name, payload, ltime, field(fields, "Coalesce", bool))
    if kind == "query":
        return QueryEvent(field(fields, "ID", int), name, payload, ltime)
    return MemberEvent(kind, to_members(fields))


def to_log_line(fields: Any) -> str:
    """A log line from its record."""
    return field(fields, "Log", str)


def to_answer(fields: Any) -> QueryAnswer:
    """News of a query from its record."""
    return QueryAnswer(field(fields, "Type", str), field(fields, "From", str), field(fields, "Payload", bytes))


def to_key_result(fields: Any) -> KeyResult:
    """The outcome of a question about keys from its map."""
    messages: dict[Any, Any] = field(fields, "Messages", dict)
    keys: dict[Any, Any] = field(fields, "Keys", dict)
    return KeyResult(
        {text(node): text(message) for node, message in messages.items()},
        {text(key): int(count) for key, count in keys.items()},
        field(fields, "NumNodes", int),
        field(fields, "NumResp", int),
        field(fields, "NumErr", int),
    )


def to_coordinate(fields: Any) -> Coordinate | None:
    """A coordinate from its map; None if there is none."""
    if not field(fields, "Ok", bool):
        return None
    place: dict[Any, Any] = field(fields, "Coord", dict)
    vec: list[Any] = field(place, "Vec", list)
    return Coordinate(
        tuple(float(number) for number in vec),
        field(place, "Error", float),
        field(place, "Adjustment", float),
        field(place, "Height", float),
    )


def to_handlers(fields: Any) -> tuple[Handler, ...]:
    """The handlers from their map."""
    rows: list[Any] = field(fields, "Handlers", list)
    return tuple(_to_handler(row) for row in rows)


def to_bus(fields: Any) -> tuple[str, str]:
    """Addresses of events and snapshot from their map."""
    return field(fields, "Events", str), field(fields, "Snapshot", str)


def _to_handler(row: Any) -> Handler:
    filters: list[Any] = field(row, "on", list)
    results: list[Any] = field(row, "last", list)
    return Handler(
        name=field(row, "name", str),
        on=tuple(map(text, filters)),
        command=field(row, "command", str),
        queued=field(row, "queued", int),
        running=field(row, "running", int),
        ended=field(row, "ended", int),
        failed=field(row, "failed", int),
        dropped=field(row, "dropped", int),
        last=tuple(_to_result(result) for result in results),
    )


def _to_result(row: Any) -> HandlerResult:
    return HandlerResult(
        at=field(row, "at", float),
        event=field(row, "event", str),
        attempt=field(row, "attempt", int),
        code=None if row.get("code") is None else field(row, "code", int),
        signal=field(row, "signal", int),
        error=field(row, "error", str),
        seconds=field(row, "seconds", float),
        output=field(row, "output", bytes),
        output_size=field(row, "output_size", int),
    )


def to_settings(fields: Any) -> tuple[Setting, ...]:
    """The configuration from its map."""
    rows: list[Any] = field(fields, "Settings", list)
    return tuple(Setting(field(row, "Key", str), row.get("Value"), field(row, "Origin", str)) for row in rows)


def to_reload_result(fields: Any) -> ReloadResult:
    """The outcome of a reload from its map."""
    lines: list[Any] = field(fields, "Lines", list)
    return ReloadResult(field(fields, "Ok", bool), tuple(map(text, lines)))


def to_stats(fields: Any) -> dict[str, dict[str, str]]:
    """Sections of figures, all as text."""
    if not isinstance(fields, dict):
        raise ProtocolError(f"the agent sent a {type(fields).__name__} as stats")
    return {
        text(section): {text(key): text(value) for key, value in field(fields, section, dict).items()}
        for section in fields
    }
