"""Every frame that processes of one agent send each other. How they become bytes: `serfmp.bus.codec`.

Rules:

* A frame is a frozen dataclass of plain fields.
* Both ends are of the same release: all code is imported before the first fork, and an exec'd child that finds another
  version stops.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from serfmp.bus import codec

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMAT: Final = 1
"""Version of the frames. Raised whenever a frame changes."""

Envelope = codec.Envelope
"""The header of a message on the bus."""

Packet = tuple[str, int, float, bool, list[bytes]]
"""Host, port, arrival (monotonic seconds), whether the arrival is exact, leaf messages."""

Transmission = tuple[str, int, bool, int, tuple[bytes, ...]]
"""Host, port, whether to add a checksum, token (0: none), leaf messages."""


# --- gossip → detector ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PacketBatch:
    """What one drain of the UDP sockets brought."""

    packets: list[Packet]


@dataclass(frozen=True, slots=True)
class StreamArrived:
    """A complete message came in on an inbound stream, which waits for an answer or for being closed."""

    stream: int
    host: str
    port: int
    message: bytes


@dataclass(frozen=True, slots=True)
class StreamAnswered:
    """How an outbound stream ended: a message, or None and an error text; `remote` if the other side is to blame."""

    token: int
    message: bytes | None
    error: str
    remote: bool


@dataclass(frozen=True, slots=True)
class NameResolved:
    """The addresses of a host name, as text, those of service records with their ports; empty with an error text."""

    token: int
    addresses: list[str]
    error: str


@dataclass(frozen=True, slots=True)
class SendFailed:
    """The packet with this token could not be sent."""

    token: int
    remote: bool
    error: str


@dataclass(frozen=True, slots=True)
class GossipConnected:
    """The gossip process knows of this detector, and connects to it."""


@dataclass(frozen=True, slots=True)
class FenceBack:
    """All that had arrived at the host when `Fence(token)` was handled was sent before this frame."""

    token: int


# --- detector → gossip ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Transmit:
    """Packets to send; `handled` is the highest sequence number of gossip's frames that the detector is done with."""

    handled: int
    packets: list[Transmission]


@dataclass(frozen=True, slots=True)
class StreamOpen:
    """Connect, send, and read one message if `reply`; all within `timeout` seconds."""

    token: int
    host: str
    port: int
    request: bytes
    timeout: float
    reply: bool


@dataclass(frozen=True, slots=True)
class StreamAnswer:
    """Answer an inbound stream and close it."""

    stream: int
    reply: bytes


@dataclass(frozen=True, slots=True)
class StreamClose:
    """Close an inbound stream without an answer."""

    stream: int


@dataclass(frozen=True, slots=True)
class NameResolve:
    """Resolve a host name."""

    token: int
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Fence:
    """Hand over all that has arrived, then send it back as `FenceBack`."""

    token: int


# --- detector ⇄ consumers (rpc, dispatcher) ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Subscribe:
    """A consumer is there, new or again, or heard of a new detector.

    `members`: it wants the member table (a snapshot, then changes). Events follow from the first one after `after`; -1
    means from the first that no generation of this consumer has acknowledged.
    """

    members: bool
    after: int


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """All events up to this sequence number are safe with the consumer."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for the core: its number (unique in a generation of the asking process), its kind and its fields."""

    number: int
    kind: str
    fields: list[Any]


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to the `Ask` of this number."""

    number: int
    value: Any
    error: str


@dataclass(frozen=True, slots=True)
class QueryNews:
    """News of the query that the `Ask` of this number began: `ack` or `response` of a node, or `done`."""

    number: int
    kind: str
    node: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Together:
    """Encoded frames that leave in one turn, in order: a message of the bus costs more than most of them."""

    frames: list[bytes]


@dataclass(frozen=True, slots=True)
class Events:
    """Events in order, in the form of `serfmp.bus.plain`.

    A sequence number that the consumer had already is a repeat: drop it.
    """

    events: list[Any]


@dataclass(frozen=True, slots=True)
class MemberRows:
    """A part of the member table, as in `serfmp.bus.plain`; `first` empties the replica, `last` completes it."""

    first: bool
    last: bool
    rows: list[Any]


@dataclass(frozen=True, slots=True)
class MemberRow:
    """One row is new or changed."""

    row: Any


@dataclass(frozen=True, slots=True)
class MemberGone:
    """One row is gone."""

    name: str


@dataclass(frozen=True, slots=True)
class DetectorState:
    """Figures of the core (`stats`), sent about once a second while they change, and its lifecycle."""

    lifecycle: str
    stats: dict[str, str]


# --- dispatcher ⇄ workers ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A worker is there, new or for a new dispatcher, and runs at most `credits` invocations at once.

    `held`: the invocations that it has, to be run, running, or ended and not yet `Recorded`. Repeated until answered.
    """

    shard: int
    credits: int
    held: list[int]


@dataclass(frozen=True, slots=True)
class Run:
    """Run a command with these additions to the environment and this input.

    `command`: a line for `/bin/sh -c`, or a program and its arguments. `policy`: a `RunPolicy` in its plain form.
    `lane`: those of one lane run one after another, in the order in which they come; empty: it waits for none.
    """

    invocation: int
    command: str | list[str]
    environment: dict[str, str]
    stdin: bytes
    policy: dict[str, Any]
    lane: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """The script ended.

    Exit code (None if by a signal), signal (0 if none), start error, last output, all output's size, seconds; whether
    its time was over, and the last of its standard error where that is kept apart.
    """

    invocation: int
    code: int | None
    signal: int
    error: str
    output: bytes
    output_size: int
    seconds: float
    timed_out: bool = False
    errors: bytes = b""


