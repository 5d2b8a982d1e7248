"""What an agent tells over RPC, as values. Made from the decoded maps; a field of the wrong type raises TypeError."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Member:
    """A row of `members`. `versions`: gossip min, max, current, then Serf's min, max, current."""

    name: str
    address: str
    port: int
    tags: Mapping[str, str]
    status: str
    versions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """`kind` is member-join, -leave, -failed, -update or -reap."""

    kind: str
    members: tuple[Member, ...]

    @property
    def names(self) -> set[str]:
        """The members' names."""
        return {member.name for member in self.members}


@dataclass(frozen=True, slots=True)
class UserRecord:
    """A user event."""

    name: str
    payload: bytes
    ltime: int
    coalesce: bool


@dataclass(frozen=True, slots=True)
class QueryRecord:
    """A query that arrived at the agent; `id` is what `respond` wants."""

    id: int
    name: str
    payload: bytes
    ltime: int


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A line of the agent's log."""

    line: str


@dataclass(frozen=True, slots=True)
class AnswerRecord:
    """To a query of our own: `kind` is ack, response or done."""

    kind: str
    sender: str
    payload: bytes


Record = MemberRecord | UserRecord | QueryRecord | LogRecord | AnswerRecord


def as_bytes(value: object) -> bytes:
    """A payload or address: bytes, text of an older encoder, or nil."""
    if value is None:
        return b""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    message = f"neither bytes nor text nor nil: {value!r}"
    raise TypeError(message)


def to_member(fields: Mapping[str, Any]) -> Member:
    """A member from its map."""
    address = ipaddress.ip_address(as_bytes(fields["Addr"]))
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    order = ("ProtocolMin", "ProtocolMax", "ProtocolCur", "DelegateMin", "DelegateMax", "DelegateCur")
    return Member(
        name=fields["Name"],
        address=str(address),
        port=fields["Port"],
        tags=dict(fields["Tags"] or {}),
        status=fields["Status"],
        versions=tuple(fields[key] for key in order),
    )


def to_members(rows: object) -> tuple[Member, ...]:
    """Members from their list; nil is none."""
    if rows is None:
        return ()
    if not isinstance(rows, list):
        message = f"not a list of members: {rows!r}"
        raise TypeError(message)
    return tuple(to_member(row) for row in rows)


def to_record(fields: Mapping[str, Any]) -> Record:
    """A record of a stream, a monitor or a query, told apart by its fields."""
    if "Log" in fields:
        return LogRecord(fields["Log"])
    if "Type" in fields:
        return AnswerRecord(fields["Type"], fields["From"], as_bytes(fields["Payload"]))
    kind = fields["Event"]
    if kind == "user":
        return UserRecord(fields["Name"], as_bytes(fields["Payload"]), fields["LTime"], fields["Coalesce"])
    if kind == "query":
        return QueryRecord(fields["ID"], fields["Name"], as_bytes(fields["Payload"]), fields["LTime"])
    return MemberRecord(kind, to_members(fields["Members"]))
