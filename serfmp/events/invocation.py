"""What a handler script gets: additions to its environment, and its standard input (spec agent.md 4.2).

Rules:

* Text becomes bytes with surrogateescape, so that names and tags that are not UTF-8 arrive as they were gossiped.
* A value with a NUL byte cannot be in an environment: the variable is left out, and its name reported.
* Tags stand sorted by key, so that the same member gives the same line; Serf's order is random.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from serfmp.detector.effects import Event, Member, MemberEvent, QueryReceived, UserEventReceived
from serfmp.events.policy import Order
from serfmp.wire.address import to_text
from serfmp.wire.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from serfmp.events.specs import HandlerSpec

_NOT_A_NAME: Final = re.compile("[^A-Z0-9_]")

_OVERHEAD: Final = 64
"""Bytes that an invocation's numbers and framing take in the ledger, about."""


def input_size(environment: Mapping[str, str], stdin: bytes) -> int:
    """Bytes that these take, about."""
    return sum(map(len, environment)) + sum(map(len, environment.values())) + len(stdin)


@dataclass(frozen=True, slots=True)
class ScriptInput:
    """The environment's additions and the standard input that one event gives all its handlers."""

    environment: dict[str, str]
    stdin: bytes
    unpassable: tuple[str, ...]
    """Variables that had to be left out."""
    size: int = field(init=False, repr=False, compare=False)
    """Bytes that it takes, about."""

    def __post_init__(self) -> None:
        """Make the size, once for all handlers."""
        object.__setattr__(self, "size", input_size(self.environment, self.stdin))


NO_INPUT: Final = ScriptInput({}, b"", ())
"""Of an event that no handler wants."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """One run of one script for one event."""

    number: int
    """Unique for the life of the agent, rising."""
    sequence: int
    """Number of the event."""
    handler: str
    """Identity of the handler as it was when the event came: the ledger has it."""
    lane: str
    """Order key: what has the same one runs one after another."""
    group: str
    """What shares bounds: the events, or the queries, of one handler."""
    event: str
    """Label of the event, such as `member-join`."""
    environment: dict[str, str]
    stdin: bytes
    deadline: float = 0.0
    """Seconds of the monotonic clock after which it is not started; 0: never too late."""
    query: tuple[int, int] | None = None
    """Lamport time and ID of the query that its output answers."""
    attempt: int = 0
    """How often it was tried before."""
    input_size: int = field(default=0, repr=False, compare=False)
    """Bytes that environment and standard input take, about; 0: they are counted."""
    size: int = field(init=False, repr=False, compare=False)
    """Bytes that it takes, about. Made once: it is asked for several times."""

    def __post_init__(self) -> None:
        """Make the size."""
        size = self.input_size or input_size(self.environment, self.stdin)
        object.__setattr__(self, "size", _OVERHEAD + len(self.lane) + size)


def order_keys(spec: HandlerSpec, event: Event, number: int) -> tuple[str, str]:
    """Lane and group of an invocation (spec deviations: queries have lanes of their own)."""
    query = isinstance(event, QueryReceived)
    group = f"{'query' if query else 'event'} {spec.identity}"
    match spec.queue.order:
        case Order.HANDLER:
            return group, group
        case Order.AGENT:
            return ("query" if query else "agent"), group
        case Order.EVENT:
            return f"{group} {event_name(event)}", group
        case Order.NODE:
            name = event.members[0].name if isinstance(event, MemberEvent) and len(event.members) == 1 else ""
            return f"{group} {name}", group
        case Order.NONE:
            return f"{group} {number}", group


def event_name(event: Event) -> str:
    """Kind and name of an event."""
    return event.kind.label if isinstance(event, MemberEvent) else f"{event.kind.label}:{event.name}"


def script_input(event: Event, node: str, tags: Mapping[str, str]) -> ScriptInput:
    """What the handlers of this event get from an agent with this name and these tags."""
    values = {
        "SERF_EVENT": event_label(event),
        "SERF_SELF_NAME": node,
        "SERF_SELF_ROLE": tags.get("role", ""),
    }
    values.update((f"SERF_TAG_{variable_name(key)}", tags[key]) for key in sorted(tags))
    if isinstance(event, UserEventReceived):
        values["SERF_USER_EVENT"] = event.name
        values["SERF_USER_LTIME"] = str(event.ltime)
        stdin = _terminated(event.payload)
    elif isinstance(event, QueryReceived):
        values["SERF_QUERY_NAME"] = event.name
        values["SERF_QUERY_LTIME"] = str(event.ltime)
        stdin = _terminated(event.payload)
    else:
        stdin = b"".join(map(member_line, event.members))
    environment = {name: value for name, value in values.items() if "\0" not in value}
    return ScriptInput(environment, stdin, tuple(name for name in values if name not in environment))


def event_label(event: Event) -> str:
    """The kind of an event as handlers see it."""
    return event.kind.label


def variable_name(tag: str) -> str:
    """The part of a variable's name that stands for a tag's key: `data-center` gives `DATA_CENTER`."""
    # Characters whose capital form is several characters stay one, as in Serf: `ß` is one `_`, not `SS`.
    upper = "".join(capital if len(capital := character.upper()) == 1 else "_" for character in tag)
    return _NOT_A_NAME.sub("_", upper)


def member_line(member: Member) -> bytes:
    """The line of one member: name, address, role and tags, separated by tabs."""
    tags = ",".join(f"{key}={member.tags[key]}" for key in sorted(member.tags))
    try:
        address = to_text(member.address)
    except WireError:
        address = f"?{member.address.hex()}" if member.address else "<nil>"
    fields = (_escaped(member.name), address, _escaped(member.tags.get("role", "")), _escaped(tags))
    return ("\t".join(fields) + "\n").encode(errors="surrogateescape")


def _escaped(text: str) -> str:
    return text.replace("\t", "\\t").replace("\n", "\\n")


def _terminated(payload: bytes) -> bytes:
    return payload if not payload or payload.endswith(b"\n") else payload + b"\n"
