"""The blocking client: one connection to an agent, used from one thread.

Rules:

* Every call has a deadline in seconds; None waits for as long as the agent takes. A call that ran out of time leaves
  the connection usable: its answer is dropped when it comes.
* Records that arrive while another answer is awaited wait in their stream, up to `QUEUE_LIMIT`; beyond it the oldest go
  and `dropped` counts them.
* Nothing is read between calls: a program that does not call slows down only its own connection.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from serfmp.client.address import port_number, split_host_port
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
from serfmp.client.protocol import RPC_VERSION, Conversation, Record, Reply
from serfmp.client.records import (
    Event,
    Handler,
    History,
    KeyResult,
    Member,
    QueryAnswer,
    QueryEvent,
    ReloadResult,
    Setting,
    field,
    to_answer,
    to_bus,
    to_coordinate,
    to_event,
    to_handlers,
    to_history,
    to_key_result,
    to_log_line,
    to_members,
    to_reload_result,
    to_settings,
    to_stats,
)
from serfmp.errors import UserError
from serfmp.wire.coordinate import Coordinate
from serfmp.wire.host_port import join_host_port, unix_path

DEFAULT_ADDRESS: Final = "127.0.0.1:7373"

DIAL_LIMIT_S: Final = 10.0
"""For connecting, and for writing one request (spec agent.md 3.1)."""

CALL_LIMIT_S: Final = 30.0
"""Default deadline of a call."""

SLOW_CALL_LIMIT_S: Final = 120.0
"""Default deadline of `join` and `leave`, which wait for other nodes."""

QUEUE_LIMIT: Final = 65536
"""Records that wait in one stream."""

_CHUNK: Final = 256 * 1024

T = TypeVar("T")


class _Records(Iterator[T]):
    """Records of one subscription, made into values; iterating waits for the next one, for ever."""

    def __init__(self, client: Client, sequence: int, make: Callable[[Any], T]) -> None:
        self._client = client
        self._sequence = sequence
        self._make = make
        self._items: deque[tuple[int, T]] = deque()
        """With the order of their arrival among all records of the connection."""
        self._ended = False
        self.dropped = 0
        """Records that were dropped because nobody took them."""

    def __next__(self) -> T:
        item = self._next(None)
        if item is None:
            raise StopIteration
        return item

    def _next(self, limit_s: float | None) -> T | None:
        until = None if limit_s is None else time.monotonic() + limit_s
        while not self._items and not self._ended:
            if not self._client.wait_for_input(until):
                return None
        return self._items.popleft()[1] if self._items else None

    @property
    def arrival(self) -> int | None:
        """When the next item arrived, counted over all records of the connection; None if none is there."""
        return self._items[0][0] if self._items else None

    def take(self, record: Record) -> None:
        """For the client: a record came."""
        if self._ended:
            return
        if len(self._items) >= QUEUE_LIMIT:
            self._items.popleft()
            self.dropped += 1
        self._items.append((self._client.arrived, self._make(record.body)))


class Stream(_Records[Event]):
    """The events of a subscription. Iterating waits for the next one, for ever; `next_event` waits with a limit."""

    def next_event(self, limit_s: float | None) -> Event | None:
        """The next event; None if none came within `limit_s` seconds, or the stream was closed.

        Raises `ConnectionLostError` when the agent is gone and all events were taken.
        """
        return self._next(limit_s)

    def close(self) -> None:
        """Tell the agent to send no more. Events that came before can still be taken."""
        if not self._ended:
            self._ended = True
            self._client.end_stream(self._sequence)


class Monitor(_Records[str]):
    """Lines of the agent's log. Iterating waits for the next one, for ever; `next_line` waits with a limit."""

    def next_line(self, limit_s: float | None) -> str | None:
        """The next line; None if none came within `limit_s` seconds, or the monitor was closed.

        Raises `ConnectionLostError` when the agent is gone and all lines were taken.
        """
        return self._next(limit_s)

    def close(self) -> None:
        """Tell the agent to send no more. Lines that came before can still be taken."""
        if not self._ended:
            self._ended = True
            self._client.end_stream(self._sequence)


