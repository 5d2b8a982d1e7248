"""The rpc process for real; the test is its supervisor, its detector and its clients."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, cast

import msgpack

from serfmp.agent.config import AgentConfig
from serfmp.agent.line_feed import LineFeed
from serfmp.agent.log_hub import LogHub
from serfmp.bus import frames
from serfmp.bus.endpoints import Endpoints
from serfmp.detector.effects import Event, Member, MemberStatus, UserEventReceived
from serfmp.detector.hub import Hub
from tests.harness.role import Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.agent.certificates import Certificates
    from serfmp.agent.child import Child


@dataclass
class DetectorSide:
    """What the detector's hub needs of the process around it."""

    generation: int
    loop: Any
    context: Any
    endpoints: Endpoints


def member(name: str, port: int = 7946, **tags: str) -> Member:
    return Member(name, b"\x7f\0\0\1", port, tags, MemberStatus.ALIVE, (1, 5, 2, 2, 5, 5))


@dataclass
class State:
    """What outlives the test's detector, as the journal does."""

    members: dict[str, Member] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    acknowledged: dict[str, int] = field(default_factory=lambda: {"rpc": 0, "dispatcher": 0})
    asked: list[tuple[int, frames.Ask]] = field(default_factory=list)


class RpcStage(Role):
    """See the module. Requests wait in `state.asked` until `answer`, unless `answers` are given by kind."""

    def __init__(
        self,
        *members: Member,
        auth: str = "",
        host: str = "127.0.0.1",
        method: str = "fork",
        certificates: Certificates | None = None,
    ) -> None:
        self.state = State({row.name: row for row in members})
        self.answers: dict[str, tuple[Any, str]] = {}
        self._listener = socket.socket()
        self._listener.bind((host, 0))
        self._listener.listen(512)
        self.address: tuple[str, int] = self._listener.getsockname()
        self.hub: Hub | None = None
        self.lines = LogHub()
        self.feed: LineFeed | None = None
        self.detector_generation = 0
        self._clients: list[RawClient] = []
        config = AgentConfig(
            node="rpc1",
            rpc_auth=auth,
            rpc_tls_identity=b"" if certificates is None else certificates.identity,
            rpc_tls_authorities=b"" if certificates is None else certificates.authorities,
            log_level="DEBUG",
            tags={"role": "web"},
        )
        super().__init__("rpc", config, {"rpc": self._listener.fileno()}, {"detector": 1}, method)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        if self.hub is None:
            self.start_detector()
        if self.feed is None:
            self.feed = LineFeed(self.loop)
            self.lines.takers.append(self.feed.add)
            self.process.descriptors["feed"] = self.feed.reader.fileno()
        self.feed.begin(self.lines.ring)
        super().start()

    def start_detector(self) -> None:
        """A new generation of the detector, with the state of the one before; `announce` tells the process."""
        if self.hub is not None:
            self.loop.remove_socket(self.hub._socket)
            self.hub._socket.close(0)
        self.detector_generation += 1
        side = DetectorSide(self.detector_generation, self.loop, self.context, Endpoints(str(self.directory)))
        self.hub = Hub(
            cast("Child", side),
            self.state.acknowledged.__getitem__,
            lambda after: iter([event for event in self.state.events if event.sequence > after]),
            lambda: list(self.state.members.values()),
            self._on_ask,
            self.state.acknowledged.__setitem__,
        )

    def restart_detector(self) -> None:
        self.start_detector()
        self.announce("detector", self.detector_generation)

    def _on_ask(self, _name: str, generation: int, ask: frames.Ask) -> None:
        self.state.asked.append((generation, ask))
        if ask.kind in self.answers:
            self.answer(*self.answers[ask.kind])

    def answer(self, value: Any = None, error: str = "") -> None:
        """Answer the oldest request."""
        generation, ask = self.state.asked.pop(0)
        assert self.hub is not None
        self.hub.answer("rpc", generation, frames.Answered(ask.number, value, error))

    def publish(self, *names: str, payload: bytes = b"p") -> None:
        """User events reach this node."""
        for name in names:
            number = len(self.state.events) + 1
            self.state.events.append(UserEventReceived(number, 40 + number, name, payload, False))
        self.pump()

    def pump(self) -> None:
        assert self.hub is not None
        self.hub.pump()

    def set_member(self, row: Member) -> None:
        """A row changes."""
        self.state.members[row.name] = row
        assert self.hub is not None
        self.hub.row_changed(row)

    def until(self, condition: Callable[[], Any], what: str, deadline_s: float = 20.0) -> Any:
        def look() -> Any:
            if self.hub is not None and self.hub.go_on():
                self.loop.call_soon(lambda: None)
            for client in self._clients:
                client.look()
            return condition()

        return super().until(look, what, deadline_s)

    def client(self, *, handshake: bool = True, tls: ssl.SSLContext | None = None) -> RawClient:
        """A new connection."""
        made = RawClient(self, tls)
        self._clients.append(made)
        if handshake:
            made.send({"Command": "handshake", "Seq": 0}, {"Version": 1})
            made.take(1)
        return made

    def close(self) -> None:
        for client in self._clients:
            client.sock.close()
        self._clients.clear()
        super().close()
        self._listener.close()
        if self.feed is not None:
            self.feed.close()


class RawClient:
    """A connection that sends and keeps values as they are."""

    def __init__(self, stage: RpcStage, tls: ssl.SSLContext | None = None) -> None:
        self._stage = stage
        self.sock = socket.create_connection(stage.address)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname=stage.address[0])
        self.sock.setblocking(False)
        self.reading = True
        self.closed = False
        self.values: list[Any] = []
        self._unpacker = msgpack.Unpacker(raw=False, unicode_errors="surrogateescape", strict_map_key=False)

    @property
    def name(self) -> str:
        host, port = self.sock.getsockname()
        return f"{host}:{port}"

    def send(self, *values: Any) -> None:
        self.send_bytes(b"".join(msgpack.packb(value, unicode_errors="surrogateescape") for value in values))

    def send_bytes(self, data: bytes) -> None:
        self.sock.setblocking(True)
        self.sock.sendall(data)
        self.sock.setblocking(False)

    def look(self) -> None:
        """Take what has arrived."""
        while self.reading and not self.closed:
            try:
                data = self.sock.recv(1 << 20)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            except OSError:
                data = b""
            if not data:
                self.closed = True
            self._unpacker.feed(data)
            self.values.extend(self._unpacker)

    def take(self, count: int) -> list[Any]:
        """The next values, once they are there."""
        self._stage.until(lambda: len(self.values) >= count or self.closed, f"{count} values come")
        found, self.values = self.values[:count], self.values[count:]
        assert len(found) == count, found
        return found

    def ask(self, command: str, body: Any = None, *, sequence: int = 7, values: int = 1) -> list[Any]:
        """Send a request and take so many values."""
        self.send({"Command": command, "Seq": sequence}, *([] if body is None else [body]))
        return self.take(values)

    def wait_closed(self) -> list[Any]:
        """All that is left, once the other side has closed the connection."""
        self._stage.until(lambda: self.closed, "the connection is closed")
        return self.values


def kernel_memory_is_small(sock: socket.socket) -> None:
    """Let the connection hold little, so that limits are reached soon."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)


__all__ = ["RawClient", "RpcStage", "kernel_memory_is_small", "member"]
