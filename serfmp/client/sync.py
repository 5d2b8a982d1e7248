"""The blocking client: one connection to an agent, used from one thread.

Rules:

* Every call has a deadline in seconds; None waits for as long as the agent takes. A call that ran out of time leaves
  the connection usable: its answer is dropped when it comes.
* Records that arrive while another answer is awaited wait in their stream, up to `QUEUE_LIMIT`; beyond it the oldest go
  and `dropped` counts them.
* Nothing is read between calls: a program that does not call slows down only its own connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

from serfmp.client import calls
from serfmp.client.backlog import Backlog
from serfmp.client.calls import CALL_LIMIT_S, DEFAULT_ADDRESS, DIAL_LIMIT_S, SLOW_CALL_LIMIT_S, Call, overdue
from serfmp.client.dial import dial, speaks_tls
from serfmp.client.errors import ClientError, ConnectionLostError, ProtocolError
from serfmp.client.protocol import CHUNK, Conversation, Record, Reply

if TYPE_CHECKING:
    import socket
    import ssl

    from serfmp.client.members import Member
    from serfmp.client.records import (
        Event,
        Handler,
        History,
        KeyResult,
        QueryAnswer,
        QueryEvent,
        ReloadResult,
        Setting,
    )
    from serfmp.client.tls import Tls
    from serfmp.client.tls_socket import TlsSocket
    from serfmp.wire.coordinate import Coordinate

T = TypeVar("T")


class _Records(Iterator[T]):
    """Records of one subscription, made into values; iterating waits for the next one, for ever."""

    def __init__(self, client: Client, sequence: int, make: Callable[[Any], T]) -> None:
        self._client = client
        self._sequence = sequence
        self._make = make
        self._backlog: Backlog[tuple[int, T]] = Backlog()
        """With the order of their arrival among all records of the connection."""

    def __next__(self) -> T:
        item = self._next(None)
        if item is None:
            raise StopIteration
        return item

    def _next(self, limit_s: float | None) -> T | None:
        until = None if limit_s is None else time.monotonic() + limit_s
        while not self._backlog and not self._backlog.ended:
            if not self._client.wait_for_input(until):
                return None
        taken = self._backlog.take()
        return None if taken is None else taken[1]

    @property
    def dropped(self) -> int:
        """Records that were dropped because nobody took them."""
        return self._backlog.dropped

    @property
    def arrival(self) -> int | None:
        """When the next item arrived, counted over all records of the connection; None if none is there."""
        oldest = self._backlog.oldest
        return None if oldest is None else oldest[0]

    def take(self, record: Record) -> None:
        """For the client: a record came."""
        self._backlog.put((self._client.arrived, self._make(record.body)))

    def close(self) -> None:
        """Tell the agent to send no more. What came before can still be taken."""
        if not self._backlog.ended:
            self._backlog.ended = True
            self._client.end_stream(self._sequence)


class Stream(_Records["Event"]):
    """The events of a subscription. Iterating waits for the next one, for ever; `next_event` waits with a limit."""

    def next_event(self, limit_s: float | None) -> Event | None:
        """The next event; None if none came within `limit_s` seconds, or the stream was closed.

        Raises `ConnectionLostError` when the agent is gone and all events were taken.
        """
        return self._next(limit_s)


class Monitor(_Records[str]):
    """Lines of the agent's log. Iterating waits for the next one, for ever; `next_line` waits with a limit."""

    def next_line(self, limit_s: float | None) -> str | None:
        """The next line; None if none came within `limit_s` seconds, or the monitor was closed.

        Raises `ConnectionLostError` when the agent is gone and all lines were taken.
        """
        return self._next(limit_s)


class Query(_Records["QueryAnswer"]):
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
        return self._backlog.done

    def __next__(self) -> QueryAnswer:
        answer = self.next_answer(None)
        if answer is None:
            raise StopIteration
        return answer

    def take(self, record: Record) -> None:
        """For the client: a record came."""
        answer = self._make(record.body)
        if answer.kind == "done":
            self._backlog.ended = True
            self._client.forget_stream(self._sequence)
        elif answer.node:
            super().take(record)

    def close(self) -> None:
        """Listen no more; the query itself runs to its end."""
        self._backlog.ended = True
        self._backlog.clear()
        self._client.forget_stream(self._sequence)