@dataclass(frozen=True, slots=True)
class Recorded:
    """The ends of these invocations are in the ledger: the worker may forget them. Also the answer to `WorkerReady`."""

    invocations: list[int]


# --- supervisor ⇄ children, on the control socket ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """The first frame that a child reads: who it is, what it owns, and how it is configured.

    `descriptors` maps names (`log`, `heartbeat`, `journal`, `udp`, `tcp`, `rpc`, …) to the numbers of inherited
    descriptors; `generations` maps process names to their present generation; `config` is the agent's configuration.
    """

    format: int
    role: str
    index: int
    generation: int
    slot: int
    directory: str
    descriptors: dict[str, int]
    generations: dict[str, int]
    config: dict[str, Any]
    recover: bool
    public: str = ""
    """Directory of the public monitor bus; empty: there is none."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The child serves."""


@dataclass(frozen=True, slots=True)
class Generations:
    """Some process was started again: the present generation of all, by process name."""

    generations: dict[str, int]


@dataclass(frozen=True, slots=True)
class Stop:
    """End in good order within `grace` seconds."""

    grace: float


@dataclass(frozen=True, slots=True)
class KeysNotice:
    """Gossip is encrypted with the first of these keys, and decrypted with all of them, from now on."""

    keys: list[bytes]


@dataclass(frozen=True, slots=True)
class TagsNotice:
    """The local node has these tags now."""

    tags: dict[str, str]


@dataclass(frozen=True, slots=True)
class Propose:
    """The agent is to be configured anew: does this process agree? Nothing changes yet."""

    number: int
    config: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Agreed:
    """The answer to a proposal; `error` says why not."""

    number: int
    error: str


@dataclass(frozen=True, slots=True)
class Commit:
    """All agreed: the proposal of this number holds from now on."""

    number: int


@dataclass(frozen=True, slots=True)
class Inquire:
    """A child wants to know something of another process, which the supervisor asks: `subject` names what."""

    number: int
    subject: str


@dataclass(frozen=True, slots=True)
class Inquiry:
    """The supervisor asks on behalf of the child `asker`."""

    asker: str
    number: int
    subject: str


@dataclass(frozen=True, slots=True)
class Findings:
    """The answer to an inquiry, for `asker`; `body` is None if nobody could tell."""

    asker: str
    number: int
    body: Any


@dataclass(frozen=True, slots=True)
class Discovered:
    """An agent of the cluster was found at this address: it shall be joined."""

    address: str


@dataclass(frozen=True, slots=True)
class DiscoveredJoined:
    """How joining that address ended; an empty error: well."""

    address: str
    error: str


@dataclass(frozen=True, slots=True)
class CannotStart:
    """The sender cannot do its work, and a restart would not help: the agent's start has failed."""

    text: str


@dataclass(frozen=True, slots=True)
class Reopen:
    """Open files anew that may have been moved away."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of the agent's log. It travels in `LogLines`.

    `number` counts from 1 for the life of the agent: a gap is what got lost on the way. `at`: seconds since the epoch.
    `level`, `component` and `text` as in spec agent.md 2.3.
    """

    number: int
    at: float
    level: str
    component: str
    text: str


@dataclass(frozen=True, slots=True)
class LogLines:
    """Lines of the agent's log, on a feed from the supervisor: the fields of each."""

    rows: list[Any]

    @classmethod
    def of(cls, lines: Iterable[LogLine]) -> LogLines:
        """A frame of these lines."""
        return cls([_LINE(line) for line in lines])

    def lines(self) -> list[LogLine]:
        """The lines, in order."""
        return [LogLine(*row) for row in self.rows]


_LINE: Final = attrgetter("number", "at", "level", "component", "text")


@dataclass(frozen=True, slots=True)
class Report:
    """What a process tells those who watch the agent (`serfmp.bus.reports`): changes since its last report.

    Counters: increases by name. Gauges: values. Samples: `serfmp.bus.metrics.Sample` in its plain form. Happenings:
    topic, wall time, Lamport time or None, map. `missed`: happenings beyond the bound.
    """

    process: str
    counters: dict[str, int]
    gauges: dict[str, float]
    samples: dict[str, Any]
    happenings: list[Any]
    missed: int


@dataclass(frozen=True, slots=True)
class ProcessTable:
    """The agent's processes, the supervisor first.

    A row: name, pid, generation, state, slot of the heartbeat page (-1: none), monotonic time of the start, restarts,
    why the last generation ended.
    """

    rows: list[Any]


@dataclass(frozen=True, slots=True)
class LifecycleNotice:
    """The local node began to leave, has left, or must shut down."""

    state: str


_FRAMES: Final[tuple[type, ...]] = (
    PacketBatch,
    StreamArrived,
    StreamAnswered,
    NameResolved,
    SendFailed,
    FenceBack,
    GossipConnected,
    Transmit,
    StreamOpen,
    StreamAnswer,
    StreamClose,
    NameResolve,
    Fence,
    Subscribe,
    Acknowledge,
    Ask,
    Answered,
    QueryNews,
    Events,
    Together,
    MemberRows,
    MemberRow,
    MemberGone,
    DetectorState,
    WorkerReady,
    Run,
    Finished,
    Recorded,
    Start,
    Ready,
    Generations,
    Stop,
    LifecycleNotice,
    TagsNotice,
    KeysNotice,
    Propose,
    Agreed,
    Commit,
    Inquire,
    Inquiry,
    Findings,
    LogLines,
    Reopen,
    Discovered,
    DiscoveredJoined,
    CannotStart,
    Report,
    ProcessTable,
)
_CODEC: Final = codec.Codec(FORMAT, _FRAMES)
encode = _CODEC.encode
decode = _CODEC.decode
seal = _CODEC.seal
open_sealed = _CODEC.open_sealed
