"""The rpc process: clients of the RPC, answered from a replica of the detector's state.

Rules:

* The listening socket is inherited, so clients that connect while this process is being restarted wait in its queue.
* Clients share this process and nothing else: each has its own limits (`serfmp.io.rpc_connection`), no write waits for
  anybody, and no load of theirs reaches the detector but requests that only it can carry out.
* An event is acknowledged to the detector once it stands in the queues of all streams that want it.
* It owns the public monitor bus (`serfmp.io.monitor_bus`), and what there is to watch of the agent comes here.
* With certificates, TCP clients become clients once their TLS handshake is done (`serfmp.io.rpc_handshakes`); those who
  are connected stay when a reload changes certificates. Without, nothing of TLS is imported.
* When the agent ends, answers that are under way still go out, as far as the time allows.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any, Final

from serfmp.agent.limits import DESCRIPTORS, allow_descriptors
from serfmp.bus import frames
from serfmp.bus.consumer import DetectorLink
from serfmp.detector.effects import QueryReceived
from serfmp.io import monitor_gate, rpc_records
from serfmp.io.metrics_outlets import MetricsOutlets
from serfmp.io.rpc_channel import Channel, PlainChannel
from serfmp.io.rpc_commands import Commands
from serfmp.io.rpc_connection import Connection
from serfmp.io.rpc_logs import LogFeed, to_record
from serfmp.io.rpc_replica import Replica
from serfmp.io.watching import Watching
from serfmp.wire.host_port import join_host_port

if TYPE_CHECKING:
    import ssl

    from serfmp.agent.child import Child
    from serfmp.agent.config import AgentConfig
    from serfmp.bus.frames import LogLine
    from serfmp.detector.effects import Event
    from serfmp.io.rpc_handshakes import Handshakes
    from serfmp.io.rpc_tls import TlsChannel

CLIENT_LIMIT: Final = 1024
"""Clients at once; further ones are closed."""

ACCEPTS_PER_TURN: Final = 64
"""Connections accepted in one turn."""

ACCEPT_PAUSE: Final = 0.1
"""Seconds without accepting after the system had no descriptor left."""

STOP_POLL: Final = 0.01
"""Seconds between two looks at whether all output is written."""

_MAPPED: Final = "::ffff:"
_CREDENTIALS: Final = struct.Struct("iII")
"""`struct ucred` of Linux."""


class Server:
    """See the module."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._loop = child.loop
        self._clients: set[Connection] = set()
        self._marked: set[Connection] = set()
        self._announced = False
        self._short = False
        """The last accept failed, and the log has said so."""
        self._stopping = False
        self.dropped = 0
        """Records that streams of slow clients lost."""
        self.refused = 0
        """Clients above the limit."""
        self._replica = Replica()
        self._link = DetectorLink(child, members=True, on_event=self._on_event, on_frame=self._on_frame)
        self._logs = LogFeed(self._loop, child.descriptors["feed"])
        self._logs.on_line.append(self._on_line)
        self._commands = Commands(child, self._link, self._replica, self._logs)
        self._watching = Watching(child, self._replica)
        self._logs.on_line.append(self._watching.line)
        outlets = MetricsOutlets(child, self._watching, self._replica)
        self._watching.on_report.append(outlets.take)
        self._listener = socket.socket(fileno=child.descriptors["rpc"])
        self._listener.setblocking(False)
        self._tls = _context(child.config)
        """For clients that come; None: they speak without TLS."""
        self._next_tls = self._tls
        self._handshakes: Handshakes | None = None
        self._loop.before_wait.append(self._flush)
        child.on_propose = self._propose
        child.on_commit = self._commit
        child.on_stop = self._stop

    # --- the detector's stream ----------------------------------------------------------------------------------------

    def _on_frame(self, frame: Any) -> None:
        if isinstance(frame, frames.QueryNews):
            self._commands.news(frame)
            return
        if isinstance(frame, frames.Report):
            self._watching.take_report(frame)
            return
        self._replica.take(frame)
        self._watching.frame(frame)
        if self._replica.complete and not self._announced:
            self._announced = True
            self._loop.add(self._listener, lambda _events: self._accept())
            self._child.ready()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, QueryReceived):
            self._on_query(event)
            return
        record = b""
        for client in self._clients:
            for stream in client.streams.values():
                if stream.wants(event):
                    record = record or rpc_records.event(event)
                    if not client.add_record(stream, record):
                        self.dropped += 1
                        self._log("WARN", f"Dropping event to ipc.client: {client.name}")
        self._watching.event(event)
        self._link.acknowledge(event.sequence)

    def _on_query(self, event: QueryReceived) -> None:
        """A query has an ID of its own on each stream; one whose time is over is of no use to anybody."""
        if self._loop.clock() <= event.deadline:
            for client in self._clients:
                for stream in client.streams.values():
                    if stream.wants(event):
                        record = rpc_records.query(event, client.answerable.add(event))
                        if not client.add_record(stream, record):
                            self.dropped += 1
                            self._log("WARN", f"Dropping event to ipc.client: {client.name}")
        self._watching.event(event)
        self._link.acknowledge(event.sequence)

    def _on_line(self, line: LogLine) -> None:
        record = b""
        for client in self._clients:
            monitor = client.monitor
            if monitor is not None and monitor.wants_level(line.level):
                record = record or to_record(line)
                before = monitor.dropped
                if not client.add_record(monitor, record):
                    self._log("WARN", f"Dropping logs to ipc.client: {client.name}")
                self._child.metrics.counters["serfmp.log.dropped.monitor"] += monitor.dropped - before

    # --- clients ------------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # No descriptor or memory left: the connection still waits, so the loop would spin.
                if not self._short:
                    self._short = True
                    self._log("ERR", f"Failed to accept client: {error.strerror}; those that come wait")
                self._loop.remove(self._listener)
                self._loop.call_later(ACCEPT_PAUSE, self._accept_again)
                return
            self._short = False
            name = _name(sock, address)
            under_way = 0 if self._handshakes is None else len(self._handshakes)
            if len(self._clients) + under_way >= CLIENT_LIMIT:
                self.refused += 1
                self._log("WARN", f"Refused client: {name}: {CLIENT_LIMIT} clients are connected")
                sock.close()
                continue
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if sock.family == socket.AF_UNIX or self._tls is None:
                self._welcome(PlainChannel(sock), name)
            else:
                self._shake_hands().begin(sock, name, self._tls)

    def _welcome(self, channel: Channel, name: str, how: str = "") -> Connection:
        self._log("INFO", f"Accepted client: {name}{how}")
        self._child.metrics.counters["agent.ipc.accept"] += 1
        client = Connection(
            self._loop, channel, name, self._commands.execute, self._marked.add, self._clients.discard, self._log
        )
        self._clients.add(client)
        return client

    def _accept_again(self) -> None:
        if not self._stopping:
            self._loop.add(self._listener, lambda _events: self._accept())

    def _flush(self) -> None:
        """At the end of a turn: write what it produced."""
        if not self._marked:
            return
        marked = list(self._marked)
        self._marked.clear()
        for client in marked:
            client.flush()

    def _log(self, level: str, text: str) -> None:
        self._child.log(level, "agent.ipc", text)

    # --- TLS ----------------------------------------------------------------------------------------------------------

    def _shake_hands(self) -> Handshakes:
        if self._handshakes is None:
            from serfmp.io.rpc_handshakes import Handshakes

            self._handshakes = Handshakes(self._loop, self._through, self._count_refusal, self._log)
        return self._handshakes

    def _through(self, channel: TlsChannel, name: str) -> None:
        client = self._welcome(channel, name, f" ({channel.describe()})")
        client.look()  # its first request may have come with the end of the handshake

    def _count_refusal(self, kind: str) -> None:
        self._child.metrics.counters[f"serfmp.rpc.tls_refused.{kind}"] += 1

    def _propose(self, config: AgentConfig) -> str:
        """The next certificates are made ready here, so that nothing can fail once all have agreed."""
        try:
            self._next_tls = self._tls if _same_certificates(config, self._child.config) else _context(config)
        except OSError as error:
            return f"certificates: {error}"
        return ""

    def _commit(self) -> None:
        self._tls = self._next_tls

    # --- the end ------------------------------------------------------------------------------------------------------

    def _stop(self, grace: float) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._loop.remove(self._listener)
        if self._handshakes is not None:
            self._handshakes.close()
        until = self._loop.clock() + grace

        def look() -> None:
            done = not self._commands.under_way and all(client.idle for client in self._clients)
            if done or self._loop.clock() >= until:
                self._loop.stop()
            else:
                self._loop.call_later(STOP_POLL, look)

        look()


def _name(sock: socket.socket, address: Any) -> str:
    """Who the client is: IP and port, or process, user and group as the kernel knows them."""
    if sock.family != socket.AF_UNIX:
        return join_host_port(str(address[0]).removeprefix(_MAPPED), address[1])
    pid, uid, gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return f"unix pid={pid} uid={uid} gid={gid}"


def _same_certificates(one: AgentConfig, other: AgentConfig) -> bool:
    return (one.rpc_tls_identity, one.rpc_tls_authorities) == (other.rpc_tls_identity, other.rpc_tls_authorities)


def _context(config: AgentConfig) -> ssl.SSLContext | None:
    """Raises OSError, of which `ssl.SSLError` is a kind."""
    if not config.rpc_tls_identity:
        return None
    from serfmp.agent.certificates import Certificates, server_context

    return server_context(Certificates(config.rpc_tls_identity, config.rpc_tls_authorities))


def main(child: Child) -> None:
    """Be the rpc process."""
    allow_descriptors(DESCRIPTORS + monitor_gate.DESCRIPTORS)
    Server(child)
    child.loop.run()