class Client:
    """See the module. Making one connects, shakes hands and, with a token, authenticates; errors are `ClientError`s."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        auth: str = "",
        limit_s: float | None = CALL_LIMIT_S,
        tls: Tls | ssl.SSLContext | None = None,
    ) -> None:
        self._limit_s = limit_s
        self._conversation = Conversation()
        self._replies: dict[int, Reply] = {}
        self._waiting: set[int] = set()
        self._streams: dict[int, Stream | Monitor | Query] = {}
        self.arrived = 0
        """Records that have come."""
        self._lost: ClientError | None = None
        self._socket: socket.socket | TlsSocket = _connect(address, tls)
        try:
            self._do(calls.handshake())
            if auth:
                self._do(calls.auth(auth))
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
        return self._do(calls.members())

    def members_filtered(
        self, *, name: str = "", status: str = "", tags: Mapping[str, str] | None = None
    ) -> tuple[Member, ...]:
        """The members for which all expressions (RE2) match the whole value; empty ones are no filter."""
        return self._do(calls.members_filtered(name, status, tags))

    def join(self, addresses: Sequence[str], *, replay: bool = False, limit_s: float | None = SLOW_CALL_LIMIT_S) -> int:
        """Join the agents at these addresses; how many were reached. Raises `JoinError` if none was."""
        return self._do_within(calls.join(addresses, replay=replay), limit_s)

    def event(self, name: str, payload: bytes = b"", *, coalesce: bool = True) -> None:
        """Send a user event to all nodes."""
        self._do(calls.event(name, payload, coalesce=coalesce))

    def leave(self, *, limit_s: float | None = SLOW_CALL_LIMIT_S) -> None:
        """Make the agent leave the cluster; it then ends."""
        self._do_within(calls.leave(), limit_s)

    def force_leave(self, node: str, *, prune: bool = False) -> None:
        """Make the cluster take a node for one that left; with `prune` also forget it. An unknown one is no error."""
        self._do(calls.force_leave(node, prune=prune))

    def stats(self) -> dict[str, dict[str, str]]:
        """The agent's figures: sections of named texts."""
        return self._do(calls.stats())

    def handlers(self) -> tuple[Handler, ...]:
        """The agent's handlers, what they do, how their last runs ended. Real Serf agents have no such command."""
        return self._do(calls.handlers())

    def bus(self) -> tuple[str, str]:
        """ZeroMQ addresses of the agent's public monitor bus: events and snapshot. See `serfmp.client.BusMonitor`."""
        return self._do(calls.bus())

    def config(self) -> tuple[Setting, ...]:
        """The configuration that the agent runs with, secrets hidden. Real Serf agents have no such command."""
        return self._do(calls.config())

    def reload(self) -> ReloadResult:
        """Make the agent read its flags and files again; how that ended. Real Serf agents have no such command."""
        return self._do(calls.reload())

    def why(self, node: str = "") -> History:
        """What spoke against a node or for it, by default the agent's own. Real Serf agents have no such command."""
        return self._do(calls.why(node))

    def stream(self, filters: str = "*") -> Stream:
        """Subscribe to events: `*`, `member-join`, `user`, `user:deploy`, joined by commas."""
        from serfmp.client.records import to_event

        call = calls.stream(filters)
        # There before the answer: the first record may be in the same packet.
        stream = Stream(self, sequence := self._send(call), to_event)
        self._subscribe(sequence, call, stream)
        return stream

    def monitor(self, level: str = "INFO") -> Monitor:
        """The agent's log: the last lines of this level (trace, debug, info, warn, err) and above, then new ones.

        A connection has one at most.
        """
        from serfmp.client.records import to_log_line

        call = calls.monitor(level)
        monitor = Monitor(self, sequence := self._send(call), to_log_line)
        self._subscribe(sequence, call, monitor)
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
        from serfmp.client.records import to_answer

        call = calls.query(
            name, payload, nodes=nodes, tags=tags, ack=ack, relay_factor=relay_factor, timeout_s=timeout_s
        )
        query = Query(self, sequence := self._send(call), to_answer)
        self._subscribe(sequence, call, query)
        return query

    def tags(self, change: Mapping[str, str] | None = None, delete: Sequence[str] = ()) -> None:
        """Delete, then set, tags of the agent's node. Returns when the news has spread."""
        self._do(calls.tags(change, delete))

    def install_key(self, key: str) -> KeyResult:
        """Give a key (base64) to all nodes. Raises `KeysError` with the result if not all have taken it."""
        return self._do(calls.keys("install-key", key))

    def use_key(self, key: str) -> KeyResult:
        """Let all nodes encrypt with an installed key."""
        return self._do(calls.keys("use-key", key))

    def remove_key(self, key: str, *, force: bool = False) -> KeyResult:
        """Take a key from all nodes; refused while a living one may need it, unless `force`."""
        return self._do(calls.keys("remove-key", key, force=force))

    def list_keys(self) -> KeyResult:
        """The keys of all nodes."""
        return self._do(calls.keys("list-keys"))

    def coordinate(self, node: str) -> Coordinate | None:
        """Where a node stands in the space of round trips; None if the agent does not know."""
        return self._do(calls.coordinate(node))

    def respond(self, query: QueryEvent | int, payload: bytes) -> None:
        """Answer a query that came on a stream of this connection, by its event or its ID."""
        self._do(calls.respond(query, payload))

    # --- for streams --------------------------------------------------------------------------------------------------

    def forget_stream(self, sequence: int) -> None:
        """Nobody listens to these records any more."""
        self._streams.pop(sequence, None)

    def end_stream(self, sequence: int) -> None:
        """Stop the subscription with this number; nothing is done on a lost connection."""
        self._streams.pop(sequence, None)
        if self._lost is None:
            self._do(calls.stop(sequence))

    def wait_for_input(self, until: float | None) -> bool:
        """Read once, until the monotonic time `until` (None: for ever). False if nothing came."""
        if self._lost is not None:
            raise self._lost
        try:
            self._socket.settimeout(None if until is None else max(0.0, until - time.monotonic()))
            data = self._socket.recv(CHUNK)
        except (TimeoutError, BlockingIOError):
            return False
        except OSError:
            data = b""
        except ClientError as error:  # of a connection with TLS
            self._lose(error)
        if not data:
            self._lose(ConnectionLostError("client closed"))
        try:
            for item in self._conversation.receive(data):
                self._take(item)
        except ProtocolError as error:
            self._lose(error)
        return True

    # --- inner part ---------------------------------------------------------------------------------------------------

    def _do(self, call: Call[T]) -> T:
        return self._do_within(call, self._limit_s)

    def _do_within(self, call: Call[T], limit_s: float | None) -> T:
        return call.make(self._wait(self._send(call), call.command, limit_s))

    def _subscribe(self, sequence: int, call: Call[None], records: Stream | Monitor | Query) -> None:
        """Records under this number go here, from the first one on. Raises `ClientError` if the agent refuses."""
        self._streams[sequence] = records
        try:
            call.make(self._wait(sequence, call.command, self._limit_s))
        except ClientError:
            self._streams.pop(sequence, None)
            raise

    def _send(self, call: Call[Any]) -> int:
        if self._lost is not None:
            raise self._lost
        sequence, data = self._conversation.request(call.command, call.body)
        self._waiting.add(sequence)
        try:
            self._socket.settimeout(DIAL_LIMIT_S)
            self._socket.sendall(data)
        except OSError:
            self._lose(ConnectionLostError("client closed"))
        except ClientError as error:  # of a connection with TLS
            self._lose(error)
        return sequence

    def _wait(self, sequence: int, command: str, limit_s: float | None) -> Reply:
        until = None if limit_s is None else time.monotonic() + limit_s
        try:
            while sequence not in self._replies:
                if not self.wait_for_input(until):
                    raise overdue(command, limit_s)
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

    def _lose(self, error: ClientError) -> NoReturn:
        self._lost = error
        self._socket.close()
        raise error


def _connect(address: str, tls: Tls | ssl.SSLContext | None) -> socket.socket | TlsSocket:
    if not speaks_tls(address, tls):
        return dial(address)
    from serfmp.client.tls import Tls
    from serfmp.client.tls_socket import TlsSocket

    return TlsSocket(address, tls or Tls())
