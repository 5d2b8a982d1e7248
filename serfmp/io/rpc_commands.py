"""What the RPC commands do (spec agent.md 5.3).

Rules: reads are answered from the replica at once; everything else goes to the detector and is answered when it
answers, by this or a later generation of it, or with an error at the deadline. A command that the protocol does not
have is answered with `Unsupported command` and closes the connection.

Serf's own client reads a body after an error too where the answer would have one (unless the error is `Authentication
required`), other clients read none. So such an error's header is written twice: the one takes the second for a body
with unknown fields, the others for a repeated refusal, as they know it from Serf's agent.
"""

from __future__ import annotations

import functools
import os
import platform
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from serfmp.agent.keys import decode_key
from serfmp.bus.endpoints import PUBLIC_EVENTS, PUBLIC_SNAPSHOT
from serfmp.bus.packing import pack
from serfmp.detector.effects import (
    CoordinateRequest,
    EventRequest,
    ForceLeaveRequest,
    JoinRequest,
    KeysRequest,
    LeaveRequest,
    RespondRequest,
    TagsRequest,
    WhyRequest,
)
from serfmp.detector.effects import Request as CoreRequest
from serfmp.errors import UserError
from serfmp.events.specs import parse_handlers
from serfmp.io import rpc_protocol as protocol
from serfmp.io import rpc_records
from serfmp.io.rpc_deadlines import Deadlines
from serfmp.io.rpc_inquiries import Inquiries
from serfmp.io.rpc_logs import LogMonitor, parse_level
from serfmp.io.rpc_queries import SentQueries, refusal, to_request
from serfmp.io.rpc_streams import EventStream, parse_filters
from serfmp.wire.host_port import join_host_port

if TYPE_CHECKING:
    from serfmp.agent.child import Child
    from serfmp.bus import frames
    from serfmp.bus.consumer import DetectorLink
    from serfmp.io.rpc_connection import Connection
    from serfmp.io.rpc_logs import LogFeed
    from serfmp.io.rpc_protocol import Request
    from serfmp.io.rpc_replica import Replica

RPC_VERSION: Final = 1

REQUEST_LIMIT: Final = 30.0
"""Seconds that the detector has for an answer."""

JOIN_LIMIT: Final = 60.0
"""Seconds for a join, which waits for other nodes."""

KEYS_LIMIT: Final = 120.0
"""Seconds for a change of keys: two queries, and those that wait before it."""

_WITHOUT_TOKEN: Final = frozenset({"handshake", "auth"})
_ANSWERED_WITH_BODY: Final = frozenset(
    {"members-filtered", "get-coordinate", "install-key", "use-key", "remove-key", "list-keys"}
)
"""Commands whose answer has a body and which may fail without one."""

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}

Answered = Callable[[Any, str], None]


def _comparison(token: bytes) -> Callable[[bytes], bool]:
    """Says whether a key is the token, in a time that does not tell how much of it is right."""
    if not token:
        return lambda key: not key
    # Loads OpenSSL, 4 MB.
    from hmac import compare_digest

    return lambda key: compare_digest(key, token)


