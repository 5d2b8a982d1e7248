"""The agent's listening sockets, bound by the supervisor before anything else starts.

They belong to the supervisor for its whole life: a killed gossip or rpc process loses no packet and no connection
attempt, because the kernel's queues are still there for the next one. An address in use is an error of the start, not a
log line.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serfmp.errors import UserError
from serfmp.wire.address import MAPPED_PREFIX
from serfmp.wire.host_port import join_host_port

UDP_RECEIVE_BUFFER: Final = 2 * 1024 * 1024
"""Bytes asked of the kernel for the UDP socket, halved until it agrees (spec swim.md 11.4)."""

UDP_RECEIVE_FLOOR: Final = 64 * 1024
"""Below this it is left at the kernel's default."""

BACKLOG: Final = 512
"""Connections that wait to be accepted."""

METRICS_MODE: Final = 0o660
"""Of the metrics server's unix socket."""

PORT_TRIES: Final = 10
"""Tries to find a port that is free for TCP and UDP when port 0 was asked for (spec swim.md 11.4)."""

_TRANSPORT: Final = (
    "Failed to start the Serf agent: Error creating Serf: Failed to create memberlist: "
    "Could not set up network transport: failed to obtain an address: "
)


@dataclass(frozen=True, slots=True)
class GossipSockets:
    """UDP and TCP on one address and port."""

    udp: socket.socket
    tcp: socket.socket
    host: str
    port: int


def bind_gossip(host: str, port: int) -> GossipSockets:
    """Bind both gossip sockets. Port 0 takes a free one. Raises `UserError` with Serf's wording (spec agent.md 2.1)."""
    tries = PORT_TRIES if port == 0 else 1
    for attempt in range(tries):
        tcp = _socket(host, socket.SOCK_STREAM)
        try:
            tcp.bind((host, port))
            tcp.listen(BACKLOG)
        except OSError as error:
            tcp.close()
            raise UserError(
                f'{_TRANSPORT}Failed to start TCP listener on "{host}" port {port}: '
                f"listen tcp {join_host_port(host, port)}: bind: {_reason(error)}"
            ) from error
        bound: int = tcp.getsockname()[1]
        udp = _socket(host, socket.SOCK_DGRAM)
        try:
            udp.bind((host, bound))
        except OSError as error:
            tcp.close()
            udp.close()
            if error.errno == errno.EADDRINUSE and attempt + 1 < tries:
                continue
            raise UserError(
                f'{_TRANSPORT}Failed to start UDP listener on "{host}" port {bound}: '
                f"listen udp {join_host_port(host, bound)}: bind: {_reason(error)}"
            ) from error
        _enlarge(udp)
        return GossipSockets(udp, tcp, host, bound)
    raise UserError(f"no port of {host} is free for both UDP and TCP after {tries} tries")


def bind_rpc(address: str) -> socket.socket:
    """Bind the RPC's TCP socket to `host:port`. Raises `UserError` with Serf's wording."""
    host, _, port_text = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not port_text.isdecimal() or int(port_text) > 0xFFFF:
        raise UserError(f"Error starting RPC listener: listen tcp: address {address}: missing port in address")
    try:
        found = socket.getaddrinfo(host or None, int(port_text), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise UserError(f"Error starting RPC listener: listen tcp: lookup {host}: {error.strerror}") from error
    listener = socket.socket(found[0][0], socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(found[0][4])
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise UserError(f"Error starting RPC listener: listen tcp {address}: bind: {_reason(error)}") from error
    return listener


class MetricsSocket:
    """The listening socket of the metrics server, on `IP:PORT` or `unix:PATH`. Raises `UserError`."""

    def __init__(self, address: str) -> None:
        self._path = address.removeprefix("unix:") if address.startswith("unix:") else ""
        host, _, port = address.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        family = socket.AF_UNIX if self._path else socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            if self._path:
                _remove_dead(self._path)
                self.socket.bind(self._path)
                Path(self._path).chmod(METRICS_MODE)
            else:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self.socket.bind((host, int(port)))
            self.socket.listen(BACKLOG)
        except OSError as error:
            self.socket.close()
            reason = _reason(error) if error.errno else str(error)
            raise UserError(f"Error starting metrics listener: {address}: bind: {reason}") from error

    def close(self) -> None:
        """Close it, and remove its path."""
        self.socket.close()
        if self._path:
            Path(self._path).unlink(missing_ok=True)


def _remove_dead(path: str) -> None:
    """A socket that nobody listens on is what an agent that was killed left behind."""
    if not Path(path).is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)


def advertised_address(bound_host: str, advertise_host: str) -> bytes:
    """The address bytes to gossip, in the form that the reference would use (spec swim.md 11.4).

    An explicit or specific IPv4 address has 4 bytes; a private address found for `0.0.0.0` has the 16-byte mapped form,
    because peers compare addresses byte for byte. Raises `UserError` if there is no private address.
    """
    if advertise_host:
        return ipaddress.ip_address(advertise_host).packed
    if bound_host not in {"0.0.0.0", "::"}:
        return ipaddress.ip_address(bound_host).packed
    import psutil  # 1.6 MB, which an agent with an address of its own does not need

    for addresses in psutil.net_if_addrs().values():
        for entry in addresses:
            if entry.family == socket.AF_INET:
                found = ipaddress.IPv4Address(entry.address)
                if found.is_private and not found.is_loopback and not found.is_link_local:
                    return MAPPED_PREFIX + found.packed
    raise UserError(
        "Failed to start the Serf agent: Error creating Serf: Failed to create memberlist: "
        "Failed to get final advertise address: No private IP address found, "
        "and explicit IP not provided; name one with -bind or -advertise"
    )


def _socket(host: str, kind: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, kind)
    if kind == socket.SOCK_STREAM:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made


def _enlarge(udp: socket.socket) -> None:
    size = UDP_RECEIVE_BUFFER
    while size >= UDP_RECEIVE_FLOOR:
        try:
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        except OSError:
            size //= 2
            continue
        return


def _reason(error: OSError) -> str:
    return os.strerror(error.errno or 0).lower()
