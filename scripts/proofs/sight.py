"""When each of many agents shows something: its members, asked for again and again, or the events of its stream.

Rules:

* Times are seconds of the monotonic clock at which the answer or the event was read here.
* An agent is asked every `LOOK_S`, later in pauses that are a share of the time that has passed, and again only after
  it has answered; one that does not answer yet, or whose connection ends, is connected to anew. What is measured is
  late by such a pause at most.
* Streams are read by one thread, which has nothing else to do.
"""

from __future__ import annotations

import contextlib
import select
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import msgpack

from tests.harness import Endpoint

LOOK_S = 0.05
"""Between two questions to one agent, at first."""

LOOK_SHARE = 0.02
"""Of the time that has passed: later questions are further apart, and do not make longer what takes long anyway."""

CONNECT_S = 5.0
READ = 1 << 18
TURN_S = 0.1
"""How long the reader of streams may take to notice that it should end."""

Members = Sequence[Mapping[str, Any]]


class Line:
    """A connection to an agent's RPC on which nothing is waited for."""

    def __init__(self, name: str, endpoint: Endpoint) -> None:
        """Connect. Raises OSError where nobody listens."""
        self.name = name
        self.socket = socket.create_connection((endpoint.host, endpoint.port), CONNECT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unpacker = msgpack.Unpacker(raw=False, unicode_errors="surrogateescape", max_buffer_size=1 << 28)
        try:
            self.send("handshake", {"Version": 1})
        except OSError:
            self.close()
            raise

    def send(self, command: str, body: Mapping[str, Any] | None = None) -> None:
        """Send a request."""
        data = msgpack.packb({"Command": command, "Seq": 1})
        self.socket.sendall(data if body is None else data + msgpack.packb(body))

    def read(self) -> list[Mapping[str, Any]]:
        """The bodies that have come, once the socket is readable. Raises OSError at the end, and for an error."""
        data = self.socket.recv(READ)
        if not data:
            raise ConnectionError(f"{self.name} ended the connection")
        self._unpacker.feed(data)
        bodies = []
        for value in self._unpacker:
            if "Seq" not in value:
                bodies.append(value)
            elif value["Error"]:
                raise ConnectionError(f"{self.name} answered: {value['Error']}")
        return bodies

    def drain(self) -> None:
        """Read what has come so far, if anything. Raises as `read` does."""
        while select.select([self.socket], [], [], 0)[0]:
            self.read()

    def close(self) -> None:
        """End it."""
        self.socket.close()


def shown(
    endpoints: Mapping[str, Endpoint], holds: Callable[[Members], bool], deadline_s: float, name: str = ""
) -> dict[str, float]:
    """When each agent first answered with members for which `holds`; those that did not within the time are missing.

    `name`: a regular expression, only members whose names match it are asked for.
    """
    command, body = ("members-filtered", {"Name": name, "Status": "", "Tags": {}}) if name else ("members", None)
    found: dict[str, float] = {}
    lines: dict[str, Line | None] = dict.fromkeys(endpoints)
    waiting: set[str] = set()
    began = turn = time.monotonic()
    deadline = began + deadline_s
    with selectors.DefaultSelector() as selector:

        def drop(line: Line) -> None:
            selector.unregister(line.socket)
            line.close()
            waiting.discard(line.name)
            lines[line.name] = None

        try:
            while len(found) < len(endpoints) and time.monotonic() < deadline:
                if time.monotonic() >= turn:
                    turn = time.monotonic() + max(LOOK_S, LOOK_SHARE * (time.monotonic() - began))
                    for agent in lines.keys() - found.keys() - waiting:
                        with contextlib.suppress(OSError):
                            line = lines[agent]
                            if line is None:
                                line = lines[agent] = Line(agent, endpoints[agent])
                                selector.register(line.socket, selectors.EVENT_READ, line)
                            line.send(command, body)
                            waiting.add(agent)
                for key, _ in selector.select(max(0.0, min(turn, deadline) - time.monotonic())):
                    try:
                        bodies = key.data.read()
                    except OSError:
                        drop(key.data)
                        continue
                    for answer in bodies:
                        waiting.discard(key.data.name)
                        if holds(answer["Members"] or ()):
                            found.setdefault(key.data.name, time.monotonic())
        finally:
            for line in lines.values():
                if line is not None:
                    line.close()
    return found


class Streams:
    """All events of many agents, from `add` until they end or this is closed."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._events: dict[bytes, dict[str, float]] = {}
        self._failed: set[tuple[str, str]] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="streams", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.data.close()
        self._selector.close()

    def add(self, name: str, endpoint: Endpoint) -> None:
        """Read this agent's stream, too. Raises OSError where nobody listens."""
        line = Line(name, endpoint)
        line.send("stream", {"Type": "user,member-failed"})
        self._selector.register(line.socket, selectors.EVENT_READ, line)

    def arrivals(self, payload: bytes) -> dict[str, float]:
        """When the user event with this payload came, by agent."""
        with self._lock:
            return dict(self._events.get(payload, {}))

    @property
    def failed(self) -> set[tuple[str, str]]:
        """Who told of whose failure."""
        with self._lock:
            return set(self._failed)

    def _read(self) -> None:
        while not self._stop.is_set():
            if not self._selector.get_map():
                self._stop.wait(TURN_S)
                continue
            for key, _ in self._selector.select(TURN_S):
                try:
                    bodies = key.data.read()
                except OSError:
                    self._selector.unregister(key.fileobj)
                    key.data.close()
                    continue
                now = time.monotonic()
                with self._lock:
                    for body in bodies:
                        self._take(key.data.name, body, now)

    def _take(self, name: str, body: Mapping[str, Any], now: float) -> None:
        if body["Event"] == "user":
            payload = body["Payload"]
            payload = payload if isinstance(payload, bytes) else payload.encode("utf-8", "surrogateescape")
            self._events.setdefault(payload, {}).setdefault(name, now)
        else:
            self._failed.update((name, member["Name"]) for member in body["Members"] or ())
