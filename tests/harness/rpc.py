"""A tiny RPC client, independent of `serfmp.client`, for looking at agents of either kind from outside.

Rules:

* One thread reads a connection and hands each answer to whoever waits for its sequence number, each record to its
  stream. The protocol has no lengths: whether a body follows a header depends on the command and on the error, so the
  reader must know what was asked.
* Every wait has a deadline. A lost connection ends all waits with `ConnectionLost`.
* A stream keeps all its records: a test looks at what came, in order, whenever it likes.
"""

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import msgpack

from tests.harness.addresses import Endpoint
from tests.harness.records import Member, Record, to_members, to_record

DEADLINE_S = 30.0
"""For one answer: `join` and `leave` take seconds, key commands as long as a query."""

KEY_COMMANDS = frozenset({"install-key", "use-key", "remove-key", "list-keys"})
WITH_BODY = KEY_COMMANDS | {"join", "members", "members-filtered", "stats", "get-coordinate"}
BODY_WITH_ERROR = KEY_COMMANDS | {"join"}
"""Commands whose body follows even an error."""

LONE_ERRORS = frozenset({"Authentication required", "Handshake required", "Unsupported command"})
"""Refusals before the command is looked at: no body, whatever the command."""


class RpcError(AssertionError):
    """The agent answered with an error. `text` is the agent's, `body` what came with it."""

    def __init__(self, command: str, text: str, body: Mapping[str, Any] | None) -> None:
        super().__init__(f"{command}: {text}")
        self.text = text
        self.body = body


class ConnectionLost(AssertionError):  # noqa: N818  reads as what happened
    """The connection ended while an answer was due, or none came in time."""


class Stream:
    """The records that came for one subscription, so far."""

    def __init__(self, sequence: int, changed: threading.Condition) -> None:
        self.sequence = sequence
        self._changed = changed
        self._records: list[Record] = []
        self._ended = False

    @property
    def records(self) -> list[Record]:
        """A copy of all records so far, in order of arrival."""
        with self._changed:
            return list(self._records)

    def wait_for(self, holds: Callable[[Record], bool], deadline_s: float, what: str) -> Record:
        """The first record, also of those that came before the call, for which `holds`."""

        def found() -> list[Record]:
            return [record for record in self._records if holds(record)]

        with self._changed:
            self._changed.wait_for(lambda: bool(found()) or self._ended, deadline_s)
            hits = found()
            if hits:
                return hits[0]
            why = "the connection ended" if self._ended else f"not within {deadline_s:g} s"
            message = f"{why}: {what}; {len(self._records)} records came: {self._records[-20:]!r}"
            raise ConnectionLost(message) if self._ended else AssertionError(message)

    def add(self, record: Record) -> None:
        """For the reader, which holds the condition's lock."""
        self._records.append(record)

    def end(self) -> None:
        """For the reader, which holds the condition's lock."""
        self._ended = True


@dataclass(slots=True)
class _Asked:
    """A request under way."""

    command: str
    answered: bool = False
    error: str = ""
    body: Mapping[str, Any] | None = None