class Commands:
    """Carries out requests of any connection."""

    def __init__(self, child: Child, link: DetectorLink, replica: Replica, logs: LogFeed) -> None:
        self._child = child
        self._link = link
        self._replica = replica
        self._logs = logs
        self._auth = child.config.rpc_auth.encode("utf-8", "surrogateescape")
        self._is_token = _comparison(self._auth)
        self._sent = SentQueries(child.loop, self._record_dropped)
        self._deadlines = Deadlines(child.loop)
        inquiries = Inquiries(child)
        self._table: Final[dict[str, Callable[[Connection, Request], None]]] = {
            "handshake": self._handshake,
            "auth": self._authenticate,
            "members": lambda connection, request: connection.answer(request, body=replica.members_body()),
            "members-filtered": self._members_filtered,
            "join": self._join,
            "event": self._event,
            "leave": self._leave,
            "force-leave": self._force_leave,
            "stream": self._stream,
            "monitor": self._monitor,
            "stop": self._stop,
            "stats": self._stats,
            "query": self._query,
            "tags": self._tags,
            "get-coordinate": self._coordinate,
            "install-key": lambda connection, request: self._keys(connection, request, "install"),
            "use-key": lambda connection, request: self._keys(connection, request, "use"),
            "remove-key": lambda connection, request: self._keys(connection, request, "remove"),
            "list-keys": lambda connection, request: self._keys(connection, request, "list"),
            "respond": self._respond,
            "why": self._why,
            "handlers": inquiries.handlers,
            "config": inquiries.config,
            "reload": inquiries.reload,
            "bus": self._bus,
        }
        self._shown_handlers: tuple[Any, dict[str, str]] = (None, {})
        """The handlers of a configuration, and how `stats` shows them."""

    @property
    def under_way(self) -> int:
        """Requests that wait for the detector."""
        return self._deadlines.under_way

    def execute(self, connection: Connection, request: Request) -> None:
        """Carry out a request; `connection.answer` is called now or later."""
        self._child.metrics.counters["agent.ipc.command"] += 1
        if not connection.handshaken and request.command != "handshake":
            self._refuse(connection, request, "Handshake required", "Handshake required")
        elif self._auth and not connection.authenticated and request.command not in _WITHOUT_TOKEN:
            self._log("WARN", "Client sending commands before auth")
            connection.answer(request, "Authentication required")
        elif not request.known:
            self._refuse(connection, request, "Unsupported command", f"command '{request.command}' not recognized")
        else:
            self._table[request.command](connection, request)

    # --- the connection itself ----------------------------------------------------------------------------------------

    def _handshake(self, connection: Connection, request: Request) -> None:
        if not isinstance(request.body, protocol.Handshake) or request.body.version != RPC_VERSION:
            connection.answer(request, "Unsupported IPC version")
        elif connection.handshaken:
            connection.answer(request, "Handshake already performed")
        else:
            connection.handshaken = True
            connection.answer(request)

    def _authenticate(self, connection: Connection, request: Request) -> None:
        key = request.body.key if isinstance(request.body, protocol.Auth) else ""
        if self._is_token(key.encode("utf-8", "surrogateescape")):
            connection.authenticated = True
            connection.answer(request)
        else:
            connection.answer(request, "Invalid authentication token")

    @staticmethod
    def _fail(connection: Connection, request: Request, error: str) -> None:
        repeated = rpc_records.header(request.sequence, error) if request.command in _ANSWERED_WITH_BODY else b""
        connection.answer(request, error, repeated)

    def _refuse(self, connection: Connection, request: Request, error: str, log: str) -> None:
        self._log("ERR", f"Failed to evaluate request: {log}")
        connection.answer(request, error)
        connection.end()

    # --- reads --------------------------------------------------------------------------------------------------------

    def _members_filtered(self, connection: Connection, request: Request) -> None:
        wanted = request.body if isinstance(request.body, protocol.MembersFiltered) else protocol.MembersFiltered()
        try:
            body = self._replica.filtered_body(wanted)
        except UserError as error:
            self._fail(connection, request, str(error))
        else:
            connection.answer(request, body=body)

    def _stats(self, connection: Connection, request: Request) -> None:
        config = self._child.config
        own = self._replica.member(config.node)
        if self._shown_handlers[0] is not config.handlers:
            shown = {
                f"{pattern.kind.label if pattern.kind is not None else '*'}:{pattern.name}": spec.shown_command
                for spec in parse_handlers(config.handlers)
                for pattern in spec.patterns
            }
            self._shown_handlers = (config.handlers, shown)
        runtime = {
            **_machine(),
            "goroutines": str(threading.active_count()),
            "max_procs": str(len(os.sched_getaffinity(0))),
        }
        sections = {
            "agent": {"name": config.node},
            "event_handlers": self._shown_handlers[1],
            "runtime": dict(sorted(runtime.items())),
            "serf": dict(sorted(self._replica.serf_stats().items())),
            "tags": dict(sorted((own.tags if own is not None else config.tags).items())),
        }
        connection.answer(request, body=pack(sections))

    # --- streams ------------------------------------------------------------------------------------------------------

    def _stream(self, connection: Connection, request: Request) -> None:
        filters = parse_filters(request.body.type if isinstance(request.body, protocol.Stream) else "")
        if request.sequence in connection.streams or request.sequence in connection.queries:
            connection.answer(request, "Stream with given sequence exists")
        elif filters is None:
            connection.answer(request, "Invalid event filter")
        else:
            # After the answer: the success header comes before the first record.
            connection.answer(request)
            connection.streams[request.sequence] = EventStream(request.sequence, filters)

    def _monitor(self, connection: Connection, request: Request) -> None:
        wanted = request.body.level if isinstance(request.body, protocol.Monitor) else ""
        level = parse_level(wanted)
        if level is None:
            connection.answer(request, f"Unknown log level: {wanted.upper()}")
        elif connection.monitor is not None:
            connection.answer(request, "Monitor already exists")
        else:
            # After the answer, as for a stream.
            connection.answer(request)
            connection.monitor = LogMonitor(request.sequence, level, self._logs.ring)

    def _stop(self, connection: Connection, request: Request) -> None:
        if isinstance(request.body, protocol.Stop):
            connection.streams.pop(request.body.stop, None)
            if connection.monitor is not None and connection.monitor.sequence == request.body.stop:
                connection.monitor = None
        connection.answer(request)

    # --- what the detector does ---------------------------------------------------------------------------------------

    def _event(self, connection: Connection, request: Request) -> None:
        event = request.body if isinstance(request.body, protocol.UserEvent) else protocol.UserEvent()
        if self._child.log_sink.enabled("DEBUG"):
            payload = event.payload.decode("utf-8", "backslashreplace")
            self._agent_log(
                "DEBUG",
                f"Requesting user event send: {event.name}. Coalesced: {str(event.coalesce).lower()}. "
                f'Payload: "{payload}"',
            )

        def answered(_value: Any, error: str) -> None:
            if error:
                self._agent_log("WARN", f"failed to send user event: {error}")
            connection.answer(request, error)

        self._ask(EventRequest(event.name, event.payload, event.coalesce), REQUEST_LIMIT, answered)

    def _join(self, connection: Connection, request: Request) -> None:
        join = request.body if isinstance(request.body, protocol.Join) else protocol.Join()
        replay = str(join.replay).lower()
        self._agent_log("INFO", f"joining: [{' '.join(join.existing)}] replay: {replay}")

        def answered(value: Any, error: str) -> None:
            reached = value if isinstance(value, int) else 0
            if reached:
                self._agent_log("INFO", f"joined: {reached} nodes")
            if error:
                self._agent_log("WARN", f"error joining: {error}")
            connection.answer(request, error, pack({"Num": reached}))

        if join.existing:
            self._ask(JoinRequest(join.existing, join.replay), JOIN_LIMIT, answered)
        else:
            answered(0, "")

    def _leave(self, connection: Connection, request: Request) -> None:
        self._log("INFO", "Graceful leave triggered")
        self._agent_log("INFO", "requesting graceful leave from Serf")
        limit = REQUEST_LIMIT + 2 * self._child.config.broadcast_timeout
        self._ask(LeaveRequest(), limit, lambda _value, error: connection.answer(request, error))

    def _force_leave(self, connection: Connection, request: Request) -> None:
        wanted = request.body if isinstance(request.body, protocol.ForceLeave) else protocol.ForceLeave()
        how = " (prune)" if wanted.prune else ""
        self._agent_log("INFO", f"Force leaving node{how}: {wanted.node}")
        limit = REQUEST_LIMIT + self._child.config.broadcast_timeout
        asked = ForceLeaveRequest(wanted.node, wanted.prune)
        self._ask(asked, limit, lambda _value, error: connection.answer(request, error))

    def _tags(self, connection: Connection, request: Request) -> None:
        wanted = request.body if isinstance(request.body, protocol.Tags) else protocol.Tags()
        limit = REQUEST_LIMIT + self._child.config.broadcast_timeout
        asked = TagsRequest(dict(wanted.tags), wanted.delete)
        self._ask(asked, limit, lambda _value, error: connection.answer(request, error))

    def _keys(self, connection: Connection, request: Request, operation: str) -> None:
        body = request.body if isinstance(request.body, protocol.Key) else protocol.Key()

        def answered(value: Any, error: str) -> None:
            figures = value if isinstance(value, dict) else {}
            answer = {
                "Keys": figures.get("keys", {}) if operation == "list" else None,
                "Messages": figures.get("messages", {}),
                "NumErr": figures.get("errors", 0),
                "NumNodes": figures.get("nodes", 0),
                "NumResp": figures.get("responses", 0),
            }
            connection.answer(request, error, pack(answer))

        try:
            decode_key(body.key)
        except UserError as error:
            answered(None, str(error))
            return
        self._ask(KeysRequest(operation, body.key, 0, body.force), KEYS_LIMIT, answered)

    def _coordinate(self, connection: Connection, request: Request) -> None:
        node = request.body.node if isinstance(request.body, protocol.GetCoordinate) else ""

        def answered(value: Any, error: str) -> None:
            if error:
                self._fail(connection, request, error)
                return
            vec, deviation, adjustment, height = value or (None, 0.0, 0.0, 0.0)
            place = {"Adjustment": adjustment, "Error": deviation, "Height": height, "Vec": vec}
            connection.answer(request, body=pack({"Coord": place, "Ok": value is not None}))

        self._ask(CoordinateRequest(node), REQUEST_LIMIT, answered)

    def news(self, news: frames.QueryNews) -> None:
        """The detector tells of a client's query."""
        self._sent.news(news)

    def _query(self, connection: Connection, request: Request) -> None:
        asked = to_request(request.body if isinstance(request.body, protocol.Query) else protocol.Query())
        if self._child.log_sink.enabled("DEBUG"):
            payload = asked.payload.decode("utf-8", "backslashreplace")
            self._agent_log("DEBUG", f'Requesting query send: {asked.name}. Payload: "{payload}"')
        error = refusal(asked)
        if error:
            connection.answer(request, error)
            return
        if request.sequence in connection.streams or request.sequence in connection.queries:
            connection.answer(request, "Stream with given sequence exists")
            return
        numbers: list[int] = []

        def answered(value: Any, error: str) -> None:
            if error:
                self._agent_log("WARN", f"failed to start user query: {error}")
                connection.answer(request, error)
                return
            # The success header comes before the first record.
            connection.answer(request)
            if numbers and connection.open:
                self._sent.begin(numbers[0], connection, request.sequence, value["seconds"])

        numbers.append(self._ask(asked, REQUEST_LIMIT, answered))

    def _respond(self, connection: Connection, request: Request) -> None:
        body = request.body if isinstance(request.body, protocol.Respond) else protocol.Respond()
        found = connection.answerable.find(body.id, self._child.loop.clock())
        if found is None:
            connection.answer(request, "No pending queries matching ID")
            return

        def answered(_value: Any, error: str) -> None:
            connection.answer(request, error and f"failed to respond to key query: {error}")

        self._ask(RespondRequest(*found, body.payload), REQUEST_LIMIT, answered)

    def _record_dropped(self, connection: Connection, what: str) -> None:
        self._log("WARN", f"Dropping {what} to ipc.client: {connection.name}")

    def _why(self, connection: Connection, request: Request) -> None:
        """An extension: the evidence behind a node's state. Times leave as seconds since the epoch."""
        node = (request.body.node if isinstance(request.body, protocol.Why) else "") or self._child.config.node
        row = self._replica.member(node)

        def answered(value: Any, error: str) -> None:
            if error:
                connection.answer(request, error)
                return
            offset = time.time() - value["now"]
            entries = [
                {
                    "At": entry["at"] + offset,
                    "By": entry["by"],
                    "Facts": entry["facts"],
                    "Finding": entry["finding"],
                    "Late": entry["late"],
                    "Score": entry["score"],
                    "Source": join_host_port(*entry["source"]) if entry["source"] else "",
                }
                for entry in value["entries"]
            ]
            status = row.status.label if row is not None else "none"
            body = {"Entries": entries, "Node": node, "Now": value["now"] + offset, "Status": status}
            connection.answer(request, body=pack(body))

        self._ask(WhyRequest(node), REQUEST_LIMIT, answered)

    def _bus(self, connection: Connection, request: Request) -> None:
        """An extension: where the public monitor bus is."""
        body = {name.capitalize(): f"ipc://{self._child.public}/{name}" for name in (PUBLIC_EVENTS, PUBLIC_SNAPSHOT)}
        connection.answer(request, body=pack(body))

    def _ask(self, request: CoreRequest, limit: float, answered: Answered) -> int:
        """Ask the detector; `answered` is called once, with an error if there is no answer within `limit` seconds."""
        return self._link.ask(request, self._deadlines.begin(limit, answered))

    def _log(self, level: str, text: str) -> None:
        self._child.log(level, "agent.ipc", text)

    def _agent_log(self, level: str, text: str) -> None:
        self._child.log(level, "agent", text)


@functools.cache
def _machine() -> dict[str, str]:
    """What `stats` tells of the machine and does not change."""
    machine = platform.machine()
    return {
        "arch": _ARCHITECTURES.get(machine, machine),
        "cpu_count": str(os.cpu_count() or 1),
        "os": platform.system().lower(),
        "version": f"python{platform.python_version()}",
    }
