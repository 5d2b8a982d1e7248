"""The asyncio client: one connection to an agent, shared by any number of tasks of one event loop.

Rules:

* `async with AsyncClient(address) as client` connects and closes. Calls of several tasks may be under way at once; the
  agent carries them out one after another.
* A call that ran out of time, or whose task was cancelled, leaves the connection usable: its answer is dropped when it
  comes.
* Records are read whether or not anybody takes them, up to `QUEUE_LIMIT` for each stream; beyond it the oldest go and
  `dropped` counts them. What came before the connection was lost can still be taken.
* Each stream is read by one task.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from serfmp.client import calls
from serfmp.client.aio_dial import open_streams
from serfmp.client.backlog import Backlog
from serfmp.client.calls import CALL_LIMIT_S, DEFAULT_ADDRESS, DIAL_LIMIT_S, SLOW_CALL_LIMIT_S, Call, overdue
from serfmp.client.dial import speaks_tls
from serfmp.client.errors import ClientError, ConnectError, ConnectionLostError, ProtocolError
from serfmp.client.members import Member
from serfmp.client.protocol import CHUNK, Conversation, Record, Reply
from serfmp.client.records import (
    Event,
    Handler,
    History,
    KeyResult,
    QueryAnswer,
    QueryEvent,
    ReloadResult,
    Setting,
    to_answer,
    to_event,
    to_log_line,
)
from serfmp.client.tls import Tls
from serfmp.wire.coordinate import Coordinate
from serfmp.wire.host_port import TLS_SCHEME

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")


class AsyncRecords(Generic[T]):
    """A subscription: an asynchronous iterator of its records, and a context manager that ends it."""

    def __init__(self, client: AsyncClient, sequence: int, make: Callable[[Any], T]) -> None:
        self._client = client
        self._sequence = sequence
        self._make = make
        self._backlog: Backlog[T] = Backlog()
        self._changed = asyncio.Event()
        self._lost: ClientError | None = None

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        item = await self.next_record(None)
        if item is None:
            raise StopAsyncIteration
        return item

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ClientError):
            await self.close()

    async def next_record(self, limit_s: float | None) -> T | None:
        """The next record; None if none came within `limit_s` seconds (None: no limit), or no more will come.

        Raises `ConnectionLostError` when the agent is gone and all records were taken.
        """
        try:
            async with asyncio.timeout(limit_s):
                while not self._backlog and not self._backlog.ended and self._lost is None:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return None
        if not self._backlog and self._lost is not None and not self._backlog.ended:
            raise self._lost
        return self._backlog.take()

    @property
    def dropped(self) -> int:
        """Records that were dropped because nobody took them."""
        return self._backlog.dropped

    @property
    def done(self) -> bool:
        """Whether all records were taken and no more will come."""
        return self._backlog.done

    async def close(self) -> None:
        """Tell the agent to send no more. Records that came before can still be taken."""
        if not self._backlog.ended:
            self.end()
            await self._client.end_stream(self._sequence)

    def take(self, record: Record) -> None:
        """For the client: a record came."""
        self._put(self._make(record.body))

    def end(self) -> None:
        """For the client: no more will come."""
        self._backlog.ended = True
        self._changed.set()

    def lose(self, error: ClientError) -> None:
        """For the client: the connection is gone."""
        self._lost = error
        self._changed.set()

    def _put(self, item: T) -> None:
        self._backlog.put(item)
        self._changed.set()


class AsyncQuery(AsyncRecords[QueryAnswer]):
    """The acks and responses of a query; iterating ends when it is done."""

    def take(self, record: Record) -> None:
        """For the client: a record came."""
        answer = self._make(record.body)
        if answer.kind == "done":
            self.end()
            self._client.forget_stream(self._sequence)
        elif answer.node:
            self._put(answer)

    async def close(self) -> None:
        """Listen no more; the query itself runs to its end."""
        self._backlog.clear()
        self.end()
        self._client.forget_stream(self._sequence)


class AsyncClient:
    """See the module. Its methods are those of `Client`, and mean the same; errors are `ClientError`s."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        auth: str = "",
        limit_s: float | None = CALL_LIMIT_S,
        tls: Tls | ssl.SSLContext | None = None,
    ) -> None:
        self._address = address
        self._tls = (tls or Tls()) if speaks_tls(address, tls) else None
        self._heard = False
        """Something has come from the agent."""
        self._auth = auth
        self._limit_s = limit_s
        self._conversation = Conversation()
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._streams: dict[int, AsyncRecords[Any]] = {}
        self._lost: ClientError | None = ConnectError("the client is not connected; use it as a context manager")
        self._reader: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def connect(self) -> Self:
        """Connect, shake hands and, with a token, authenticate: what `async with` does."""
        if self._writer is not None:
            raise ConnectError("a client connects once; make another one")
        reader, self._writer = await open_streams(self._address, self._tls)
        self._lost = None
        self._reader = asyncio.create_task(self._read(reader), name=f"serfmp client of {self._address}")
        try:
            await self._do(calls.handshake())
            if self._auth:
                await self._do(calls.auth(self._auth))
        except BaseException:
            await self.close()
            raise
        return self

    async def __aenter__(self) -> Self:
        return await self.connect()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection, and with it all calls and streams."""
        self._lose(ConnectionLostError("client closed"))
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
            self._reader = None
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    # --- commands -----------------------------------------------------------------------------------------------------

    async def members(self) -> tuple[Member, ...]:
        """All members that the agent knows."""
        return await self._do(calls.members())

    async def members_filtered(
        self, *, name: str = "", status: str = "", tags: Mapping[str, str] | None = None
    ) -> tuple[Member, ...]:
        """The members for which all expressions (RE2) match the whole value; empty ones are no filter."""
        return await self._do(calls.members_filtered(name, status, tags))

    async def join(
        self, addresses: Sequence[str], *, replay: bool = False, limit_s: float | None = SLOW_CALL_LIMIT_S
    ) -> int:
        """Join the agents at these addresses; how many were reached. Raises `JoinError` if none was."""
        return await self._do_within(calls.join(addresses, replay=replay), limit_s)

    async def event(self, name: str, payload: bytes = b"", *, coalesce: bool = True) -> None:
        """Send a user event to all nodes."""
        await self._do(calls.event(name, payload, coalesce=coalesce))

    async def leave(self, *, limit_s: float | None = SLOW_CALL_LIMIT_S) -> None:
        """Make the agent leave the cluster; it then ends."""
        await self._do_within(calls.leave(), limit_s)

    async def force_leave(self, node: str, *, prune: bool = False) -> None:
        """Make the cluster take a node for one that left; with `prune` also forget it. An unknown one is no error."""
        await self._do(calls.force_leave(node, prune=prune))

    async def stats(self) -> dict[str, dict[str, str]]:
        """The agent's figures: sections of named texts."""
        return await self._do(calls.stats())

    async def handlers(self) -> tuple[Handler, ...]:
        """The agent's handlers, what they do, how their last runs ended. Real Serf agents have no such command."""
        return await self._do(calls.handlers())

    async def bus(self) -> tuple[str, str]:
        """ZeroMQ addresses of the agent's public monitor bus: events and snapshot."""
        return await self._do(calls.bus())

    async def config(self) -> tuple[Setting, ...]:
        """The configuration that the agent runs with, secrets hidden. Real Serf agents have no such command."""
        return await self._do(calls.config())

    async def reload(self) -> ReloadResult:
        """Make the agent read its flags and files again; how that ended. Real Serf agents have no such command."""
        return await self._do(calls.reload())

    async def why(self, node: str = "") -> History:
        """What spoke against a node or for it, by default the agent's own. Real Serf agents have no such command."""
        return await self._do(calls.why(node))

    async def tags(self, change: Mapping[str, str] | None = None, delete: Sequence[str] = ()) -> None:
        """Delete, then set, tags of the agent's node. Returns when the news has spread."""
        await self._do(calls.tags(change, delete))

    async def install_key(self, key: str) -> KeyResult:
        """Give a key (base64) to all nodes. Raises `KeysError` with the result if not all have taken it."""
        return await self._do(calls.keys("install-key", key))

    async def use_key(self, key: str) -> KeyResult:
        """Let all nodes encrypt with an installed key."""
        return await self._do(calls.keys("use-key", key))

    async def remove_key(self, key: str, *, force: bool = False) -> KeyResult:
        """Take a key from all nodes; refused while a living one may need it, unless `force`."""
        return await self._do(calls.keys("remove-key", key, force=force))

    async def list_keys(self) -> KeyResult:
        """The keys of all nodes."""
        return await self._do(calls.keys("list-keys"))

    async def coordinate(self, node: str) -> Coordinate | None:
        """Where a node stands in the space of round trips; None if the agent does not know."""
        return await self._do(calls.coordinate(node))

    async def respond(self, query: QueryEvent | int, payload: bytes) -> None:
        """Answer a query that came on a stream of this connection, by its event or its ID."""
        await self._do(calls.respond(query, payload))

    async def stream(self, filters: str = "*") -> AsyncRecords[Event]:
        """Subscribe to events: `*`, `member-join`, `user`, `user:deploy`, joined by commas."""
        return await self._subscribe(calls.stream(filters), lambda number: AsyncRecords(self, number, to_event))

    async def monitor(self, level: str = "INFO") -> AsyncRecords[str]:
        """The agent's log: the last lines of this level and above, then new ones. A connection has one at most."""
        return await self._subscribe(calls.monitor(level), lambda number: AsyncRecords(self, number, to_log_line))

    async def query(
        self,
        name: str,
        payload: bytes = b"",
        *,
        nodes: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        ack: bool = False,
        relay_factor: int = 0,
        timeout_s: float = 0.0,
    ) -> AsyncQuery:
        """Ask the nodes with these names (none: all) whose tags match these expressions (RE2, unanchored)."""
        call = calls.query(
            name, payload, nodes=nodes, tags=tags, ack=ack, relay_factor=relay_factor, timeout_s=timeout_s
        )
        return await self._subscribe(call, lambda number: AsyncQuery(self, number, to_answer))

    # --- for streams --------------------------------------------------------------------------------------------------

    def forget_stream(self, sequence: int) -> None:
        """Nobody listens to these records any more."""
        self._streams.pop(sequence, None)

    async def end_stream(self, sequence: int) -> None:
        """Stop the subscription with this number; nothing is done on a lost connection."""
        self._streams.pop(sequence, None)
        if self._lost is None:
            await self._do(calls.stop(sequence))

    # --- inner part ---------------------------------------------------------------------------------------------------

    async def _do(self, call: Call[T]) -> T:
        return await self._do_within(call, self._limit_s)

    async def _do_within(self, call: Call[T], limit_s: float | None) -> T:
        sequence = self._send(call)
        return call.make(await self._reply(sequence, call.command, limit_s))

    async def _subscribe(self, call: Call[None], make: Callable[[int], S]) -> S:
        sequence = self._send(call)
        # There before the answer: the first record may be in the same packet.
        records = make(sequence)
        self._streams[sequence] = records
        try:
            call.make(await self._reply(sequence, call.command, self._limit_s))
        except BaseException:
            self._streams.pop(sequence, None)
            raise
        return records

    def _send(self, call: Call[Any]) -> int:
        if self._lost is not None or self._writer is None:
            raise self._lost or ConnectionLostError("client closed")
        sequence, data = self._conversation.request(call.command, call.body)
        self._waiting[sequence] = asyncio.get_running_loop().create_future()
        self._writer.write(data)
        return sequence

    async def _reply(self, sequence: int, command: str, limit_s: float | None) -> Reply:
        future = self._waiting[sequence]
        try:
            async with asyncio.timeout(limit_s):
                await self._drain()
                return await future
        except TimeoutError:
            raise overdue(command, limit_s) from None
        finally:
            self._waiting.pop(sequence, None)

    async def _drain(self) -> None:
        """Wait until the agent has taken what was written: one that takes nothing for long is lost."""
        if self._writer is None:
            return
        try:
            async with asyncio.timeout(DIAL_LIMIT_S):
                await self._writer.drain()
        except OSError as error:  # TimeoutError is one
            self._lose(self._end(error))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        error: ClientError
        try:
            while data := await reader.read(CHUNK):
                self._heard = True
                for item in self._conversation.receive(data):
                    self._take(item)
            error = self._end(None)
        except ProtocolError as found:
            error = found
        except OSError as found:
            error = self._end(found)
        self._lose(error)
        if self._writer is not None:
            self._writer.close()

    def _end(self, error: OSError | None) -> ClientError:
        """What the end of the connection is, or this error of it."""
        if self._tls is not None:
            from serfmp.client.tls_socket import ended

            return ended(error, self._address.removeprefix(TLS_SCHEME), heard=self._heard)
        return ConnectionLostError("client closed")

    def _take(self, item: Reply | Record) -> None:
        if isinstance(item, Reply):
            future = self._waiting.get(item.sequence)
            if future is not None and not future.done():
                future.set_result(item)
        elif item.sequence in self._streams:
            self._streams[item.sequence].take(item)

    def _lose(self, error: ClientError) -> None:
        self._lost = error if self._lost is None else self._lost
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error)
                future.exception()  # seen: a call that was given up does not complain about it
        for records in self._streams.values():
            records.lose(error)


S = TypeVar("S", bound=AsyncRecords[Any])
