"""Members as an agent tells them: apart from the other records, because most commands need nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serfmp.client.errors import ProtocolError
from serfmp.client.fields import field, text
from serfmp.wire.address import to_text
from serfmp.wire.errors import WireError


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the cluster (spec agent.md 5.3). `protocol_*` are versions of the gossip, `delegate_*` Serf's."""

    name: str
    address: str
    """IP address as text; empty if the agent told none."""
    port: int
    tags: Mapping[str, str]
    status: str
    """alive, leaving, left, failed or none."""
    protocol_min: int
    protocol_max: int
    protocol_cur: int
    delegate_min: int
    delegate_max: int
    delegate_cur: int


def to_member(fields: Any) -> Member:
    """A member from its map."""
    raw = field(fields, "Addr", bytes)
    try:
        address = to_text(raw) if raw else ""
    except WireError as error:
        raise ProtocolError(f"the agent sent a bad address: {error}") from error
    tags: dict[Any, Any] = field(fields, "Tags", dict)
    return Member(
        name=field(fields, "Name", str),
        address=address,
        port=field(fields, "Port", int),
        tags={text(key): text(value) for key, value in tags.items()},
        status=field(fields, "Status", str),
        protocol_min=field(fields, "ProtocolMin", int),
        protocol_max=field(fields, "ProtocolMax", int),
        protocol_cur=field(fields, "ProtocolCur", int),
        delegate_min=field(fields, "DelegateMin", int),
        delegate_max=field(fields, "DelegateMax", int),
        delegate_cur=field(fields, "DelegateCur", int),
    )


def to_members(fields: Any) -> tuple[Member, ...]:
    """The members of the map that holds them, in the agent's order."""
    rows: list[Any] = field(fields, "Members", list)
    return tuple(to_member(row) for row in rows)
