"""Members, events and requests of the core as plain values for frames, and back. Nothing else knows these shapes."""

from __future__ import annotations

from typing import Any

from serfmp.detector.effects import (
    CoordinateRequest,
    Event,
    EventKind,
    EventRequest,
    ForceLeaveRequest,
    JoinRequest,
    KeysRequest,
    LeaveRequest,
    Member,
    MemberEvent,
    MemberStatus,
    QueryReceived,
    QueryRequest,
    Request,
    RespondRequest,
    TagsRequest,
    UserEventReceived,
    WhyRequest,
)
from serfmp.errors import InternalError


def member_to_plain(member: Member) -> list[Any]:
    """A row of the member table."""
    return [
        member.name,
        member.address,
        member.port,
        dict(member.tags),
        int(member.status),
        list(member.versions),
    ]


def member_from_plain(row: list[Any]) -> Member:
    """The inverse of `member_to_plain`."""
    name, address, port, tags, status, versions = row
    return Member(name, address, port, tags, MemberStatus(status), tuple(versions))


def event_to_plain(event: Event) -> list[Any]:
    """An event with its sequence number first and its kind second."""
    if isinstance(event, MemberEvent):
        return [event.sequence, int(event.kind), [member_to_plain(member) for member in event.members]]
    if isinstance(event, QueryReceived):
        return [
            event.sequence,
            int(EventKind.QUERY),
            event.ltime,
            event.id,
            event.name,
            event.payload,
            event.source_node,
            event.deadline,
        ]
    return [event.sequence, int(EventKind.USER), event.ltime, event.name, event.payload, event.coalesce]


def event_from_plain(plain: list[Any]) -> Event:
    """The inverse of `event_to_plain`."""
    sequence, kind, *fields = plain
    if kind == EventKind.USER:
        ltime, name, payload, coalesce = fields
        return UserEventReceived(sequence, ltime, name, payload, coalesce)
    if kind == EventKind.QUERY:
        return QueryReceived(sequence, *fields)
    return MemberEvent(sequence, EventKind(kind), tuple(member_from_plain(row) for row in fields[0]))


def request_to_plain(request: Request) -> tuple[str, list[Any]]:
    """Kind and fields of a request, for `Ask`."""
    match request:
        case JoinRequest(addresses, replay):
            return "join", [list(addresses), replay]
        case EventRequest(name, payload, coalesce):
            return "event", [name, payload, coalesce]
        case LeaveRequest():
            return "leave", []
        case ForceLeaveRequest(node, prune):
            return "force-leave", [node, prune]
        case WhyRequest(node):
            return "why", [node]
        case QueryRequest(name, payload, nodes, tags, ack, relay_factor, timeout):
            return "query", [name, payload, list(nodes), dict(tags), ack, relay_factor, timeout]
        case CoordinateRequest(node):
            return "coordinate", [node]
        case RespondRequest(ltime, query_id, payload):
            return "respond", [ltime, query_id, payload]
        case TagsRequest(changed, deleted):
            return "tags", [dict(changed), list(deleted)]
        case KeysRequest(operation, key, relay_factor, force):
            return "keys", [operation, key, relay_factor, force]


def request_from_plain(kind: str, fields: list[Any]) -> Request:
    """The inverse of `request_to_plain`."""
    match kind:
        case "join":
            return JoinRequest(tuple(fields[0]), fields[1])
        case "event":
            return EventRequest(*fields)
        case "leave":
            return LeaveRequest()
        case "force-leave":
            return ForceLeaveRequest(*fields)
        case "why":
            return WhyRequest(*fields)
        case "query":
            query_name, payload, nodes, tags, ack, relay_factor, timeout = fields
            return QueryRequest(query_name, payload, tuple(nodes), tags, ack, relay_factor, timeout)
        case "coordinate":
            return CoordinateRequest(*fields)
        case "respond":
            return RespondRequest(*fields)
        case "tags":
            return TagsRequest(fields[0], tuple(fields[1]))
        case "keys":
            return KeysRequest(*fields)
    raise InternalError(f"a request of unknown kind '{kind}' on the bus")
