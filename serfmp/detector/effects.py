"""What the core gives out, and the data that it shares with the processes around it.

The core never acts. It returns `Effect` values, in order, from `take_effects()`; the driver (a process or the
simulator) carries them out by one rule: **every `Record` of a batch is in the journal before any other effect of that
batch leaves the process**. So what a peer, a handler or a client was told is never forgotten by a detector that is
killed and started again.

Times are seconds of one monotonic clock that all processes of the host share. An `Endpoint` is an IP address as text
and a port. Tokens are chosen by the core and come back with the answer; they are unique over all generations of a
detector, so an answer to a dead detector's question matches nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

Endpoint = tuple[str, int]
"""An IP address as text, and a port."""

RequestId = tuple[str, int, int]
"""Who asked: role, generation of that process, number of the request. Unique for the life of the agent."""

Plain = None | bool | int | float | str | bytes | tuple["Plain", ...] | list["Plain"] | dict[str, "Plain"]
"""What journal records and answers are made of: everything that msgpack carries without help."""


class MemberStatus(IntEnum):
    """Status of a member as Serf shows it (spec serf.md 5)."""

    NONE = 0
    ALIVE = 1
    LEAVING = 2
    LEFT = 3
    FAILED = 4

    @property
    def label(self) -> str:
        """The name that users see."""
        return self.name.lower()


class EventKind(IntEnum):
    """Kinds of events that reach handlers and streams (spec serf.md 4)."""

    MEMBER_JOIN = 0
    MEMBER_LEAVE = 1
    MEMBER_FAILED = 2
    MEMBER_UPDATE = 3
    MEMBER_REAP = 4
    USER = 5
    QUERY = 6

    @property
    def label(self) -> str:
        """The name that handlers and RPC clients see, such as `member-join`."""
        return self.name.lower().replace("_", "-")


class Lifecycle(Enum):
    """Life of the local node (spec serf.md 1)."""

    ALIVE = "alive"
    LEAVING = "leaving"
    LEFT = "left"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True)
class Member:
    """One row of the member table as users see it.

    `address` holds 4 or 16 raw bytes exactly as gossiped; `versions` the six protocol numbers: gossip min, max,
    current, then Serf's min, max, current.
    """

    name: str
    address: bytes
    port: int
    tags: Mapping[str, str]
    status: MemberStatus
    versions: tuple[int, int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class MemberEvent:
    """Members joined, left, failed, changed their tags, or were reaped.

    `sequence` numbers all events of the agent from 1.
    """

    sequence: int
    kind: EventKind
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class UserEventReceived:
    """A user event reached this node (its own events too). `ltime` is the Lamport time that its sender gave it."""

    sequence: int
    ltime: int
    name: str
    payload: bytes
    coalesce: bool

    @property
    def kind(self) -> EventKind:
        """Always USER."""
        return EventKind.USER


@dataclass(frozen=True, slots=True)
class QueryReceived:
    """A query reached this node, which its filters match (its own queries too); internal queries never show here.

    It can be answered by its `ltime` and `id`, once, until `deadline` (seconds of the host's monotonic clock).
    """

    sequence: int
    ltime: int
    id: int
    name: str
    payload: bytes
    source_node: str
    deadline: float

    @property
    def kind(self) -> EventKind:
        """Always QUERY."""
        return EventKind.QUERY


Event = MemberEvent | UserEventReceived | QueryReceived


# --- effects ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """A journal record: the first field is its kind. To be written before the other effects of the same batch."""

    fields: tuple[Plain, ...]


@dataclass(frozen=True, slots=True)
class SendPacket:
    """Send one UDP packet that carries `parts`, each a complete message; the driver adds compound and the outer layers.

    `checksum` asks for the CRC layer. A `token` other than 0 asks to be told of a send error by `core.send_failed`.
    """

    destination: Endpoint
    parts: tuple[bytes, ...]
    checksum: bool
    token: int = 0


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Connect, send `request` (a complete message), read one message if `reply`. Answered by `core.stream_replied`.

    `timeout` is in seconds from now and bounds all of it.
    """

    token: int
    destination: Endpoint
    request: bytes
    timeout: float
    reply: bool = True


@dataclass(frozen=True, slots=True)
class AnswerStream:
    """Send `reply` (a complete message) on the inbound stream and close it."""

    stream: int
    reply: bytes


@dataclass(frozen=True, slots=True)
class CloseStream:
    """Close the inbound stream without an answer."""

    stream: int


@dataclass(frozen=True, slots=True)
class Resolve:
    """Find the addresses of a host name. Answered by `core.resolved`."""

    token: int
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Publish:
    """Deliver an event to handlers and streams, exactly once each."""

    event: Event


@dataclass(frozen=True, slots=True)
class MemberChanged:
    """A row of the member table is new or changed; replicas take it over."""

    member: Member


@dataclass(frozen=True, slots=True)
class MemberForgotten:
    """A row of the member table is gone."""

    name: str


@dataclass(frozen=True, slots=True)
class LifecycleChanged:
    """The local node began to leave, has left, or shut itself down."""

    state: Lifecycle


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request: a value or an error text (with a value beside it where the RPC has one, as `join`)."""

    request: RequestId
    value: Plain
    error: str = ""


@dataclass(frozen=True, slots=True)
class StoreKeys:
    """Write these keys, the primary first, to the keyring file. Answered by `core.keys_stored` with the token."""

    token: int
    keys: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoreTags:
    """Write these tags to the tags file. Answered by `core.tags_stored` with the token."""

    token: int
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class KeysChanged:
    """From now on these keys encrypt (the first) and decrypt gossip."""

    keys: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class SnapshotLines:
    """Append these lines to the snapshot; `sync`: they shall be on the disk soon."""

    lines: tuple[str, ...]
    sync: bool = False


@dataclass(frozen=True, slots=True)
class QueryProgress:
    """News of a running query, for whoever asked it: an `ack` or a `response` of a node, or that it is `done`."""

    request: RequestId
    kind: str
    node: str = ""
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Log:
    """A log line: level is one of TRACE DEBUG INFO WARN ERR, component as in Serf (`serf`, `memberlist`, `agent`)."""

    level: str
    component: str
    text: str


@dataclass(frozen=True, slots=True)
class Count:
    """Add `amount` to a counter; names as in spec swim.md 12.3 and serf.md 17, or ours with the prefix `serfmp.`."""

    name: str
    amount: int = 1


@dataclass(frozen=True, slots=True)
class Gauge:
    """Set a gauge."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Samples:
    """Values of something that is measured again and again: milliseconds, bytes or items. One a name and batch."""

    name: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Probed:
    """A probe round has ended. For watchers: nothing depends on it.

    `outcome`: `acked`, `indirect` (late or through a helper), `stream` (by TCP only), `failed`, `unsendable`.
    `seconds`: the round trip, or how long the round lasted; `timed`: whether it is a round trip. `score`: the local
    health score.
    """

    node: str
    incarnation: int
    outcome: str
    seconds: float
    timed: bool
    score: int


@dataclass(frozen=True, slots=True)
class Noted:
    """Something was noted for or against a node (`serfmp.detector.swim.evidence`). For watchers."""

    node: str
    finding: str
    by: str
    source: Endpoint | None
    facts: Mapping[str, Plain]


Effect = (
    Record
    | SendPacket
    | OpenStream
    | AnswerStream
    | CloseStream
    | Resolve
    | Publish
    | MemberChanged
    | MemberForgotten
    | LifecycleChanged
    | Answer
    | QueryProgress
    | SnapshotLines
    | StoreKeys
    | StoreTags
    | KeysChanged
    | Log
    | Count
    | Gauge
    | Samples
    | Probed
    | Noted
)


# --- requests ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """Join the agents at these address texts (`[name/]host[:port]`). Answer value: the number of agents reached."""

    addresses: tuple[str, ...]
    replay: bool


@dataclass(frozen=True, slots=True)
class EventRequest:
    """Send a user event. Answered when it is journaled and queued; no value."""

    name: str
    payload: bytes
    coalesce: bool


@dataclass(frozen=True, slots=True)
class LeaveRequest:
    """Leave the cluster gracefully. Answered when the leave is complete; a second one joins the first."""


@dataclass(frozen=True, slots=True)
class ForceLeaveRequest:
    """Take a node for one that left, and with `prune` forget it. Answered when the news has spread; no value."""

    node: str
    prune: bool


@dataclass(frozen=True, slots=True)
class WhyRequest:
    """Tell the history of a node, empty: the local one. Answer value: `now` and `entries`, times of the core's clock.

    An entry holds the fields of `serfmp.detector.swim.evidence.Evidence`.
    """

    node: str


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """Ask the nodes that match all filters. Answer value: `ltime` and `id`; then `QueryProgress` until it is done.

    `nodes`: names, empty: all. `tags`: expressions (RE2, unanchored) by tag. `timeout`: seconds, 0: the default.
    """

    name: str
    payload: bytes
    nodes: tuple[str, ...]
    tags: Mapping[str, str]
    ack: bool
    relay_factor: int
    timeout: float


@dataclass(frozen=True, slots=True)
class RespondRequest:
    """Answer a query that was received. Answered when it is sent; no value."""

    ltime: int
    id: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class CoordinateRequest:
    """Where a member stands. Answer value: vector, error, adjustment, height; None if that is not known."""

    node: str


@dataclass(frozen=True, slots=True)
class TagsRequest:
    """Change the tags of the local node: first delete, then set. Answered when the news has spread; no value."""

    set: Mapping[str, str]
    delete: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KeysRequest:
    """Ask all members about keys. `operation`: install, use, remove, list; `key`: base64, empty for list."""

    operation: str
    key: str
    relay_factor: int
    force: bool = False
    """Remove a key though somebody may still need it."""


Request = (
    JoinRequest
    | EventRequest
    | LeaveRequest
    | ForceLeaveRequest
    | WhyRequest
    | QueryRequest
    | RespondRequest
    | TagsRequest
    | KeysRequest
    | CoordinateRequest
)