@dataclass(slots=True)
class _Shared:
    """What the reader and the callers share, under the lock of `changed`."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    asked: dict[int, _Asked] = field(default_factory=dict)
    streams: dict[int, Stream] = field(default_factory=dict)
    lost: str = ""


class RpcClient:
    """One connection to an agent, with the handshake (and `auth`, if a key is given) done."""

    def __init__(self, endpoint: Endpoint, *, auth_key: str = "", deadline_s: float = DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._sequences = itertools.count(1)
        self._sending = threading.Lock()
        self._shared = _Shared()
        self._socket = socket.create_connection((endpoint.host, endpoint.port), timeout=deadline_s)
        self._socket.settimeout(None)
        self._reader = threading.Thread(target=self._read, name=f"rpc {endpoint}", daemon=True)
        self._reader.start()
        try:
            self.call("handshake", {"Version": 1})
            if auth_key:
                self.call("auth", {"AuthKey": auth_key})
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_connected(self) -> bool:
        """Whether the other side has not ended the connection, as far as is known."""
        with self._shared.changed:
            return not self._shared.lost

    def close(self) -> None:
        """End the connection and everything that belongs to it."""
        with contextlib.suppress(OSError):  # The agent may have been faster.
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join(self._deadline_s)
        self._socket.close()

    # --- commands ----------------------------------------------------------------------------------------

    def call(
        self, command: str, body: Mapping[str, Any] | None = None, *, deadline_s: float | None = None
    ) -> Mapping[str, Any]:
        """Send any command and wait for its answer; the answer's body, empty where there is none."""
        return self._wait(self._send(command, body), deadline_s)

    def members(self) -> tuple[Member, ...]:
        """All members that the agent knows."""
        return to_members(self.call("members")["Members"])

    def members_filtered(
        self, *, name: str = "", status: str = "", tags: Mapping[str, str] | None = None
    ) -> tuple[Member, ...]:
        """The members that match all the given expressions."""
        return to_members(
            self.call("members-filtered", {"Name": name, "Status": status, "Tags": dict(tags or {})})["Members"]
        )

    def join(self, addresses: Sequence[str], *, replay: bool = False) -> int:
        """How many of the addresses were reached."""
        return int(self.call("join", {"Existing": list(addresses), "Replay": replay})["Num"])

    def event(self, name: str, payload: bytes = b"", *, coalesce: bool = False) -> None:
        """Send a user event."""
        self.call("event", {"Name": name, "Payload": payload, "Coalesce": coalesce})

    def tags(self, change: Mapping[str, str] | None = None, delete: Sequence[str] = ()) -> None:
        """Delete, then set, tags of the agent's node."""
        self.call("tags", {"Tags": dict(change or {}), "DeleteTags": list(delete)})

    def force_leave(self, node: str, *, prune: bool = False) -> None:
        """Say that a node has left for good."""
        self.call("force-leave", {"Node": node, "Prune": prune})

    def leave(self) -> None:
        """Leave the cluster; the agent then shuts down."""
        self.call("leave")

    def stats(self) -> Mapping[str, Mapping[str, str]]:
        """The sections of `info`."""
        return self.call("stats")

    def respond(self, query: int, payload: bytes) -> None:
        """Answer a query that came on a stream of this connection."""
        self.call("respond", {"ID": query, "Payload": payload})

    # --- streams -----------------------------------------------------------------------------------------

    def stream(self, kinds: str = "*") -> Stream:
        """Subscribe to events, with the filters of handlers: `member-join`, `user:deploy`, `query`, `*`."""
        return self._subscribe("stream", {"Type": kinds})

    def monitor(self, level: str = "DEBUG") -> Stream:
        """Subscribe to the log, the history first."""
        return self._subscribe("monitor", {"LogLevel": level})

    def query(
        self,
        name: str,
        payload: bytes = b"",
        *,
        timeout_s: float = 0,
        request_ack: bool = False,
        nodes: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        relay_factor: int = 0,
    ) -> Stream:
        """Ask the cluster; answers come as `AnswerRecord`, the last of kind done. 0 s means the default time."""
        body = {
            "Name": name,
            "Payload": payload,
            "Timeout": int(timeout_s * 1e9),
            "RequestAck": request_ack,
            "FilterNodes": list(nodes),
            "FilterTags": dict(tags or {}),
            "RelayFactor": relay_factor,
        }
        return self._subscribe("query", body)

    def stop(self, stream: Stream) -> None:
        """End a stream or monitor; what came stays readable."""
        self.call("stop", {"Stop": stream.sequence})

    # --- the wire ----------------------------------------------------------------------------------------

    def _subscribe(self, command: str, body: Mapping[str, Any]) -> Stream:
        sequence = next(self._sequences)
        stream = Stream(sequence, self._shared.changed)
        with self._shared.changed:
            self._shared.streams[sequence] = stream
        self._wait(self._send(command, body, sequence), None)
        return stream

    def _send(self, command: str, body: Mapping[str, Any] | None, sequence: int | None = None) -> int:
        sequence = next(self._sequences) if sequence is None else sequence
        with self._shared.changed:
            self._shared.asked[sequence] = _Asked(command)
        data: bytes = msgpack.packb({"Command": command, "Seq": sequence}, unicode_errors="surrogateescape")
        if body is not None:
            data += msgpack.packb(body, unicode_errors="surrogateescape")
        try:
            with self._sending:
                self._socket.sendall(data)
        except OSError as error:
            message = f"could not send {command}: {error}"
            raise ConnectionLost(message) from error
        return sequence

    def _wait(self, sequence: int, deadline_s: float | None) -> Mapping[str, Any]:
        limit = self._deadline_s if deadline_s is None else deadline_s
        shared = self._shared
        with shared.changed:
            asked = shared.asked[sequence]
            shared.changed.wait_for(lambda: asked.answered or bool(shared.lost), limit)
            if not asked.answered:
                message = f"{asked.command}: {shared.lost or f'no answer within {limit:g} s'}"
                raise ConnectionLost(message)
            del shared.asked[sequence]
        if asked.error:
            raise RpcError(asked.command, asked.error, asked.body)
        return asked.body or {}

    def _read(self) -> None:
        unpacker = msgpack.Unpacker(raw=False, unicode_errors="surrogateescape", strict_map_key=False)
        header: Mapping[str, Any] | None = None
        reason = "the agent ended the connection"
        try:
            while data := self._socket.recv(65536):
                unpacker.feed(data)
                for value in unpacker:
                    with self._shared.changed:
                        header = self._take(header, value)
                        self._shared.changed.notify_all()
        except (OSError, ValueError, KeyError, TypeError) as error:
            # Nobody watches this thread: whatever is wrong with the bytes must reach those who wait.
            reason = f"the connection broke: {error!r}"
        with self._shared.changed:
            self._shared.lost = reason
            for stream in self._shared.streams.values():
                stream.end()
            self._shared.changed.notify_all()

    def _take(self, header: Mapping[str, Any] | None, value: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """One value of the connection: a header (returned while its body is awaited) or the body of `header`."""
        shared = self._shared
        if header is not None:
            sequence = header["Seq"]
            asked = shared.asked.get(sequence)
            if asked is not None and not asked.answered:
                asked.error, asked.body, asked.answered = header["Error"], value, True
            else:
                shared.streams[sequence].add(to_record(value))
            return None
        sequence, error = value["Seq"], value["Error"]
        asked = shared.asked.get(sequence)
        if asked is None or asked.answered:
            # A second lone refusal of the same request has no body; a record always has one.
            return value if sequence in shared.streams else None
        has_body = asked.command in (BODY_WITH_ERROR if error else WITH_BODY)
        if has_body and error not in LONE_ERRORS:
            return value
        asked.error, asked.answered = error, True
        if error:
            shared.streams.pop(sequence, None)
        return None