class Query(_Records[QueryAnswer]):
    """The answers to a query, as they come; iterating ends when the query is done."""

    def next_answer(self, limit_s: float | None) -> QueryAnswer | None:
        """The next ack or response; None if none came within `limit_s` seconds, or when the query is `done`.

        Raises `ConnectionLostError` when the agent is gone and all answers were taken.
        """
        answer = self._next(limit_s)
        return None if answer is None or answer.kind == "done" else answer

    @property
    def done(self) -> bool:
        """Whether all answers were taken and no more will come."""
        return self._ended and not self._items

    def __next__(self) -> QueryAnswer:
        answer = self.next_answer(None)
        if answer is None:
            raise StopIteration
        return answer

    def take(self, record: Record) -> None:
        """For the client: a record came."""
        answer = self._make(record.body)
        if answer.kind == "done":
            self._ended = True
            self._client.forget_stream(self._sequence)
        else:
            super().take(record)

    def close(self) -> None:
        """Listen no more; the query itself runs to its end."""
        self._ended = True
        self._items.clear()
        self._client.forget_stream(self._sequence)


class Client:
    """See the module. Making one connects, shakes hands and, with a token, authenticates; errors are `ClientError`s."""

    def __init__(self, address: str = DEFAULT_ADDRESS, *, auth: str = "", limit_s: float | None = CALL_LIMIT_S) -> None:
        self._limit_s = limit_s
        self._conversation = Conversation()
        self._replies: dict[int, Reply] = {}
        self._waiting: set[int] = set()
        self._streams: dict[int, Stream | Monitor | Query] = {}
        self.arrived = 0
        """Records that have come."""
        self._lost: ClientError | None = None
        self._socket = _dial(address)
        try:
            self._call("handshake", {"Version": RPC_VERSION}, limit_s)
            if auth:
                self._call("auth", {"AuthKey": auth}, limit_s)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, and with it all streams."""
        self._lost = self._lost or ConnectionLostError("client closed")
        self._socket.close()

    # --- commands -----------------------------------------------------------------------------------------------------

    def members(self) -> tuple[Member, ...]:
        """All members that the agent knows."""
        return to_members(self._call("members", None, self._limit_s).body)

    def members_filtered(
        self, *, name: str = "", status: str = "", tags: Mapping[str, str] | None = None
    ) -> tuple[Member, ...]:
        """The members for which all expressions (RE2) match the whole value; empty ones are no filter."""
        body = {"Name": name, "Status": status, "Tags": dict(tags or {})}
        return to_members(self._call("members-filtered", body, self._limit_s).body)

    def join(self, addresses: Sequence[str], *, replay: bool = False, limit_s: float | None = SLOW_CALL_LIMIT_S) -> int:
        """Join the agents at these addresses; how many were reached. Raises `JoinError` if none was."""
        reply = self._ask("join", {"Existing": list(addresses), "Replay": replay}, limit_s)
        reached = field(reply.body, "Num", int) if reply.body is not None else 0
        if reply.error:
            raise JoinError(reply.error, reached)
        return reached

    def event(self, name: str, payload: bytes = b"", *, coalesce: bool = True) -> None:
        """Send a user event to all nodes."""
        self._call("event", {"Name": name, "Payload": payload, "Coalesce": coalesce}, self._limit_s)

    def leave(self, *, limit_s: float | None = SLOW_CALL_LIMIT_S) -> None:
        """Make the agent leave the cluster; it then ends."""
        self._call("leave", None, limit_s)

    def force_leave(self, node: str, *, prune: bool = False) -> None:
        """Make the cluster take a node for one that left; with `prune` also forget it. An unknown one is no error."""
        self._call("force-leave", {"Node": node, "Prune": prune}, self._limit_s)

    def stats(self) -> dict[str, dict[str, str]]:
        """The agent's figures: sections of named texts."""
        return to_stats(self._call("stats", None, self._limit_s).body)

    def handlers(self) -> tuple[Handler, ...]:
        """The agent's handlers, what they do, how their last runs ended. Real Serf agents have no such command."""
        return to_handlers(self._call("handlers", None, self._limit_s).body)

    def bus(self) -> tuple[str, str]:
        """ZeroMQ addresses of the agent's public monitor bus: events and snapshot. See `serfmp.client.BusMonitor`."""
        return to_bus(self._call("bus", None, self._limit_s).body)

    def config(self) -> tuple[Setting, ...]:
        """The configuration that the agent runs with, secrets hidden. Real Serf agents have no such command."""
        return to_settings(self._call("config", None, self._limit_s).body)

    def reload(self) -> ReloadResult:
        """Make the agent read its flags and files again; how that ended. Real Serf agents have no such command."""
        return to_reload_result(self._call("reload", None, self._limit_s).body)

    def why(self, node: str = "") -> History:
        """What spoke against a node or for it, by default the agent's own. Real Serf agents have no such command."""
        return to_history(self._call("why", {"Node": node}, self._limit_s).body)

    def stream(self, filters: str = "*") -> Stream:
        """Subscribe to events: `*`, `member-join`, `user`, `user:deploy`, joined by commas."""
        sequence = self._send("stream", {"Type": filters})
        # There before the answer: the first record may be in the same packet.
        stream = Stream(self, sequence, to_event)
        self._subscribe(sequence, "stream", stream)
        return stream

    def monitor(self, level: str = "INFO") -> Monitor:
        """The agent's log: the last lines of this level (trace, debug, info, warn, err) and above, then new ones.

        A connection has one at most.
        """
        sequence = self._send("monitor", {"LogLevel": level})
        monitor = Monitor(self, sequence, to_log_line)
        self._subscribe(sequence, "monitor", monitor)
        return monitor

    def either(self, stream: Stream, monitor: Monitor) -> Iterator[Event | str]:
        """The events and log lines of both in the order of their arrival, for ever."""
        while True:
            first: Stream | Monitor
            if stream.arrival is None and monitor.arrival is None:
                self.wait_for_input(None)
                continue
            if monitor.arrival is None or (stream.arrival is not None and stream.arrival < monitor.arrival):
                first = stream
            else:
                first = monitor
            yield next(first)

    def query(
        self,
        name: str,
        payload: bytes = b"",
        *,
        nodes: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        ack: bool = False,
        relay_factor: int = 0,
        timeout_s: float = 0.0,
    ) -> Query:
        """Ask the nodes with these names (none: all) whose tags match these expressions (RE2, unanchored).

        `timeout_s` 0 is the agent's default. Each response comes once, and with `ack` each node's receipt, too.
        """
        body = {
            "FilterNodes": list(nodes),
            "FilterTags": dict(tags or {}),
            "Name": name,
            "Payload": payload,
            "RelayFactor": relay_factor,
            "RequestAck": ack,
            "Timeout": int(timeout_s * 1e9),
        }
        sequence = self._send("query", body)
        query = Query(self, sequence, to_answer)
        self._subscribe(sequence, "query", query)
        return query

    def tags(self, change: Mapping[str, str] | None = None, delete: Sequence[str] = ()) -> None:
        """Delete, then set, tags of the agent's node. Returns when the news has spread."""
        self._call("tags", {"DeleteTags": list(delete), "Tags": dict(change or {})}, self._limit_s)

    def install_key(self, key: str) -> KeyResult:
        """Give a key (base64) to all nodes. Raises `KeysError` with the result if not all have taken it."""
        return self._keys("install-key", {"Key": key})

    def use_key(self, key: str) -> KeyResult:
        """Let all nodes encrypt with an installed key."""
        return self._keys("use-key", {"Key": key})

    def remove_key(self, key: str, *, force: bool = False) -> KeyResult:
        """Take a key from all nodes; refused while a living one may need it, unless `force`."""
        return self._keys("remove-key", {"Force": True, "Key": key} if force else {"Key": key})

    def list_keys(self) -> KeyResult:
        """The keys of all nodes."""
        return self._keys("list-keys", None)

    def _keys(self, command: str, body: Mapping[str, Any] | None) -> KeyResult:
        reply = self._ask(command, body, self._limit_s)
        if reply.error and reply.body is None:
            raise AgentError(reply.error)
        result = to_key_result(reply.body)
        if reply.error:
            raise KeysError(reply.error, result)
        return result

    def coordinate(self, node: str) -> Coordinate | None:
        """Where a node stands in the space of round trips; None if the agent does not know."""
        return to_coordinate(self._call("get-coordinate", {"Node": node}, self._limit_s).body)

    def respond(self, query: QueryEvent | int, payload: bytes) -> None:
        """Answer a query that came on a stream of this connection, by its event or its ID."""
        number = query if isinstance(query, int) else query.id
        self._call("respond", {"ID": number, "Payload": payload}, self._limit_s)

    # --- for streams --------------------------------------------------------------------------------------------------

    def forget_stream(self, sequence: int) -> None:
        """Nobody listens to these records any more."""
        self._streams.pop(sequence, None)

    def end_stream(self, sequence: int) -> None:
        """Stop the subscription with this number; nothing is done on a lost connection."""
        self._streams.pop(sequence, None)
        if self._lost is None:
            self._call("stop", {"Stop": sequence}, self._limit_s)

    def wait_for_input(self, until: float | None) -> bool:
        """Read once, until the monotonic time `until` (None: for ever). False if nothing came."""
        if self._lost is not None:
            raise self._lost
        try:
            self._socket.settimeout(None if until is None else max(0.0, until - time.monotonic()))
            data = self._socket.recv(_CHUNK)
        except (TimeoutError, BlockingIOError):
            return False
        except OSError:
            data = b""
        if not data:
            self._lose(ConnectionLostError("client closed"))
        try:
            for item in self._conversation.receive(data):
                self._take(item)
        except ProtocolError as error:
            self._lose(error)
        return True

    # --- inner part ---------------------------------------------------------------------------------------------------

    def _call(self, command: str, body: Mapping[str, Any] | None, limit_s: float | None) -> Reply:
        reply = self._ask(command, body, limit_s)
        if reply.error:
            raise AgentError(reply.error)
        return reply

    def _subscribe(self, sequence: int, command: str, records: Stream | Monitor | Query) -> None:
        """Records under this number go here, from the first one on. Raises `ClientError` if the agent refuses."""
        self._streams[sequence] = records
        try:
            self._result(sequence, command, self._limit_s)
        except ClientError:
            self._streams.pop(sequence, None)
            raise

    def _ask(self, command: str, body: Mapping[str, Any] | None, limit_s: float | None) -> Reply:
        return self._wait(self._send(command, body), command, limit_s)

    def _result(self, sequence: int, command: str, limit_s: float | None) -> None:
        reply = self._wait(sequence, command, limit_s)
        if reply.error:
            raise AgentError(reply.error)

    def _send(self, command: str, body: Mapping[str, Any] | None) -> int:
        if self._lost is not None:
            raise self._lost
        sequence, data = self._conversation.request(command, body)
        self._waiting.add(sequence)
        try:
            self._socket.settimeout(DIAL_LIMIT_S)
            self._socket.sendall(data)
        except OSError:
            self._lose(ConnectionLostError("client closed"))
        return sequence

    def _wait(self, sequence: int, command: str, limit_s: float | None) -> Reply:
        until = None if limit_s is None else time.monotonic() + limit_s
        try:
            while sequence not in self._replies:
                if not self.wait_for_input(until):
                    raise DeadlineError(f"the agent did not answer '{command}' within {limit_s:g} s")
        finally:
            self._waiting.discard(sequence)
        return self._replies.pop(sequence)

    def _take(self, item: Reply | Record) -> None:
        if isinstance(item, Reply):
            if item.sequence in self._waiting:
                self._replies[item.sequence] = item
        elif item.sequence in self._streams:
            self.arrived += 1
            self._streams[item.sequence].take(item)

    def _lose(self, error: ClientError) -> None:
        self._lost = error
        self._socket.close()
        raise error


def _dial(address: str) -> socket.socket:
    """Connect to `host:port`, trying all addresses of the host, or to `unix:///path`.

    Raises `ConnectError` worded as Serf's.
    """
    try:
        path = unix_path(address)
        if path is not None:
            return _dial_unix(path)
        host, port_text = split_host_port(address)
        port = port_number(port_text)
    except UserError as error:
        raise ConnectError(f"dial tcp: {error}") from error
    try:
        found = socket.getaddrinfo(host or "localhost", port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConnectError(f"dial tcp: lookup {host}: no such host") from error
    failed: ConnectError | None = None
    for family, kind, protocol, _, target in sorted(found, key=lambda entry: entry[0] != socket.AF_INET):
        connection = socket.socket(family, kind, protocol)
        connection.settimeout(DIAL_LIMIT_S)
        try:
            connection.connect(target)
        except OSError as error:
            connection.close()
            shown = join_host_port(str(target[0]) if host else "", port)
            reason = "i/o timeout" if isinstance(error, TimeoutError) else f"connect: {_reason(error)}"
            failed = failed or ConnectError(f"dial tcp {shown}: {reason}")
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
    raise failed or ConnectError(f"dial tcp: lookup {host}: no such host")


def _dial_unix(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(DIAL_LIMIT_S)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        if error.errno is None and not isinstance(error, TimeoutError):
            raise ConnectError(f"dial unix {path}: connect: {error}") from error
        reason = "i/o timeout" if isinstance(error, TimeoutError) else f"connect: {_reason(error)}"
        raise ConnectError(f"dial unix {path}: {reason}") from error
    return connection


def _reason(error: OSError) -> str:
    return os.strerror(error.errno or 0).lower()
